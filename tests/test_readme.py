"""A README is followed from top to bottom, in an empty folder, offline: its ```bash and ```python blocks as they stand.

The Python blocks of one README share a session, as they do for a reader who types them in; the shell blocks run between
them, in their place. Blocks that take long, or that stand for output, are tagged ```console or ```text and are not run.
Lines that install or fetch the software are left out, since the environment that runs this test is what they lead to;
and pytest, since this is it.
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
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
INSTALLS = r"pip install|python3? -m pip|uv (pip|sync|venv|add|tool)\b|git clone|cd |tools/setup-dev"
LEFT_OUT = re.compile(rf"^({INSTALLS}|uv run pytest)")
LIMIT_SECONDS = 900  # a block hangs; how long one takes is told by --durations


def commands(block: str) -> str:
    """The runnable lines of a ```bash block; empty if it only installs."""
    lines = [line for line in block.splitlines() if not LEFT_OUT.match(line)]
    return "\n".join(lines) if any(line.strip() and not line.lstrip().startswith("#") for line in lines) else ""


def script(text: str) -> str:
    """All blocks of a README as one Python script; shell blocks become calls of bash."""
    parts = ["import subprocess as _subprocess"]
    for language, block in BLOCK.findall(text):
        if language == "python":
            parts.append(block)
        elif lines := commands(block):
            parts.append(f"_subprocess.run(['bash', '-euo', 'pipefail', '-c', {lines!r}], check=True)\n")
    return "\n".join(parts)


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
    assert "repro quickstart" in script(READMES[0].read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.xdist_group("readme")  # one after another: each block uses all cores
@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_blocks_run(readme: Path, tmp_path: Path):
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed, and the READMEs call it")
    path = tmp_path / "followed.py"
    path.write_text(script(readme.read_text(encoding="utf-8")), encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, path],
        cwd=folder,
        env=offline_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_setup_lines_and_console_blocks_are_left_out():
    text = "```bash\npip install uv\nuv sync\n# what it does\n```\n```console\nrepro run long\n```\n"
    assert script(text) == "import subprocess as _subprocess"
    assert "uv run repro list" in script(text + "```bash\nuv sync\nuv run repro list\n```\n")


def test_python_blocks_share_a_session_and_a_failing_shell_block_stops_it(tmp_path: Path):
    text = "```python\na = 1\n```\n```bash\n{}\n```\n```python\nprint(a + 1)\n```\n"
    for command, output in (("true", "2\n"), ("false", "")):
        done = subprocess.run(
            [sys.executable, "-c", script(text.format(command))], capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.returncode == 0) == (output, command == "true")
