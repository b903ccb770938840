"""Claims held against records: for each claim the paper's figure, ours, the difference and a verdict.

A verdict is never better than its data: a direction needs its sign *and* a one-sided paired test at the level
0.05, and a smoke run or a diverged run decides nothing about it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mpo_core.errors import InputFileError
from mpo_core.repro.claims import (
    Check,
    Claim,
    ClaimsFile,
    GreaterCheck,
    LimitCheck,
    NotWorseCheck,
    ValueCheck,
)
from mpo_core.repro.config import SCALES, Scale
from mpo_core.repro.record import RunRecord, read_record
from mpo_core.repro.statistics import LEVEL, mean_sd, non_inferiority_p, one_sided_p, paired_bootstrap, paired_test
from mpo_core.repro.summary import (
    arm_names,
    cases_by_seed,
    format_mean_sd,
    format_number,
    format_to,
    quantity_by_seed,
)

VerdictName = Literal["reproduced", "same direction", "not seen", "not testable here", "not run"]
VERDICTS: tuple[VerdictName, ...] = (
    "reproduced",
    "same direction",
    "not seen",
    "not testable here",
    "not run",
)
RECORD = "record.json"
RUN_CONFIG = "config.yaml"
DEPTH = 3
"""Folders below a named one in which runs are looked for: ``runs/<paper>/<experiment>/<run>``."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What became of one claim.

    Attributes:
        claim: the claim.
        verdict: one of `VERDICTS`.
        paper_text: the paper's figure, or the relation it claims.
        ours_text: what was measured, with seeds.
        difference_text: ours less the paper's, or arm less arm, with its confidence interval or p-value.
        p: one-sided p-value of a direction claim.
        experiment: the experiment that decided, where one is named.
        scale: the scale of its record.
        note: what a reader must know besides.
    """

    claim: Claim
    verdict: VerdictName
    paper_text: str
    ours_text: str = ""
    difference_text: str = ""
    p: float | None = None
    experiment: str | None = None
    scale: Scale | None = None
    note: str = ""


@dataclass(frozen=True)
class _Finding:
    """What a check found in a record, before the claim's kind of test makes a verdict of it."""

    holds: bool
    ours: str
    difference: str
    n: int
    p: float | None = None


def compare(claims_file: ClaimsFile, records: Sequence[RunRecord]) -> list[Verdict]:
    """Hold every claim of a paper against the records of its experiments.

    Args:
        claims_file: the paper's claims.
        records: any records; other papers' are ignored, of several for one experiment the best counts.
    """
    best = {r.experiment: r for r in select_records(records) if r.paper == claims_file.paper}
    return [_judge(claim, best.get(claim.experiment or "")) for claim in claims_file.claims]


def find_records(folders: Iterable[Path]) -> list[RunRecord]:
    """Read the records below some folders: one per paper and experiment, see `select_records`.

    A folder may be a run, a folder of runs (``runs``, ``runs/<paper>``, ``runs/<paper>/<experiment>``) or a
    folder of committed records (``results``, every ``*.json`` in it). A record in it that cannot be read is
    logged as a warning and left out; a folder that does not exist holds none. A file is read as a record.

    Raises:
        InputFileError: a file that was named itself cannot be read.
    """
    records = []
    for folder in folders:
        if folder.is_file() or folder.suffix == ".json":
            records.append(read_record(folder))
            continue
        for path in _record_files(folder, DEPTH):
            try:
                records.append(read_record(path))
            except InputFileError as error:
                logger.warning("left out: %s", error)
    return select_records(records)


def select_records(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Of the records of each paper and experiment the best: completed, then the larger scale, then the newer.

    Returns:
        The records by paper and experiment, in alphabetical order.
    """
    best: dict[tuple[str, str], RunRecord] = {}
    for record in records:
        key = (record.paper, record.experiment)
        if key not in best or _rank(record) > _rank(best[key]):
            best[key] = record
    return [best[key] for key in sorted(best)]


def _rank(record: RunRecord) -> tuple[bool, int, str]:
    return record.status == "completed", SCALES.index(record.scale), record.started


def _record_files(folder: Path, depth: int) -> Iterator[Path]:
    """The files to read as records; never descends into a run, whose trials have records of another kind."""
    if (folder / RECORD).is_file():
        yield folder / RECORD
        return
    if not folder.is_dir() or (folder / RUN_CONFIG).is_file():
        return
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and depth > 0 and not entry.name.startswith("."):
            yield from _record_files(entry, depth - 1)
        elif entry.is_file() and entry.suffix == ".json":
            yield entry


def _judge(claim: Claim, record: RunRecord | None) -> Verdict:
    if claim.check is None:
        return Verdict(claim, "not testable here", claim.printed or "", note=claim.reason or "")
    pending = Verdict(claim, "not run", claim.printed or _relation(claim.check), experiment=claim.experiment)
    if record is None:
        return replace(pending, note=f"no record of {claim.experiment}")
    pending = replace(pending, scale=record.scale)
    if record.status == "diverged":
        return replace(pending, note="the run diverged; nothing is reported from it")
    lacking = _lacking(claim.check, record)
    if lacking:
        return replace(pending, note=lacking)
    finding = _examine(claim.check, record, exact=claim.test == "exact")
    verdict = replace(pending, ours_text=finding.ours, difference_text=finding.difference)
    if claim.test == "exact":
        return replace(verdict, verdict="reproduced" if finding.holds else "not seen")
    if record.scale == "smoke":
        # Its p-value would invite a reading that so small a run does not bear.
        return replace(
            verdict, ours_text=f"{finding.ours}; smoke only", p=None, note="a smoke run decides no direction"
        )
    if finding.n < 2 or finding.p is None:
        return replace(verdict, verdict="not seen", note="too few seeds")
    verdict = replace(verdict, p=finding.p, difference_text=f"{finding.difference}, {_p_text(finding.p)}")
    if finding.holds and finding.p < LEVEL:
        return replace(verdict, verdict="same direction")
    note = "the sign fits, the test does not" if finding.holds else "the sign is the other one"
    return replace(verdict, verdict="not seen", note=note)


def _lacking(check: Check, record: RunRecord) -> str:
    """Which arm or quantity a check needs and the record lacks; empty where nothing is missing."""
    arms = arm_names(record)
    for arm in check.arms:
        if arm not in arms:
            return f"the record has no arm {arm}"
        if not quantity_by_seed(record, arm, check.quantity):
            return f"the record has no {check.quantity} of {arm}"
        if isinstance(check, GreaterCheck) and check.cases and not cases_by_seed(record, arm, check.cases):
            return f"the record has no {check.cases} of {arm}"
    return ""


def _examine(check: Check, record: RunRecord, *, exact: bool) -> _Finding:
    if isinstance(check, ValueCheck):
        return _examine_value(check, record)
    if isinstance(check, LimitCheck):
        return _examine_limit(check, record, exact=exact)
    if isinstance(check, GreaterCheck) and check.cases:
        return _examine_cases(check, check.cases, record)
    return _examine_pair(check, record, exact=exact)


def _examine_value(check: ValueCheck, record: RunRecord) -> _Finding:
    values = list(quantity_by_seed(record, check.arm, check.quantity).values())
    mean = mean_sd(values)[0]
    difference = mean - check.paper
    if check.round is not None:
        holds = round(mean / check.round) == round(check.paper / check.round)
    else:
        holds = abs(difference) <= (check.tolerance or 0.0) * abs(check.paper)
    share = f" ({_signed(100 * difference / abs(check.paper), 0.1)} %)" if check.paper else ""
    return _Finding(holds, _measured(values), f"{_signed(difference)}{share}", len(values))


def _examine_limit(check: LimitCheck, record: RunRecord, *, exact: bool) -> _Finding:
    sign = 1 if check.kind == "at-least" else -1
    values = list(quantity_by_seed(record, check.arm, check.quantity).values())
    margins = [sign * (value - check.limit) for value in values]
    mean = mean_sd(values)[0]
    holds = min(margins) >= 0 if exact else mean_sd(margins)[0] >= 0
    p = None if exact else one_sided_p(margins)
    return _Finding(holds, _measured(values), f"{_signed(mean - check.limit)}", len(values), p)


def _examine_pair(check: GreaterCheck | NotWorseCheck, record: RunRecord, *, exact: bool) -> _Finding:
    """Arm against arm, seed by seed; ``gains`` are the differences turned so that more is better."""
    arm, than = (quantity_by_seed(record, name, check.quantity) for name in check.arms)
    ours = _measured_pair(check.arm, list(arm.values()), check.than, list(than.values()))
    result = paired_test(arm, than)
    if result.mean_difference is None:
        return _Finding(False, ours, "no seed in common", 0)
    gains = [-d if check.lower_is_better else d for d in result.differences]
    margin = check.margin if isinstance(check, NotWorseCheck) else 0.0
    needed = min(gains) if exact else mean_sd(gains)[0]
    holds = needed > -margin
    p = None
    if not exact:
        p = non_inferiority_p(gains, margin) if margin else one_sided_p(gains)
    sd, interval = result.sd, ""
    if result.ci95 is not None:
        interval = f" (95 % CI {_signed(result.ci95[0], sd)} to {_signed(result.ci95[1], sd)})"
    text = f"{_signed(result.mean_difference, sd)}{interval}"
    return _Finding(holds, ours, text, result.n, p)


def _examine_cases(check: GreaterCheck, array: str, record: RunRecord) -> _Finding:
    """Arm against arm, case by case."""
    arm, than = (quantity_by_seed(record, name, check.quantity) for name in check.arms)
    ours = _measured_pair(check.arm, list(arm.values()), check.than, list(than.values()))
    first, second = (cases_by_seed(record, name, array) for name in check.arms)
    try:
        result = paired_bootstrap(first, second)
    except ValueError:
        return _Finding(False, ours, "no cases in common", 0)
    better, p = -result.mean_difference, result.above
    if not check.lower_is_better:
        better, p = result.mean_difference, result.below
    low, high = result.ci95
    text = f"{_signed(result.mean_difference)} (95 % CI {_signed(low)} to {_signed(high)}, {result.n} cases)"
    return _Finding(better > 0, ours, text, result.n, p)


def _relation(check: Check) -> str:
    """What the paper says, as a relation between what a record measures."""
    if isinstance(check, ValueCheck):
        return format_number(check.paper)
    if isinstance(check, LimitCheck):
        return f"{'≤' if check.kind == 'at-most' else '≥'} {format_number(check.limit)}"
    better = "<" if check.lower_is_better else ">"
    if isinstance(check, GreaterCheck):
        return f"{check.arm} {better} {check.than} in {check.quantity}"
    sign = "+" if check.lower_is_better else "−"
    return f"{check.arm} {better} {check.than} {sign} {format_number(check.margin)} in {check.quantity}"


def _measured(values: Iterable[float]) -> str:
    values = list(values)
    return f"{format_mean_sd(*mean_sd(values))} ({len(values)} seed{'s' * (len(values) > 1)})"


def _measured_pair(arm: str, ours: list[float], than: str, theirs: list[float]) -> str:
    if len(ours) != len(theirs):
        return f"{arm} {_measured(ours)}, {than} {_measured(theirs)}"
    return f"{arm} {format_mean_sd(*mean_sd(ours))}, {than} {_measured(theirs)}"


def _signed(value: float, sd: float | None = None) -> str:
    """A difference with its sign, to the places that its standard deviation leaves sense in."""
    sign = "" if value == 0 else "+" if value > 0 else "−"
    return f"{sign}{format_to(abs(value), sd)}"


def _p_text(p: float) -> str:
    return "one-sided p < 0.001" if p < 0.001 else f"one-sided p = {p:.3f}"
