"""The report: one HTML file with everything in it, readable without network, scripts or this package."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from mpo_core.repro.atomic import write_bytes_atomic
from mpo_core.repro.claims import ClaimsFile
from mpo_core.repro.compare import VERDICTS, Verdict
from mpo_core.repro.config import SCALES
from mpo_core.repro.paper import Paper
from mpo_core.repro.plots import Plot, array_plots, dot_plots, series_plots
from mpo_core.repro.record import RunRecord
from mpo_core.repro.statistics import mean_sd
from mpo_core.repro.summary import ArmSummary, arm_names, format_mean_sd, format_number, summarize

TEMPLATE = "report.html.j2"
MIB = 1024**2
MINUTE, HOUR = 60, 3600


@dataclass(frozen=True)
class PaperSection:
    """One paper's part of the report: its claims, the records that were found, and the verdicts on them."""

    paper: Paper
    claims_file: ClaimsFile
    records: Sequence[RunRecord]
    verdicts: Sequence[Verdict]


@dataclass(frozen=True)
class _SweepRow:
    """One learning rate of one arm's sweep."""

    arm: str
    learning_rate: float
    text: str
    chosen: bool


@dataclass(frozen=True)
class _RecordView:
    """A record as the template shows it."""

    record: RunRecord
    anchor: str
    title: str
    arms: list[ArmSummary]
    metrics: list[str]
    judged_on: str
    sweep: list[_SweepRow]
    plots: list[Plot]
    notes: list[tuple[str, str]]
    config: str


@dataclass(frozen=True)
class _SectionView:
    section: PaperSection
    anchor: str
    counts: list[tuple[str, int]]
    records: list[_RecordView]
    unmeasured: list[str]


def write_report(sections: Sequence[PaperSection], path: Path, title: str) -> None:
    """Write the report as one self-contained HTML file, atomically; the folder is made as needed.

    The same sections give the same bytes: the page says when its records were measured, and no other time.

    Args:
        sections: one per paper, in the order of the page.
        path: the file to write.
        title: heading of the page.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, render_report(sections, title).encode())


def render_report(sections: Sequence[PaperSection], title: str) -> str:
    """The report as HTML text; see `write_report`."""
    environment = Environment(
        loader=PackageLoader("mpo_core.repro"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "duration": format_duration,
        "slug": slug,
        "unbroken": unbroken,
        "mib": lambda size: f"{size / MIB:,.0f} MiB",
        "day": lambda started: started[:10],
    }
    views = [_section_view(section) for section in sections]
    records = [record for section in sections for record in section.records]
    verdicts = [verdict for section in sections for verdict in section.verdicts]
    return environment.get_template(TEMPLATE).render(
        title=title,
        sections=views,
        counts=_counts(verdicts),
        n_claims=len(verdicts),
        n_records=len(records),
        measured=_measured(records),
        machines=sorted({f"{r.environment.machine}, {r.environment.cores} cores" for r in records}),
        revisions=sorted({short_revision(r.environment.git_revision) for r in records}),
        scales=[scale for scale in SCALES if any(r.scale == scale for r in records)],
        seconds=sum(record.seconds for record in records),
    )


def format_duration(seconds: float) -> str:
    """``8.4 s``, ``12 min``, ``3.5 h``."""
    if seconds < 0.1:
        return "< 0.1 s"
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < HOUR else f"{seconds / HOUR:.1f} h"


def short_revision(revision: str | None) -> str:
    """The first ten signs of a commit, keeping the mark of a changed checkout."""
    if revision is None:
        return "outside a checkout"
    commit, plus, mark = revision.partition("+")
    return f"{commit[:10]}{plus}{mark}"


def unbroken(text: str) -> str:
    """A text of figures in which no line ends inside one: not at ``±``, before ``%``, or in ``p = 0.03``."""
    return re.sub(r" (?=[±%])|(?<=±) |(?<=%) (?=CI)|(?<=\d) (?=seed)|(?<=p) (?=[=<] )|(?<=p [=<]) ", "\u00a0", text)


def slug(text: str) -> str:
    """A text as part of an HTML id or CSS class."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _section_view(section: PaperSection) -> _SectionView:
    anchor = slug(section.paper.name)
    records = [_record_view(record, f"{anchor}-{i}") for i, record in enumerate(section.records, start=1)]
    measured = {record.experiment for record in section.records}
    needed = dict.fromkeys(claim.experiment for claim in section.claims_file.claims if claim.experiment)
    unmeasured = [name for name in needed if name not in measured]
    return _SectionView(section, anchor, _counts(section.verdicts), records, unmeasured)


def _record_view(record: RunRecord, anchor: str) -> _RecordView:
    arms = summarize(record)
    return _RecordView(
        record=record,
        anchor=anchor,
        title=f"{record.experiment} at {record.scale} scale",
        arms=arms,
        metrics=list(dict.fromkeys(name for arm in arms for name in arm.metrics)),
        judged_on=_judged_on(arms),
        sweep=_sweep(record),
        plots=[*dot_plots(record, anchor), *series_plots(record, anchor), *array_plots(record, anchor)],
        notes=_notes(record),
        config=yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True).rstrip(),
    )


def _counts(verdicts: Sequence[Verdict]) -> list[tuple[str, int]]:
    """How often each verdict fell: all of them, so that what was not seen is not left out."""
    counted = Counter(verdict.verdict for verdict in verdicts)
    return [(name, counted[name]) for name in VERDICTS]


def _measured(records: Sequence[RunRecord]) -> str:
    days = sorted({record.started[:10] for record in records})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else ""


def _judged_on(arms: Sequence[ArmSummary]) -> str:
    """The splits and the numbers of examples behind the metrics, where the record tells."""
    sizes: dict[str | None, set[int]] = {}
    for metric in (metric for arm in arms for metric in arm.metrics.values()):
        sizes.setdefault(metric.split, set()).update([] if metric.examples is None else [metric.examples])
    parts = []
    for split, examples in sizes.items():
        size = f"{' or '.join(f'{n:,}' for n in sorted(examples))} examples" if examples else ""
        parts.append(", ".join(part for part in (f"split {split}" if split else "", size) if part))
    return "; ".join(part for part in parts if part)


def _sweep(record: RunRecord) -> list[_SweepRow]:
    """The figures that chose each arm's learning rate; empty where nothing was swept."""
    metric = record.config.get("select_metric")
    rows = []
    for arm in arm_names(record):
        trials = [t for t in record.trials if t.arm == arm and t.stage == "sweep" and t.learning_rate is not None]
        for rate in sorted({t.learning_rate for t in trials if t.learning_rate is not None}):
            tried = [t for t in trials if t.learning_rate == rate]
            values = [t.metrics[metric].value for t in tried if metric in t.metrics]
            diverged = sum(t.status == "diverged" for t in tried)
            parts = [format_mean_sd(*mean_sd(values))] if values else []
            parts += [f"{diverged} of {len(tried)} diverged"] if diverged else []
            chosen = record.chosen_learning_rates.get(arm) == rate
            rows.append(_SweepRow(arm, rate, "; ".join(parts) or "no figure", chosen))
    return rows


def _notes(record: RunRecord) -> list[tuple[str, str]]:
    """The notes of an arm's final trials, each once, with the seeds that gave it where not all did."""
    rows = []
    for arm in arm_names(record):
        trials = [t for t in record.trials if t.arm == arm and t.stage == "final"]
        for note in dict.fromkeys(note for trial in trials for note in trial.notes):
            seeds = sorted(trial.seed for trial in trials if note in trial.notes)
            every = len(seeds) == len(trials)
            rows.append((arm, note if every else f"{note} (seed {', '.join(map(str, seeds))})"))
    return rows
