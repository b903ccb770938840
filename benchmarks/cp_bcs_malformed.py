"""Thousands of damaged ELF files, each read by cp-bcs as a sound one would be: what comes of it, how long, how big.

The files are the package's own C sources, built for x64, x86 and ARM (A32 and Thumb), and damaged in eight ways. Each
is either read, as far as that goes, or refused with one sentence. A file that takes longer than
`WAIT_SECONDS` ends its worker and counts as a hang.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from goals import Goal

from cp_bcs.binary.damage import DAMAGES, Damage, damaged
from cp_bcs.binary.image import Architecture
from cp_bcs.binary.program import Program
from cp_bcs.binary.reading import parse_image
from cp_bcs.data.compiling import build_embedded
from cp_bcs.summaries.survey import survey
from mpo_core.errors import InputFileError
from mpo_core.repro.memory import peak_memory_bytes

BUILDS: dict[str, tuple[Architecture, tuple[str, ...]]] = {
    "x64": ("x64", ()),
    "x86": ("x86", ()),
    "arm": ("arm", ()),
    "thumb": ("arm", ("-mthumb",)),
}
HANG_SECONDS, MEMORY_MIB = 5.0, 512
WAIT_SECONDS = 8 * HANG_SECONDS
"""For an answer, by the clock: other jobs may have the cores."""
MIB = 2**20
SLOWEST, PROGRESS = 10, 1000


class Took(NamedTuple):
    """How long one file took."""

    wall_s: float
    cpu_s: float


def read(data: bytes) -> str:
    """What becomes of one file."""
    try:
        found = survey(Program(parse_image(data, "damaged")))
    except InputFileError as error:
        return "refused" if str(error).endswith(".") and "\n" not in str(error) else f"odd refusal: {error}"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
    failed = [each.told["error"] for each in found.values() if "error" in each.told]
    return f"a function failed: {failed[0]}" if failed else "read"


def work(pipe: Connection, files: dict[str, bytes]) -> None:
    """Read the cases that come through a pipe."""
    while True:
        name, kind, seed = pipe.recv()
        wall, cpu = time.perf_counter(), time.process_time()
        outcome = read(damaged(files[name], kind, seed))
        took = Took(time.perf_counter() - wall, time.process_time() - cpu)
        pipe.send((outcome, took, peak_memory_bytes() / MIB))


class Worker:
    """A process that reads one file at a time."""

    def __init__(self, files: dict[str, bytes]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, files), daemon=True)
        self.process.start()
        other.close()

    def read(self, case: tuple[str, Damage, int]) -> tuple[str, Took, float]:
        """Outcome, time and peak memory in MiB; a worker that hangs or dies is ended."""
        self.pipe.send(case)
        try:
            if self.pipe.poll(WAIT_SECONDS):
                return self.pipe.recv()
            outcome = "hang"
        except EOFError:
            outcome = "the worker died"
        self.process.kill()
        return outcome, Took(WAIT_SECONDS, WAIT_SECONDS), 0.0

    @property
    def alive(self) -> bool:
        """Whether it can read another one."""
        return self.process.is_alive()


def _cpu(timed: tuple[Took, Any]) -> float:
    return timed[0].cpu_s


def main() -> None:
    """Damage, read, print what came of it, write the record."""
    from interleaved import RESULTS, write_result  # it imports torch, which the workers need not have

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="64 files, x64 alone")
    parser.add_argument("--files", type=int, default=10_000, help="how many")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    arguments = parser.parse_args()
    builds = {"x64": BUILDS["x64"]} if arguments.smoke else BUILDS
    count = 64 if arguments.smoke else arguments.files
    with TemporaryDirectory() as folder:
        files = {
            name: build_embedded(Path(folder) / name, architecture, "O2", flags).stripped.read_bytes()
            for name, (architecture, flags) in builds.items()
        }
    names = list(files)
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in DAMAGES}
    times: list[tuple[Took, tuple[str, Damage, int]]] = []
    peak, odd = 0.0, []
    worker = Worker(files)
    for number in range(count):
        case = (names[number % len(names)], DAMAGES[number // len(names) % len(DAMAGES)], number)
        outcome, took, memory = worker.read(case)
        if not worker.alive:
            worker = Worker(files)
        outcomes[case[1]][outcome] += 1
        times.append((took, case))
        peak = max(peak, memory)
        if outcome not in ("read", "refused"):
            odd.append([*case, outcome])
            print(f"{case}: {outcome}", flush=True)
        if (number + 1) % PROGRESS == 0:
            print(f"{number + 1:,} of {count:,} files", flush=True)
    worker.process.kill()
    for kind, found in outcomes.items():
        print(f"{kind:18}" + ", ".join(f"{many} {outcome}" for outcome, many in sorted(found.items())))
    goals = [
        Goal("files with an untyped exception, a hang or a failed function", float(len(odd)), 0.0),
        Goal("the longest that one file took: CPU seconds", max(took.cpu_s for took, _ in times), HANG_SECONDS),
        Goal("peak memory of a worker: MiB", peak, float(MEMORY_MIB)),
    ]
    print("\n".join(goal.line() for goal in goals))
    record: dict[str, Any] = {
        "smoke": arguments.smoke,
        "clock": "CPU time of each file in its worker, the wall time beside",
        "files": count,
        "builds": names,
        "outcomes": {kind: dict(found) for kind, found in outcomes.items()},
        "odd": odd,
        "slowest": [[*case, took._asdict()] for took, case in sorted(times, key=_cpu, reverse=True)[:SLOWEST]],
        "goals": [goal.record() for goal in goals],
    }
    path = write_result("cp_bcs_malformed", record, ("cp-bcs", "capstone", "pyelftools"), arguments.out)
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
