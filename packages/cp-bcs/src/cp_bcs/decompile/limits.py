"""Work in a process of its own, with limits: what hangs, eats memory or dies costs one job, not the run.

`mpo_core.repro.pool` shares jobs out among processes and ends when one of them dies. Here one process does one job
after another, and is replaced when a job brings it down. Jobs and answers travel as JSON: what comes back from a
process that a hostile binary may have led astray is parsed and never executed.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from mpo_core.errors import MPOError

Failure = Literal["error", "time", "memory", "died", "killed"]
Work = Callable[[Any], Any]

TICK_SECONDS = 0.05
ENDING_SECONDS = 5
START_SECONDS = 600
"""Of wall time, to import what the work needs and to open a file."""

_OUT_OF_TIME = {signal.SIGXCPU, signal.SIGALRM}
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT}


@dataclass(frozen=True)
class Limits:
    """What one job may take.

    Processor time decides, as it hardly depends on what else the machine does; wall time ends what waits.

    Args:
        cpu_seconds: of processor time.
        wall_seconds: of wall time.
        memory_mb: resident memory of the process, in MiB, where the system tells it (Linux).
    """

    cpu_seconds: int = 20
    wall_seconds: int = 300
    memory_mb: int = 2048


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Args:
        value: what the work returned.
        failure: ``error``, the work raised one; ``time`` and ``memory``, a limit; ``died``, the process crashed;
            ``killed``, by somebody else. None where there is a value.
        detail: the error, or how the process ended.
    """

    value: Any = None
    failure: Failure | None = None
    detail: str = ""


class LimitedWorker:
    """One process that does jobs within limits; it starts with the first job. A context manager.

    Args:
        start: a function of a module; called once in each new process, it returns the function that does the jobs.
        argument: of `start`, fit for JSON.
        limits: of each job.
    """

    def __init__(self, start: Callable[[Any], Work], argument: Any, limits: Limits | None = None) -> None:
        self._start_work = start
        self._argument = argument
        self._limits = limits or Limits()
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> LimitedWorker:
        """Make ready; nothing starts yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the process, whatever it does."""
        self._stop()

    def run(self, job: Any) -> Outcome:
        """Do a job.

        Args:
            job: fit for JSON, as is what the work returns.

        Raises:
            MPOError: the process did not come up.
        """
        connection = self._connection or self._started()
        try:
            connection.send_bytes(json.dumps(job).encode())
        except OSError:  # it died while it waited: this job is not to blame
            self._stop()
            connection = self._started()
            connection.send_bytes(json.dumps(job).encode())
        outcome = self._answer(connection)
        if self._memory_mb() > self._limits.memory_mb / 2:  # what earlier jobs left is not the next one's fault
            self._stop()
        return outcome

    def _started(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, self._start_work, self._argument, self._limits)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        with _fixed_hashes():
            self._process.start()
        theirs.close()
        outcome = self._answer(self._connection)
        if outcome.failure:
            self._stop()
            raise MPOError(f"the worker process did not start ({outcome.failure}): {outcome.detail}.")
        return self._connection

    def _answer(self, connection: Connection) -> Outcome:
        """Wait for what the process says; when it ends without a word, tell why."""
        try:
            while not connection.poll(TICK_SECONDS):
                used = self._memory_mb()
                if used > self._limits.memory_mb:
                    self._stop()
                    return Outcome(failure="memory", detail=f"{used} MiB of {self._limits.memory_mb}")
            return Outcome(**json.loads(connection.recv_bytes()))
        except (EOFError, OSError):
            return self._ended()
        except (TypeError, ValueError):
            self._stop()
            return Outcome(failure="died", detail="it sent what is no answer")

    def _ended(self) -> Outcome:
        process = self._process
        if process is not None:
            process.join(ENDING_SECONDS)
        self._stop()
        code = (process.exitcode if process is not None else None) or 0
        number = signal.Signals(-code) if code < 0 else None
        if number in _OUT_OF_TIME:
            detail = f"{self._limits.cpu_seconds} s of CPU or {self._limits.wall_seconds} s by the clock"
            return Outcome(failure="time", detail=detail)
        detail = number.name if number else f"exit code {code}"
        return Outcome(failure="killed" if number in _FROM_OUTSIDE else "died", detail=detail)

    def _memory_mb(self) -> int:
        """Resident memory of the process."""
        if self._process is None:
            return 0
        try:
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):  # it has just ended, or this is no Linux
            return 0
        return pages * resource.getpagesize() >> 20

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


@contextmanager
def _fixed_hashes() -> Iterator[None]:
    """Processes that start in the block order their sets of names alike, so that the same job has the same answer."""
    name = "PYTHONHASHSEED"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _serve(connection: Connection, start: Callable[[Any], Work], argument: Any, limits: Limits) -> None:
    """The life of a worker. The system ends it when its time is up, also when nobody is left to watch it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    signal.alarm(START_SECONDS)
    try:
        work = start(argument)
    except Exception as error:
        connection.send_bytes(_said("error", error))
        return
    answer = b"{}"
    while True:
        signal.alarm(0)
        try:
            connection.send_bytes(answer)
            job = json.loads(connection.recv_bytes())
        except (EOFError, OSError):  # the parent is gone
            os._exit(0)
        _allow(limits)
        try:
            answer = json.dumps({"value": work(job)}).encode()
        except MemoryError as error:
            answer = _said("memory", error)
        except Exception as error:
            answer = _said("error", error)


def _allow(limits: Limits) -> None:
    used = math.ceil(time.process_time())
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    wanted = used + limits.cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    signal.alarm(limits.wall_seconds)


def _said(failure: Failure, error: Exception) -> bytes:
    return json.dumps({"failure": failure, "detail": f"{type(error).__name__}: {error}"[:500]}).encode()
