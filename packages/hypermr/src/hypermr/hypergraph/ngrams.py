"""Hyperedges of a question: every n tokens in a row."""

from __future__ import annotations

from collections.abc import Sequence


def ngrams(tokens: Sequence[str], n: int = 3) -> list[tuple[str, ...]]:
    """Every `n` tokens in a row; a shorter question is one hyperedge.

    Args:
        tokens: of the question.
        n: HyperMR and Hypergraph Transformer take 3.

    Example:
        >>> ngrams(["who", "is", "her", "father"])
        [('who', 'is', 'her'), ('is', 'her', 'father')]
    """
    if not tokens:
        return []
    return [tuple(tokens[start : start + n]) for start in range(max(1, len(tokens) - n + 1))]
