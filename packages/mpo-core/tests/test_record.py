from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mpo_core.errors import InputFileError, NonFiniteError
from mpo_core.repro.record import (
    SCHEMA_VERSION,
    Environment,
    Measurement,
    ParameterCount,
    RunRecord,
    SeriesPoint,
    TrialRecord,
    capture_environment,
    read_record,
    read_trial_record,
    write_record,
)


def trial(**changes: Any) -> TrialRecord:
    content: dict[str, Any] = {
        "arm": "lfa",
        "seed": 0,
        "learning_rate": 1e-3,
        "stage": "final",
        "status": "completed",
        "seconds": 1.5,
        "peak_memory_bytes": 1000,
        "parameters": ParameterCount(total=10, trained=3),
        "metrics": {"accuracy": Measurement(value=0.1 + 0.2, n=30, split="eval")},
        "series": [SeriesPoint(step=1, values={"loss": 0.7})],
        "arrays": {"bond 1 spectrum": [1.0, 0.5]},
        "notes": ["ü"],
    }
    return TrialRecord.model_validate(content | changes)


def run(trials: list[TrialRecord]) -> RunRecord:
    environment = Environment(
        git_revision=None, packages={"torch": "2"}, python="3.11", machine="x", cores=2, threads_per_worker=1
    )
    return RunRecord(
        paper="demo", experiment="tiny", scale="small", started="2025-01-02T03:04:05+00:00", seconds=2.0,
        status="completed", config={"arms": {"lfa": {}}}, environment=environment, trials=trials,
    )  # fmt: skip


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = run([trial(), trial(seed=1, status="diverged", metrics={})])
    write_record(record, path)
    assert read_record(path) == record
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]
    write_record(trial(), tmp_path / "trial.json")
    assert read_trial_record(tmp_path / "trial.json") == trial()


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"metrics": {"accuracy": Measurement(value=float("nan"))}}, "metrics.accuracy.value"),
        ({"series": [SeriesPoint(step=1, values={"loss": float("inf")})]}, "series.0.values.loss"),
        ({"arrays": {"a": [1.0, float("-inf")]}}, "arrays.a.1"),
    ],
)
def test_nan_is_never_written_and_the_old_file_stays(tmp_path: Path, changes: dict[str, Any], place: str) -> None:
    path = tmp_path / "record.json"
    write_record(trial(), path)
    with pytest.raises(NonFiniteError, match=f"NaN or infinity at {place};"):
        write_record(trial(**changes), path)
    assert read_trial_record(path) == trial()


def test_a_diverged_trial_carries_no_metrics() -> None:
    with pytest.raises(ValidationError, match="a diverged trial cannot carry metrics"):
        trial(status="diverged")


def test_another_schema_version_is_refused_with_both_named(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(run([trial()]), path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"schema_version": 99, "new key": 1}))
    with pytest.raises(InputFileError, match=rf"schema_version 99, .* reads schema_version {SCHEMA_VERSION};"):
        read_record(path)
    del content["schema_version"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputFileError, match=r"no schema_version"):
        read_record(path)


def test_what_is_no_record_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(run([trial()]), path)
    whole = path.read_text()
    cases = {
        whole[: len(whole) // 2]: r"is not a JSON record \(cut short\?\)",
        "": r"is not a JSON record",
        "[1, 2]": r"expected a JSON object, found list",
        whole.replace('"seconds": 2.0', '"seconds": NaN'): r"NaN is not JSON",
        whole.replace('"seconds": 2.0', '"seconds": 1e999'): r"found infinity at seconds",
        whole.replace(
            '"scale": "small"', '"scale": "huge"'
        ): r"'scale': expected 'smoke', 'small' or 'paper', found 'huge'",
        whole.replace('"peak_memory_bytes"', '"peak_memroy_bytes"'): (
            r"unknown key 'trials.0.peak_memroy_bytes' \(did you mean 'peak_memory_bytes'\?"
        ),
        "[" * 100_000: r"is not a JSON record",
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(InputFileError, match=message) as caught:
            read_record(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputFileError, match=r"cannot read the record .*absent.json: No such file"):
        read_record(tmp_path / "absent.json")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputFileError, match=r"is not a JSON record"):
        read_record(path)


def test_only_completed_final_trials_count_as_final() -> None:
    trials = [
        trial(seed=2),
        trial(seed=0),
        trial(seed=1, status="diverged", metrics={}),
        trial(stage="sweep"),
    ]
    assert [t.seed for t in run(trials).final("lfa")] == [0, 2]


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_environment_names_the_revision_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert capture_environment([], 1).git_revision is None
    git(tmp_path, "init", "--quiet")
    assert capture_environment([], 1).git_revision is None, "nothing is committed yet"
    (tmp_path / "file").write_text("a")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert capture_environment([], 1).git_revision == commit
    (tmp_path / "file").write_text("b")
    assert capture_environment([], 1).git_revision == f"{commit}+dirty"


def test_the_environment_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert capture_environment([], 1).git_revision is None


def test_the_environment_names_versions_and_machine_but_no_host_user_or_path() -> None:
    environment = capture_environment(["pydantic", "no-such-distribution"], threads=3)
    assert list(environment.packages) == ["pydantic"]
    assert environment.python == platform.python_version()
    assert environment.machine.startswith(platform.machine())
    assert environment.threads_per_worker == 3
    assert 1 <= environment.cores <= (os.cpu_count() or 1)
    text = environment.model_dump_json()
    assert platform.node() not in text
    assert str(Path.cwd()) not in text
    assert str(Path.home()) + "/" not in text
