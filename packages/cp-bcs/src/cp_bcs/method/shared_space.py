"""Functions and sentences as vectors of one space, near where they belong together; ours, not the paper's.

Learnt with the network by telling the sentence of each function of a batch from those of the others, and the other way
round (InfoNCE; van den Oord et al., 2018). What is known of functions that lie near serves as further candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cp_bcs.method.encoders import Memory

WARMTH = 20.0
"""Factor of the cosine between two functions; between a function and a sentence it is learnt."""


class SharedSpace(nn.Module):
    """Vectors of length 1.

    Args:
        memories: how many encoders' states describe a function.
        d: dimension of the states and of the vectors.
        vocabulary: words.
        plain: words from this number on count; those before it are marks.
    """

    def __init__(self, memories: int, d: int, vocabulary: int, plain: int) -> None:
        super().__init__()
        self.plain = plain
        self.function = nn.Linear(memories * d, d)
        self.words = nn.Embedding(vocabulary, d, padding_idx=0)
        self.warmth = nn.Parameter(torch.tensor(math.log(12.0)))

    def of_functions(self, memories: Sequence[Memory]) -> Tensor:
        """Of what encoders make of functions: (batch, d)."""
        means = [masked_mean(memory.states, memory.there) for memory in memories]
        return functional.normalize(self.function(torch.cat(means, dim=-1)).float(), dim=-1)

    def of_sentences(self, words: Tensor) -> Tensor:
        """Of words (batch, t), whatever their order: (batch, d)."""
        return functional.normalize(masked_mean(self.words(words), words >= self.plain).float(), dim=-1)

    def likeness(self, functions: Tensor, sentences: Tensor) -> Tensor:
        """Logits of which sentence belongs to which function, (functions, sentences)."""
        return functions @ sentences.mT * self.warmth.exp()

    def loss(self, functions: Tensor, sentences: Tensor) -> Tensor:
        """Mean negative log-likelihood of the right sentence of each function, and of the right function of each."""
        logits = self.likeness(functions, sentences)
        right = torch.arange(len(logits), device=logits.device)
        return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.mT, right)) / 2


def masked_mean(states: Tensor, there: Tensor) -> Tensor:
    """Mean over the places that are there: (batch, t, d), (batch, t) -> (batch, d); 0 where none is."""
    weights = there.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1)
