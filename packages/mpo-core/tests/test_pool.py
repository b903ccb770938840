from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mpo_core.errors import BondError, MissingPartError, MPOError, UsageError
from mpo_core.repro.pool import run_jobs, usable_cores

TOYS = Path(__file__).parent / "toys"


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOYS))
    return importlib.import_module("pooljobs")


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_results_keep_the_order_of_jobs(toys: Any) -> None:
    done: list[tuple[int, int]] = []
    results = run_jobs(toys.slow_first, [0, 1, 2], workers=2, on_done=lambda job, result: done.append((job, result)))
    assert results == [0, 1, 2]
    assert done[-1] == (0, 0)
    assert sorted(done) == [(0, 0), (1, 1), (2, 2)]


def test_no_jobs_is_no_work(toys: Any) -> None:
    assert run_jobs(toys.square, [], workers=2) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_set_before_torch_also_with_one_worker(
    toys: Any, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    (seen,) = run_jobs(toys.about_the_worker, [0], workers=1, threads=threads)
    assert seen["OMP_NUM_THREADS"] == seen["MKL_NUM_THREADS"] == str(threads)
    assert seen["torch"] == threads
    assert seen["pid"] != os.getpid()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_an_error_comes_back_as_itself(toys: Any) -> None:
    with pytest.raises(BondError) as caught:
        run_jobs(toys.fail, [0, 1, 2], workers=1)
    assert str(caught.value) == "bond 3 of 'encoder' is 0; expected a positive integer."


def test_an_error_that_pickle_cannot_carry_comes_back_in_words(toys: Any) -> None:
    with pytest.raises(MPOError, match="StubbornError: something at there"):
        run_jobs(toys.fail_stubbornly, [0], workers=1)


def test_a_killed_worker_is_one_sentence(toys: Any) -> None:
    with pytest.raises(MPOError, match="a worker process died before its job ended"):
        run_jobs(toys.die, [0, 1, 2, 3], workers=2)


def test_interrupt_stops_the_workers(toys: Any, tmp_path: Path) -> None:
    def interrupt() -> None:
        if list(tmp_path.iterdir()):
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(toys.hang, [str(tmp_path)], workers=1, on_tick=interrupt)
    assert time.monotonic() - started < 20
    (worker,) = (int(path.name) for path in tmp_path.iterdir())
    wait_until(lambda: not alive(worker))


def test_workers_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import pooljobs; from mpo_core.repro.pool import run_jobs\n"
        "if __name__ == '__main__':\n"
        "    run_jobs(pooljobs.hang, [sys.argv[2]] * 2, workers=2)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(TOYS), str(tmp_path)], start_new_session=True)
    try:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        workers = [int(path.name) for path in tmp_path.iterdir()]
        assert all(alive(worker) for worker in workers)
        parent.kill()
        parent.wait()
        wait_until(lambda: not any(alive(worker) for worker in workers))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()


def test_wrong_numbers_are_refused(toys: Any) -> None:
    with pytest.raises(UsageError, match="at least 1, found 0 and 1"):
        run_jobs(toys.square, [1], workers=0)
    with pytest.raises(UsageError, match="the backend 'dask' is unknown"):
        run_jobs(toys.square, [1], backend="dask")  # pyright: ignore[reportArgumentType]


def test_usable_cores() -> None:
    assert usable_cores() >= 1


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_ray_is_asked_for_by_its_extra(toys: Any) -> None:
    with pytest.raises(MissingPartError, match=r"mpo-core\[ray\]"):
        run_jobs(toys.square, [1], backend="ray")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra mpo-core[ray])")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_does_the_same(toys: Any) -> None:
    assert run_jobs(toys.square, [3, 1, 2], workers=2, backend="ray") == [9, 1, 4]
    with pytest.raises(BondError, match="bond 3 of 'encoder' is 0"):
        run_jobs(toys.fail, [0, 1, 2], workers=1, backend="ray")
    with pytest.raises(MPOError, match="a Ray worker died"):
        run_jobs(toys.die, [1], workers=1, backend="ray")
    (seen,) = run_jobs(toys.about_the_worker, [0], workers=1, threads=1, backend="ray")
    assert seen["OMP_NUM_THREADS"] == "1"
    assert seen["torch"] == 1
