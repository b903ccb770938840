"""The sentence that agrees best with all that may be right: minimum Bayes risk (Kumar and Byrne, 2004); ours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cp_bcs.metrics import NGrams


def least_risk(candidates: Sequence[Sequence[str]], weights: Sequence[float]) -> tuple[int, float]:
    """The candidate with the highest expected sentence BLEU, where each may be right with the chance of its weight.

    Args:
        candidates: words of sentences.
        weights: not negative, with a positive sum.

    Returns:
        Its number, of equals the first, and the expected BLEU, 0 … 1.
    """
    sentences = [_ngrams(tuple(candidate)) for candidate in candidates]
    chances = np.asarray(weights, dtype=float)
    gains = np.array([[made.bleu(written) for written in sentences] for made in sentences])
    expected = gains @ (chances / chances.sum())
    best = int(np.argmax(expected))
    return best, float(expected[best])


@lru_cache(maxsize=1 << 16)
def _ngrams(sentence: tuple[str, ...]) -> NGrams:
    return NGrams(sentence)
