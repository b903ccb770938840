"""What angr does here, in a worker process: it is told where functions lie, and writes the pseudo code of one.

angr's own search cuts functions short (a first instruction that jumps is taken for a tail call), takes minutes for a
large library, and what it writes of a function depends on which others it has read before. So each function gets a
knowledge base of its own, with a control-flow graph of its extent and of the extents of the functions that it calls.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from mpo_core.errors import MissingPartError

Job = Mapping[str, Any]
"""``function``: [address, end, thumb]; ``callees``: a list of the same."""

_KIND = 4
"""Offset of the kind in a section header."""


def angr_version() -> str:
    """The installed version.

    Raises:
        MissingPartError: there is none.
    """
    try:
        return version("angr")
    except PackageNotFoundError:
        raise MissingPartError("pseudo code needs angr, which is not installed; install cp-bcs[angr].") from None


def import_angr() -> Any:
    """The module, told to keep quiet.

    Raises:
        MissingPartError: it is not installed, or with packages that it cannot work with.
    """
    angr_version()
    logging.disable(logging.CRITICAL)
    try:
        return importlib.import_module("angr")
    except Exception as error:
        raise MissingPartError(f"angr cannot be imported ({error}); install it with cp-bcs[angr].") from error


def without_symbols(data: bytes) -> bytes:
    """An ELF file as if its static symbol table had been stripped: its sections of that kind are marked unused.

    Args:
        data: the whole file, which `read_image` accepts.
    """
    elf = ELFFile(BytesIO(data))
    stripped = bytearray(data)
    for number in range(elf.num_sections()):
        if elf.get_section(number)["sh_type"] == "SHT_SYMTAB":
            place = elf["e_shoff"] + number * elf["e_shentsize"] + _KIND
            stripped[place : place + 4] = bytes(4)
    return bytes(stripped)


def open_for_pseudo_code(argument: Mapping[str, Any]) -> Callable[[Job], dict[str, Any]]:
    """Load a file; returns what writes the pseudo code of one function.

    Args:
        argument: ``path``; ``symbols``, whether the static symbol table is read.
    """
    project, base = _open(argument)
    flow_graphs = _flow_graph_class()
    modes: Any = importlib.import_module("angr.analyses.complete_calling_conventions")
    angr: Any = importlib.import_module("angr")
    stubs = [(s.vaddr, s.vaddr + s.memsize) for s in project.loader.main_object.sections if s.name.startswith(".plt")]

    def write(job: Job) -> dict[str, Any]:
        extents = [(a + base, end + base, int(thumb)) for a, end, thumb in (job["function"], *job["callees"])]
        first, last, thumb = extents[0]
        project.kb = angr.KnowledgeBase(project)
        flow_graphs.ends = {a + mode: end for a, end, mode in extents}
        graphs = project.analyses[flow_graphs].prep()(
            regions=sorted([(a, end) for a, end, _ in extents] + stubs),
            function_starts=list(flow_graphs.ends),
            start_at_entry=False,
            symbols=False,
            eh_frame=False,
            function_prologues=False,
            force_smart_scan=False,
            normalize=True,
            data_references=True,
        )
        fast = modes.CallingConventionAnalysisMode.FAST
        project.analyses.CompleteCallingConventions(mode=fast, recover_variables=False, cfg=graphs.model)
        function = project.kb.functions.get_by_addr(first + thumb)
        made = project.analyses.Decompiler(function, cfg=graphs.model)
        covered = sum(block.size for block in function.blocks) / (last - first)
        said = "; ".join(f"{error.exc_type.__name__}: {error.exc_value}" for error in made.errors)
        text = None if made.codegen is None else made.codegen.text
        return {"text": text, "covered": round(covered, 4), "name": function.name, "said": said[:500]}

    return write


def open_for_discovery(argument: Mapping[str, Any]) -> Callable[[Any], list[list[int]]]:
    """Load a file; returns what finds its functions as angr does by itself: address, size and Thumb of each."""
    project, base = _open(argument)
    arm = project.arch.name.startswith("ARM")

    def find(_: Any) -> list[list[int]]:
        project.analyses.CFGFast(normalize=True)
        found: list[list[int]] = []
        for function in project.kb.functions.values():
            address = function.addr & ~1 if arm else function.addr
            inside = project.loader.main_object.contains_addr(address)
            if inside and not (function.is_plt or function.is_simprocedure or function.is_alignment):
                found.append([address - base, function.size, int(arm and bool(function.addr & 1))])
        return sorted(found)

    return find


def _open(argument: Mapping[str, Any]) -> tuple[Any, int]:
    """The project of a file, and what angr adds to the file's addresses."""
    angr = import_angr()
    _silence()
    data = Path(argument["path"]).read_bytes()
    project = angr.Project(BytesIO(data if argument["symbols"] else without_symbols(data)), auto_load_libs=False)
    main = project.loader.main_object
    return project, main.mapped_base - main.linked_base


def _silence() -> None:
    """The libraries under angr write to the terminal what they cannot decode."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _flow_graph_class() -> Any:
    """The search of angr for control flow, which leaves a function only where its extent ends."""
    search: Any = importlib.import_module("angr.analyses.cfg.cfg_fast").CFGFast

    class FlowGraphsOfExtents(search):
        ends: Mapping[int, int] = {}

        def _is_branching_to_outside(
            self, src_node: Any, target_addr: int, current_function_addr: int, *rest: Any
        ) -> tuple[bool, int]:
            if self._inside(current_function_addr, target_addr):
                return False, current_function_addr
            return super()._is_branching_to_outside(src_node, target_addr, current_function_addr, *rest)

        def _is_likely_function_thunk(self, src: Any, src_funcaddr: int, all_edges: Any) -> bool:
            if any(self._inside(src_funcaddr, target.addr) for _, target, _ in all_edges or ()):
                return False
            return super()._is_likely_function_thunk(src, src_funcaddr, all_edges)

        def _inside(self, start: int, target: int) -> bool:
            return start < target < self.ends.get(start, 0)

    return FlowGraphsOfExtents
