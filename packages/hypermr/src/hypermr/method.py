"""The paper's network: stages of co-attention and self-attention over two hypergraphs, each stage in its own curvature.

States are normal coordinates (`hypermr.layers`). In the sound forms (``lorentz``, ``poincare``) they stand for points,
and the parts of a stage work between points. In the paper's form (``tangent``) all parts work in the flat tangent space
at the origin, and states are mapped to the hyperbolic space and back between the parts: with exact maps that changes
nothing, whatever the curvature, and the network is the flat one (docs/errata.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hypermr.config import ModelConfig
from hypermr.layers import EncoderLayer, Norm, OtherStates, States, ToSpace, linear
from hypermr.manifold import Space, space_of
from hypermr.radial import asinhc, atanhc, radial_map, sinhc, tanhc
from mpo_core.repro.training import Batch

RELEASED_SCALE = 0.1
"""The factor of the vector in the released code's exponential map of the hyperboloid."""


class Curvatures(nn.Module):
    """One positive ``c`` for each stage and one for the head.

    Args:
        count: how many.
        kind: ``learned-per-stage``, ``shared`` or ``fixed``.
        start: all of them at the start.
    """

    raw: Tensor

    def __init__(self, count: int, kind: str, start: float) -> None:
        super().__init__()
        self.count = count
        self.watched: Tensor | None = None
        raw = torch.full((1 if kind == "shared" else count,), math.log(math.expm1(start)))
        if kind == "fixed":
            self.register_buffer("raw", raw)
        else:
            self.raw = nn.Parameter(raw)

    def forward(self) -> Tensor:
        """All of them, of shape (count,)."""
        if self.watched is not None:
            return self.watched
        return functional.softplus(self.raw).expand(self.count)

    @contextmanager
    def watch(self) -> Iterator[Tensor]:
        """While the block runs, all that is computed depends on the tensor that this gives, also where `c` is fixed."""
        values = self().detach().clone().requires_grad_()
        self.watched = values
        try:
            yield values
        finally:
            self.watched = None


class Stage(nn.Module):
    """Questions and knowledge look at each other, then each at itself.

    Args:
        config: sizes and forms.
        space: of the states.
    """

    def __init__(self, config: ModelConfig, space: Space) -> None:
        super().__init__()

        def encoder() -> nn.ModuleList:
            return nn.ModuleList(
                EncoderLayer(
                    config.d,
                    config.heads,
                    space,
                    config.attention,
                    config.dropout,
                    config.widening,
                    config.radius,
                )
                for _ in range(config.layers)
            )

        self.question_looks, self.knowledge_looks = encoder(), encoder()
        self.question_thinks, self.knowledge_thinks = encoder(), encoder()

    def look(
        self, question: States, knowledge: OtherStates, present: tuple[Tensor, Tensor], c: Tensor
    ) -> tuple[States, OtherStates]:
        """Co-attention: both look at what the other was before."""
        own, other = question, knowledge
        for layer in self.question_looks:
            question = layer(question, other, present[1], c)
        for layer in self.knowledge_looks:
            knowledge = layer(knowledge, own, present[0], c)
        return question, knowledge

    def think(
        self, question: States, knowledge: OtherStates, present: tuple[Tensor, Tensor], c: Tensor
    ) -> tuple[States, OtherStates]:
        """Self-attention."""
        for layer in self.question_thinks:
            question = layer(question, question, present[0], c)
        for layer in self.knowledge_thinks:
            knowledge = layer(knowledge, knowledge, present[1], c)
        return question, knowledge


class HyperMR(nn.Module):
    """All stages.

    Args:
        config: sizes and forms.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.space = space_of("euclidean" if config.geometry == "tangent" else config.geometry)
        self.tangent = config.geometry == "tangent"
        self.maps = config.maps
        self.relu = config.stage_relu
        self.curvatures = Curvatures(config.stages + 1, config.curvature, config.start_curvature)
        self.stages = nn.ModuleList(Stage(config, self.space) for _ in range(config.stages))
        self.norm_question, self.norm_knowledge = Norm(config.d, config.radius), Norm(config.d, config.radius)

    def forward(
        self, question: States, knowledge: OtherStates, present: tuple[Tensor, Tensor], batch: Batch | None = None
    ) -> tuple[States, OtherStates]:
        """Coordinates of the question's hyperedges and of the knowledge's, after all stages, normalised.

        Args:
            question: (batch, q, d).
            knowledge: (batch, k, d).
            present: which of either are there, (batch, q) and (batch, k); at least one of each row.
            batch: not looked at; other networks do.
        """
        curvatures = self.curvatures()
        states = question, knowledge
        for number, stage in enumerate(cast("Iterable[Stage]", self.stages)):
            c = curvatures[number]
            states = self._cross(stage.look(*self._cross(states, c), present, c), c)
            states = self._cross(stage.think(*states, present, c), c)
            if self.relu:
                states = states[0].relu(), states[1].relu()
        states = self._cross(states, curvatures[-1])
        return self.norm_question(states[0]), self.norm_knowledge(states[1])

    def _cross(self, states: tuple[Tensor, Tensor], c: Tensor) -> tuple[Tensor, Tensor]:
        """To the hyperbolic space and back, in the paper's form."""
        if not self.tangent:
            return states
        return there_and_back(states[0], c, self.maps), there_and_back(states[1], c, self.maps)


def there_and_back(u: States, c: Tensor, maps: str = "exact") -> States:
    """``log0(exp0(u))``, which is ``u``; the maps of the released code give something else.

    Args:
        u: coordinates.
        c: curvature.
        maps: ``exact``; ``released-hyperboloid``, whose exp0 takes a tenth of the vector; or ``released-ball``, whose
            log0 takes the sigmoid of the norm for the norm.
    """
    if maps != "released-ball":  # of vectors of any length, so without the range of `Space.expmap0`
        scaled = RELEASED_SCALE * u if maps == "released-hyperboloid" else u
        return radial_map(radial_map(scaled, c, sinhc), c, asinhc)
    x = radial_map(u, c, tanhc)
    sigmoid = x.norm(dim=-1, keepdim=True).sigmoid()
    return atanhc(c * sigmoid.square()) * x


class PointerHead(nn.Module):
    """Scores hyperedges by their distance from the question: ``-d(k, q)^2 / tau``, with q the question's midpoint.

    Args:
        d: dimension.
        space: of the points.
    """

    def __init__(self, d: int, space: Space) -> None:
        super().__init__()
        self.space = space
        self.enter = ToSpace(space)
        self.question, self.knowledge = linear(d, d), linear(d, d)
        self.raw_tau = nn.Parameter(torch.zeros(()))

    def forward(self, question: States, knowledge: OtherStates, present: tuple[Tensor, Tensor], c: Tensor) -> Tensor:
        """Scores (batch, k); those of absent ones are minus infinity."""
        middle = pooled(self.space, self.enter(question, c), present[0], c)
        aim = self.enter(self.question(self.space.logmap0(middle, c)), c)
        points = self.enter(self.knowledge(knowledge), c)
        scores = -self.space.squared_distances(points, aim, c).squeeze(-1) / functional.softplus(self.raw_tau)
        return scores.masked_fill(~present[1], -math.inf)


class ClosedHead(nn.Module):
    """Scores the entities of a closed vocabulary: the midpoints of both hypergraphs, side by side, through two layers.

    Args:
        d: dimension.
        labels: how many entities.
        space: of the points.
        dropout: between the layers.
    """

    def __init__(self, d: int, labels: int, space: Space, dropout: float) -> None:
        super().__init__()
        self.space = space
        self.enter = ToSpace(space)
        self.layers = nn.Sequential(linear(2 * d, 2 * d), nn.ReLU(), nn.Dropout(dropout), linear(2 * d, labels))

    def forward(self, question: States, knowledge: OtherStates, present: tuple[Tensor, Tensor], c: Tensor) -> Tensor:
        """Scores (batch, labels)."""
        middles = [
            self.space.logmap0(pooled(self.space, self.enter(states, c), there, c), c).squeeze(1)
            for states, there in zip((question, knowledge), present, strict=True)
        ]
        return self.layers(torch.cat(middles, dim=-1))


def pooled(space: Space, points: States, present: Tensor, c: Tensor) -> Tensor:
    """The midpoint of those that are there, of shape (batch, 1, d)."""
    return space.midpoint(points, present.unsqueeze(1).to(points.dtype), c)
