from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cp_bcs.cli import app
from cp_bcs.data.compiling import Twins
from mpo_core.errors import InputFileError, UsageError

Build = Callable[..., Twins]


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if result.exception is not None:
        raise result.exception
    return result.output


def test_functions_are_listed_and_written(build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twins = build("x64")
    out = tmp_path / "functions.json"
    run("functions", twins.stripped, "--json", out)
    told = json.loads(out.read_text())
    assert told["architecture"] == "x64"
    assert told["schema_version"] == 1
    assert len(told["functions"]) > 150
    assert len(told["sha256"]) == 64
    for function in told["functions"]:
        assert function["instructions"] == len(function["code"]) > 0
        assert function["size"] > 0
        assert all(0 <= a < len(function["code"]) and 0 <= b < len(function["code"]) for a, b, _ in function["edges"])
        assert function["name"] is None
    assert any("malloc" in function["calls"] for function in told["functions"])


def test_one_function_is_shown_by_name_or_by_any_of_its_addresses(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cp_bcs import commands

    shown: list[str] = []
    monkeypatch.setattr(commands.console, "out", lambda text: shown.append(str(text)))
    twins = build("x64")
    run("functions", twins.unstripped, "--at", "sum_by_name")
    assert shown[-1].startswith("sum_by_name at 0x")
    address = int(shown[-1].split()[2].rstrip(","), 16)
    run("functions", twins.stripped, "--at", f"{address + 5:#x}")
    assert shown[-1].startswith(f"function at {address:#x}")


def test_unknown_functions_are_refused(build: Build) -> None:
    twins = build("x64")
    with pytest.raises(UsageError, match="no function named 'nothing'"):
        run("functions", twins.stripped, "--at", "nothing")
    with pytest.raises(UsageError, match="no function at 0x3"):
        run("functions", twins.stripped, "--at", "0x3")
    with pytest.raises(InputFileError, match="no ELF file"):
        run("functions", __file__)


def test_the_command_says_what_is_no_program_with_exit_code_3() -> None:
    command = [sys.executable, "-c", "from cp_bcs.cli import main; main()", "functions", __file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: test_cp_bcs_commands.py is no ELF file")
    assert done.stderr.count("\n") == 1


def test_help_does_not_import_capstone_or_torch() -> None:
    code = (
        "import sys; from cp_bcs.cli import app; from typer.testing import CliRunner; "
        "CliRunner().invoke(app, ['functions', '--help']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'capstone', 'elftools')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
