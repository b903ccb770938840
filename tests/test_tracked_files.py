"""What no tracked file may hold: index hosts, paths of a machine, unsafe loading, notebook outputs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INDEX_HOST = re.compile(
    r'registry = "https?:|https?:' + r'//[^\s"]+/simple\b|/packages/[0-9a-f]{2}/[0-9a-f]{2}/|files\.python' + "hosted"
)
MACHINE_PATH = re.compile(r"(?<![\w.~/-])(?:/(?:home|root|Users|work|workspace|mnt)/|[A-Z]:\\+Users\\)\S")
UNSAFE_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
UNSAFE_FLAGS = {"allow_pickle", "trust_remote_code"}
# File -> what it may name, because nothing from outside the process is loaded there.
ALLOWED = {
    # Asks whether an exception of its own survives the way from a worker to the parent process.
    "packages/mpo-core/src/mpo_core/repro/pool.py": {"pickle"},
}


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def tracked() -> dict[str, str]:
    """Path -> text of every file that is committed or would be, as git would store it."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    texts: dict[str, str] = {}
    for name in filter(None, listed):
        path = ROOT / name
        if not path.is_file():  # deleted, not yet committed
            continue
        data = path.read_bytes()
        # The work tree's lock has addresses once uv has completed it; what counts is what git keeps.
        if name == "uv.lock":
            data = git("show", ":uv.lock") if git("ls-files", "uv.lock") else b""
        if b"\0" not in data:
            texts[name] = data.decode("utf-8")
    assert len(texts) > 20
    return texts


def found(pattern: re.Pattern[str], texts: dict[str, str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def test_no_index_host(tracked: dict[str, str]):
    assert found(INDEX_HOST, tracked) == []


def test_no_path_of_a_machine(tracked: dict[str, str]):
    assert found(MACHINE_PATH, tracked) == []


@pytest.mark.parametrize(
    ("pattern", "planted"),
    [
        (INDEX_HOST, "https:" + "//mirror.invalid/simple"),
        (INDEX_HOST, "/packages/" + "8a/4c/x.whl"),
        (MACHINE_PATH, 'open("' + '/home' + '/ann/data.txt")'),
        (MACHINE_PATH, "/root" + "/.cache"),
    ],
)  # fmt: skip
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[str], planted: str):
    assert found(pattern, {"planted": planted}) == [f"planted:1: {planted}"]


@pytest.mark.parametrize("innocent", ["https:" + "//example.org/home/page", "../home/tree", "a/root/b"])
def test_the_patterns_leave_relative_paths_and_addresses_alone(innocent: str):
    assert found(INDEX_HOST, {"x": innocent}) + found(MACHINE_PATH, {"x": innocent}) == []


def dotted(node: ast.expr) -> str:
    """``torch.load`` for the expression of that form, else an empty string or the last names known."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def unsafe(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").partition(".")[0]]
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call):
            names = [dotted(node.func)]
            names += [k.arg for k in node.keywords if k.arg and not is_false(k.value)]
        else:
            continue
        yield from (name for name in names if name in UNSAFE_MODULES | UNSAFE_CALLS | UNSAFE_FLAGS)


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_sources_load_nothing_unsafe(tracked: dict[str, str]):
    sources = {name: text for name, text in tracked.items() if re.match(r"(packages/[^/]+/src|tools)/.*\.py$", name)}
    assert sources
    hits = {name: set(unsafe(text)) - ALLOWED.get(name, set()) for name, text in sources.items()}
    assert {name: names for name, names in hits.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "hits"),
    [
        ("import pickle", ["pickle"]),
        ("from torch import load", ["torch.load"]),
        ("torch.load(path, weights_only=True)", ["torch.load"]),
        ("eval('1')", ["eval"]),
        ("model.eval()", []),
        ("from_pretrained(name, trust_remote_code=True)", ["trust_remote_code"]),
        ("from_pretrained(name, trust_remote_code=False)", []),
    ],
)
def test_the_search_for_unsafe_loading_finds_it(source: str, hits: list[str]):
    assert list(unsafe(source)) == hits


def test_notebooks_have_no_outputs(tracked: dict[str, str]):
    for name, text in tracked.items():
        if name.endswith(".ipynb"):
            cells = json.loads(text)["cells"]
            assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == [], name
