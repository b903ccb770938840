"""Learning how far summaries can be trusted, and measuring it on a project that neither index nor calibration saw."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from cp_bcs.data.pairs import Pair
from cp_bcs.metrics import sentence_bleu, words
from cp_bcs.retrieval import Index
from cp_bcs.summaries.answering import answer
from cp_bcs.summaries.calibration import TARGET, Calibration, copies_of, fit, signals
from cp_bcs.summaries.consensus import NEIGHBOURS, RetrievalSummarizer, agree
from cp_bcs.summaries.drafts import Summarizer

FEWEST_PROJECTS, FEWEST_FUNCTIONS = 4, 1000
"""With less, an index takes the package's own calibration."""
FEWEST_SHOWN = 20
"""Functions above a threshold, of those that it is chosen on: fewer say nothing of a share of 80 %."""

_RANDOM_DRAWS = 10

Group = Callable[[Pair], str]


@dataclass(frozen=True)
class HeldOut:
    """A known function that was asked about while all of its group was hidden.

    Args:
        group: its project.
        own: no other group has its body, or its name with the same sentence.
        signals: of the answer.
        right: whether the answer was better than a random comment.
    """

    group: str
    own: bool
    signals: tuple[float, ...]
    right: bool


@dataclass(frozen=True)
class JudgedTrust:
    """Summaries of a held-out project at the default threshold.

    Args:
        n: its functions.
        shown: share of them with a summary that is shown.
        right: share of those whose sentence BLEU lies above the random-comment median; None where none is shown.
        own_n: functions that no other project has.
        own_shown: share of these with a summary that is shown.
        own_right: the same share as `right`, of these.
        all_right: what `right` would be if every draft were shown.
        random_median: the median sentence BLEU of random comments.
        threshold: confidence from which a summary is shown; None where only known bodies are.
        each: (confidence, sentence BLEU, shown) of each function.
    """

    n: int
    shown: float
    right: float | None
    own_n: int
    own_shown: float
    own_right: float | None
    all_right: float
    random_median: float
    threshold: float | None
    each: list[tuple[float, float, bool]]


def project_of(pair: Pair) -> str:
    """The group of a function in a real index."""
    return pair.project


def hold_out(index: Index, group: Group = project_of) -> list[HeldOut]:
    """Ask an index about each of its documented functions as if it knew nothing of the function's group."""
    pairs = [pair for pair in index.pairs if pair.sentence]
    members: dict[str, list[Pair]] = {}
    for pair in pairs:
        members.setdefault(group(pair), []).append(pair)
    found: list[HeldOut] = []
    for name, asked in members.items():
        others = [pair for pair in pairs if group(pair) != name]
        if not others:
            continue
        median, shared, copies = random_median(others, asked), _Shared(others), copies_of(asked)
        for pair, heard in zip(asked, index.search(asked, NEIGHBOURS, group, documented=True), strict=True):
            source, agreement = agree(heard)
            if source is not None:
                seen = signals(pair, source, agreement, copies[pair.body])
                right = _bleu(source.pair.sentence, pair.sentence) > median
                found.append(HeldOut(name, pair not in shared, seen, right))
    return found


def judge_drafts(
    summarizer: Summarizer, known: Sequence[Pair], asked: Sequence[Pair], group: Group = project_of
) -> list[HeldOut]:
    """Ask a summarizer about documented functions that it does not know.

    Args:
        summarizer: what knows `known` alone.
        known: functions.
        asked: others.
        group: of a function; what is learned from some groups is tried on the others.
    """
    median, shared, copies = random_median(known, asked), _Shared(known), copies_of(asked)
    found: list[HeldOut] = []
    for pair, draft in zip(asked, summarizer.summarize(asked), strict=True):
        seen = signals(pair, draft.source, draft.score, copies[pair.body])
        found.append(HeldOut(group(pair), pair not in shared, seen, _bleu(draft.sentence, pair.sentence) > median))
    return found


def calibrate(held_out: Sequence[HeldOut]) -> Calibration:
    """Learn confidences, and the threshold from those that were learned without the function's own group.

    The threshold is the lowest of at least 80 % from which on 80 % of the shown summaries are better than a random
    comment: of all functions, and of those that no other project has, where any of these are shown.
    """
    seen = np.array([each.signals for each in held_out])
    right = np.array([each.right for each in held_out])
    groups = np.array([each.group for each in held_out])
    own = np.array([each.own for each in held_out])
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    weights = 1 / np.sqrt(counts[inverse])  # else the largest project decides
    confidences = np.zeros(len(seen))
    for name in names if len(names) > 1 else ():
        others, asked = groups != name, groups == name
        learned = Calibration(*fit(seen[others], right[others], weights[others]), None, (), 0)
        confidences[asked] = [learned.confidence(row) for row in seen[asked]]
    threshold = lowest_threshold(confidences, right, own)
    return Calibration(*fit(seen, right, weights), threshold, tuple(names.tolist()), len(seen))


def calibration_for(index: Index) -> Calibration:
    """Learned from an index with enough projects; else the package's own, learned from twelve."""
    documented = [pair for pair in index.pairs if pair.sentence]
    projects = {pair.project for pair in documented}
    if len(projects) < FEWEST_PROJECTS or len(documented) < FEWEST_FUNCTIONS:
        return default_calibration()
    return calibrate(hold_out(index))


@cache
def default_calibration() -> Calibration:
    """The package's own; ``cp-bcs index`` of the corpora of the twelve packages learns it again."""
    text = files("cp_bcs.summaries").joinpath("calibration.json").read_text(encoding="utf-8")
    return Calibration.from_json(json.loads(text), "the package")


def judge_trust(known: Sequence[Pair], asked: Sequence[Pair], group: Group = project_of) -> JudgedTrust:
    """Index and calibrate some projects, then summarise another.

    Args:
        known: functions of several groups.
        asked: those of a group that is not among them.
        group: of a function.
    """
    index = Index(known)
    calibration = calibrate(hold_out(index, group))
    answers = answer(RetrievalSummarizer(index), calibration, asked, copies_of(asked))
    median, shared = random_median(known, asked), _Shared(known)
    bleu = np.array([_bleu(a.draft.sentence, pair.sentence) for a, pair in zip(answers, asked, strict=True)])
    right, shown = bleu > median, np.array([a.shown for a in answers])
    own = np.array([pair not in shared for pair in asked])
    return JudgedTrust(
        n=len(asked),
        shown=float(shown.mean()),
        right=_rate(right, shown),
        own_n=int(own.sum()),
        own_shown=_rate(shown, own) or 0.0,
        own_right=_rate(right, shown & own),
        all_right=float(right.mean()),
        random_median=median,
        threshold=calibration.threshold,
        each=[(a.confidence or 0.0, float(b), a.shown) for a, b in zip(answers, bleu, strict=True)],
    )


def random_median(known: Sequence[Pair], asked: Sequence[Pair]) -> float:
    """The median sentence BLEU of known comments drawn at random, against those of the asked functions."""
    rng = random.Random(0)
    drawn = [_bleu(rng.choice(known).sentence, pair.sentence) for pair in asked for _ in range(_RANDOM_DRAWS)]
    return float(np.median(drawn))


def lowest_threshold(
    confidences: np.ndarray, right: np.ndarray, own: np.ndarray, fewest: int = FEWEST_SHOWN
) -> float | None:
    """The lowest confidence, at least the target, from which on the target is reached; None where there is none.

    Args:
        confidences: of functions.
        right: whether each summary was better than a random comment.
        own: whether no other project has the function.
        fewest: functions above the threshold.
    """
    order = np.argsort(-confidences, kind="stable")
    ordered = confidences[order]
    rate = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    own_count = np.cumsum(own[order])
    own_rate = np.cumsum((right & own)[order]) / np.maximum(own_count, 1)
    last = np.append(ordered[:-1] > ordered[1:], True)  # of equal confidences, all are shown or none
    fits = (
        last
        & (np.arange(1, len(order) + 1) >= fewest)
        & (ordered >= TARGET)
        & (rate >= TARGET)
        & ((own_count == 0) | (own_rate >= TARGET))
    )
    return float(ordered[np.flatnonzero(fits)[-1]]) if fits.any() else None


class _Shared:
    """What some functions share with others: a body, or a name with the same sentence."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._bodies = {pair.body for pair in pairs}
        self._named = {(pair.name, pair.sentence.lower()) for pair in pairs}

    def __contains__(self, pair: Pair) -> bool:
        return pair.body in self._bodies or (pair.name, pair.sentence.lower()) in self._named


def _rate(outcomes: np.ndarray, among: np.ndarray) -> float | None:
    return float(outcomes[among].mean()) if among.any() else None


def _bleu(made: str, written: str) -> float:
    return sentence_bleu(words(made), words(written))
