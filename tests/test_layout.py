"""Every package has the same rooms (CONTRIBUTING.md), so that whoever knows one knows all."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {path.parent.name: path.parent for path in sorted(ROOT.glob("packages/*/pyproject.toml"))}
CORE = "mpo-core"
PAPERS = {name: folder for name, folder in PACKAGES.items() if name != CORE}

ROOMS = ("__init__", "config", "method", "model", "data", "train", "evaluate", "baselines", "cli", "paper")
SCALES = {"smoke", "small", "paper"}
FORBIDDEN = {"utils", "helpers", "common", "misc"}
LONG = 400

# A room that a paper does not need is left out; each one is listed here with the reason.
LEFT_OUT = {
    ("mpop", "data"): "its tasks are those of mpo_core.repro.tasks",
}
# Sources above 400 lines, each with the reason why it is one subject.
LONG_FILES: dict[str, str] = {}


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def module(folder: Path) -> Path:
    return folder / "src" / folder.name.replace("-", "_")


def python_files() -> list[Path]:
    return sorted(p for top in ("packages", "tools", "tests", "benchmarks") for p in (ROOT / top).rglob("*.py"))


def test_core_and_papers_are_found():
    assert CORE in PACKAGES
    assert PAPERS


@pytest.mark.parametrize("name", PACKAGES)
def test_package_has_metadata_readme_and_tests(name: str):
    folder = PACKAGES[name]
    data = project(folder)
    assert data["name"] == name
    assert data["license"] == "Apache-2.0"
    assert data["requires-python"] == ">=3.11"
    assert (folder / data["readme"]).read_text(encoding="utf-8").startswith(f"# {name}")
    assert list((folder / "tests").glob("test_*.py"))
    assert (module(folder) / "__init__.py").is_file()


@pytest.mark.parametrize("name", PAPERS)
def test_paper_has_its_rooms(name: str):
    inside = module(PAPERS[name])
    present = {room for room in ROOMS if (inside / f"{room}.py").is_file() or (inside / room / "__init__.py").is_file()}
    assert {room for room in ROOMS if (name, room) not in LEFT_OUT} == present


@pytest.mark.parametrize("name", PAPERS)
def test_paper_has_a_command_and_is_found_by_entry_point(name: str):
    data, inside = project(PAPERS[name]), module(PAPERS[name]).name
    assert data["scripts"] == {name: f"{inside}.cli:main"}
    assert data["entry-points"]["mpo_core.papers"] == {name: f"{inside}.paper:PAPER"}


@pytest.mark.parametrize("name", PAPERS)
def test_paper_has_claims_experiments_and_results(name: str):
    inside = module(PAPERS[name])
    claims = yaml.safe_load((inside / "paper.yaml").read_text(encoding="utf-8"))
    assert claims["paper"] == name
    files = sorted((inside / "experiments").glob("*.yaml"))
    experiments = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in files}
    assert experiments
    for stem, experiment in experiments.items():
        assert experiment["name"] == stem
        own = set(experiment.get("scales", ()))
        base = experiments.get(experiment.get("extends"), {})
        assert own | set(base.get("scales", ())) == SCALES, stem
    tested_by = {claim["experiment"] for claim in claims["claims"] if claim.get("experiment")}
    assert tested_by <= experiments.keys()
    assert (PAPERS[name] / "results").is_dir()


def test_one_quickstart_experiment_in_every_paper():
    for name, folder in PAPERS.items():
        files = (module(folder) / "experiments").glob("*.yaml")
        chosen = [p.stem for p in files if yaml.safe_load(p.read_text(encoding="utf-8")).get("quickstart")]
        assert chosen, f"{name} has no experiment for `repro quickstart`"


def test_no_file_is_named_for_nothing():
    assert [path for path in python_files() if path.stem in FORBIDDEN] == []


def test_test_files_have_unique_names():
    counts = Counter(path.name for path in python_files() if path.name.startswith("test_"))
    assert [name for name, count in counts.items() if count > 1] == []


def test_sources_fit_in_the_head():
    sources = [path for path in python_files() if "tests" not in path.parts]
    long = {
        path.relative_to(ROOT).as_posix()
        for path in sources
        if len(path.read_text(encoding="utf-8").splitlines()) > LONG
    }
    assert long <= LONG_FILES.keys()


def test_exceptions_name_existing_packages():
    assert {name for name, _ in LEFT_OUT} <= PAPERS.keys()
