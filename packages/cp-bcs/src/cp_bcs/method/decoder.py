"""The decoder: one cross-attention after the other, one for each encoder (released `src/model.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cp_bcs.method.attention import Attention, FeedForward, Sizes, causal
from cp_bcs.method.dropout import Dropout
from cp_bcs.method.encoders import Memory


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
        states = states + self.dropout(self.own(normed, normed, causal(states.shape[1], states.device))[0])
        looked: list[Tensor] = []
        for norm, cross, memory in zip(self.norms, self.crosses, memories, strict=True):
            found, weights = cross(norm(states), memory.states, memory.there.unsqueeze(1))
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
