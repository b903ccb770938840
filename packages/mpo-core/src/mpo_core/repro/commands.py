"""What the verbs of the command line do: thin functions that call the floor's modules and print."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich.console import Console
from rich.table import Table

from mpo_core.errors import DivergedError, MissingPartError
from mpo_core.repro import experiment as experiments
from mpo_core.repro.claims import load_claims
from mpo_core.repro.config import SCALES, Scale
from mpo_core.repro.paper import Paper
from mpo_core.repro.summary import summarize

if TYPE_CHECKING:
    from mpo_core.repro.pool import Backend
    from mpo_core.repro.record import RunRecord
    from mpo_core.repro.report import PaperSection

PLAIN_WIDTH = 200
"""Columns where the output is no terminal; a pipe has no width to fit, and nothing should be cut off."""


def new_console() -> Console:
    """The console of a command: as wide as the terminal, wide enough for any table elsewhere."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


console = new_console()

VERDICT_STYLES = {"reproduced": "green", "same direction": "green", "not seen": "red"}


def list_experiments(papers: Sequence[Paper]) -> None:
    """Print each paper with its experiments and claims."""
    for paper in papers:
        console.print(f"[bold]{paper.name}[/bold]  {paper.title} ({paper.citation})")
        table = Table("experiment", "title", "quickstart")
        for name, entry in experiments.list_experiments(paper).items():
            table.add_row(name, entry.title, "yes" if entry.quickstart else "")
        console.print(table)
        table = Table("claim", "tested as", "by", "text")
        for claim in load_claims(paper).claims:
            table.add_row(claim.id, claim.test, claim.experiment or "", claim.text)
        console.print(table)
    if not papers:
        console.print("No paper package is installed; in the workspace `uv sync` installs all of them.")


def show(paper: Paper, name: str, scale: Scale) -> None:
    """Print an experiment: its title, the tables it reproduces, and its configuration at a scale as YAML."""
    entry = experiments.load_experiment(paper, name)
    _, resolved = experiments.resolve(paper, entry, scale)
    console.print(f"[bold]{paper.name}/{entry.name}[/bold]  {entry.title}")
    tables = {table.id: table for table in load_claims(paper).tables}
    for table_id in entry.reproduces:
        console.print(f"reproduces {table_id}: {tables[table_id].caption}")
    others = ", ".join(other for other in SCALES if other != scale)
    console.print(f"scale {scale} (others: {others}):")
    console.out(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True).rstrip())


def start(paper: Paper, name: str, scale: Scale, overrides: Sequence[str], seeds: int | None, runs: Path) -> Path:
    """Make a new run folder with its full configuration."""
    from mpo_core.repro.runner import start_run

    return start_run(paper, name, scale, overrides=overrides, seeds=seeds, runs=runs)


def execute(folder: Path, *, workers: int | None, backend: Backend, keep_checkpoints: bool) -> RunRecord:
    """Do what a run has not done yet, and print its table.

    Raises:
        DivergedError: when a final trial diverged; its record is kept.
    """
    from mpo_core.repro.progress import Progress
    from mpo_core.repro.runner import execute_run

    with Progress(folder.name) as progress:
        record = execute_run(
            folder, workers=workers, backend=backend, progress=progress, keep_checkpoints=keep_checkpoints
        )
    print_summary(record)
    console.out(f"record: {folder / 'record.json'}")
    if record.status == "diverged":
        raise DivergedError(f"a trial of {folder} diverged (NaN or infinite loss); no figure is reported from it.")
    return record


def print_summary(record: RunRecord) -> None:
    """Print a record's arms: seeds, learning rate, parameters, metrics as mean ± sd; no empty columns."""
    arms = summarize(record)
    columns = {
        "arm": [arm.arm for arm in arms],
        "seeds": [str(arm.n) for arm in arms],
        "learning rate": ["" if arm.learning_rate is None else f"{arm.learning_rate:g}" for arm in arms],
        "trained": ["" if arm.parameters is None else f"{arm.parameters.trained:,}" for arm in arms],
        "total": ["" if arm.parameters is None else f"{arm.parameters.total:,}" for arm in arms],
    }
    for name in dict.fromkeys(name for arm in arms for name in arm.metrics):
        columns[name] = [arm.metrics[name].text if name in arm.metrics else "" for arm in arms]
    filled = {name: cells for name, cells in columns.items() if any(cells)}
    table = Table(*filled, title=f"{record.paper}/{record.experiment} at {record.scale}")
    for row in zip(*filled.values(), strict=True):
        table.add_row(*row)
    console.print(table)


def compare(papers: Sequence[Paper], records: Sequence[Path], runs: Path) -> None:
    """Print each claim with the paper's figure, ours, the difference and the verdict."""
    for section in _sections(papers, records, runs):
        print_verdicts(section)


def print_verdicts(section: PaperSection) -> None:
    """Print one paper's claims and verdicts."""
    table = Table("claim", "place", "paper", "ours", "difference", "verdict", "from", "note")
    table.title = f"{section.paper.name}: claims"
    for verdict in section.verdicts:
        style = VERDICT_STYLES.get(verdict.verdict, "dim")
        source = "" if verdict.experiment is None else f"{verdict.experiment} ({verdict.scale or '-'})"
        table.add_row(
            verdict.claim.id,
            verdict.claim.place,
            verdict.paper_text,
            verdict.ours_text,
            verdict.difference_text,
            f"[{style}]{verdict.verdict}[/{style}]",
            source,
            verdict.note,
        )
    console.print(table)


def report(papers: Sequence[Paper], records: Sequence[Path], runs: Path, out: Path) -> None:
    """Write the HTML report of the chosen records."""
    from mpo_core.repro.report import write_report

    write_report(_sections(papers, records, runs), out, title="Reproduction report")
    console.out(f"report: {out}")


def quickstart(papers: Sequence[Paper], runs: Path, out: Path, *, workers: int | None) -> None:
    """Run each paper's quickstart experiments at smoke scale, without network; print the tables, write the report.

    An experiment that needs a part which is not installed is told, and left out.
    """
    from mpo_core.repro.compare import compare as judge
    from mpo_core.repro.report import PaperSection, write_report

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    started = time.perf_counter()
    sections = []
    for paper in papers:
        chosen = [entry for entry in experiments.list_experiments(paper).values() if entry.quickstart]
        records = []
        for entry in chosen:
            folder = start(paper, entry.name, "smoke", [], None, runs)
            try:
                records.append(execute(folder, workers=workers, backend="process", keep_checkpoints=False))
            except MissingPartError as error:
                console.out(f"{paper.name}/{entry.name} was not run: {error}")
        claims = load_claims(paper)
        sections.append(PaperSection(paper, claims, records, judge(claims, records)))
        print_verdicts(sections[-1])
    write_report(sections, out, title="Quickstart: every installed paper at smoke scale")
    console.out(f"{len(papers)} paper(s) in {time.perf_counter() - started:.0f} s; report: {out}")


def _sections(papers: Sequence[Paper], records: Sequence[Path], runs: Path) -> list[PaperSection]:
    """The records that were named, else the user's runs and the committed ones, with the verdicts they allow."""
    from mpo_core.repro.compare import compare as judge
    from mpo_core.repro.compare import find_records
    from mpo_core.repro.report import PaperSection

    sections = []
    for paper in papers:
        folders = list(records) or [runs / paper.name, Path(str(paper.results))]
        found = [record for record in find_records(folders) if record.paper == paper.name]
        claims = load_claims(paper)
        sections.append(PaperSection(paper, claims, found, judge(claims, found)))
    return sections
