"""Times candidates side by side: minimum CPU time at one thread, interleaved in one process.

On shared cores the minimum of the process's CPU time reproduces within a few percent, wall time does not. So every
figure of this folder is a ratio of minimum CPU times, taken round after round over all candidates; the wall time at
two threads stands beside it for information.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
SAMPLE_SECONDS = 0.04
LONG_SECONDS = 5.0
"""A call that takes longer is its own warm-up, and is sampled twice."""


@dataclass(frozen=True)
class Timing:
    """What one candidate took.

    Attributes:
        cpu_s: least CPU seconds per call over the rounds, at one thread.
        wall_s: least wall seconds per call at two threads; None where it was not measured.
        rounds: number of samples behind each; two where a call takes `LONG_SECONDS`.
        calls: calls per sample.
    """

    cpu_s: float
    wall_s: float | None
    rounds: int
    calls: int


def interleave(
    candidates: Mapping[str, Callable[[], object]], rounds: int = 5, wall_rounds: int = 0
) -> dict[str, Timing]:
    """Time the candidates in turns.

    Short candidates are called several times per sample, so that each sample is at least `SAMPLE_SECONDS` long.

    Args:
        candidates: name -> function without arguments, ready to be called often.
        rounds: samples of each at one thread.
        wall_rounds: samples of each at two threads, wall time; 0 leaves it out.
    """
    torch.set_num_threads(1)
    first = {name: _seconds(function, time.process_time) for name, function in candidates.items()}
    short = {name: function for name, function in candidates.items() if first[name] < LONG_SECONDS}
    calls = {name: _calls_for(function) if name in short else 1 for name, function in candidates.items()}
    gc.collect()
    gc.freeze()  # what is there by now need not be looked through before every sample
    once = _rounds(candidates, calls, 1, time.process_time)
    again = _rounds(short, calls, rounds - 1, time.process_time)
    cpu = {name: min(once[name], again.get(name, first[name])) for name in candidates}
    wall: dict[str, float] = {}
    if wall_rounds:
        torch.set_num_threads(2)
        wall = _rounds(candidates, calls, wall_rounds, time.perf_counter)
        torch.set_num_threads(1)
    gc.unfreeze()
    taken = {name: rounds if name in short else 2 for name in candidates}
    return {name: Timing(cpu[name], wall.get(name), taken[name], calls[name]) for name in candidates}


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for all candidates alike; whether the allocator does so.

    Fresh pages cost a fifth of the time of a forward pass with a large output, and by default it is chance which of
    several candidates finds freed memory that was not given back to the system.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mmap_max, trim_threshold = -4, -1  # as in glibc's malloc.h
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def _seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    function()
    return clock() - start


def _calls_for(function: Callable[[], object]) -> int:
    return max(1, round(SAMPLE_SECONDS / max(_seconds(function, time.process_time), 1e-6)))


def _rounds(
    candidates: Mapping[str, Callable[[], object]],
    calls: Mapping[str, int],
    rounds: int,
    clock: Callable[[], float],
) -> dict[str, float]:
    best = dict.fromkeys(candidates, float("inf"))
    names = list(candidates)
    for turn in range(rounds):
        # Each begins once: what ran before leaves its traces in caches and in the allocator.
        first = turn % max(len(names), 1)
        for name in (*names[first:], *names[:first]):
            function = candidates[name]
            gc.collect()
            start = clock()
            for _ in range(calls[name]):
                function()
            best[name] = min(best[name], (clock() - start) / calls[name])
    return best


def peak_extra_bytes(setup: str, statement: str) -> int:
    """How far the resident memory of a fresh process rises above its level after `setup`.

    What `setup` has freed is given back to the system first, where the allocator can, as it would be used again unseen.

    Args:
        setup: Python lines that import and build everything the statement needs, warm-up included.
        statement: the Python line to measure.
    """
    script = "\n".join(
        [
            "import ctypes, gc, threading, time, psutil, torch",
            "torch.set_num_threads(1)",
            setup,
            "gc.collect()",
            "getattr(ctypes.CDLL(None), 'malloc_trim', lambda _: 0)(0)",
            "process = psutil.Process()",
            "start = peak = process.memory_info().rss",
            "running = True",
            "def watch():",
            "    global peak",
            "    while running:",
            "        peak = max(peak, process.memory_info().rss)",
            "        time.sleep(0.0005)",
            "watcher = threading.Thread(target=watch)",
            "watcher.start()",
            f"result = {statement}",
            "peak = max(peak, process.memory_info().rss)",
            "running = False",
            "watcher.join()",
            "print(peak - start)",
        ]
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{statement}: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout.split()[-1])


def installed(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def write_result(name: str, content: Mapping[str, Any], peers: tuple[str, ...] = (), folder: Path = RESULTS) -> Path:
    """Write one dated record, ``<name>-<date>.json``, with the machine and all versions.

    Args:
        name: of the benchmark.
        content: JSON-able; dataclasses are converted.
        peers: distributions whose versions are recorded; those not installed are listed as ``not installed``.
        folder: where to; every benchmark has the option ``--out`` for it.
    """
    record = {
        "benchmark": name,
        "date": date.today().isoformat(),
        "revision": _revision(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {peer: installed(peer) or "not installed" for peer in ("torch", "numpy", "mpo-core", *peers)},
        "python": platform.python_version(),
        "clock": "minimum CPU time at one thread, interleaved; wall time at two threads",
        **content,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{record['date']}.json"
    path.write_text(json.dumps(record, indent=1, default=_plain, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _plain(value: Any) -> Any:
    return asdict(value)


def _revision() -> str:
    folder = Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
