"""Installing one package brings what it needs and no more."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
PAPERS = [name for name in PACKAGES if name != "mpo-core"]
DECOMPOSE = """
import importlib.util, sys
import torch
import mpo_core
matrix = torch.randn(12, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
mpo = mpo_core.decompose(matrix, mpo_core.MPOShape.choose(12, 20, n=3))
assert torch.allclose(mpo.to_matrix(), matrix)
assert importlib.util.find_spec("transformers") is None
assert not [name for name in sys.modules if name.startswith("mpo_core.repro")]
print(mpo.bonds)
"""

pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")


def uv(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["uv", *arguments], cwd=ROOT, capture_output=True, text=True, check=check)


def exported(package: str, *options: str) -> str:
    """The pinned requirements of one package, from the lock as it stands."""
    return uv("export", "--package", package, "--no-hashes", "--no-dev", "--frozen", "--offline", *options).stdout


@pytest.mark.parametrize("package", PAPERS)
def test_a_paper_brings_the_core_and_no_other_paper(package: str):
    text = exported(package)
    members = set(re.findall(r"^-e \./packages/(\S+)", text, flags=re.MULTILINE))
    assert members == {package, "mpo-core"}
    assert re.search(r"^transformers==", text, flags=re.MULTILINE)


def test_the_core_alone_brings_neither_transformers_nor_a_paper():
    text = exported("mpo-core")
    assert re.findall(r"^-e \./packages/(\S+)", text, flags=re.MULTILINE) == ["mpo-core"]
    assert re.search(r"^torch==", text, flags=re.MULTILINE)
    assert not re.search(r"^(transformers|typer|pydantic|matplotlib)==", text, flags=re.MULTILINE)


@pytest.mark.slow
def test_the_core_installs_alone_and_decomposes(tmp_path: Path):
    pins = tmp_path / "pins.txt"
    pins.write_text(exported("mpo-core", "--no-emit-workspace"), encoding="utf-8")
    python = tmp_path / "venv" / "bin" / "python"
    uv("venv", tmp_path / "venv", "--python", sys.executable)
    install = ("pip", "install", "--python", python, "--constraint", pins, "./packages/mpo-core")
    # uv's cache has what `uv sync` installed; the index is asked only where that is not enough.
    if uv(*install, "--offline", check=False).returncode:
        uv(*install)
    done = subprocess.run([python, "-c", DECOMPOSE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
