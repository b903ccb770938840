"""Every command that a README shows in a ```bash block runs as it stands, in an empty folder, offline.

Blocks that take long, or that stand for output, are tagged ```console and are not run. Lines that install or
fetch the software are left out, since the environment that runs this test is what they lead to; and pytest,
since this is it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
INSTALLS = r"pip install|python3? -m pip|uv (pip|sync|venv|add|tool)\b|git clone|cd |tools/setup-dev"
LEFT_OUT = re.compile(rf"^({INSTALLS}|uv run pytest)")
LIMIT_SECONDS = 480  # a block hangs; how long one takes is told by --durations


def commands(text: str) -> list[str]:
    """The runnable part of each ```bash block, empty ones left out."""
    blocks = []
    for block in BLOCK.findall(text):
        lines = [line for line in block.splitlines() if not LEFT_OUT.match(line)]
        if any(line.strip() and not line.lstrip().startswith("#") for line in lines):
            blocks.append("\n".join(lines))
    return blocks


def offline_environment() -> dict[str, str]:
    """The calling environment, with `uv run` bound to it and the network out of use."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "UV_PROJECT": str(ROOT),
        "UV_PROJECT_ENVIRONMENT": sys.prefix,
        "UV_NO_SYNC": "1",
        "UV_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def test_main_readme_shows_the_main_job():
    assert any("repro quickstart" in block for block in commands(READMES[0].read_text(encoding="utf-8")))


@pytest.mark.slow
@pytest.mark.xdist_group("readme")  # one after another: each block uses all cores
@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_run(readme: Path, tmp_path: Path):
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed, and the READMEs call it")
    for block in commands(readme.read_text(encoding="utf-8")):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env=offline_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_setup_lines_and_console_blocks_are_left_out():
    text = "```bash\npip install uv\nuv sync\n# what it does\n```\n```console\nrepro run long\n```\n"
    assert commands(text) == []
    assert commands(text + "```bash\nuv sync\nuv run repro list\n```\n") == ["uv run repro list"]
