"""The tensor floor needs torch only, and stands below the reproduction floor."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mpo_core

PACKAGE = Path(mpo_core.__file__).parent
FLOOR = sorted(path for path in PACKAGE.rglob("*.py") if "repro" not in path.relative_to(PACKAGE).parts[:1])
HEAVY = ("torch", "transformers", "numpy", "accelerate", "datasets", "pydantic", "matplotlib")


def loaded_after(statement: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter holds after a statement."""
    script = f"import json, sys\n{statement}\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout))


def imported_modules(path: Path) -> set[str]:
    """Absolute names of what a file imports, anywhere in it."""
    package = ("mpo_core", *path.relative_to(PACKAGE).parent.parts)
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names.update([module, *(f"{module}.{alias.name}" for alias in node.names)])
    return names


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import mpo_core; dir(mpo_core); mpo_core.MPOError") == set()


def test_reading_a_manifest_module_needs_no_torch() -> None:
    assert loaded_after("import mpo_core.models.manifest, mpo_core.shapes") == set()


def test_the_layers_load_torch_alone() -> None:
    names = "mpo_core.MPOLinear, mpo_core.replace_modules, mpo_core.load_mpo, mpo_core.swap_parameters"
    loaded = loaded_after(f"import mpo_core; {names}")
    assert "torch" in loaded
    assert loaded <= {"torch", "numpy"}


def test_every_public_name_can_be_had() -> None:
    assert "MPOLinear" in mpo_core.__all__
    for name in mpo_core.__all__:
        assert getattr(mpo_core, name) is not None


@pytest.mark.parametrize("path", FLOOR, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_tensor_floor_does_not_know_the_reproduction_floor(path: Path) -> None:
    above = {name for name in imported_modules(path) if name.split(".")[:2] == ["mpo_core", "repro"]}
    assert above == set()


def test_the_scan_sees_what_it_looks_for() -> None:
    assert {"surgery.py", "linear.py", "io.py", "__init__.py"} <= {path.name for path in FLOOR}
    config = PACKAGE / "repro" / "config.py"
    assert config not in FLOOR
    assert "pydantic" in {name.split(".")[0] for name in imported_modules(config)}
    assert "mpo_core.shapes.MPOShape" in imported_modules(PACKAGE / "models" / "io.py") | imported_modules(
        PACKAGE / "models" / "surgery.py"
    )
