"""The neutral lock: what tools/lock.py keeps, what it drops, and that uv and git work with it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools" / "lock.py"
INDEX = "https" + "://mirror.invalid"  # in two parts: no committed file names an index, this one included

spec = importlib.util.spec_from_file_location("workspace_lock", SCRIPT)
assert spec is not None
assert spec.loader is not None
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)

FULL = f"""\
version = 1

[[package]]
name = "member"
version = "0.1.0"
source = {{ editable = "packages/member" }}
dependencies = [
    {{ name = "wheel-only", source = {{ registry = "{INDEX}/a" }}, marker = "x == 'y'" }},
]

[package.metadata]
requires-dist = [{{ name = "wheel-only", specifier = ">=2" }}]

[package.metadata.requires-dev]
dev = [{{ name = "wheel-only" }}]

[[package]]
name = "wheel-only"
version = "2.0+cpu"
source = {{ registry = "{INDEX}/a" }}
sdist = {{ url = "{INDEX}/f/w-2.0.tar.gz#sha256=cc", hash = "sha256:cc", upload-time = "2026-01-01" }}
wheels = [
    {{ url = "{INDEX}/f/wheel_only-2.0%2Bcpu-py3-none-any.whl", hash = "sha256:dd", size = 9 }},
]
"""
NEUTRAL = """\
version = 1

[[package]]
name = "member"
version = "0.1.0"
source = { editable = "packages/member" }
dependencies = [
    { name = "wheel-only", source = { registry = "pypi" }, marker = "x == 'y'" },
]

[[package]]
name = "wheel-only"
version = "2.0+cpu"
source = { registry = "pypi" }
sdist = { path = "w-2.0.tar.gz", hash = "sha256:cc" }
wheels = [
    { path = "wheel_only-2.0+cpu-py3-none-any.whl", hash = "sha256:dd" },
]
"""


@pytest.fixture(scope="module")
def work_tree_lock() -> str:
    return (ROOT / "uv.lock").read_text(encoding="utf-8")


def test_neutral_form_keeps_versions_names_and_hashes_only():
    assert lock.neutral(FULL) == NEUTRAL


def test_neutral_form_of_a_neutral_lock_is_itself(work_tree_lock: str):
    once = lock.neutral(work_tree_lock)
    assert lock.neutral(once) == once


def test_every_hash_of_the_lock_is_kept(work_tree_lock: str):
    hashes = re.findall(r"sha256:[0-9a-f]{64}", work_tree_lock)
    assert len(hashes) > 100
    assert re.findall(r"sha256:[0-9a-f]{64}", lock.neutral(work_tree_lock)) == hashes


def test_committed_lock_is_neutral(work_tree_lock: str):
    shown = subprocess.run(["git", "show", "HEAD:uv.lock"], cwd=ROOT, capture_output=True, text=True)
    if shown.returncode:
        pytest.skip("no commit of this checkout holds uv.lock")
    assert lock.neutral(shown.stdout) == shown.stdout


def test_filter_reads_stdin_and_writes_stdout():
    done = subprocess.run([sys.executable, SCRIPT, "--stdout"], input=FULL, capture_output=True, text=True, check=True)
    assert done.stdout == NEUTRAL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'[[package]]\nname = "a"\nsource = {{ git = "{INDEX}/a" }}\n', "line 3 .* address"),
        ("[[package]\n", "not valid TOML"),
    ],
)
def test_filter_refuses_what_it_cannot_make_neutral(text: str, message: str):
    done = subprocess.run([sys.executable, SCRIPT, "--stdout"], input=text, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.search(message, done.stderr)


def test_differences_name_the_package_and_the_file():
    other = NEUTRAL.replace("sha256:dd", "sha256:ee").replace('"0.1.0"', '"0.2.0"')
    found = lock.differences(lock.pins(NEUTRAL), lock.pins(other))
    assert found == [
        "member 0.1.0 (editable packages/member) is in uv.lock, not in the completed lock",
        "member 0.2.0 (editable packages/member) is in the completed lock, not in uv.lock",
        "wheel-only 2.0+cpu, file wheel_only-2.0+cpu-py3-none-any.whl: "
        "uv.lock has sha256:dd, the completed lock sha256:ee",
    ]


def test_uv_completes_the_neutral_lock_with_equal_versions_and_hashes(monkeypatch: pytest.MonkeyPatch):
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    # What `uv sync` read is in uv's cache; the index is asked only where that is not enough.
    monkeypatch.setenv("UV_OFFLINE", "1")
    try:
        found = lock.check(ROOT)
    except lock.LockError:
        monkeypatch.delenv("UV_OFFLINE")
        found = lock.check(ROOT)
    assert found == []


def test_setup_dev_keeps_diff_empty_and_commits_neutral(tmp_path: Path):
    def git(*arguments: str) -> str:
        author = ["-c", "user.name=t", "-c", "user.email=t@t.invalid"]
        done = subprocess.run(["git", *author, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    shutil.copytree(ROOT / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / ".gitattributes", tmp_path / ".gitattributes")
    (tmp_path / "uv.lock").write_text(NEUTRAL, encoding="utf-8")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "neutral")
    (tmp_path / "uv.lock").write_text(FULL, encoding="utf-8")  # as uv completes it
    assert git("diff", "--name-only").split() == ["uv.lock"]

    said = subprocess.run([tmp_path / "tools" / "setup-dev"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "uvlock" in said.stdout
    assert git("diff") == ""
    assert git("status", "--porcelain") == ""

    (tmp_path / "uv.lock").write_text(FULL.replace("sha256:dd", "sha256:ee"), encoding="utf-8")
    git("commit", "--quiet", "--all", "-m", "another wheel")
    assert git("show", "HEAD:uv.lock") == NEUTRAL.replace("sha256:dd", "sha256:ee")
