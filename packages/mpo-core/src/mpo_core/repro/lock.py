"""One process at a time on one folder: a lock that the operating system drops when its holder dies."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpo_core.errors import UsageError

LOCK = ".lock"
"""The file that is locked."""


@contextmanager
def folder_lock(folder: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder (file ``.lock``) while the block runs.

    Args:
        folder: an existing folder.
        wait_seconds: how long to wait for another holder to finish.

    Raises:
        UsageError: another process holds the lock.
    """
    deadline = time.monotonic() + wait_seconds
    with (folder / LOCK).open("a") as file:
        while not _try_lock(file.fileno()):
            if time.monotonic() >= deadline:
                raise UsageError(
                    f"another process is working on {folder} (it holds the file {LOCK}); "
                    "wait until it ends, or stop it, then try again."
                )
            time.sleep(0.05)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
