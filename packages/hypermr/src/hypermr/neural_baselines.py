"""Networks that HyperMR is compared with, between the same embeddings and the same heads, with the same training.

Hypergraph Transformer (Heo et al. 2022) needs no network of its own: it is HyperMR in flat space with one stage and the
attention ``dot``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hypermr.hypergraph.encoding import ABSENT
from hypermr.layers import linear
from mpo_core.errors import MissingPartError
from mpo_core.repro.training import Batch

Sides = tuple[Tensor, Tensor]


class PathScorer(nn.Module):
    """A bidirectional GRU reads the question's hyperedges; those of knowledge do not look at the question.

    Args:
        d: dimension, even.
        dropout: of both sides.
    """

    def __init__(self, d: int, dropout: float) -> None:
        super().__init__()
        self.reader = nn.GRU(d, d // 2, batch_first=True, bidirectional=True)
        self.paths = nn.Sequential(linear(d, d), nn.ReLU(), linear(d, d))
        self.dropout = nn.Dropout(dropout)

    def forward(self, question: Tensor, knowledge: Tensor, present: Sides, batch: Batch) -> Sides:
        """As `hypermr.method.HyperMR`."""
        lengths = present[0].sum(-1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(question, lengths, batch_first=True, enforce_sorted=False)
        read, _ = nn.utils.rnn.pad_packed_sequence(
            self.reader(packed)[0], batch_first=True, total_length=question.shape[1]
        )
        return self.dropout(read), self.dropout(knowledge + self.paths(knowledge))


class HypergraphConvolution(nn.Module):
    """Hypergraph convolution (Bai et al. 2021), torch-geometric's ``HypergraphConv``, on the dual hypergraph.

    What it passes states between are the n-grams and the walks; a word joins all of them that hold it, in the question
    or in the name of a relation, and the topic joins all walks with the n-grams that name it.

    Args:
        d: dimension.
        layers: how many.
        dropout: of what a layer adds.
        names: words of each relation by number, 0 for none.
        topic: number of the word that stands for the topic.
        ngram: tokens of a question's hyperedge.

    Raises:
        MissingPartError: without torch-geometric.
    """

    names: Tensor

    def __init__(self, d: int, layers: int, dropout: float, *, names: Tensor, topic: int, ngram: int) -> None:
        super().__init__()
        try:
            from torch_geometric.nn import HypergraphConv
        except ModuleNotFoundError as error:
            raise MissingPartError(
                "the network hypergraph-conv needs torch-geometric: pip install 'hypermr[pyg]'."
            ) from error
        self.register_buffer("names", names, persistent=False)
        self.topic, self.ngram = topic, ngram
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(layers))
        self.layers = nn.ModuleList(HypergraphConv(d, d) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, question: Tensor, knowledge: Tensor, present: Sides, batch: Batch) -> Sides:
        """As `hypermr.method.HyperMR`."""
        states = torch.cat([question, knowledge], dim=1)
        rows, width, d = states.shape
        incidence = self.incidence(batch, present[0], width)
        flat = states.reshape(rows * width, d)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            flat = flat + self.dropout(layer(norm(flat), incidence).relu())
        states = flat.view(rows, width, d)
        return states[:, : question.shape[1]], states[:, question.shape[1] :]

    def incidence(self, batch: Batch, there: Tensor, width: int) -> Tensor:
        """Which state holds which word: pairs (state, word of a row), of shape (2, pairs).

        Args:
            batch: as `hypermr.hypergraph.encoding.Encoder.batch` makes it.
            there: which states of a question's n-grams are (batch, q).
            width: states of a row, those of knowledge behind.
        """
        tokens, relations = batch["tokens"], batch["relations"]
        n_question = there.shape[1]
        pieces: list[tuple[Tensor, Tensor, Tensor]] = []  # row, state, word
        for shift in range(min(self.ngram, tokens.shape[1])):
            words = tokens[:, shift : shift + n_question]
            words = words * there[:, : words.shape[1]]
            row, place = words.nonzero(as_tuple=True)
            pieces.append((row, place, words[row, place]))
        row, edge, step = (relations != ABSENT).nonzero(as_tuple=True)
        words = self.names[relations[row, edge, step]]
        which, column = words.nonzero(as_tuple=True)
        pieces.append((row[which], n_question + edge[which], words[which, column]))
        first = step == 0
        pieces.append((row[first], n_question + edge[first], torch.full_like(row[first], self.topic)))
        row, state, word = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        _, hyperedge = torch.unique(torch.stack([row, word]), dim=1, return_inverse=True)
        pairs = torch.stack([row * width + state, hyperedge])
        return torch.unique(pairs, dim=1)
