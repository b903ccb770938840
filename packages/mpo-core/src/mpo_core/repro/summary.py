"""What a record says of each arm, in numbers and in text: for the console, the comparison and the report."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mpo_core.repro.record import ParameterCount, RunRecord, TrialRecord
from mpo_core.repro.statistics import mean_sd

PARAMETERS = ("parameters.total", "parameters.trained")


@dataclass(frozen=True)
class MetricSummary:
    """One metric of one arm over its seeds.

    Attributes:
        mean: mean over seeds.
        sd: sample standard deviation; ``None`` for one seed.
        n: seeds.
        examples: examples (or cases) that each seed was judged on, where recorded.
        split: the split that it was judged on, where recorded.
    """

    mean: float
    sd: float | None
    n: int
    examples: int | None
    split: str | None

    @property
    def text(self) -> str:
        """``0.881 ± 0.012``."""
        return format_mean_sd(self.mean, self.sd)


@dataclass(frozen=True)
class ArmSummary:
    """One arm of a record.

    Attributes:
        arm: its name.
        n: completed final seeds.
        diverged: final seeds that diverged; no figure comes from them.
        learning_rate: what the sweep chose (or the only one); ``None`` for an arm that trains nothing.
        parameters: counts of the model, the mean where seeds differ.
        metrics: name -> its summary.
        seconds: mean time of a final trial.
        peak_memory_bytes: largest peak of a final trial.
    """

    arm: str
    n: int
    diverged: int
    learning_rate: float | None
    parameters: ParameterCount | None
    metrics: dict[str, MetricSummary]
    seconds: float | None
    peak_memory_bytes: int | None


def summarize(record: RunRecord) -> list[ArmSummary]:
    """Each arm of a record, in the order of its configuration."""
    return [_summarize_arm(record, arm) for arm in arm_names(record)]


def arm_names(record: RunRecord) -> list[str]:
    """The arms of a record: those of its configuration in that order, then any others that have trials."""
    configured = record.config.get("arms")
    names = list(configured) if isinstance(configured, dict) else []
    return list(dict.fromkeys([*names, *(trial.arm for trial in record.trials)]))


def quantity_by_seed(record: RunRecord, arm: str, quantity: str) -> dict[int, float]:
    """A quantity of an arm's completed final trials.

    Args:
        record: the run.
        arm: the arm's name.
        quantity: a metric's name, ``parameters.total`` or ``parameters.trained``.

    Returns:
        seed -> value, for the seeds that have it.
    """
    values = ((trial.seed, _quantity(trial, quantity)) for trial in record.final(arm))
    return {seed: value for seed, value in values if value is not None}


def cases_by_seed(record: RunRecord, arm: str, array: str) -> dict[int, list[float]]:
    """An array of an arm's completed final trials.

    Args:
        record: the run.
        arm: the arm's name.
        array: its name in the record.

    Returns:
        seed -> numbers, for the seeds that have it.
    """
    return {trial.seed: trial.arrays[array] for trial in record.final(arm) if array in trial.arrays}


def format_number(value: float) -> str:
    """A number for a table: whole numbers with separators, others with four significant digits."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.1f}"
    return f"{value:.4g}"


def format_mean_sd(mean: float, sd: float | None) -> str:
    """``mean ± sd``: the deviation with two significant digits, the mean to the same place."""
    return format_number(mean) if sd is None else f"{format_to(mean, sd)} ± {format_to(sd, sd)}"


def format_to(value: float, sd: float | None) -> str:
    """A number to the place of the second significant digit of ``sd``; `format_number` where that is 0."""
    if not sd:
        return format_number(value)
    places = 1 - math.floor(math.log10(sd))
    return format_number(value) if places > 8 else f"{value:,.{max(places, 0)}f}"


def _quantity(trial: TrialRecord, quantity: str) -> float | None:
    if quantity in PARAMETERS:
        counts = trial.parameters
        if counts is None:
            return None
        return float(counts.total if quantity == "parameters.total" else counts.trained)
    found = trial.metrics.get(quantity)
    return None if found is None else found.value


def _summarize_arm(record: RunRecord, arm: str) -> ArmSummary:
    trials = record.final(arm)
    diverged = [t for t in record.trials if t.arm == arm and t.stage == "final" and t.status == "diverged"]
    names = dict.fromkeys(name for trial in trials for name in trial.metrics)
    rates = [trial.learning_rate for trial in [*trials, *diverged] if trial.learning_rate is not None]
    return ArmSummary(
        arm=arm,
        n=len(trials),
        diverged=len(diverged),
        learning_rate=record.chosen_learning_rates.get(arm, rates[0] if rates else None),
        parameters=_mean_parameters(trials),
        metrics={name: _summarize_metric(trials, name) for name in names},
        seconds=mean_sd([t.seconds for t in trials])[0] if trials else None,
        peak_memory_bytes=max((t.peak_memory_bytes for t in trials), default=None),
    )


def _summarize_metric(trials: list[TrialRecord], name: str) -> MetricSummary:
    found = [trial.metrics[name] for trial in trials if name in trial.metrics]
    mean, sd = mean_sd([measurement.value for measurement in found])
    examples = {measurement.n for measurement in found}
    splits = {measurement.split for measurement in found}
    return MetricSummary(
        mean,
        sd,
        len(found),
        examples.pop() if len(examples) == 1 else None,
        splits.pop() if len(splits) == 1 else None,
    )


def _mean_parameters(trials: list[TrialRecord]) -> ParameterCount | None:
    counts = [trial.parameters for trial in trials if trial.parameters is not None]
    if not counts:
        return None
    total, trained = (mean_sd([getattr(c, name) for c in counts])[0] for name in ("total", "trained"))
    return ParameterCount(total=round(total), trained=round(trained))
