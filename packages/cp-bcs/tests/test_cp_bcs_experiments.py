from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cp_bcs.config import Config
from cp_bcs.paper import PAPER
from mpo_core.errors import MissingPartError
from mpo_core.repro import commands
from mpo_core.repro.config import SCALES
from mpo_core.repro.experiment import check_paper, list_experiments, load_experiment, resolve
from mpo_core.repro.runner import execute_run, start_run


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", list_experiments(PAPER))
def test_every_experiment_is_valid_at_every_scale(name: str, scale: str) -> None:
    config, _ = resolve(PAPER, load_experiment(PAPER, name), scale)  # pyright: ignore[reportArgumentType]
    assert isinstance(config, Config)


def test_claims_name_what_exists() -> None:
    check_paper(PAPER)


def test_discovery_runs(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    record = execute_run(start_run(PAPER, "discovery", "smoke", runs=tmp_path), workers=1)
    for trial in record.trials:
        assert trial.metrics["starts"].value == 1
        assert trial.metrics["sizes"].value == 1
        assert trial.metrics["blocks"].value < trial.metrics["instructions"].value


def test_without_a_compiler_the_quickstart_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler is missing to the workers, too: they look in this process's PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    run = start_run(PAPER, "discovery", "smoke", runs=tmp_path)
    with pytest.raises(MissingPartError, match="needs gcc"):
        execute_run(run, workers=1)
    said: list[str] = []
    monkeypatch.setattr(commands.console, "out", lambda text: said.append(str(text)))
    commands.quickstart([PAPER], tmp_path / "runs", tmp_path / "report.html", workers=1)
    assert any(line.startswith("cp-bcs/discovery was not run: building for x64 needs gcc") for line in said)
    assert (tmp_path / "report.html").is_file()
