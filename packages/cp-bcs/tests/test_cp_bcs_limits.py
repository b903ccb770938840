from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cp_bcs.decompile.limits import LimitedWorker, Limits
from mpo_core.errors import MPOError

TOYS = Path(__file__).parent / "toys"
TIGHT = Limits(cpu_seconds=1, wall_seconds=4, memory_mb=220)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOYS))
    return importlib.import_module("limitedtasks")


def test_one_process_does_job_after_job(toys: Any) -> None:
    before = os.environ.get("PYTHONHASHSEED")
    with LimitedWorker(toys.begin, None) as worker:
        first = worker.run("pid").value
        assert first != os.getpid()
        assert worker.run({"any": ["JSON", None]}).value == {"any": ["JSON", None]}
        assert worker.run("pid").value == first
        assert worker.run("jobs so far").value == 4
        assert worker.run("hash seed").value == "0"
        failed = worker.run("fail")
        assert (failed.failure, failed.detail) == ("error", "KeyError: 'no such block'")
        assert worker.run("unspeakable").failure == "error"
        assert worker.run("pid").value == first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert os.environ.get("PYTHONHASHSEED") == before


def test_what_breaks_a_worker_costs_one_job(toys: Any) -> None:
    with LimitedWorker(toys.begin, None, TIGHT) as worker:
        crashed = worker.run("crash")
        assert (crashed.failure, crashed.detail) == ("died", "SIGSEGV")
        assert worker.run("jobs so far").value == 1
        killed = worker.run("killed")
        assert (killed.failure, killed.detail) == ("killed", "SIGKILL")
        assert worker.run("jobs so far").value == 1


def test_processor_time_and_waiting_are_limited(toys: Any) -> None:
    with LimitedWorker(toys.begin, None, Limits(cpu_seconds=1, wall_seconds=60)) as worker:
        spinning = worker.run("spin")
        assert (spinning.failure, spinning.detail) == ("time", "1 s of CPU or 60 s by the clock")
    with LimitedWorker(toys.begin, None, Limits(cpu_seconds=60, wall_seconds=1)) as worker:
        started = worker.run("pid")
        before = time.monotonic()
        assert worker.run("sleep").failure == "time"
        assert time.monotonic() - before < 10
        assert worker.run("pid").value != started.value


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells the memory of a process")
def test_memory_is_limited(toys: Any) -> None:
    with LimitedWorker(toys.begin, None, Limits(cpu_seconds=30, memory_mb=220)) as worker:
        hungry = worker.run("eat")
        assert hungry.failure == "memory"
        used, of = (int(word) for word in hungry.detail.replace(" MiB of", "").split())
        assert 220 == of < used < 900


def test_a_worker_that_died_while_it_waited_is_replaced(toys: Any) -> None:
    with LimitedWorker(toys.begin, None) as worker:
        first = worker.run("pid").value
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert worker.run("jobs so far").value == 1


def test_a_worker_that_cannot_begin_says_why(toys: Any) -> None:
    with (
        LimitedWorker(toys.begin, "broken") as worker,
        pytest.raises(MPOError, match=r"did not start \(error\): ValueError: nothing begins here\."),
    ):
        worker.run("pid")


def test_a_busy_worker_does_not_outlive_its_parent(toys: Any, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "from cp_bcs.decompile.limits import LimitedWorker, Limits\n"
        "import limitedtasks\n"
        "if __name__ == '__main__':\n"
        "    with LimitedWorker(limitedtasks.begin, None, Limits(cpu_seconds=60, wall_seconds=2)) as worker:\n"
        "        print(worker.run('pid').value, flush=True)\n"
        "        worker.run('sleep')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(TOYS)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline, "the worker lives on"
        time.sleep(0.05)
