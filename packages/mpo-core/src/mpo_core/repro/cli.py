"""The command grammar: the verbs that every paper package shares, and ``repro``, which speaks for all of them.

Nothing here imports torch: ``--help``, ``list`` and ``show`` must answer at once. The work is done in
`mpo_core.repro.commands`, imported by the verb that needs it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from mpo_core.errors import MPOError, UsageError
from mpo_core.repro.config import Scale
from mpo_core.repro.paper import Paper, get_paper, installed_papers

DEBUG_FLAG = "--debug"
INTERRUPTED = 130

ExperimentArgument = Annotated[str, typer.Argument(metavar="EXP", help="A name that `list` prints, or a YAML file.")]
RunArgument = Annotated[str | None, typer.Argument(metavar="EXP", help="A name that `list` prints, or a YAML file.")]
RecordsArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="RECORD...", help="Records or folders; else your runs, then the committed records."),
]
ScaleOption = Annotated[Scale, typer.Option(help="smoke: a minute; small: real data, two cores; paper: as printed.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a configuration value; repeatable."),
]
SeedsOption = Annotated[int | None, typer.Option(min=1, help="Run seeds 0 to N - 1 instead of the file's.")]
ResumeOption = Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with this run folder.")]
DataOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Folder of the data sets; else MPO_DATA, else the hub.")
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Where runs are kept.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Trials at a time; one per core unless given.")]
BackendOption = Annotated[Literal["process", "ray"], typer.Option(help="process, or ray with the extra mpo-core[ray].")]
KeepOption = Annotated[bool, typer.Option("--keep-checkpoints", help="Keep the checkpoints of finished trials.")]
ReportOption = Annotated[Path, typer.Option("--out", help="The HTML file to write.")]
RUNS = Path("runs")
REPORT = Path("report.html")


def new_app(summary: str) -> typer.Typer:
    """A typer application in the house's form: errors without coloured tracebacks, ``--debug`` known."""
    app = typer.Typer(
        help=summary,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    # `run_app` takes the flag out of the arguments wherever it stands; it is declared here for the help page.
    @app.callback(help=summary)
    def options(
        debug: Annotated[bool, typer.Option(DEBUG_FLAG, help="Show the traceback of an error.")] = False,
    ) -> None:
        """Take the options that come before the verb."""

    return app


def run_app(app: typer.Typer) -> None:
    """Run a command line; an expected error is one sentence on stderr and an exit code (`--debug`: a traceback)."""
    debug = DEBUG_FLAG in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != DEBUG_FLAG]
    # Threads that spin while they wait cost several times the CPU time where cores are shared; read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        app()
    except MPOError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; a run goes on with --resume RUN", file=sys.stderr)
        sys.exit(INTERRUPTED)


def add_shared_verbs(
    app: typer.Typer, papers: Callable[[], list[Paper]], locate: Callable[[str], tuple[Paper, str]]
) -> None:
    """Give a command line the verbs ``list``, ``show``, ``run``, ``compare`` and ``report``.

    Args:
        app: the application.
        papers: the papers that it speaks for.
        locate: an experiment as the user names it -> (its paper, its name in the paper).
    """

    @app.command("list")
    def list_() -> None:
        """List the experiments and the claims that they test."""
        from mpo_core.repro import commands

        commands.list_experiments(papers())

    @app.command()
    def show(experiment: ExperimentArgument, scale: ScaleOption = "small") -> None:
        """Show an experiment: what it reproduces, and its configuration at a scale."""
        from mpo_core.repro import commands

        commands.show(*locate(experiment), scale)

    @app.command()
    def run(
        experiment: RunArgument = None,
        scale: ScaleOption = "smoke",
        overrides: SetOption = None,
        seeds: SeedsOption = None,
        resume: ResumeOption = None,
        data_dir: DataOption = None,
        runs: RunsOption = RUNS,
        workers: WorkersOption = None,
        backend: BackendOption = "process",
        keep_checkpoints: KeepOption = False,
    ) -> None:
        """Run an experiment, or go on with a run."""
        from mpo_core.repro import commands

        use_data_dir(data_dir)
        if (experiment is None) == (resume is None):
            raise UsageError("run takes either an experiment (see `list`) or --resume RUN.")
        folder = resume or commands.start(*locate(experiment or ""), scale, overrides or [], seeds, runs)
        commands.execute(folder, workers=workers, backend=backend, keep_checkpoints=keep_checkpoints)

    @app.command()
    def compare(records: RecordsArgument = None, runs: RunsOption = RUNS) -> None:
        """Hold the measured records against the claims of the paper."""
        from mpo_core.repro import commands

        commands.compare(papers(), records or [], runs)

    @app.command()
    def report(records: RecordsArgument = None, out: ReportOption = REPORT, runs: RunsOption = RUNS) -> None:
        """Write one self-contained HTML page of claims, records and plots."""
        from mpo_core.repro import commands

        commands.report(papers(), records or [], runs, out)


def use_data_dir(folder: Path | None) -> None:
    """Hand the data folder to this process and its workers, so that no configuration or record holds a path."""
    if folder is None:
        return
    if not folder.is_dir():
        raise UsageError(f"--data-dir {folder} is no folder.")
    os.environ["MPO_DATA"] = str(folder.resolve())


def paper_app(paper: Paper) -> typer.Typer:
    """The command line of one paper package with the shared verbs; the package adds its practical ones."""
    app = new_app(f"{paper.title} ({paper.citation}).")
    add_shared_verbs(app, lambda: [paper], lambda name: (paper, name))
    return app


def _locate(name: str) -> tuple[Paper, str]:
    """``mpop/mrpc`` -> the paper mpop and its experiment mrpc."""
    paper, slash, experiment = name.partition("/")
    if not (slash and experiment):
        raise UsageError(f"{name!r} names no experiment; expected PAPER/EXP, for example mpop/mrpc (see `repro list`).")
    return get_paper(paper), experiment


app = new_app("Reproduce the installed papers. An experiment is named PAPER/EXP, for example mpop/mrpc.")
add_shared_verbs(app, lambda: list(installed_papers().values()), _locate)


@app.command()
def quickstart(out: ReportOption = REPORT, runs: RunsOption = RUNS, workers: WorkersOption = None) -> None:
    """Run every installed paper at smoke scale, offline, on embedded data; print the table and write the report."""
    from mpo_core.repro import commands

    commands.quickstart(list(installed_papers().values()), runs, out, workers=workers)


def main() -> None:
    """Entry point of ``repro``."""
    run_app(app)
