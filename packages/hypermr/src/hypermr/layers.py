"""Layers of a network whose states are points of a space of constant curvature.

A state is given in normal coordinates at the origin, a tensor of shape (..., d): ``u`` stands for the point
``expmap0(u)``. Linear maps, norms, activations and residuals act on these coordinates, as in Ganea et al. 2018; what a
curvature changes are the operations between points: distances (the scores of attention) and midpoints (what attention
gathers). In flat space these are the usual ones, so that `Euclidean` gives the matched twin: same parameters, same
start, same scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from hypermr.manifold import Space

AttentionForm = Literal["distance", "dot"]
States = Float[Tensor, "batch n d"]
OtherStates = Float[Tensor, "batch m d"]
Present = Bool[Tensor, "batch m"]


@dataclass
class Ledger:
    """What happens on the way into the space, while someone looks.

    Attributes:
        seen: points.
        clipped: points that were pulled back to the reach of the space.
        radii: distances from the origin in units of curvature, ``sqrt(c) |u|``, one tensor per call.
    """

    seen: int = 0
    clipped: int = 0
    radii: list[Tensor] = field(default_factory=list)


class ToSpace(nn.Module):
    """Normal coordinates to points; what lies beyond the reach of float32 is pulled back to it.

    Args:
        space: where the points lie.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.ledger: Ledger | None = None

    def forward(self, u: Tensor, c: Tensor) -> Tensor:
        """Points of the shape of `u`."""
        if self.ledger is not None and math.isfinite(self.space.reach):
            radii = (c.sqrt() * u.norm(dim=-1)).detach().flatten()
            self.ledger.seen += radii.numel()
            self.ledger.clipped += int((radii > self.space.reach).sum())
            self.ledger.radii.append(radii)
        return self.space.expmap0(u, c, within_reach=True)


class Norm(nn.Module):
    """Layer normalisation of normal coordinates, to points at about a radius.

    Args:
        d: dimension.
        radius: distance from the origin at the start.
    """

    def __init__(self, d: int, radius: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((d,), radius / math.sqrt(d)))
        self.shift = nn.Parameter(torch.zeros(d))

    def forward(self, u: Tensor) -> Tensor:
        """Of the shape of `u`."""
        return functional.layer_norm(u, self.gain.shape, self.gain, self.shift)


class Attention(nn.Module):
    """Attention by distance that gathers midpoints, in one space per head.

    The weight of y for x is the softmax over y of ``-d(q(x), k(y))^2 / tau``, with one learnt ``tau > 0`` per head;
    what is gathered is the weighted midpoint of ``v(y)``. The form ``dot`` takes the scaled product of the coordinates
    and their mean instead (Vaswani et al. 2017), in whatever space.

    Args:
        d: dimension.
        heads: a divisor of it.
        space: of every head.
        form: ``distance`` or ``dot``.
    """

    def __init__(self, d: int, heads: int, space: Space, form: AttentionForm = "distance") -> None:
        super().__init__()
        self.heads, self.space, self.form = heads, space, form
        self.queries = linear(d, d)
        self.keys_values = linear(d, 2 * d)
        self.out = linear(d, d)
        self.enter = ToSpace(space)
        if form == "distance":
            # softplus(raw) = tau; heads at radius 1 then have scores of unit spread, as products of unit entries do.
            tau = 2 / math.sqrt(d / heads)
            self.raw_tau = nn.Parameter(torch.full((heads, 1, 1), math.log(math.expm1(tau))))

    def forward(self, x: States, y: OtherStates, present: Present, c: Tensor) -> States:
        """What each x gathers from the y.

        Args:
            x: coordinates (batch, n, d).
            y: coordinates (batch, m, d).
            present: which y are there (batch, m); at least one of each row.
            c: curvature.
        """
        queries = self._split(self.queries(x), self.heads)
        keys_values = self._split(self.keys_values(y), 2 * self.heads)
        if self.form == "dot":
            keys, values = keys_values.chunk(2, dim=1)
            scores = keys @ queries.mT / math.sqrt(queries.shape[-1])
            return self.out(self._join(self._weights(scores, present) @ values))
        queries = self.enter(queries, c)
        keys, values = self.enter(keys_values, c).chunk(2, dim=1)
        scores = -self.space.squared_distances(keys, queries, c) / functional.softplus(self.raw_tau)
        gathered = self.space.midpoint(values, self._weights(scores, present), c)
        return self.out(self._join(self.space.logmap0(gathered, c)))

    def _weights(self, scores: Tensor, present: Tensor) -> Tensor:
        """Of each x for all y (batch, heads, n, m); the scores have the y first, (batch, heads, m, n).

        On a CPU a softmax over the last dimension is not vectorised where that is shorter than a vector register.
        """
        return scores.masked_fill(~present[:, None, :, None], -math.inf).softmax(-2).mT

    def _split(self, u: Tensor, heads: int) -> Tensor:
        return u.unflatten(-1, (heads, -1)).transpose(1, 2)

    def _join(self, u: Tensor) -> Tensor:
        return u.transpose(1, 2).flatten(2)


class EncoderLayer(nn.Module):
    """Attention and a feed-forward map, each after a norm and with a residual (the pre-LN Transformer layer).

    Args:
        d: dimension.
        heads: of the attention.
        space: of the attention.
        form: of the attention.
        dropout: of what is added to the residual.
        widening: of the feed-forward map.
        radius: of the normalised states.
    """

    def __init__(
        self, d: int, heads: int, space: Space, form: AttentionForm, dropout: float, widening: int, radius: float
    ) -> None:
        super().__init__()
        self.norm_x, self.norm_y, self.norm_forward = (Norm(d, radius) for _ in range(3))
        self.attention = Attention(d, heads, space, form)
        self.forward_map = nn.Sequential(linear(d, widening * d), nn.ReLU(), linear(widening * d, d))
        self.dropout = SharedDropout(dropout)

    def forward(self, x: States, y: OtherStates, present: Present, c: Tensor) -> States:
        """The new x, which have looked at the y."""
        gathered = self.attention(self.norm_x(x), self.norm_y(y), present, c)
        x = x + self.dropout(gathered)
        return x + self.dropout(self.forward_map(self.norm_forward(x)))


class SharedDropout(nn.Module):
    """Dropout with one mask for all hyperedges of a side (Gal and Ghahramani 2016): those left in are comparable.

    Args:
        share: of the coordinates that are dropped.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, u: States) -> States:
        """Of the shape of `u`."""
        if not self.training or self.share == 0:
            return u
        mask = torch.empty(u.shape[0], 1, u.shape[2], dtype=u.dtype, device=u.device)
        return u * mask.bernoulli_(1 - self.share).div_(1 - self.share)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map with Xavier's weights and no shift at the start."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
