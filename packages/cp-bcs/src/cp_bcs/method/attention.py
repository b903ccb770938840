"""Multi-head attention, plain and with relative positions (Shaw et al., 2018; released `src/model.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cp_bcs.method.dropout import Dropout


@dataclass(frozen=True)
class Sizes:
    """What all Transformer layers of a network share.

    Attributes:
        d: dimension of the states.
        layers: how many in a row.
        heads: of attention; they divide `d`.
        inner: dimension inside the feed-forward parts.
        dropout: of all parts.
        attention_dropout: of the weights of attention.
        reach: greatest distance, to either side, of which a relative position has vectors of its own.
    """

    d: int
    layers: int
    heads: int
    inner: int
    dropout: float
    attention_dropout: float
    reach: int


class Attention(nn.Module):
    """Multi-head attention that also tells where it looked.

    Args:
        sizes: of the network.
        relative: whether it sees relative positions.
    """

    def __init__(self, sizes: Sizes, relative: bool = False) -> None:
        super().__init__()
        d, reach = sizes.d, sizes.reach if relative else None
        self.heads, self.size, self.reach = sizes.heads, d // sizes.heads, reach
        self.query, self.key, self.value, self.out = (nn.Linear(d, d) for _ in range(4))
        self.dropout = Dropout(sizes.attention_dropout)
        if reach is not None:
            self.key_distance = nn.Embedding(2 * reach + 1, self.size)
            self.value_distance = nn.Embedding(2 * reach + 1, self.size)

    def forward(self, states: Tensor, memory: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Let states look at a memory.

        Args:
            states: (batch, t, d).
            memory: (batch, s, d); with relative positions as long as the states.
            seen: which of the memory each state may look at, (batch or 1, t or 1, s); at least one.

        Returns:
            New states (batch, t, d), and the weights of each head, (batch, heads, t, s).
        """
        return self.attend(states, *self.project(memory), seen)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a memory, (batch, heads, s, d / heads) each."""
        return self._split(self.key(memory)), self._split(self.value(memory))

    def attend(self, states: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """`forward`, with a memory that `project` has seen."""
        query = self._split(self.query(states) / math.sqrt(self.size))
        scores = query @ key.mT
        if self.reach is not None:
            scores = scores + of_pairs(query @ self._distances(self.key_distance, states.shape[1], query).mT)
        hidden = scores.new_zeros(()).masked_fill(~seen, torch.finfo(scores.dtype).min)
        weights = (scores + hidden.unsqueeze(1)).softmax(-1)
        dropped = self.dropout(weights)
        mixed = dropped @ value
        if self.reach is not None:
            mixed = mixed + of_distances(dropped) @ self._distances(self.value_distance, states.shape[1], dropped)
        return self.out(mixed.transpose(1, 2).flatten(2)), weights

    def _split(self, states: Tensor) -> Tensor:
        """(batch, t, d) as (batch, heads, t, d / heads)."""
        return states.unflatten(-1, (self.heads, self.size)).transpose(1, 2)

    def _distances(self, vectors: nn.Embedding, length: int, like: Tensor) -> Tensor:
        """The vectors of the distances -(length - 1) … length - 1, (2 length - 1, d / heads)."""
        reach = vectors.num_embeddings // 2
        distances = torch.arange(1 - length, length, device=like.device).clamp(-reach, reach)
        return vectors(distances + reach).to(like.dtype)


def of_pairs(of_distances: Tensor) -> Tensor:
    """What belongs to the distance ``j - i`` of each pair of places i and j.

    Args:
        of_distances: (..., t, 2 t - 1), for each i what belongs to the distances -(t - 1) … t - 1.

    Returns:
        (..., t, t).
    """
    length = of_distances.shape[-2]
    if length == 1:
        return of_distances
    # Each row begins one place further to the left than the row before: cuts and views, no table of indices.
    step = 2 * length - 2
    flat = of_distances.flatten(-2)[..., length - 1 :][..., : length * step]
    return flat.unflatten(-1, (length, step))[..., :length]


def of_distances(of_pairs: Tensor) -> Tensor:
    """The inverse of `of_pairs`, (..., t, t) to (..., t, 2 t - 1); 0 for the distances that a place has to no other."""
    length = of_pairs.shape[-1]
    if length == 1:
        return of_pairs
    flat = functional.pad(of_pairs, (0, length - 2)).flatten(-2)
    return functional.pad(flat, (length - 1, 1)).unflatten(-1, (length, 2 * length - 1))


class FeedForward(nn.Sequential):
    """Two linear maps with ReLU and dropout between.

    Args:
        sizes: of the network.
    """

    def __init__(self, sizes: Sizes) -> None:
        d, inner = sizes.d, sizes.inner
        super().__init__(nn.Linear(d, inner), nn.ReLU(), Dropout(sizes.dropout), nn.Linear(inner, d))


def causal(length: int, device: torch.device) -> Tensor:
    """What each place of a summary may look at: itself and those before it, (1, length, length)."""
    return torch.ones(1, length, length, dtype=torch.bool, device=device).tril()
