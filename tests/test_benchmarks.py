"""Every benchmark runs at smoke scale, says what it compared, and has a committed record. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if "--smoke" in path.read_text(encoding="utf-8"))
RECORD_KEYS = {"benchmark", "date", "revision", "machine", "versions", "clock"}


def test_the_benchmarks_are_found():
    cp_bcs = {"cp_bcs_discovery", "cp_bcs_malformed"}
    assert {path.stem for path in SCRIPTS} == cp_bcs | {
        *("allocation", "budget", "decompose", "embedding", "linear", "whole_model"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_runs_at_smoke_scale(script: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, script, "--smoke", "--out", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert done.stdout.strip()
    records = list(tmp_path.glob("*.json"))
    assert len(records) == 1
    assert json.loads(records[0].read_text(encoding="utf-8")).keys() >= RECORD_KEYS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_has_a_committed_record(script: Path):
    records = sorted((FOLDER / "results").glob(f"{script.stem}-*.json"))
    assert records, f"no record of {script.name} under benchmarks/results"
    for record in records:
        assert json.loads(record.read_text(encoding="utf-8")).keys() >= RECORD_KEYS
