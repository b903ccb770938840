"""What only prints answers without importing torch: `--help` and `list` of every command."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
PAPERS = sorted(point.name for point in entry_points(group="mpo_core.papers"))
HEAVY = {"torch", "transformers", "datasets", "accelerate", "matplotlib", "sklearn", "scipy"}
VERBS = {"list", "show", "run", "compare", "report"}


def call(*command: str) -> tuple[str, set[str]]:
    """What a console script prints, and the top-level modules that it imported."""
    script, *arguments = command
    done = subprocess.run(
        [sys.executable, "-X", "importtime", BIN / script, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", done.stderr, flags=re.MULTILINE)
    return done.stdout, {name.partition(".")[0] for name in imported}


@pytest.mark.parametrize("command", ["repro", *PAPERS])
def test_help_names_the_verbs_without_importing_torch(command: str):
    printed, imported = call(command, "--help")
    assert "typer" in imported  # the list of imports is really read
    assert imported & HEAVY == set()
    words = set(re.findall(r"[a-z]+", printed))
    assert words >= VERBS | ({"quickstart"} if command == "repro" else set())


@pytest.mark.parametrize("command", [("repro", "list"), *((paper, "list") for paper in PAPERS)])
def test_list_names_the_experiments_without_importing_torch(command: tuple[str, str]):
    printed, imported = call(*command)
    assert "typer" in imported
    assert imported & HEAVY == set()
    for paper in PAPERS if command[0] == "repro" else command[:1]:
        assert paper in printed


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_of_a_verb_does_not_import_torch(verb: str):
    printed, imported = call("repro", verb, "--help")
    assert printed.strip()
    assert imported & HEAVY == set()


def test_papers_are_installed():
    assert "mpop" in PAPERS
