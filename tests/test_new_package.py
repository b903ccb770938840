"""tools/new-package makes a package that installs, runs its experiment, passes its tests and our linters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools" / "new-package"
NAME, MODULE = "aa-example", "aa_example"
TITLE = "It isn't $$5: a title of the length that titles of papers have, so that lines must be wrapped"


def call(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages = tmp_path_factory.mktemp("packages")
    done = call(sys.executable, TOOL, NAME, "--packages", packages, "--title", TITLE, "--citation", "A et al., 2026")
    assert done.returncode == 0, done.stderr
    assert f"uv run {NAME} run example" in done.stdout
    assert [path.name for path in packages.iterdir()] == [NAME]
    return packages / NAME


@pytest.fixture(scope="module")
def installed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as an installed wheel beside the environment that runs this test."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    site = tmp_path_factory.mktemp("site")
    install = (
        "uv",
        "pip",
        "install",
        "--python",
        sys.executable,
        "--no-deps",
        "--no-sources",
        "--target",
        site,
        made,
    )
    # The build backend is in uv's cache where the workspace was installed; else the index is asked.
    if call(*install, "--offline").returncode:
        assert call(*install).returncode == 0
    return site


def run(site: Path, *command: str | Path, cwd: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = call(sys.executable, *command, cwd=cwd, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_package_has_every_room_filled_in(made: Path):
    rooms = (
        "__init__",
        "config",
        "method",
        "model",
        "data",
        "train",
        "evaluate",
        "baselines",
        "cli",
        "paper",
    )
    files = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert files >= {f"src/{MODULE}/{room}.py" for room in rooms}
    assert files >= {
        "pyproject.toml",
        "README.md",
        f"src/{MODULE}/paper.yaml",
        f"src/{MODULE}/experiments/example.yaml",
    }
    assert not [name for name in files if "tmpl" in name or "__module__" in name]
    for name in files:
        assert "$name" not in (made / name).read_text(encoding="utf-8"), name
    assert TITLE in (made / "README.md").read_text(encoding="utf-8")


def test_package_satisfies_the_linters(made: Path):
    settings = ("--no-cache", "--config", ROOT / "pyproject.toml")
    # A temporary folder is outside the patterns that exempt tests from docstrings and assertions.
    for arguments in (
        ("check", "--ignore", "D,S101", made / "tests"),
        ("check", made / "src"),
        ("format", "--check", made),
    ):
        done = call(sys.executable, "-m", "ruff", arguments[0], *settings, *arguments[1:], cwd=ROOT)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_package_installs_lists_shows_runs_and_compares(installed: Path, tmp_path: Path):
    command = installed / "bin" / NAME
    assert "example" in run(installed, command, "list", cwd=tmp_path)
    assert "mpo-narrow" in run(installed, command, "show", "example", cwd=tmp_path)
    assert "record.json" in run(installed, command, "run", "example", "--scale", "smoke", cwd=tmp_path)
    assert "wider-bond-is-closer" in run(installed, command, "compare", cwd=tmp_path)
    assert NAME in run(installed, Path(sys.executable).with_name("repro"), "list", cwd=tmp_path)


@pytest.mark.slow
def test_package_passes_its_own_tests(made: Path, installed: Path, tmp_path: Path):
    tests = shutil.copytree(made / "tests", tmp_path / "tests")
    settings = (
        "-c",
        ROOT / "pyproject.toml",
        "--rootdir",
        tmp_path,
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
    )
    assert " passed" in run(installed, "-m", "pytest", "-q", *settings, tests, cwd=tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Bad", "no package name"),
        ("two--hyphens", "no package name"),
        ("../escape", "no package name"),
        ("class", "taken by Python"),
        ("json", "taken by Python"),
        ("repro", "this workspace"),
        ("torch", "locked"),
        (NAME, "exists already"),
    ],
)
def test_bad_names_are_refused_and_nothing_is_made(made: Path, name: str, reason: str):
    before = sorted(made.parent.rglob("*"))
    done = call(sys.executable, TOOL, name, "--packages", made.parent)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(made.parent.rglob("*")) == before


def test_text_that_would_break_the_files_is_refused(tmp_path: Path):
    done = call(sys.executable, TOOL, "fine", "--packages", tmp_path, "--title", 'a "quoted" title')
    assert done.returncode == 2
    assert "--title" in done.stderr
    assert list(tmp_path.iterdir()) == []
