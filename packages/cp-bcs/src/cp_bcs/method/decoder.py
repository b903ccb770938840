"""The decoder: one cross-attention after the other, one for each encoder (released `src/model.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from cp_bcs.method.attention import Attention, FeedForward, Sizes, causal
from cp_bcs.method.dropout import Dropout
from cp_bcs.method.encoders import Memory


class Projected(NamedTuple):
    """A memory as one cross-attention looks at it.

    Attributes:
        key: (batch, heads, s, d / heads).
        value: of the same shape.
        seen: which of it may be looked at, (batch, 1, s).
    """

    key: Tensor
    value: Tensor
    seen: Tensor


@dataclass
class Past:
    """Keys and values of the words that were written so far, (sentences, heads, t, d / heads); None at the start."""

    key: Tensor | None = None
    value: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Those with one more word."""
        if self.key is not None and self.value is not None:
            key, value = torch.cat([self.key, key], dim=2), torch.cat([self.value, value], dim=2)
        self.key, self.value = key, value
        return key, value

    def follow(self, sources: Tensor) -> None:
        """Let each sentence go on from another one, by number."""
        if self.key is not None and self.value is not None:
            self.key, self.value = self.key[sources], self.value[sources]


@dataclass
class Prefix:
    """What a decoder keeps while it writes several sentences of each function side by side.

    Attributes:
        layers: of each layer what its cross-attentions look at, and its past.
        length: words so far.
    """

    layers: list[tuple[list[Projected], Past]]
    length: int = 0

    def follow(self, sources: Tensor) -> None:
        """Let each sentence go on from another one of the same function.

        Args:
            sources: numbers of sentences, those of the first function first.
        """
        for _, past in self.layers:
            past.follow(sources)


class DecoderLayer(nn.Module):
    """Masked self-attention, cross-attentions in a row, feed-forward part; each after LayerNorm, added to its input.

    Args:
        memories: how many encoders it looks at.
        sizes: of the network.
    """

    def __init__(self, memories: int, sizes: Sizes) -> None:
        super().__init__()
        d = sizes.d
        self.norm_own, self.norm_feed = nn.LayerNorm(d), nn.LayerNorm(d)
        self.own = Attention(sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(memories))
        self.crosses = nn.ModuleList(Attention(sizes) for _ in range(memories))
        self.feed = FeedForward(sizes)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, states: Tensor, memories: Sequence[Memory]) -> tuple[Tensor, list[Tensor]]:
        """New states (batch, t, d), and where each cross-attention looked, (batch, t, s) each."""
        normed = self.norm_own(states)
        own, _ = self.own(normed, normed, causal(states.shape[1], states.device))
        return self._look(states + self.dropout(own), self.project(memories))

    def project(self, memories: Sequence[Memory]) -> list[Projected]:
        """What the cross-attentions look at."""
        crosses = cast("Iterable[Attention]", self.crosses)
        return [
            Projected(*cross.project(memory.states), memory.there.unsqueeze(1))
            for cross, memory in zip(crosses, memories, strict=True)
        ]

    def step(self, states: Tensor, projected: list[Projected], past: Past) -> tuple[Tensor, list[Tensor]]:
        """`forward` of the next word of several sentences of each function, (batch, sentences, d)."""
        normed = self.norm_own(states).flatten(0, 1).unsqueeze(1)
        key, value = past.extend(*self.own.project(normed))
        everything = torch.ones(1, 1, key.shape[2], dtype=torch.bool, device=states.device)
        own, _ = self.own.attend(normed, key, value, everything)
        return self._look(states + self.dropout(own.view_as(states)), projected)

    def _look(self, states: Tensor, projected: list[Projected]) -> tuple[Tensor, list[Tensor]]:
        """What comes after self-attention."""
        looked: list[Tensor] = []
        for norm, cross, memory in zip(self.norms, self.crosses, projected, strict=True):
            found, weights = cast("Attention", cross).attend(norm(states), *memory)
            states = states + self.dropout(found)
            looked.append(weights.mean(1))
        return states + self.dropout(self.feed(self.norm_feed(states))), looked


class Decoder(nn.Module):
    """Writes a sentence word by word.

    Args:
        words: their vectors.
        length: words of a sentence, at most.
        memories: how many encoders it looks at.
        sizes: of the network.
    """

    def __init__(self, words: nn.Embedding, length: int, memories: int, sizes: Sizes) -> None:
        super().__init__()
        self.words, self.places = words, nn.Embedding(length, sizes.d)
        self.layers = nn.ModuleList(DecoderLayer(memories, sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.d)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, words: Tensor, memories: Sequence[Memory]) -> tuple[Tensor, list[Tensor]]:
        """What is known after each word, and where the last layer looked.

        Args:
            words: (batch, t), the first of them the start.
            memories: in the order of the cross-attentions.

        Returns:
            States (batch, t, d), and for each memory weights (batch, t, s).
        """
        states = self.dropout(self.words(words) + self.places.weight[: words.shape[1]])
        looked: list[Tensor] = []
        for layer in self.layers:
            states, looked = layer(states, memories)
        return self.norm(states), looked

    def begin(self, memories: Sequence[Memory]) -> Prefix:
        """Nothing written yet."""
        return Prefix([(layer.project(memories), Past()) for layer in cast("Iterable[DecoderLayer]", self.layers)])

    def step(self, words: Tensor, prefix: Prefix) -> tuple[Tensor, list[Tensor]]:
        """`forward` with one more word for each of several sentences of each function.

        Args:
            words: (batch, sentences).
            prefix: of `begin`; this word is added to it.

        Returns:
            States (batch, sentences, d), and for each memory weights (batch, sentences, s).
        """
        states = self.dropout(self.words(words) + self.places.weight[prefix.length])
        looked: list[Tensor] = []
        for layer, (projected, past) in zip(cast("Iterable[DecoderLayer]", self.layers), prefix.layers, strict=True):
            states, looked = layer.step(states, projected, past)
        prefix.length += 1
        return self.norm(states), looked


class WordHead(nn.Module):
    """Chances of the next word.

    Args:
        d: dimension of the states.
        vocabulary: words.
    """

    def __init__(self, d: int, vocabulary: int) -> None:
        super().__init__()
        self.scores = nn.Linear(d, vocabulary)

    def forward(self, states: Tensor) -> Tensor:
        """Logarithms of the chances, (batch, t, vocabulary), in float32."""
        return self.scores(states).float().log_softmax(-1)


class CopyHead(nn.Module):
    """Chances of the next word, written or copied from a sentence that is looked at (See et al., 2017); ours.

    A word of the sentences that the vocabulary lacks has a number behind it, the same within one row.

    Args:
        d: dimension of the states.
        vocabulary: words.
    """

    def __init__(self, d: int, vocabulary: int) -> None:
        super().__init__()
        self.scores = nn.Linear(d, vocabulary)
        self.gate = nn.Linear(d, 1)

    def forward(self, states: Tensor, looked: Tensor, copied: Tensor, extended: int) -> Tensor:
        """Logarithms of the chances, (batch, t, extended), in float32.

        Args:
            states: of the decoder (batch, t, d).
            looked: where it looked in the sentences, (batch, t, s); sums to 1 over the words that are there.
            copied: numbers of their words, (batch, s), 0 for none.
            extended: size of the vocabulary with the words behind it.
        """
        written = self.scores(states).float().softmax(-1)
        gate = self.gate(states).float().sigmoid()
        chances = written.new_zeros(*written.shape[:-1], extended)
        chances[..., : written.shape[-1]] = written * (1 - gate)
        places = copied.unsqueeze(1).expand(-1, looked.shape[1], -1)
        chances = chances.scatter_add(-1, places, looked.float() * gate)
        return chances.clamp_min(torch.finfo(chances.dtype).tiny).log()
