"""Pseudo code of a binary's functions: from a cache by content, else from angr in a process with limits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cp_bcs.binary.functions import Function
from cp_bcs.binary.program import Program
from cp_bcs.decompile.angr_backend import angr_version, open_for_pseudo_code
from cp_bcs.decompile.limits import Failure, LimitedWorker, Limits, Work
from mpo_core.repro.atomic import write_json_atomic

COVERED = 0.6
"""Share of a function's bytes that its pseudo code stands for at least, unless it is truncated."""
LARGEST = 1500
"""Bytes of a function that is decompiled, unless told otherwise: the time goes into a few large ones."""

_LARGEST_CALLEE = 4096
_MOST_CALLEES = 60
_REVISION = 1
"""Of what angr is asked: a new one makes the cache forget."""


@dataclass(frozen=True)
class PseudoCode:
    """What a decompiler made of a function.

    Args:
        text: the pseudo code; None where there is none.
        failure: why there is none: see `Outcome`; ``large``, the function was not tried.
        detail: of the failure.
        covered: share of the function's bytes that the pseudo code stands for.
        name: what the decompiler calls the function.
    """

    text: str | None = None
    failure: Failure | Literal["large"] | None = None
    detail: str = ""
    covered: float = 0.0
    name: str = ""

    @property
    def truncated(self) -> bool:
        """Whether the decompiler saw only a part of the function."""
        return self.text is not None and self.covered < COVERED


@dataclass(frozen=True)
class Backend:
    """Who writes pseudo code.

    Args:
        name: with the version.
        start: a function of a module: what opens a file in a worker process, see `open_for_pseudo_code`.
    """

    name: str
    start: Callable[[Any], Work]


def angr_backend() -> Backend:
    """The backend angr.

    Raises:
        MissingPartError: it is not installed.
    """
    return Backend(f"angr {angr_version()}", open_for_pseudo_code)


class Decompiler:
    """Writes pseudo code, and keeps it: work that was done is not done again, whenever the process was stopped.

    Args:
        cache: folder; what is in it is found by the file's hash, the function, angr's version and the options.
        limits: of one function.
        largest: bytes of a function that is tried at all.
        backend: angr unless given.

    Raises:
        MissingPartError: angr is not installed.
    """

    def __init__(
        self, cache: Path, limits: Limits | None = None, largest: int = LARGEST, backend: Backend | None = None
    ) -> None:
        self.backend = backend or angr_backend()
        self._cache = cache
        self._limits = limits or Limits()
        self._largest = largest

    def decompile(
        self,
        path: Path,
        wanted: Collection[int] | None = None,
        *,
        symbols: bool = True,
        on_done: Callable[[int, int], None] | None = None,
    ) -> dict[int, PseudoCode]:
        """The pseudo code of functions of a file.

        Args:
            path: an ELF file.
            wanted: addresses of functions; all unless given. An address at which no function begins is left out.
            symbols: whether the static symbol table is looked at; without it the file is as if it were stripped.
            on_done: called with how many functions are done, and of how many.

        Raises:
            InputFileError: see `read_image`.
            MPOError: angr cannot load the file.
        """
        program = Program.read(path)
        if not symbols:
            program = Program(replace(program.image, symbols=()))
        functions = [each for each in program.functions if wanted is None or each.address in wanted]
        told: dict[int, PseudoCode] = {}
        with LimitedWorker(self.backend.start, {"path": str(path), "symbols": symbols}, self._limits) as worker:
            for function in functions:
                told[function.address] = self._one(program, function, symbols, worker)
                if on_done is not None:
                    on_done(len(told), len(functions))
        return told

    def _one(self, program: Program, function: Function, symbols: bool, worker: LimitedWorker) -> PseudoCode:
        if function.size > self._largest:
            return PseudoCode(failure="large", detail=f"{function.size} bytes")
        job = _job(program, function)
        key = json.dumps([_REVISION, self.backend.name, program.image.sha256, symbols, job])
        digest = hashlib.sha256(key.encode()).hexdigest()
        place = self._cache / digest[:2] / f"{digest}.json"
        known = self._read(place)
        if known is not None:
            return known
        outcome = worker.run(job)
        made = PseudoCode(failure=outcome.failure, detail=outcome.detail)
        if outcome.failure is None:
            value = outcome.value
            made = PseudoCode(value["text"], None, value["said"], value["covered"], value["name"])
            if made.text is None:
                made = replace(made, failure="error")
        if made.failure != "killed":  # that says nothing about the function
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(place, {**asdict(made), "limits": asdict(self._limits)})
        return made

    def _read(self, place: Path) -> PseudoCode | None:
        """What is in the cache; a failure counts only under the same limits, a damaged file not at all."""
        try:
            row: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
            limits = row.pop("limits")
            known = PseudoCode(**row)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return known if known.failure is None or limits == asdict(self._limits) else None


def _job(program: Program, function: Function) -> Mapping[str, Any]:
    """What angr is told: the function, and those that it calls, from which it learns what they take and return."""
    calls = program.calls(program.flow_graph(function))
    called = {call.target for call in calls if call.target is not None} - {function.address}
    callees = [program.by_address[address] for address in sorted(called) if address in program.by_address]
    known = [_extent(each) for each in callees if each.size <= _LARGEST_CALLEE][:_MOST_CALLEES]
    return {"function": _extent(function), "callees": known}


def _extent(function: Function) -> list[int]:
    return [function.address, function.end, int(function.thumb)]
