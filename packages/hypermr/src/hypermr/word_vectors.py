"""Word vectors that a language model has: they know words that training questions rarely use.

The paper takes GloVe's, and keeps them fixed on PQL.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        return functional.embedding(words, self.map(self.vectors))

    def fill(self, words: Sequence[str]) -> None:
        """Take the vectors of these words; see `known_vectors`."""
        self.vectors.copy_(known_vectors(words, self.model, self.vectors.shape[1]))


def known_vectors(words: Sequence[str], model: str, d: int) -> Tensor:
    """What a language model reads for words: the means of their pieces' vectors, by their principal components.

    Those of `OWN` are drawn from torch's generator; that of `PAD` is 0.

    Args:
        words: the words; the parts of a name are joined by ``_``.
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
    means = torch.stack([pieces[each].mean(0) if each else torch.zeros(pieces.shape[1]) for each in numbers])
    means = means - means.mean(0)
    components = means @ torch.linalg.svd(means, full_matrices=False).Vh[:d].mT
    vectors = functional.pad(components, (0, d - components.shape[1]))
    for word, vector in zip(OWN, own, strict=True):
        vectors[words.index(word)] = vector * (word != PAD)
    return functional.normalize(vectors, dim=-1)
