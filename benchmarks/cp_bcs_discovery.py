"""Finding functions and their instruction-level control flow in the system's libxml2 and libsqlite3, against angr.

Each sample is taken in a fresh process, the candidates in turns, and counts from opening the file on: what a process
imports is left out. ``cp-bcs functions /bin/ls`` is timed in all, from the start of Python to the end, once Python has
compiled the modules.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from goals import Goal
from interleaved import RESULTS, installed, write_result

LIBRARIES = (Path("/usr/lib/x86_64-linux-gnu/libxml2.so.2"), Path("/usr/lib/x86_64-linux-gnu/libsqlite3.so.0"))
PROGRAM = Path("/bin/ls")
TIMES_FASTER = 30.0
SECONDS_IN_ALL = 2.0
CLOCK = "minimum CPU time (user and system) over fresh processes, interleaved; the wall time of the same samples beside"


def ours(path: Path) -> dict[str, int]:
    """Functions and control flow by this package."""
    from cp_bcs import Program

    program = Program.read(path)
    graphs = [program.flow_graph(function) for function in program.functions]
    instructions = sum(len(graph.instructions) for graph in graphs)
    return {"functions": len(graphs), "instructions": instructions, "edges": sum(len(graph.edges) for graph in graphs)}


def theirs(path: Path) -> dict[str, int]:
    """The same by angr: its nodes are basic blocks of whole instructions."""
    angr: Any = importlib.import_module("angr")
    project = angr.Project(str(path), auto_load_libs=False)
    graph = project.analyses.CFGFast(normalize=True).model
    instructions = sum(len(node.instruction_addrs) for node in graph.nodes())
    return {"functions": len(project.kb.functions), "instructions": instructions}


CANDIDATES = {"cp-bcs": ours, "angr": theirs}


def sample_here(name: str, path: Path) -> dict[str, Any]:
    """Time one candidate in this process."""
    logging.disable(logging.CRITICAL)
    importlib.import_module({"cp-bcs": "cp_bcs.binary.program", "angr": "angr"}[name])
    cpu, wall = time.process_time(), time.perf_counter()
    counts = CANDIDATES[name](path)
    return {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, **counts}


def sample(name: str, path: Path) -> dict[str, Any]:
    """Time one candidate in a fresh process."""
    command = [sys.executable, __file__, "--one", name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def sample_in_all(path: Path, bytecode: Path) -> dict[str, float]:
    """Time ``cp-bcs functions`` from its start to its end; what Python compiles once is kept in a folder."""
    command = [sys.executable, "-c", "from cp_bcs.cli import main; main()", "functions", str(path)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(bytecode)}
    before, wall = os.times(), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=True)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return {"cpu_s": cpu, "wall_s": time.perf_counter() - wall}


def least(samples: list[dict[str, Any]], what: str) -> float:
    """The least of some samples."""
    return min(each[what] for each in samples)


def main() -> None:
    """Measure, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="ours alone, on one small program, in seconds")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each; angr takes minutes for one")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    parser.add_argument("--one", nargs=2, metavar=("WHO", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(sample_here(arguments.one[0], Path(arguments.one[1]))))
        return
    wanted = (PROGRAM,) if arguments.smoke else LIBRARIES
    names = [name for name in CANDIDATES if name == "cp-bcs" or (installed("angr") and not arguments.smoke)]
    rounds = 1 if arguments.smoke else arguments.rounds
    absent = [path.name for path in (*wanted, PROGRAM) if not path.exists()]
    absent += [name for name in CANDIDATES if name not in names]
    print(f"not measured: {', '.join(absent) or 'nothing'}")
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    goals: list[Goal] = []
    for path in (path for path in wanted if path.exists()):
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                found[name].append(sample(name, path))
        results[path.name] = found
        for name, samples in found.items():
            counts = {key: value for key, value in samples[0].items() if not key.endswith("_s")}
            print(
                f"{path.name:18}{name:8}{least(samples, 'cpu_s'):9.2f} s CPU{least(samples, 'wall_s'):9.2f} s  {counts}"
            )
        if "angr" in found:
            ratio = least(found["angr"], "cpu_s") / least(found["cp-bcs"], "cpu_s")
            goals.append(Goal(f"{path.name}: times angr's CFGFast", ratio, TIMES_FASTER, True))
    with TemporaryDirectory() as folder:  # the first sample compiles, as an installation does, and does not count
        taken = [sample_in_all(PROGRAM, Path(folder)) for _ in range(rounds + 1)] if PROGRAM.exists() else []
    in_all = taken[1:]
    if in_all:
        print(f"{PROGRAM.name:18}in all  {least(in_all, 'cpu_s'):9.2f} s CPU{least(in_all, 'wall_s'):9.2f} s")
        if not arguments.smoke:
            goals.append(Goal("functions of ls in all: CPU seconds", least(in_all, "cpu_s"), SECONDS_IN_ALL))
    print("\n".join(goal.line() for goal in goals))
    record = {
        "smoke": arguments.smoke,
        "absent": absent,
        "clock": CLOCK,
        "results": results,
        "ls_in_all": in_all,
        "goals": [goal.record() for goal in goals],
    }
    path = write_result("cp_bcs_discovery", record, ("cp-bcs", "capstone", "pyelftools", "angr"), arguments.out)
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
