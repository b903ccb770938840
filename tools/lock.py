#!/usr/bin/env python3
"""Keep ``uv.lock`` free of index addresses, so that one lock serves behind any mirror.

The neutral form names every registry ``pypi`` and every file by its name with its hash. It leaves out what
depends on the index (addresses, sizes, upload times), and the members' ``package.metadata`` tables: without
those a plain ``uv sync`` or ``uv run`` takes the lock for unfinished and completes it against the user's
index, versions kept.

    tools/lock.py            make uv.lock neutral in place
    tools/lock.py --stdout   the same as a filter, standard input to standard output (the git clean filter)
    tools/lock.py --check    let uv complete a copy, and compare versions and hashes with the neutral form
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
SHOWN_DIFFERENCES = 10

_REGISTRY = re.compile(r'registry = "[^"]*"')
_METADATA_TABLE = re.compile(r"^\[package\.metadata(\.[^]]+)?\]$")
_FILE_ENTRY = re.compile(r'\{ (?:url|path) = "(?P<address>[^"]+)"(?P<rest>, hash = "[^"]+")[^}]*\}')

# One locked package: name, version and where it comes from; its files by name, each with its hash.
Pins = dict[tuple[str, str, str], dict[str, str]]


class LockError(Exception):
    """The lock cannot be made neutral, or uv cannot complete it."""


def neutral(text: str) -> str:
    """The index-neutral form of a lock; the neutral form of a neutral lock is itself.

    Works on lines, as uv writes them, and leaves every other byte alone.

    Raises:
        LockError: the text is no TOML, or an address is left (a direct URL or git dependency).
    """
    kept: list[str] = []
    in_metadata = False
    for line in text.splitlines():
        if line.startswith("["):
            in_metadata = _METADATA_TABLE.match(line) is not None
        if in_metadata:
            continue
        line = _REGISTRY.sub('registry = "pypi"', line)
        kept.append(_FILE_ENTRY.sub(_by_name, line))
    result = "\n".join(kept).rstrip("\n") + "\n"
    _refuse_addresses(result)
    return result


def _by_name(entry: re.Match[str]) -> str:
    name = unquote(re.split(r"[?#]", entry["address"])[0].rsplit("/", 1)[-1])
    return f'{{ path = "{name}"{entry["rest"]} }}'


def _refuse_addresses(text: str) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LockError(f"the lock is not valid TOML: {error}; make a new one with `uv lock`.") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if "://" in line:
            raise LockError(
                f"line {number} of the neutral lock still holds an address: {line.strip()[:100]!r}; "
                "depend on released versions from an index only."
            )


def pins(text: str) -> Pins:
    """Every version and hash that a lock pins."""
    found: Pins = {}
    for package in tomllib.loads(text).get("package", []):
        kind, place = next(iter(package["source"].items()))
        origin = kind if kind == "registry" else f"{kind} {place}"
        key = (package["name"], package.get("version", ""), origin)
        files: list[dict[str, Any]] = package.get("wheels", []) + [s for s in [package.get("sdist")] if s]
        found[key] = {file["path"]: file["hash"] for file in files}
    return found


def differences(expected: Pins, found: Pins) -> list[str]:
    """What differs between two sets of pins, one sentence each."""
    lines: list[str] = []
    for key in sorted(expected.keys() | found.keys()):
        label = f"{key[0]} {key[1]}".strip()
        if key not in found:
            lines.append(f"{label} ({key[2]}) is in uv.lock, not in the completed lock")
        elif key not in expected:
            lines.append(f"{label} ({key[2]}) is in the completed lock, not in uv.lock")
        else:
            before, after = expected[key], found[key]
            lines += [
                f"{label}, file {name}: uv.lock has {before.get(name, 'no such file')}, "
                f"the completed lock {after.get(name, 'no such file')}"
                for name in sorted(before.keys() | after.keys())
                if before.get(name) != after.get(name)
            ]
    return lines


def completed(text: str, root: Path) -> str:
    """What uv makes of a neutral lock: resolved in a temporary copy of the workspace's project files.

    Raises:
        LockError: uv is missing or cannot resolve.
    """
    with tempfile.TemporaryDirectory(prefix="lock-check-") as folder:
        copy = Path(folder)
        for project in [root / "pyproject.toml", *sorted(root.glob("packages/*/pyproject.toml"))]:
            target = copy / project.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(project, target)
        (copy / "uv.lock").write_text(text, encoding="utf-8")
        # These would stop uv from completing the lock, or point it at the calling checkout.
        ignored = {"UV_FROZEN", "UV_LOCKED", "UV_NO_SYNC", "UV_PROJECT", "VIRTUAL_ENV"}
        environment = {name: value for name, value in os.environ.items() if name not in ignored}
        try:
            done = subprocess.run(["uv", "lock"], cwd=copy, env=environment, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise LockError("uv is not installed; install it with `pip install uv`.") from error
        if done.returncode:
            raise LockError(f"uv cannot complete the neutral lock:\n{done.stderr.strip()}")
        return (copy / "uv.lock").read_text(encoding="utf-8")


def check(root: Path) -> list[str]:
    """What differs between the workspace's lock and a copy that uv completed; empty means nothing."""
    lock = neutral((root / "uv.lock").read_text(encoding="utf-8"))
    return differences(pins(lock), pins(neutral(completed(lock, root))))


def main() -> int:
    """Run the script; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--stdout", action="store_true", help="filter standard input to standard output")
    mode.add_argument("--check", action="store_true", help="complete a copy with uv; compare versions and hashes")
    arguments = parser.parse_args()
    path = ROOT / "uv.lock"
    try:
        if arguments.stdout:
            sys.stdout.write(neutral(sys.stdin.read()))
        elif arguments.check:
            found = check(ROOT)
            print("\n".join(found[:SHOWN_DIFFERENCES]) or "uv completes uv.lock with the same versions and hashes.")
            return 1 if found else 0
        else:
            path.write_text(neutral(path.read_text(encoding="utf-8")), encoding="utf-8")
            print("uv.lock is neutral.")
    except (LockError, OSError) as error:
        print(f"lock: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
