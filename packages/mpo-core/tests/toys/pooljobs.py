"""Functions that the tests of the pool send to workers."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from mpo_core.errors import BondError


class StubbornError(Exception):
    """Cannot be pickled back: its constructor wants two arguments."""

    def __init__(self, place: str, what: str) -> None:
        super().__init__(f"{what} at {place}")


def square(x: int) -> int:
    """Squares."""
    return x * x


def slow_first(x: int) -> int:
    """The first job ends last."""
    time.sleep(0.6 if x == 0 else 0.0)
    return x


def about_the_worker(_: int) -> dict[str, object]:
    """What a worker sees before and after it imports torch."""
    variables: dict[str, object] = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    import torch

    return variables | {"torch": torch.get_num_threads(), "pid": os.getpid()}


def fail(x: int) -> int:
    """Job 1 raises an error of the workspace."""
    if x == 1:
        raise BondError("bond 3 of 'encoder' is 0; expected a positive integer.")
    return x


def fail_stubbornly(_: int) -> int:
    """Raises what pickle cannot carry."""
    raise StubbornError("there", "something")


def die(x: int) -> int:
    """Job 1 is killed as the kernel kills when memory ends."""
    if x == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def hang(folder: str) -> None:
    """Says who it is, then goes on for a minute."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)
