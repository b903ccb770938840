"""Word vectors that a language model has: they know words that training questions rarely use.

The paper takes GloVe's, and keeps them fixed on PQL.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hypermr.data.knowledge_base import INVERSE
from hypermr.data.questions import TOPIC
from hypermr.hypergraph.encoding import PAD, UNKNOWN
from mpo_core.repro.models import load_model, load_tokenizer

OWN = (PAD, UNKNOWN, TOPIC)
"""Words that no language model knows."""


class KnownWords(nn.Module):
    """Vectors that were learnt elsewhere and stay as they are, through a linear map.

    So a word that no training question uses is read like those that mean the same.

    Args:
        model: the language model that has them, as in `mpo_core.repro.models.resolve_model`; read by `fill` alone.
        count: words.
        d: dimension, of the known vectors and of what becomes of them.
    """

    vectors: Tensor

    def __init__(self, model: str, count: int, d: int) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("vectors", torch.zeros(count, d))
        self.map = nn.Linear(d, d, bias=False)
        nn.init.normal_(self.map.weight)  # of vectors of length 1 it makes entries of spread 1, as drawn ones have

    def forward(self, words: Tensor) -> Tensor:
        """States (..., d) of numbers (...)."""
        return self.map(functional.embedding(words, self.vectors))

    def fill(self, words: Sequence[str], used: int) -> None:
        """Take the vectors of these words; see `known_vectors`."""
        self.vectors.copy_(known_vectors(words, used, self.model, self.vectors.shape[1]))


@cache
def words_of(model: str) -> tuple[str, ...]:
    """The words in lower case that a language model has one piece for, in alphabetical order; kept once read.

    Args:
        model: as in `mpo_core.repro.models.resolve_model`.

    Raises:
        InputFileError: its tokenizer cannot be read.
        MissingPartError: ``minilm`` without its package.
    """
    tokenizer = load_tokenizer(model)
    pieces = tokenizer.batch_decode([[number] for number in range(len(tokenizer))])
    words = sorted({piece.strip() for piece in pieces if piece.strip().isalpha() and piece.strip().islower()})
    numbers = tokenizer(words, add_special_tokens=False)["input_ids"]
    return tuple(word for word, made in zip(words, numbers, strict=True) if len(made) == 1)


def known_vectors(words: Sequence[str], used: int, model: str, d: int) -> Tensor:
    """What a language model reads for words: the means of their pieces' vectors, by the principal components of some.

    Those of `OWN` are drawn from torch's generator; that of `PAD` is 0.

    Args:
        words: the words; the parts of a name are joined by ``_``.
        used: so many of them, the first ones, give the mean that is taken off and the components, as far as they have
            some: words that a model is trained on, and that it has to tell apart.
        model: of the language model, as in `mpo_core.repro.models.resolve_model`.
        d: components; where there are fewer, the rest is 0.

    Returns:
        Vectors of length 1, (words, d).

    Raises:
        InputFileError: the model or its tokenizer cannot be read.
        MissingPartError: ``minilm`` without its package.
    """
    own = torch.randn(len(OWN), d)
    tokenizer = load_tokenizer(model)
    embedding = cast("nn.Embedding", load_model(model, "backbone", dtype=torch.float32).get_input_embeddings())
    pieces = embedding.weight.detach()
    texts = ["inverse" if word == INVERSE else word.replace("_", " ") for word in words]
    numbers = tokenizer(texts, add_special_tokens=False)["input_ids"]
    ends = torch.tensor([len(each) for each in numbers]).cumsum(0)
    together = torch.tensor([number for each in numbers for number in each])
    means = functional.embedding_bag(together, pieces, functional.pad(ends, (1, 0))[:-1], mode="mean")
    means = means - means[:used].mean(0)
    least = 1e-5 * float(means.norm())
    axes = _principal_axes(means[:used], d, least)
    if axes.shape[1] < d:  # few words are told apart by fewer: the others are by these
        rest = means - means @ axes @ axes.mT
        axes = torch.cat([axes, _principal_axes(rest, d - axes.shape[1], least)], dim=1)
    components = means @ axes
    vectors = functional.pad(components, (0, d - components.shape[1]))
    for word, vector in zip(OWN, own, strict=True):
        vectors[words.index(word)] = vector * (word != PAD)
    return functional.normalize(vectors, dim=-1)


def _principal_axes(rows: Tensor, most: int, enough: float) -> Tensor:
    """Orthonormal axes (width, k), at most so many, along which centred rows (n, width) vary most, and enough."""
    _, spread, axes = torch.linalg.svd(rows, full_matrices=False)
    return axes[: min(most, int((spread > enough).sum()))].mT
