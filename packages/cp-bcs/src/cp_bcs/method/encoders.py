"""The encoders (released `src/model.py`): Transformers for assembly and pseudo code, graph attention for the graph."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cp_bcs.method.attention import Attention, FeedForward, Sizes
from cp_bcs.method.dropout import Dropout
from cp_bcs.method.graph_backend import graph_attention


class Memory(NamedTuple):
    """What a decoder can look at.

    Attributes:
        states: (batch, s, d).
        there: which of them are no padding, (batch, s); the first always counts as there.
    """

    states: Tensor
    there: Tensor


class EncoderLayer(nn.Module):
    """Self-attention with relative positions, then a feed-forward part, each after a LayerNorm and added to its input.

    Args:
        sizes: of the network.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm_attention, self.norm_feed = nn.LayerNorm(sizes.d), nn.LayerNorm(sizes.d)
        self.attention = Attention(sizes, relative=True)
        self.feed = FeedForward(sizes)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, states: Tensor, there: Tensor) -> Tensor:
        """New states (batch, t, d); `there` (batch, t)."""
        normed = self.norm_attention(states)
        states = states + self.dropout(self.attention(normed, normed, there.unsqueeze(1))[0])
        return states + self.dropout(self.feed(self.norm_feed(states)))


class SequenceEncoder(nn.Module):
    """Reads a row of tokens.

    Args:
        vocabulary: tokens; 0 is padding.
        sizes: of the network.
    """

    def __init__(self, vocabulary: int, sizes: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, sizes.d, padding_idx=0)
        self.layers = nn.ModuleList(EncoderLayer(sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.d)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, tokens: Tensor) -> Memory:
        """States of the tokens (batch, t)."""
        there = at_least_one(tokens != 0)
        states = self.dropout(self.embedding(tokens))
        for layer in self.layers:
            states = layer(states, there)
        return Memory(self.norm(states), there)


class GraphEncoder(nn.Module):
    """Reads a control-flow graph of instructions: graph attention after LayerNorm, ReLU, added to its input.

    Args:
        vocabulary: of what describes a node; 0 is padding.
        d: dimension of the states.
        layers: how many.
        dropout: of what a layer adds.
        backend: ``pyg`` or ``dgl``.
        edge_types: how many types edges have, or 0.
    """

    def __init__(
        self, vocabulary: int, d: int, *, layers: int, dropout: float, backend: str, edge_types: int = 0
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, d, padding_idx=0)
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(layers))
        self.layers = nn.ModuleList(graph_attention(d, d, backend, edge_types) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        self.dropout = Dropout(dropout)

    def forward(self, nodes: Tensor, edges: Tensor) -> Memory:
        """States of the nodes.

        Args:
            nodes: (batch, n, w): what describes each node, one number for the whole instruction, or those of its
                tokens, of which the mean is taken.
            edges: (batch, e, 3): from, to and type; -1 where a row has no more of them.
        """
        described = nodes != 0
        there = described.any(-1)
        count = described.sum(-1, keepdim=True).clamp_min(1)
        states = self.dropout(self.embedding(nodes).sum(-2) / count)
        # Absent nodes stay in the flat row as nodes without edges; nothing comes from them and nobody looks at them.
        width = nodes.shape[1]
        row, place = (edges[..., 0] >= 0).nonzero(as_tuple=True)
        found = edges[row, place]
        flat_edges = torch.stack([found[:, 0] + row * width, found[:, 1] + row * width])
        flat = states.flatten(0, 1)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            flat = flat + self.dropout(layer(norm(flat), flat_edges, found[:, 2]).relu())
        return Memory(self.norm(flat).view_as(states), at_least_one(there))


class NeighbourEncoder(nn.Module):
    """Reads the sentences of the nearest known functions; ours, not the paper's.

    A word's state is its vector, that of its place, that of its neighbour's rank, and the neighbour's similarity along
    a learned direction; one layer of self-attention lets sentences be compared.

    Args:
        words: the vectors of the words, shared with the decoder.
        length: words of a sentence, at most.
        ranks: neighbours, at most.
        sizes: of the network.
    """

    def __init__(self, words: nn.Embedding, length: int, ranks: int, sizes: Sizes) -> None:
        super().__init__()
        d = sizes.d
        self.words = words
        self.places, self.ranks = nn.Embedding(length, d), nn.Embedding(ranks, d)
        self.similarity = nn.Linear(1, d, bias=False)
        self.layer = EncoderLayer(sizes)
        self.norm = nn.LayerNorm(d)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, words: Tensor, similarities: Tensor) -> Memory:
        """States of the words of all sentences in one row.

        Args:
            words: (batch, k, w), 0 for none.
            similarities: of each neighbour, (batch, k).
        """
        count, length = words.shape[1:]
        states = self.words(words) + self.places.weight[:length] + self.ranks.weight[:count].unsqueeze(1)
        states = states + self.similarity(similarities.unsqueeze(-1)).unsqueeze(2)
        there = at_least_one((words != 0).flatten(1))
        row = self.dropout(states).flatten(1, 2)
        return Memory(self.norm(self.layer(row, there)), there)


def at_least_one(there: Tensor) -> Tensor:
    """A mask with the first one counted as there where none is: attention needs something to look at."""
    there = there.clone()
    there[:, 0] |= ~there.any(-1)
    return there
