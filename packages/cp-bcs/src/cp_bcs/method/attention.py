"""Multi-head attention, plain and with relative positions (Shaw et al., 2018; released `src/model.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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
        self.dropout = nn.Dropout(sizes.attention_dropout)
        if reach is not None:
            self.key_distance = nn.Embedding(2 * reach + 1, self.size)
            self.value_distance = nn.Embedding(2 * reach + 1, self.size)

    def forward(self, states: Tensor, memory: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Let states look at a memory.

        Args:
            states: (batch, t, d).
            memory: (batch, s, d).
            seen: which of the memory each state may look at, (batch or 1, t or 1, s); at least one.

        Returns:
            New states (batch, t, d), and the weights, mean over the heads, (batch, t, s).
        """
        query, key, value = (
            self._split(self.query(states)),
            self._split(self.key(memory)),
            self._split(self.value(memory)),
        )
        scores = query @ key.mT
        distances = None if self.reach is None else self._distances(scores, self.reach)
        if distances is not None:
            scores = scores + (query @ self.key_distance.weight.T).gather(-1, distances)
        scores = scores / math.sqrt(self.size)
        scores = scores.masked_fill(~seen.unsqueeze(1), torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        dropped = self.dropout(weights)
        mixed = dropped @ value
        if distances is not None:
            of_distance = dropped.new_zeros(*dropped.shape[:-1], self.key_distance.num_embeddings)
            of_distance = of_distance.scatter_add(-1, distances, dropped)
            mixed = mixed + of_distance @ self.value_distance.weight.to(of_distance.dtype)
        joined = mixed.transpose(1, 2).flatten(2)
        return self.out(joined), weights.mean(1)

    def _split(self, states: Tensor) -> Tensor:
        """(batch, t, d) as (batch, heads, t, d / heads)."""
        return states.unflatten(-1, (self.heads, self.size)).transpose(1, 2)

    @staticmethod
    def _distances(scores: Tensor, reach: int) -> Tensor:
        """Number of the relative position of each pair of places, in the shape of the scores (batch, heads, t, s)."""
        rows = torch.arange(scores.shape[-2], device=scores.device).unsqueeze(1)
        columns = torch.arange(scores.shape[-1], device=scores.device)
        return ((columns - rows).clamp(-reach, reach) + reach).expand_as(scores)


class FeedForward(nn.Sequential):
    """Two linear maps with ReLU and dropout between.

    Args:
        sizes: of the network.
    """

    def __init__(self, sizes: Sizes) -> None:
        d, inner = sizes.d, sizes.inner
        super().__init__(nn.Linear(d, inner), nn.ReLU(), nn.Dropout(sizes.dropout), nn.Linear(inner, d))


def causal(length: int, device: torch.device) -> Tensor:
    """What each place of a summary may look at: itself and those before it, (1, length, length)."""
    return torch.ones(1, length, length, dtype=torch.bool, device=device).tril()
