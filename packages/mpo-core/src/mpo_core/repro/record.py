"""Measured records: what a trial and a run leave behind as JSON, the only source of every reported figure."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from mpo_core.errors import InputFileError, NonFiniteError
from mpo_core.repro.atomic import write_json_atomic
from mpo_core.repro.config import Scale, StrictModel
from mpo_core.repro.reading import validation_sentence

SCHEMA_VERSION = 1


class Measurement(StrictModel):
    """One final figure, with the number of examples (or cases) it was measured on and the split."""

    value: float
    n: int | None = None
    split: str | None = None


class SeriesPoint(StrictModel):
    """Metrics logged at one optimizer step (``loss``, ``learning_rate``, …)."""

    step: int
    values: dict[str, float]


class ParameterCount(StrictModel):
    """Distinct scalar parameters of the model; ``trained`` counts those with a gradient."""

    total: int
    trained: int


class TrialOutcome(StrictModel):
    """What a paper's ``run_trial`` gives back; the runner adds what it knows itself and makes a `TrialRecord` of it.

    ``arrays`` holds what plots need beyond numbers and series (bond spectra, for example): name -> numbers.
    A name ``group/label`` draws the arrays of a group into one plot.
    """

    status: Literal["completed", "diverged"] = "completed"
    parameters: ParameterCount | None = None
    metrics: dict[str, Measurement] = Field(default_factory=dict)
    series: list[SeriesPoint] = Field(default_factory=list)
    arrays: dict[str, list[float]] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _diverged_reports_no_figure(self) -> Self:
        if self.status == "diverged" and self.metrics:
            raise ValueError("a diverged trial cannot carry metrics")
        return self


class TrialRecord(TrialOutcome):
    """One trial: which it was, what came out, and what it cost in time (seconds) and memory (peak of its process)."""

    arm: str
    seed: int
    learning_rate: float | None
    stage: Literal["sweep", "final"]
    seconds: float
    peak_memory_bytes: int


class Environment(StrictModel):
    """Where a run was made: nothing in it names a user, a host or a path."""

    git_revision: str | None
    packages: dict[str, str]
    python: str
    machine: str
    cores: int
    threads_per_worker: int


class RunRecord(StrictModel):
    """One run of one experiment at one scale: the file ``record.json``."""

    schema_version: int = SCHEMA_VERSION
    paper: str
    experiment: str
    scale: Scale
    started: str
    seconds: float
    status: Literal["completed", "diverged"]
    config: dict[str, Any]
    environment: Environment
    chosen_learning_rates: dict[str, float] = Field(default_factory=dict)
    trials: list[TrialRecord]

    def final(self, arm: str) -> list[TrialRecord]:
        """The completed final trials of an arm, by seed."""
        rows = [t for t in self.trials if t.arm == arm and t.stage == "final" and t.status == "completed"]
        return sorted(rows, key=lambda t: t.seed)


def write_record(record: RunRecord | TrialRecord, path: Path) -> None:
    """Write a record as indented JSON, atomically (temporary file, fsync, rename).

    Raises:
        NonFiniteError: the record holds NaN or infinity, which JSON has no word for; names the place.
    """
    content = record.model_dump(mode="json")
    place = _non_finite_place(content)
    if place is not None:
        raise NonFiniteError(
            f"the record for {path.name} holds NaN or infinity at {place}; expected finite numbers: "
            "a trial that diverged carries no such figure."
        )
    write_json_atomic(path, content)


def read_record(path: Path) -> RunRecord:
    """Read a run record.

    Raises:
        InputFileError: not JSON, not a record, or a record of another schema version (names both versions).
    """
    content = _read_json(path)
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        found = "no schema_version" if version is None else f"schema_version {version!r}"
        raise InputFileError(
            f"{path} is a record of {found}, this mpo-core reads schema_version {SCHEMA_VERSION}; "
            "run the experiment again, or install the mpo-core that wrote it."
        )
    return _validate(RunRecord, content, path)


def read_trial_record(path: Path) -> TrialRecord:
    """Read a trial record.

    Raises:
        InputFileError: not JSON, or not a trial record.
    """
    return _validate(TrialRecord, _read_json(path), path)


def capture_environment(packages: Iterable[str], threads: int) -> Environment:
    """Describe where a run is made, naming no user, host or path.

    Args:
        packages: distributions whose versions matter; those that are not installed are left out.
        threads: torch threads per worker.
    """
    return Environment(
        git_revision=_git_revision(),
        packages=_versions(packages),
        python=platform.python_version(),
        machine=", ".join(part for part in (platform.machine(), _cpu_model()) if part),
        cores=_usable_cores(),
        threads_per_worker=threads,
    )


_Record = TypeVar("_Record", RunRecord, TrialRecord)


def _validate(model: type[_Record], content: dict[str, Any], path: Path) -> _Record:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InputFileError(validation_sentence(error, model, str(path))) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise InputFileError(f"cannot read the record {path}: {error.strerror}; give a record.json.") from error
    except (ValueError, RecursionError) as error:
        raise InputFileError(f"{path} is not a JSON record (cut short?): {error}; run the experiment again.") from error
    if not isinstance(content, dict):
        raise InputFileError(f"{path} is not a record: expected a JSON object, found {type(content).__name__}.")
    place = _non_finite_place(content)
    if place is not None:
        raise InputFileError(f"{path} is not a record: expected finite numbers, found infinity at {place}.")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _non_finite_place(value: Any, place: str = "") -> str | None:
    """Where a tree of JSON values holds NaN or infinity, as a dotted path."""
    if isinstance(value, float):
        return None if math.isfinite(value) else place
    if isinstance(value, dict):
        children: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    else:
        return None
    found = (_non_finite_place(child, f"{place}.{key}" if place else str(key)) for key, child in children)
    return next((inner for inner in found if inner is not None), None)


def _versions(packages: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_revision() -> str | None:
    """The working folder's commit, with ``+dirty`` where files differ; ``None`` outside a checkout."""
    revision = _git("rev-parse", "--verify", "--quiet", "HEAD")
    if not revision:
        return None
    return f"{revision}+dirty" if _git("status", "--porcelain") else revision


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
