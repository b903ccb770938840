"""From a draft to a confidence: the chance that its sentence is better than a random comment.

A summary is taken for right where its sentence BLEU against what people wrote lies above the median of random
comments. The chance of it is a logistic function of a few signals, learned from functions of projects that the index
was asked about without knowing them, as it is when a user's binary is asked about.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from cp_bcs.data.pairs import Pair
from cp_bcs.retrieval import Neighbour
from mpo_core.errors import InputFileError

TARGET = 0.8
"""Share of the shown summaries that must be better than a random comment."""

NO_SUMMARY = "no confident summary"

SIGNALS = ("similarity", "common instructions", "size", "same code", "common texts", "copies", "agreement")
"""What a confidence is computed from; see `signals`."""

_MOST_TEXTS = 3


@dataclass(frozen=True)
class Calibration:
    """A logistic function of the signals, and where to stop showing.

    Args:
        weights: of each signal.
        bias: what is added to their sum.
        threshold: confidence from which a summary is shown; None where no threshold reached the target: then only
            those of known functions with the very same code are shown.
        projects: from which it was learned.
        functions: of them.
    """

    weights: Mapping[str, float]
    bias: float
    threshold: float | None
    projects: tuple[str, ...]
    functions: int

    def confidence(self, seen: Sequence[float]) -> float:
        """The chance that a summary with these signals is better than a random comment."""
        total = self.bias + sum(self.weights[name] * value for name, value in zip(SIGNALS, seen, strict=True))
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, total))))

    def shows(self, seen: Sequence[float], confidence: float) -> bool:
        """Whether a summary is shown."""
        if self.threshold is None:
            return seen[SIGNALS.index("same code")] > 0
        return confidence >= self.threshold

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "projects": list(self.projects)}

    @classmethod
    def from_json(cls, told: Any, where: str) -> Calibration:
        """Read back what `to_json` gave.

        Raises:
            InputFileError: it is something else.
        """
        try:
            weights = {name: float(told["weights"][name]) for name in SIGNALS}
            threshold = told["threshold"]
            read = cls(
                weights=weights,
                bias=float(told["bias"]),
                threshold=None if threshold is None else float(threshold),
                projects=tuple(str(project) for project in told["projects"]),
                functions=int(told["functions"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputFileError(f"{where} holds no calibration ({error or type(error).__name__}).") from error
        if not all(math.isfinite(value) for value in (*weights.values(), read.bias, read.threshold or 0.0)):
            raise InputFileError(f"{where} holds a damaged calibration: a weight is no number.")
        return read


def signals(function: Pair, source: Neighbour | None, agreement: float, copies: int) -> tuple[float, ...]:
    """What a confidence is computed from, in the order of `SIGNALS`.

    Args:
        function: that the summary is of.
        source: the known function behind the sentence.
        agreement: score of the draft.
        copies: functions of the same binary with the same body, this one included: what differs among them is not in
            what a summarizer reads.
    """
    size, copied = math.log(max(len(function.keys), 1)), math.log(max(copies, 1))
    if source is None:
        return 0.0, 0.0, size, 0.0, 0.0, copied, agreement
    known, own = set(source.pair.keys), set(function.keys)
    texts = {text for _, text in function.texts} & {text for _, text in source.pair.texts}
    return (
        source.similarity**2,
        len(known & own) / max(len(known | own), 1),
        size,
        float(source.pair.is_code_of(function)),
        float(min(len(texts), _MOST_TEXTS)),
        copied,
        agreement,
    )


def copies_of(functions: Sequence[Pair]) -> Counter[str]:
    """How many functions have each body."""
    return Counter(function.body for function in functions)


def fit(seen: np.ndarray, right: np.ndarray, weights: np.ndarray) -> tuple[dict[str, float], float]:
    """Weights and bias of the logistic function.

    Args:
        seen: signals, (functions, signals).
        right: whether each summary was better than a random comment.
        weights: of the functions.
    """
    mean, spread = seen.mean(axis=0), seen.std(axis=0)
    spread[spread == 0] = 1.0
    if right.all() or not right.any():  # nothing to tell apart: the rate, with one added to both outcomes
        rate = (right.sum() + 1) / (len(right) + 2)
        return dict.fromkeys(SIGNALS, 0.0), math.log(rate / (1 - rate))
    model = LogisticRegression(max_iter=1000).fit((seen - mean) / spread, right, sample_weight=weights)
    scaled = np.asarray(model.coef_)[0] / spread
    named = {name: float(value) for name, value in zip(SIGNALS, scaled, strict=True)}
    return named, float(np.asarray(model.intercept_)[0] - scaled @ mean)
