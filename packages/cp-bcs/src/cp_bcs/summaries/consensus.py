"""The sentence that the nearest known functions agree on: minimum Bayes risk decoding over neighbours.

Of the comments of the k nearest functions, the one is taken that has the highest expected sentence BLEU against all of
them, each weighted by a power of its similarity. With a high power it is the nearest one's comment.
"""

from __future__ import annotations

from collections.abc import Sequence

from cp_bcs.data.pairs import Pair
from cp_bcs.minimum_risk import Ballot, Weighting, said, voices_of
from cp_bcs.retrieval import Index, Neighbour
from cp_bcs.summaries.drafts import Draft

NEIGHBOURS, POWER = 20, 4
"""Chosen on the dev parts of four splits of the corpora (docs/cp-bcs.md)."""

SHOWN = 5
"""Neighbours that are kept as evidence."""


class RetrievalSummarizer:
    """Copies the sentence that the nearest known functions agree on.

    Args:
        index: the known functions; those without a sentence are evidence only.
        neighbours: how many are heard.
        power: of their similarities.
    """

    reads_pseudo = False

    def __init__(self, index: Index, neighbours: int = NEIGHBOURS, power: float = POWER) -> None:
        self.index, self.neighbours, self.power = index, neighbours, power

    def summarize(self, functions: Sequence[Pair]) -> list[Draft]:
        """A draft for each function; see `Summarizer`."""
        heard = self.index.search(functions, self.neighbours, documented=True)
        nearest = heard if self.index.all_documented else self.index.search(functions, SHOWN)
        return [self._draft(*each) for each in zip(functions, heard, nearest, strict=True)]

    def _draft(self, function: Pair, heard: Sequence[Neighbour], nearest: Sequence[Neighbour]) -> Draft:
        shown = tuple(nearest[:SHOWN])
        chosen, agreement = agree(heard, self.power)
        behind = chosen or (shown[0] if shown else None)
        highlights = None if behind is None else tuple(self.index.shared(function, behind.pair))
        return Draft("" if chosen is None else chosen.pair.sentence, agreement, highlights, behind, shown)


def agree(neighbours: Sequence[Neighbour], power: float = POWER) -> tuple[Neighbour | None, float]:
    """The neighbour whose sentence the others agree with most, and how far they do: the expected sentence BLEU.

    Args:
        neighbours: known functions with sentences.
        power: of their similarities.

    Returns:
        The neighbour, of equals the nearest; None where nothing is similar at all.
    """
    choice = Ballot(voices_of(neighbours)).choose(Weighting(power))
    if choice is None:
        return None, 0.0
    words, expected = choice
    return next(neighbour for neighbour in neighbours if said(neighbour.pair.sentence) == words), expected
