"""Files and folders that are either complete or absent, whenever the process or the machine stops.

Everything is written under a temporary name in the same folder, flushed to disk (fsync), then renamed: a
rename inside one file system is atomic.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpo_core.errors import UsageError

TEMPORARY_PREFIX = ".tmp-"


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write a file that readers see with its old content or its new one, never with a part.

    Args:
        path: the file.
        data: the whole new content.

    Raises:
        UsageError: its folder does not exist.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no folder to write {path.name} into; make it first.")
    temporary = _temporary_sibling(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_json_atomic(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically.

    Raises:
        ValueError: the value holds NaN or infinity, which JSON has no word for.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes_atomic(path, (text + "\n").encode())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder that appears under its name only when the block has ended without an error.

    Args:
        path: the folder to make; it must not exist, or be empty. Parents are made as needed.

    Yields:
        The temporary sibling folder to write into.

    Raises:
        FileExistsError: something is already there.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} already exists and is not an empty folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        _fsync_tree(temporary)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder so that no reader ever finds a part of it under its name."""
    temporary = _temporary_sibling(path)
    path.replace(temporary)
    shutil.rmtree(temporary)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left under temporary names; nobody else may be writing in ``folder``."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def fsync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            fsync_folder(path)
    fsync_folder(folder)


def _temporary_sibling(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:8]}")
