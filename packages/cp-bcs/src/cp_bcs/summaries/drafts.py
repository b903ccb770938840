"""What a summarizer gives, and what it must offer: a draft for each function, to be trusted or not by calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cp_bcs.data.pairs import Pair
from cp_bcs.retrieval import Neighbour


@dataclass(frozen=True)
class Draft:
    """A sentence on one function, before anything is said on how far it can be trusted.

    Args:
        sentence: what the function may do; empty where the summarizer has nothing to say.
        score: the summarizer's own measure of it, 0 … 1; not a probability.
        highlights: weight of each node of the control-flow graph, 0 … 1; None where the summarizer has none.
        source: the known function that stands behind the sentence, or the nearest one.
        neighbours: the nearest known functions, the nearest first; among them those without a sentence.
    """

    sentence: str
    score: float
    highlights: tuple[float, ...] | None = None
    source: Neighbour | None = None
    neighbours: tuple[Neighbour, ...] = ()


class Summarizer(Protocol):
    """Anything that writes drafts."""

    @property
    def reads_pseudo(self) -> bool:
        """Whether it looks at pseudo code."""
        ...

    def summarize(self, functions: Sequence[Pair]) -> list[Draft]:
        """A draft for each function.

        Args:
            functions: as the corpus describes them; their sentences are empty or not looked at. Of a call's node, the
                text is the summary of the called function where that is known.
        """
        ...
