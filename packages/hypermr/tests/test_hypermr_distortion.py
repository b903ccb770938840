"""Hyperbolicity and embeddings of graphs whose answers are known."""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import geoopt
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from hypermr.data.hierarchies import HierarchyConfig, generate_hierarchy
from hypermr.data.knowledge_base import KnowledgeBase
from hypermr.data.pathquestion import FOLDER, load_pathquestion
from hypermr.distortion import REACH, WithinReach, disc, embed_graph
from hypermr.explain import _geodesic
from hypermr.hyperbolicity import delta_hyperbolicity, distances_from, largest_component, spanning_tree
from hypermr.manifold import Poincare
from mpo_core.errors import DivergedError, UsageError

DATA = Path(os.environ.get("MPO_DATA", Path(__file__).parents[4] / "shared" / "data"))


def ring(count: int) -> KnowledgeBase:
    return KnowledgeBase.of([(f"e{n}", "next", f"e{(n + 1) % count}") for n in range(count)])


def test_a_tree_has_delta_0_and_a_ring_a_quarter_of_its_length():
    tree = delta_hyperbolicity(generate_hierarchy(HierarchyConfig(depth=4, branching=3, questions=1)).kb)
    assert (tree.delta, tree.mean, tree.diameter, tree.entities) == (0, 0, 8, 121)
    assert (tree.share, tree.components) == (1.0, 1)
    circle = delta_hyperbolicity(ring(24))
    assert (circle.delta, circle.diameter) == (6, 12)


def test_delta_is_that_of_all_quadruples():
    kb = generate_hierarchy(HierarchyConfig(depth=2, branching=3, noise=0.7, questions=1, seed=2)).kb
    graph, _, _ = largest_component(kb)
    between = distances_from(graph, np.arange(graph.indptr.size - 1))
    worst = 0.0
    for w, x, y, z in itertools.combinations(range(len(between)), 4):
        sums = sorted([between[w, x] + between[y, z], between[w, y] + between[x, z], between[w, z] + between[x, y]])
        worst = max(worst, (sums[2] - sums[1]) / 2)
    assert worst > 0
    assert delta_hyperbolicity(kb).delta == worst


def test_only_the_largest_component_counts():
    kb = KnowledgeBase.of([("a", "r", "b"), ("b", "r", "c"), ("x", "r", "y"), ("z", "r", "z")])
    found = delta_hyperbolicity(kb)
    assert (found.entities, found.components, found.share) == (3, 3, 0.5)
    with pytest.raises(UsageError, match="joins no two entities"):
        delta_hyperbolicity(KnowledgeBase.of([("z", "r", "z")]))


@pytest.mark.data
@pytest.mark.skipif(not (DATA / FOLDER).is_dir(), reason="PathQuestion is not there (MPO_DATA)")
@pytest.mark.parametrize(
    ("name", "delta", "mean", "diameter"),
    [("PQ-2H", 2.0, 0.137, 21), ("PQ-3H", 1.5, 0.194, 16), ("PQL-2H", 1.0, 0.000, 20), ("PQL-3H", 2.0, 0.016, 29)],
)
def test_hyperbolicity_of_the_published_knowledge_bases(name, delta, mean, diameter):
    """As measured once by another program; the largest of a sample depends on the draw."""
    found = delta_hyperbolicity(load_pathquestion(name, DATA / FOLDER).kb)
    assert found.mean == pytest.approx(mean, abs=0.01)
    assert abs(found.delta - delta) <= 0.5
    assert abs(found.diameter - diameter) <= 2  # between the sampled entities


def test_a_spanning_tree_keeps_distances_from_its_root():
    graph, _, _ = largest_component(
        generate_hierarchy(HierarchyConfig(depth=3, branching=3, noise=0.5, questions=1)).kb
    )
    tree = spanning_tree(graph)
    assert tree.nnz == 2 * (graph.indptr.size - 2)
    root = np.array([int(np.diff(graph.indptr).argmax())])
    assert np.array_equal(distances_from(graph, root), distances_from(tree, root))


@pytest.mark.parametrize("geometry", ["euclidean", "lorentz"])
def test_a_path_is_held_by_a_line(geometry):
    kb = KnowledgeBase.of([(f"e{n}", "next", f"e{n + 1}") for n in range(8)])
    graph, _, _ = largest_component(kb)
    made = embed_graph(graph, 1 if geometry == "euclidean" else 2, geometry, steps=1500, learning_rate=0.05, seed=1)
    again = embed_graph(graph, 1 if geometry == "euclidean" else 2, geometry, steps=1500, learning_rate=0.05, seed=1)
    assert torch.equal(made.points, again.points)
    assert made.distortion < 0.3
    assert made.worst >= 1
    assert 0 < made.precision <= 1


def test_hyperbolic_space_holds_a_tree_better():
    graph, _, _ = largest_component(generate_hierarchy(HierarchyConfig(depth=4, branching=3, questions=1)).kb)
    flat, curved = (embed_graph(graph, 5, kind, steps=400, seed=0) for kind in ("euclidean", "lorentz"))
    assert curved.distortion < 0.8 * flat.distortion
    assert curved.precision > flat.precision


def test_points_beyond_the_reach_of_float64_are_pulled_back():
    """A path of 60 edges, each as long as the start wants it, goes on far beyond it."""
    path = csr_matrix(np.eye(60, k=1) + np.eye(60, k=-1))
    made = embed_graph(path, 2, "lorentz", steps=300, seed=0)
    assert made.points.norm(dim=-1).max() == pytest.approx(REACH)
    assert made.distortion < 0.1


def test_steps_end_within_the_reach_and_momentum_goes_with_them():
    ours, geoopts = WithinReach(k=1.0), geoopt.Lorentz(k=1.0)
    torch.manual_seed(0)
    near, step, momentum = (torch.nn.functional.pad(torch.randn(100, 3).double(), (1, 0)) for _ in range(3))
    x = geoopts.expmap0(near)
    u, v = geoopts.proju(x, 0.1 * step), geoopts.proju(x, momentum)
    for made, wanted in zip(ours.retr_transp(x, u, v), geoopts.retr_transp(x, u, v), strict=True):
        torch.testing.assert_close(made, wanted, rtol=1e-6, atol=1e-6)
    far = ours.expmap(x, 1e4 * u)
    y, carried = ours.retr_transp(far, ours.proju(far, step), ours.proju(far, momentum))
    assert y[:, 1:].norm(dim=-1).max() <= math.sinh(REACH) * (1 + 1e-12)
    assert ours.inner(y, y).add(1).abs().max() < 1e-4  # of numbers up to 1e10
    assert torch.isfinite(carried).all()
    assert ours.inner(y, y, carried).abs().max() < 1e-5 * (y.norm(dim=-1) * carried.norm(dim=-1)).max()
    far = geoopts.expmap0(11 * near / near.norm(dim=-1, keepdim=True))
    short, momentum = geoopts.transp0(far, 1e-3 * step), geoopts.transp0(far, momentum)
    _, carried = ours.retr_transp(far, short, momentum)  # geoopt's loses a ten-thousandth of its square here
    torch.testing.assert_close(ours.inner(far, carried), ours.inner(far, momentum), rtol=1e-5, atol=0)


def test_figures_of_an_embedding_are_those_of_its_points():
    graph, _, _ = largest_component(ring(12))
    made = embed_graph(graph, 2, "lorentz", steps=50, learning_rate=0.05)
    one = torch.ones((), dtype=torch.float64)
    x = disc(made.points)
    assert (x.norm(dim=-1) < 1).all()
    found = Poincare().distance(x.unsqueeze(1), x.unsqueeze(0), one)
    wanted = torch.from_numpy(distances_from(graph, np.arange(12)))
    apart = wanted > 0
    ratios = (found / wanted)[apart]
    assert made.distortion == pytest.approx(float((ratios * made.scale - 1).abs().mean()), rel=1e-6)
    assert made.worst == pytest.approx(float(ratios.max() / ratios.min()), rel=1e-6)
    assert made.pairs == 12 * 11
    found.fill_diagonal_(torch.inf)
    precisions = []
    for node in range(12):
        order = found[node].argsort()[:11]
        ranks = [place for place, other in enumerate(order.tolist(), start=1) if wanted[node, other] == 1]
        precisions.append(np.mean([hit / rank for hit, rank in enumerate(ranks, start=1)]))
    assert made.precision == pytest.approx(np.mean(precisions))


def test_an_embedding_that_diverges_says_so():
    graph, _, _ = largest_component(ring(12))
    with pytest.raises(DivergedError, match="smaller learning rate"):
        embed_graph(graph, 2, "lorentz", steps=200, learning_rate=1e6)


def test_a_geodesic_is_the_shortest_way():
    one, two = np.array([0.3, -0.7]), np.array([-0.5, 0.4])
    arc = torch.from_numpy(_geodesic(one, two))
    np.testing.assert_allclose(arc[[0, -1]].numpy(), [one, two], atol=1e-12)
    c = torch.ones((), dtype=torch.float64)
    steps = Poincare().distance(arc[:-1], arc[1:], c)
    assert steps.std() < 1e-9
    whole = Poincare().distance(torch.from_numpy(one), torch.from_numpy(two), c)
    assert steps.sum() == pytest.approx(float(whole))
