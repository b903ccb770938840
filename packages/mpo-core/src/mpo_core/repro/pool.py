"""Independent jobs on several processes, or on Ray with the extra ``mpo-core[ray]``, behind one function.

Every job runs in a worker process, also with ``workers=1``, and each worker has its number of threads set
before it imports torch: sums over threads depend on their number in the last bit, and results must not depend
on how many workers there are, nor on what the calling process did with torch before.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Literal, TypeVar

from mpo_core.errors import MissingPartError, MPOError, UsageError

Backend = Literal["process", "ray"]
Job = TypeVar("Job")
Result = TypeVar("Result")

TICK_SECONDS = 0.5
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class JobPool:
    """Workers that stay for several batches of jobs (importing torch takes them seconds); a context manager.

    Args:
        workers: jobs at a time, ``None`` for one per usable core. A worker starts when there is a job for it.
        threads: threads of OpenMP, MKL and torch in each worker.
        backend: ``process``, or ``ray``: on the cluster that the address in ``RAY_ADDRESS`` names, or on this
            machine. Folders that jobs write must then be on a shared file system.

    Raises:
        MissingPartError: Ray is asked for and not installed.
        UsageError: fewer than one worker or thread, or an unknown backend.
    """

    def __init__(self, workers: int | None = None, threads: int = 1, backend: Backend = "process") -> None:
        workers = usable_cores() if workers is None else workers
        if workers < 1 or threads < 1:
            raise UsageError(f"workers and threads must be at least 1, found {workers} and {threads}.")
        if backend not in ("process", "ray"):
            raise UsageError(f"the backend {backend!r} is unknown; expected process or ray.")
        self._ray = _import_ray() if backend == "ray" else None
        self._workers = workers
        self._threads = threads
        self._stack = ExitStack()
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> JobPool:
        """Make ready; nothing starts yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the workers, whatever they do."""
        self._stack.close()
        self._executor = None

    def run(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        *,
        on_done: Callable[[Job, Result], None] | None = None,
        on_tick: Callable[[], None] | None = None,
    ) -> list[Result]:
        """Call a function on each job and return the results in the jobs' order.

        Args:
            function: a function of a module (workers import it by name).
            jobs: its arguments, which pickle can carry to a worker.
            on_done: called in this process as each job ends, in the order of ending.
            on_tick: called in this process about twice a second while jobs run.

        Raises:
            MPOError: what a job raised, of its own type; or a worker died (killed, out of memory); leaving
                the pool then stops the others.
        """
        if not jobs:
            return []
        done = on_done or (lambda _job, _result: None)
        tick = on_tick or (lambda: None)
        results: dict[int, Result] = {}
        if self._ray is None:
            ended = _run_on_processes(self._started_executor(), function, jobs, tick)
        else:
            ended = _run_on_ray(self._ray, self._workers, self._threads, function, jobs, tick)
        for index, result in ended:
            results[index] = result
            done(jobs[index], result)
        return [results[index] for index in range(len(jobs))]

    def _started_executor(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            # The workers hold the reading end, and end when this one closes: on leaving, or when this process dies.
            stop_reader, alive = context.Pipe(duplex=False)
            self._stack.enter_context(_environment(_thread_variables(self._threads)))
            self._stack.callback(stop_reader.close)
            initial = (stop_reader, self._threads)
            self._executor = ProcessPoolExecutor(self._workers, context, _start_worker, initial)
            self._stack.callback(self._executor.shutdown, wait=True, cancel_futures=True)
            self._stack.callback(alive.close)
        return self._executor


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    threads: int = 1,
    backend: Backend = "process",
    on_done: Callable[[Job, Result], None] | None = None,
    on_tick: Callable[[], None] | None = None,
) -> list[Result]:
    """Call a function on each job, several at a time: `JobPool.run` with workers of its own."""
    with JobPool(workers, threads, backend) as pool:
        return pool.run(function, jobs, on_done=on_done, on_tick=on_tick)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_on_processes(
    executor: ProcessPoolExecutor,
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    tick: Callable[[], None],
) -> Iterator[tuple[int, Result]]:
    try:
        futures = {executor.submit(_call, function, job): index for index, job in enumerate(jobs)}
        pending = set(futures)
        while pending:
            ended, pending = wait(pending, TICK_SECONDS, FIRST_COMPLETED)
            tick()
            for future in ended:
                yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise MPOError(
            "a worker process died before its job ended (killed, or out of memory?); "
            "try again with fewer workers: finished work is kept, and a run resumes."
        ) from error


def _start_worker(stop_reader: Connection, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, args=(stop_reader,), daemon=True).start()
    if "torch" in sys.modules:  # the caller's own script, imported by spawn, may have done so
        sys.modules["torch"].set_num_threads(threads)


def _end_with_parent(stop_reader: Connection) -> None:
    try:
        stop_reader.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)  # at once, in the middle of anything: whatever a job writes must bear a kill anyway


def _call(function: Callable[[Job], Result], job: Job) -> Result:
    try:
        return function(job)
    except Exception as error:
        raise _portable(error) from error


def _portable(error: Exception) -> Exception:
    """The error itself when pickle can carry it to the parent; else its words."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (made in this process)
    except Exception:
        return MPOError(f"{type(error).__name__}: {error}")
    return error


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingPartError(
            "the backend ray needs Ray, which is not installed; install mpo-core[ray], or use process."
        ) from error


def _run_on_ray(
    ray: Any,
    workers: int,
    threads: int,
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    tick: Callable[[], None],
) -> Iterator[tuple[int, Result]]:
    started_here = not ray.is_initialized()
    variables = _thread_variables(threads)
    # Workers import the function's module by name, so they need this process's search path.
    variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    if started_here:
        ray.init(log_to_driver=False, include_dashboard=False, runtime_env={"env_vars": variables})
    remote = ray.remote(num_cpus=threads, max_retries=0, runtime_env={"env_vars": variables})(_call)
    running: dict[Any, int] = {}
    waiting = list(enumerate(jobs))[::-1]
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                index, job = waiting.pop()
                running[remote.remote(function, job)] = index
            ended, _ = ray.wait(list(running), num_returns=1, timeout=TICK_SECONDS)
            tick()
            for reference in ended:
                yield running.pop(reference), _ray_result(ray, reference)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if started_here:
            ray.shutdown()


def _ray_result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise MPOError(
            f"a Ray worker died before its job ended ({type(error).__name__}: killed, or out of memory?); "
            "try again with fewer workers: finished work is kept, and a run resumes."
        ) from error


def _thread_variables(threads: int) -> dict[str, str]:
    return {name: str(threads) for name in THREAD_VARIABLES}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started in the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
