"""Which trials a study consists of, and which learning rate each arm's sweep chooses: pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from mpo_core.errors import UsageError
from mpo_core.repro.config import StudyConfig
from mpo_core.repro.record import TrialRecord
from mpo_core.repro.trial import Trial


def plan_sweep(config: StudyConfig[Any]) -> list[Trial]:
    """The trials that choose learning rates: every rate of an arm with several, on every sweep seed."""
    return _distinct(
        Trial(name, seed, rate, "sweep")
        for name, arm in config.arms.items()
        if len(arm.learning_rates) > 1
        for rate in arm.learning_rates
        for seed in config.sweep_seeds
    )


def choose_learning_rates(config: StudyConfig[Any], records: Iterable[TrialRecord]) -> dict[str, float]:
    """The learning rate of each arm: its only one, or the best of its sweep.

    The best rate has the fewest diverged trials, then the best mean of ``select_metric`` over its seeds, then the
    largest one of ``select_tie``, where the study names one, then stands first in the arm's list.

    Args:
        config: the study.
        records: the records of its sweep.

    Returns:
        Arm -> rate. An arm that trains nothing is not in it, nor one whose sweep trials all diverged.

    Raises:
        UsageError: a sweep trial has no such metric, or measured it on the split ``eval``.
    """
    sweep = [record for record in records if record.stage == "sweep"]
    chosen: dict[str, float] = {}
    for name, arm in config.arms.items():
        if len(arm.learning_rates) == 1:
            chosen[name] = arm.learning_rates[0]
            continue
        ranks: dict[float, tuple[int, float, float]] = {}
        for rate in arm.learning_rates:
            own = [record for record in sweep if record.arm == name and record.learning_rate == rate]
            done = [record for record in own if record.status == "completed"]
            if done:
                mean = fmean(_score(record, config.select_metric or "", "select_metric") for record in done)
                tie = config.select_tie
                second = 0.0 if tie is None else -fmean(_score(record, tie, "select_tie") for record in done)
                ranks[rate] = (len(own) - len(done), mean if config.select_lower else -mean, second)
        if ranks:
            chosen[name] = min(ranks, key=lambda rate: ranks[rate])
    return chosen


def plan_final(config: StudyConfig[Any], chosen: Mapping[str, float]) -> list[Trial]:
    """The trials that are reported: every arm on every seed, with its chosen learning rate.

    Seed by seed, so that a run that is stopped early has all arms of the seeds it has done. An arm whose
    sweep diverged throughout has none.
    """
    return _distinct(
        Trial(name, seed, chosen.get(name), "final")
        for seed in config.seeds
        for name, arm in config.arms.items()
        if name in chosen or not arm.learning_rates
    )


def diverged_arms(config: StudyConfig[Any], chosen: Mapping[str, float]) -> list[str]:
    """The arms for which no learning rate of the sweep worked."""
    return [name for name, arm in config.arms.items() if arm.learning_rates and name not in chosen]


def _score(record: TrialRecord, name: str, option: str) -> float:
    measured = record.metrics.get(name)
    if measured is None:
        known = ", ".join(sorted(record.metrics)) or "none"
        raise UsageError(f"{option} {name!r} is not what arm {record.arm!r} measures ({known}); name one of these.")
    if measured.split == "eval":
        raise UsageError(
            f"the sweep of arm {record.arm!r} measured {name!r} on the split 'eval'; a sweep is judged on 'select'."
        )
    return measured.value


def _distinct(trials: Iterable[Trial]) -> list[Trial]:
    """The trials, when no two share a folder."""
    planned = list(trials)
    key, count = next(iter(Counter(trial.key for trial in planned).most_common(1)), ("", 0))
    if count > 1:
        raise UsageError(
            f"the study plans the trial {key} {count} times; list every seed once, and learning rates that "
            "differ within six digits."
        )
    return planned
