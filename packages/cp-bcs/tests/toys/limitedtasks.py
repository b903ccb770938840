"""What workers with limits do in the tests: importable by name, so that a fresh process finds it."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def begin(argument: Any) -> Callable[[Any], Any]:
    if argument == "broken":
        raise ValueError("nothing begins here")
    done: list[Any] = []

    def work(job: Any) -> Any:
        done.append(job)
        return ACTIONS[job](done) if isinstance(job, str) else job

    return work


def _eat(_: list[Any]) -> int:
    eaten = bytearray()
    while True:
        eaten += bytes(8 << 20)
        time.sleep(0.005)


def _spin(_: list[Any]) -> None:
    while True:
        pass


def _sleep(_: list[Any]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    time.sleep(600)


def _crash(_: list[Any]) -> None:
    ctypes.string_at(0)


def _killed(_: list[Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fail(_: list[Any]) -> None:
    raise KeyError("no such block")


ACTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "eat": _eat,
    "spin": _spin,
    "sleep": _sleep,
    "crash": _crash,
    "killed": _killed,
    "fail": _fail,
    "pid": lambda _: os.getpid(),
    "jobs so far": len,
    "hash seed": lambda _: os.environ.get("PYTHONHASHSEED"),
    "unspeakable": lambda _: object(),
}


def begin_writing(argument: dict[str, Any]) -> Callable[[Any], Any]:
    """Stands in for a decompiler: it writes down each function that it is asked for, and fails as it is told."""

    def write(job: dict[str, Any]) -> dict[str, Any]:
        address, end, _ = job["function"]
        with Path(argument["path"]).with_suffix(".asked").open("a") as log:
            log.write(f"{address}\n")
        told = Path(argument["path"]).with_suffix(".told")
        action = told.read_text().split() if told.exists() else []
        if len(action) == 2 and int(action[0]) == address:
            ACTIONS[action[1]]([])
        covered = 0.5 if (end - address) % 2 else 1.0
        callees = len(job["callees"])
        text = f"void sub_{address:x}(void)\n{{\n    // {callees}\n}}\n"
        return {"text": text, "covered": covered, "name": f"sub_{address:x}", "said": ""}

    return write
