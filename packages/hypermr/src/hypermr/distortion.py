"""How well a space holds a graph: embeddings of its entities, their distortion and their mean average precision.

Entities are points of a geoopt manifold; geoopt's Riemannian Adam moves them so that distances, times one learnt
scale, are those of the graph. The scale stands for the curvature: a space twice as curved is one half as large. All
spaces start alike: each entity one step from the one before it in a tree of shortest ways, in a random direction.
Points of the hyperboloid that come farther from the origin than `REACH` are pulled back to it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order
from torch import Tensor

from hypermr.hyperbolicity import distances_from, root_of
from hypermr.manifold import Poincare
from mpo_core.errors import DivergedError

with warnings.catch_warnings():
    # It still compiles its formulas with torch.jit, which torch means to give up.
    warnings.filterwarnings("ignore", "`torch.jit")
    import geoopt

PAIRS = 4096
"""Pairs of a step."""
SOURCES = 500
"""Entities whose distances to all others are judged."""
EDGE = 1.0
"""Length of an edge of the graph at the start."""
REACH = 12.0
"""How far from the origin points of the hyperboloid may be: beyond it float64 loses what lies between two of them."""


@dataclass(frozen=True)
class Embedding:
    """Points of a graph's nodes, and how well they hold it.

    Attributes:
        points: normal coordinates at the origin of the hyperbolic space with c = 1, or of flat space (nodes, d).
        scale: lengths in the graph over lengths in the space.
        distortion: mean of ``|scale d(x, y) / d_G(x, y) - 1|`` over the pairs that are judged.
        worst: the largest over the smallest of ``d(x, y) / d_G(x, y)``.
        precision: mean average precision of the neighbours of a node among all nodes, nearest first.
        pairs: how many were judged.
    """

    points: Tensor
    scale: float
    distortion: float
    worst: float
    precision: float
    pairs: int


def embed_graph(
    graph: csr_matrix,
    d: int,
    geometry: Literal["euclidean", "lorentz"],
    *,
    steps: int = 2000,
    learning_rate: float = 0.1,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Embedding:
    """Embed a connected graph.

    Args:
        graph: adjacency without directions.
        d: dimension of the space.
        geometry: flat or hyperbolic.
        steps: of the optimiser, each on `PAIRS` pairs.
        learning_rate: at the start; it falls to 0 along a cosine.
        seed: of start and pairs.
        on_progress: called after every step with steps done and steps in all.

    Raises:
        DivergedError: points or scale are no longer finite.
    """
    draw = np.random.default_rng(seed)
    count = graph.indptr.size - 1
    everything = torch.from_numpy(distances_from(graph, np.arange(count)).astype(np.float32))
    space = _Hyperboloid(d) if geometry == "lorentz" else _Flat(d)
    parameter: Any = geoopt.ManifoldParameter  # its __new__ has no types
    points: Tensor = parameter(_started(graph, space, d, draw), manifold=space.manifold)
    log_scale = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer: Any = geoopt.optim.RiemannianAdam([points, log_scale], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        one, two = (torch.from_numpy(draw.integers(0, count, size=PAIRS)) for _ in range(2))
        apart = one != two
        one, two = one[apart], two[apart]
        wanted = everything[one, two].double()
        found = space.distance(points[one], points[two]) * log_scale.exp()
        loss = (found / wanted - 1).square().mean()
        if not torch.isfinite(loss):
            raise DivergedError(f"the embedding is no longer finite after step {step}; take a smaller learning rate.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_progress is not None:
            on_progress(step + 1, steps)
    with torch.no_grad():
        sources = torch.from_numpy(draw.choice(count, size=min(SOURCES, count), replace=False))
        found = space.distance(points[sources].unsqueeze(1), points.unsqueeze(0))
        wanted = everything[sources].double()
        apart = wanted > 0
        ratios = found[apart] / wanted[apart]
        return Embedding(
            points=space.coordinates_of(points.detach()),
            scale=float(log_scale.exp()),
            distortion=float((ratios * log_scale.exp() - 1).abs().mean()),
            worst=float(ratios.max() / ratios.min().clamp_min(1e-12)),
            precision=_mean_average_precision(found, wanted, sources),
            pairs=int(apart.sum()),
        )


def disc(points: Tensor) -> Tensor:
    """Points of the hyperbolic plane in the Poincare disc of radius 1, from their normal coordinates."""
    return Poincare().expmap0(points, torch.ones((), dtype=points.dtype))


def _mean_average_precision(found: Tensor, wanted: Tensor, sources: Tensor) -> float:
    """Of the neighbours, those at the distance 1, in the order of the embedding."""
    found = found.clone()
    found[torch.arange(len(sources)), sources] = torch.inf  # a node is not its own neighbour
    order = found.argsort(dim=-1)
    hits = (wanted == 1).gather(1, order).double()
    precision = hits.cumsum(-1) / torch.arange(1, hits.shape[1] + 1)
    return float(((precision * hits).sum(-1) / hits.sum(-1)).mean())


def _started(graph: csr_matrix, space: _Flat | _Hyperboloid, d: int, draw: np.random.Generator) -> Tensor:
    """Points (nodes, d or d + 1): level by level from the middle, each at the length `EDGE` from the one before it."""
    middle = root_of(graph)
    order, before = breadth_first_order(graph, middle, directed=False)
    depth = distances_from(graph, np.array([middle]))[0].astype(int)
    steps = draw.normal(size=(graph.indptr.size - 1, d))
    steps *= EDGE / np.linalg.norm(steps, axis=1, keepdims=True)
    points = space.points_of(torch.zeros(len(steps), d, dtype=torch.float64))
    for level in range(1, int(depth.max()) + 1):
        here = order[depth[order] == level]
        points[here] = space.step(points[before[here]], torch.from_numpy(steps[here]))
    return points


class _Flat:
    def __init__(self, d: int) -> None:
        self.manifold = geoopt.Euclidean(ndim=1)

    def points_of(self, u: Tensor) -> Tensor:
        return u

    def step(self, x: Tensor, u: Tensor) -> Tensor:
        return x + u

    def coordinates_of(self, x: Tensor) -> Tensor:
        return x

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        # the square of a small number has a gradient at 0, its root has not
        return ((x - y).square().sum(-1) + 1e-24).sqrt()


class WithinReach(geoopt.Lorentz):
    """geoopt's hyperboloid as far as float64 carries it: where a step leads beyond the `REACH`, it is pulled back.

    As the optimiser carries its momentum from point to point, the step itself has to end there.
    """

    def expmap(self, x: Tensor, u: Tensor, *, norm_tan: bool = True, project: bool = True, dim: int = -1) -> Tensor:
        """From points x along u, at most to the `REACH`, always onto the hyperboloid; arguments as geoopt's."""
        if norm_tan:
            u = self.proju(x, u, dim=dim)
        longest = 2 * REACH  # from one side to the other
        length = self.norm(u, keepdim=True, dim=dim)
        y = super().expmap(x, u * (longest / length).clamp_max(1), norm_tan=False, project=False, dim=dim)
        space = y.narrow(dim, 1, y.shape[dim] - 1)
        space = space * (math.sinh(REACH) / space.norm(dim=dim, keepdim=True)).clamp_max(1)
        return torch.cat([(1 + space.square().sum(dim, keepdim=True)).sqrt(), space], dim)

    retr = expmap

    def transp(self, x: Tensor, y: Tensor, v: Tensor, *, dim: int = -1) -> Tensor:
        """A vector v at x carried to y along the geodesic.

        geoopt's form divides by the distance of x and y, which for near points that are far out is lost in float64.
        """
        along = self.inner(x, y, v, keepdim=True, dim=dim) / (1 - self.inner(x, x, y, keepdim=True, dim=dim))
        return self.proju(y, v + along * (x + y), dim=dim)


class _Hyperboloid:
    """The hyperboloid with c = 1, times first."""

    def __init__(self, d: int) -> None:
        self.manifold = WithinReach(k=1.0)

    def points_of(self, u: Tensor) -> Tensor:
        return self.manifold.expmap0(torch.nn.functional.pad(u, (1, 0)))

    def step(self, x: Tensor, u: Tensor) -> Tensor:
        """Along a tangent vector that was carried from the origin to x."""
        carried = self.manifold.transp0(x, torch.nn.functional.pad(u, (1, 0)))
        return self.manifold.expmap(x, carried)

    def coordinates_of(self, x: Tensor) -> Tensor:
        space = x[..., 1:]
        length = space.norm(dim=-1, keepdim=True)
        return space * torch.asinh(length) / length.clamp_min(1e-30)

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        # The chord by a difference of times, not by the product of points, which cancels for near ones.
        gap = x - y
        chord = (gap[..., 1:].square().sum(-1) - gap[..., 0].square()).clamp_min(0) + 1e-24
        return 2 * torch.asinh(chord.sqrt() / 2)
