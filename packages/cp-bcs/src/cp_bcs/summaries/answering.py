"""Drafts with confidence: what is shown of a summarizer's work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cp_bcs.data.pairs import Pair
from cp_bcs.summaries.calibration import Calibration, signals
from cp_bcs.summaries.drafts import Draft, Summarizer


@dataclass(frozen=True)
class Answer:
    """What is said of one function.

    Args:
        draft: of the summarizer.
        confidence: chance that its sentence is better than a random comment; None without a sentence.
        shown: whether it is high enough.
    """

    draft: Draft
    confidence: float | None
    shown: bool

    @property
    def summary(self) -> str | None:
        """The sentence, where it is shown."""
        return self.draft.sentence if self.shown else None


def answer(
    summarizer: Summarizer, calibration: Calibration, functions: Sequence[Pair], copies: Mapping[str, int]
) -> list[Answer]:
    """Summarise functions, and say how far each summary can be trusted.

    Args:
        summarizer: writes the drafts.
        calibration: of that summarizer.
        functions: to be summarised.
        copies: how many functions of the binary have each body.
    """
    return [
        _judged(calibration, function, draft, copies.get(function.body, 1))
        for function, draft in zip(functions, summarizer.summarize(functions), strict=True)
    ]


def _judged(calibration: Calibration, function: Pair, draft: Draft, copies: int) -> Answer:
    if not draft.sentence:
        return Answer(draft, None, False)
    seen = signals(function, draft.source, draft.score, copies)
    confidence = calibration.confidence(seen)
    return Answer(draft, confidence, calibration.shows(seen, confidence))
