"""How tree-like a knowledge base is: Gromov's delta of the graph of its entities, and its trees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components, shortest_path

from hypermr.data.knowledge_base import KnowledgeBase
from mpo_core.errors import UsageError

POOL = 1000
"""Entities of a larger component that quadruples are drawn from."""

Distances = NDArray[np.float64]


@dataclass(frozen=True)
class Hyperbolicity:
    """Of the largest component of a graph without directions; a tree has the delta 0.

    Attributes:
        delta: the largest of the sampled quadruples' deltas.
        mean: their mean.
        diameter: the longest of the shortest ways, between the entities that were looked at.
        entities: of the component.
        share: of all entities that are in it.
        components: how many there are.
        samples: quadruples.
    """

    delta: float
    mean: float
    diameter: int
    entities: int
    share: float
    components: int
    samples: int


def graph_of(kb: KnowledgeBase) -> csr_matrix:
    """The graph of the entities: an edge, of length 1, where a triple joins two."""
    pairs = [(source, target) for source, outgoing in enumerate(kb.edges) for _, target in outgoing if source != target]
    rows, columns = np.array(pairs, dtype=int).reshape(-1, 2).T
    count = len(kb.entities)
    one_way = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    graph = one_way + one_way.T
    graph.data[:] = 1
    return graph


def largest_component(kb: KnowledgeBase) -> tuple[csr_matrix, NDArray[np.int64], int]:
    """The graph of the largest component, the numbers of its entities, and how many components there are."""
    graph = graph_of(kb)
    count, member = connected_components(graph, directed=False)
    inside = np.flatnonzero(member == np.bincount(member).argmax())
    return graph[inside][:, inside], inside, count


def root_of(graph: csr_matrix) -> int:
    """The node with the most neighbours."""
    return int(np.diff(graph.indptr).argmax())


def spanning_tree(graph: csr_matrix) -> csr_matrix:
    """A tree of shortest ways from its root."""
    order, before = breadth_first_order(graph, root_of(graph), directed=False)
    children = order[1:]
    parents = before[children]
    one_way = csr_matrix((np.ones(len(children)), (parents, children)), shape=graph.shape)
    return one_way + one_way.T


def distances_from(graph: csr_matrix, sources: NDArray[np.int64]) -> Distances:
    """Lengths of the shortest ways from some entities to all."""
    return shortest_path(graph, directed=False, unweighted=True, indices=sources)


def delta_hyperbolicity(kb: KnowledgeBase, samples: int = 50_000, seed: int = 0) -> Hyperbolicity:
    """Measure a knowledge base by the four-point condition (Gromov 1987).

    Of four points, the two largest of the sums ``d(w,x) + d(y,z)``, ``d(w,y) + d(x,z)``, ``d(w,z) + d(x,y)`` differ by
    twice the quadruple's delta.

    Args:
        kb: knowledge base.
        samples: quadruples drawn.
        seed: of the draw.

    Raises:
        UsageError: no triple joins two entities.
    """
    graph, inside, components = largest_component(kb)
    if len(inside) < 2:
        raise UsageError(f"{kb.name} joins no two entities, so it has no hyperbolicity.")
    draw = np.random.default_rng(seed)
    pool = inside.size if inside.size <= POOL else POOL
    chosen = draw.choice(inside.size, size=pool, replace=False)
    between = distances_from(graph, chosen)[:, chosen]
    w, x, y, z = draw.integers(0, pool, size=(4, samples))
    sums = np.stack([between[w, x] + between[y, z], between[w, y] + between[x, z], between[w, z] + between[x, y]])
    sums.sort(axis=0)
    deltas = (sums[2] - sums[1]) / 2
    return Hyperbolicity(
        delta=float(deltas.max()),
        mean=float(deltas.mean()),
        diameter=int(between.max()),
        entities=int(inside.size),
        share=inside.size / len(kb.entities),
        components=int(components),
        samples=samples,
    )
