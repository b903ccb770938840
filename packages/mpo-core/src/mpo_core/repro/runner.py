"""One run of one experiment: sweep, choice of learning rates, final trials, record; resumes what is missing.

A run is the folder ``runs/<paper>/<experiment>/<date>-<id>/``:

- ``config.yaml``: the full configuration, written once;
- ``trials/<key>/``: ``log.jsonl``, ``checkpoints/``, and ``record.json`` once the trial is done;
- ``record.json``: the run's record, written last.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.atomic import new_folder, write_json_atomic
from mpo_core.repro.config import Scale, StrictModel, StudyConfig
from mpo_core.repro.experiment import load_experiment, resolve
from mpo_core.repro.lock import folder_lock
from mpo_core.repro.memory import peak_memory_bytes, reset_peak_memory
from mpo_core.repro.paper import Paper, get_paper
from mpo_core.repro.plan import choose_learning_rates, diverged_arms, plan_final, plan_sweep
from mpo_core.repro.pool import Backend, JobPool
from mpo_core.repro.progress import Progress
from mpo_core.repro.reading import read_yaml_mapping, validation_sentence
from mpo_core.repro.record import (
    RunRecord,
    TrialRecord,
    capture_environment,
    read_record,
    read_trial_record,
    write_record,
)
from mpo_core.repro.trial import Trial

RUN_SCHEMA = 1
# An orphan of a killed run ends within milliseconds; see `mpo_core.repro.pool`.
ORPHAN_SECONDS = 10.0
LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "datasets",
    "safetensors",
    "numpy",
    "scikit-learn",
)
_log = logging.getLogger(__name__)


class RunFile(StrictModel):
    """The content of ``config.yaml`` in a run's folder."""

    schema_version: int
    paper: str
    experiment: str
    scale: Scale
    started: str
    config: dict[str, Any]


@dataclass(frozen=True)
class TrialJob:
    """What a worker needs for one trial; pickle carries it.

    Args:
        paper: the paper package that runs it.
        trial: which trial.
        config: the study.
        folder: the trial's folder.
        keep_checkpoints: leave the checkpoints when the trial is done.
    """

    paper: Paper
    trial: Trial
    config: StudyConfig[Any]
    folder: Path
    keep_checkpoints: bool


def start_run(
    paper: Paper,
    experiment: str,
    scale: Scale,
    *,
    overrides: Sequence[str] = (),
    seeds: int | None = None,
    runs: Path = Path("runs"),
) -> Path:
    """Make the folder of a new run, with its full configuration; nothing is computed yet.

    Args:
        paper: the paper package.
        experiment: name of one of its experiments, or path of a YAML file.
        scale: ``smoke``, ``small`` or ``paper``.
        overrides: ``key=value`` with dotted keys.
        seeds: run the seeds 0 to N - 1 instead of the file's.
        runs: where runs are kept.

    Returns:
        The folder ``<runs>/<paper>/<experiment>/<date>-<id>``.

    Raises:
        UsageError: an unknown experiment, an override that does not fit, or a start by torchrun or the like.
        InputFileError: the experiment file is refused.
    """
    _refuse_launchers()
    entry = load_experiment(paper, experiment)
    _, resolved = resolve(paper, entry, scale, overrides, seeds)
    now = datetime.now(UTC)
    content = RunFile(
        schema_version=RUN_SCHEMA,
        paper=paper.name,
        experiment=entry.name,
        scale=scale,
        started=now.isoformat(timespec="seconds"),
        config=resolved,
    )
    folder = runs / paper.name / entry.name / f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    with new_folder(folder) as temporary:
        text = yaml.safe_dump(content.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        (temporary / "config.yaml").write_text(text, encoding="utf-8")
    return folder


def execute_run(
    run_folder: Path,
    *,
    paper: Paper | None = None,
    workers: int | None = None,
    threads: int = 1,
    backend: Backend = "process",
    progress: Progress | None = None,
    keep_checkpoints: bool = False,
) -> RunRecord:
    """Do what a run has not done yet; at once with its record when it is done.

    Trials that have a record are kept, one that was killed goes on from its last complete checkpoint.

    Args:
        run_folder: what `start_run` returned.
        paper: the paper package, default the installed one that ``config.yaml`` names.
        workers: trials at a time, default one per usable core.
        threads: threads per worker; results are equal to the bit for an equal number.
        backend: ``process`` or ``ray`` (see `JobPool`).
        progress: where to report, default nowhere.
        keep_checkpoints: leave the checkpoints of finished trials.

    Returns:
        The run's record, with ``seconds`` the wall time of its sessions (of a killed one up to its last
        finished trial). Its status is ``diverged`` when a final trial diverged, or all of an arm's sweep.

    Raises:
        InputFileError: ``config.yaml`` is missing, of another schema version, or no longer valid.
        UsageError: another process works on the run, or a start by torchrun or the like.
        MPOError: what a trial raised.
    """
    _refuse_launchers()
    content = _read_run_file(run_folder)
    paper = paper or get_paper(content.paper)
    config = _validated(paper, content, run_folder)
    with folder_lock(run_folder):
        if (run_folder / "record.json").exists():
            return read_record(run_folder / "record.json")
        progress = progress or Progress(mode="none")
        with JobPool(workers, threads, backend) as pool:
            session = _Session(run_folder, paper, config, pool, progress, keep_checkpoints)
            sweep = session.run_stage("sweep", plan_sweep(config))
            chosen = choose_learning_rates(config, sweep)
            final = session.run_stage("final", plan_final(config, chosen))
        lost = diverged_arms(config, chosen) or [trial for trial in final if trial.status == "diverged"]
        record = RunRecord(
            paper=content.paper,
            experiment=content.experiment,
            scale=content.scale,
            started=content.started,
            seconds=session.seconds,
            status="diverged" if lost else "completed",
            config=content.config,
            environment=capture_environment((paper.name, "mpo-core", *LIBRARIES), threads),
            chosen_learning_rates=chosen,
            trials=[*sweep, *final],
        )
        write_record(record, run_folder / "record.json")
    return record


def execute_trial(job: TrialJob) -> TrialRecord:
    """Run one trial, or what is missing of it, and write its record: the function that workers call."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(job.folder, wait_seconds=ORPHAN_SECONDS):
        started = time.monotonic()
        reset_peak_memory()
        outcome = job.paper.run_trial(job.trial, job.config, job.folder)
        record = TrialRecord(
            **asdict(job.trial),
            seconds=time.monotonic() - started,
            peak_memory_bytes=peak_memory_bytes(),
            **dict(outcome),
        )
        write_record(record, job.folder / "record.json")
        if not job.keep_checkpoints:
            for checkpoints in sorted(job.folder.rglob("checkpoints")):
                shutil.rmtree(checkpoints)
    return record


@dataclass
class _Session:
    folder: Path
    paper: Paper
    config: StudyConfig[Any]
    pool: JobPool
    progress: Progress
    keep_checkpoints: bool

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        path = self._elapsed_file
        self._earlier = float(json.loads(path.read_text())["seconds"]) if path.exists() else 0.0

    @property
    def seconds(self) -> float:
        """Wall time of this and the earlier sessions."""
        return self._earlier + time.monotonic() - self._started

    @property
    def _elapsed_file(self) -> Path:
        return self.folder / "elapsed.json"

    def run_stage(self, name: str, trials: Sequence[Trial]) -> list[TrialRecord]:
        """The records of all trials of a stage, in their order, made now where they are missing."""
        records = dict(_finished(self._trial_folder(trial) for trial in trials))
        jobs = [
            TrialJob(self.paper, trial, self.config, self._trial_folder(trial), self.keep_checkpoints)
            for trial in trials
            if trial.key not in records
        ]
        self.progress.begin(name, len(trials), len(trials) - len(jobs))

        def on_done(job: TrialJob, record: TrialRecord) -> None:
            records[job.trial.key] = record
            write_json_atomic(self._elapsed_file, {"seconds": self.seconds})
            self.progress.trial_done(job.trial.key, record.status)

        def on_tick() -> None:
            running = {job.trial.key: _last_step(job.folder) for job in jobs if job.trial.key not in records}
            self.progress.steps({key: steps for key, steps in running.items() if steps is not None})

        self.pool.run(execute_trial, jobs, on_done=on_done, on_tick=on_tick)
        return [records[trial.key] for trial in trials]

    def _trial_folder(self, trial: Trial) -> Path:
        return (self.folder / "trials" / trial.key).resolve()  # a worker may have another working folder


def _refuse_launchers() -> None:
    """A launcher would start every process of it as a run of its own, all with the same trials."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes not in ("", "1"):
        raise UsageError(
            f"a run starts its own workers, but this one was launched on {processes} processes (torchrun or accelerate "
            "launch); start it plainly with --workers, or call mpo_core.repro.training.fit from a script to launch."
        )


def _finished(folders: Iterable[Path]) -> Iterable[tuple[str, TrialRecord]]:
    for folder in folders:
        path = folder / "record.json"
        if path.exists():
            try:
                yield folder.name, read_trial_record(path)
            except InputFileError as error:
                _log.warning("a trial is done again: %s", error)


def _last_step(folder: Path) -> tuple[int, int] | None:
    """Steps done and in all, as the trial's log says last; ``None`` before its first line."""
    path = folder / "log.jsonl"
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - 4096, 0))
            row = json.loads(file.read().splitlines()[-1])
        return int(row["step"]), int(row["of"])
    except (OSError, ValueError, LookupError, TypeError):  # no file yet, or a line that is being written
        return None


def _read_run_file(folder: Path) -> RunFile:
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputFileError(f"{folder} is no run: it has no config.yaml; give a folder that `run` has made.")
    content = read_yaml_mapping(path.read_text(encoding="utf-8"), str(path))
    version = content.get("schema_version")
    if version != RUN_SCHEMA:
        raise InputFileError(
            f"{path} has schema_version {version!r}, but this mpo-core reads {RUN_SCHEMA}; start a new run, "
            "or install the mpo-core that began it."
        )
    try:
        return RunFile.model_validate(content)
    except ValidationError as error:
        raise InputFileError(validation_sentence(error, RunFile, str(path))) from error


def _validated(paper: Paper, content: RunFile, folder: Path) -> StudyConfig[Any]:
    where = str(folder / "config.yaml")
    if paper.name != content.paper:
        raise InputFileError(f"{where} is a run of the paper {content.paper!r}, not of {paper.name!r}.")
    try:
        return paper.config_type.model_validate(content.config)
    except ValidationError as error:
        raise InputFileError(validation_sentence(error, paper.config_type, where)) from error
