from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cp_bcs.binary.program import Program
from cp_bcs.data.compiling import Twins
from cp_bcs.training_run import load_trained
from mpo_core.errors import InputFileError, UsageError

Run = Callable[..., str]

FAST = ("--d", "16", "--length", "32", "--epochs", "2", "--learning-rate", "5e-3")


@pytest.fixture(scope="module")
def trained(run: Run, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    told = run("train", "--corpus", corpus, "--out", out, *FAST)
    assert "the nearest function's" in told
    assert "files-0" in told
    return out


def test_a_trained_folder_tells_how_it_did_beside_copying(trained: Path, corpus: Path) -> None:
    report: dict[str, Any] = json.loads((trained / "report.json").read_text())
    assert report["job"]["split"] == "files-0"
    assert list(report["job"]["corpora"]) == [str(corpus)]
    for name in ("test", "nearest", "random"):
        assert 0 < report[name]["bleu"] < 1
    learned, calibration = load_trained(trained)
    assert learned.config.sources == ("code", "graph", "neighbours")
    assert calibration.functions > 0
    assert calibration.threshold is None  # of one project nothing follows for others
    assert not trained.with_name("run.training").exists()


def test_a_binary_is_summarised_by_a_trained_network(
    run: Run, trained: Path, build: Callable[..., Twins], tmp_path: Path
) -> None:
    binary = build("x64", "O1").stripped
    said = run("summarize", binary, "--model", trained, "--out", tmp_path / "told", "--json", "--html")
    assert "with a confident summary" in said
    assert "no summaries" not in said
    told: dict[str, Any] = json.loads((tmp_path / "told.json").read_text())
    addresses = [int(each["address"], 16) for each in told["functions"]]
    assert addresses == [each.address for each in Program.read(binary).functions]
    assert all(each["draft"] for each in told["functions"])
    assert all(each["known"] for each in told["functions"])
    assert all(len(each["code"]) == each["instructions"] for each in told["functions"])
    assert (tmp_path / "told.html").stat().st_size > 10_000


def test_a_network_takes_another_index(run: Run, trained: Path, build: Callable[..., Twins], tmp_path: Path) -> None:
    run("index", "--elf", build("x64").unstripped, "--project", "mine", "--out", tmp_path / "names")
    binary = build("x64", "O1").stripped
    run("summarize", binary, "--model", trained, "--index", tmp_path / "names", "--out", tmp_path / "a", "--json")
    told: dict[str, Any] = json.loads((tmp_path / "a.json").read_text())
    assert {known["project"] for each in told["functions"] for known in each["known"]} <= {"mine"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sources", "code,prose"), "prose"),
        (("--split", "by-hand-1"), "there is no split"),
        (("--d", "18"), "cannot be divided"),
        (("--graph-backend", "networkx"), "networkx"),
        (("--variant", "mine"), "mine"),
        (("--sources", "pseudo"), "no pseudo code"),
        (("--epochs", "0"), "--epochs"),
    ],
)
def test_options_that_cannot_be(run: Run, corpus: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run("train", "--corpus", corpus, "--out", tmp_path / "run", *options)
    assert not any(tmp_path.iterdir())


def test_folders_that_are_none(run: Run, trained: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="is no corpus"):
        run("train", "--corpus", tmp_path, "--out", tmp_path / "run")
    with pytest.raises(UsageError, match="exists already"):
        run("train", "--corpus", corpus, "--out", trained)
    damaged = tmp_path / "damaged"
    shutil.copytree(trained, damaged)
    (damaged / "calibration.json").write_text("{}")
    with pytest.raises(InputFileError, match="no calibration"):
        load_trained(damaged)
