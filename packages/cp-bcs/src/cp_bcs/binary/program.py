"""A whole binary: its functions, their code, and who calls whom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cp_bcs.binary.exploring import Explorer
from cp_bcs.binary.flow_graph import FlowGraph, build_flow_graph
from cp_bcs.binary.functions import Function, find_functions
from cp_bcs.binary.image import Image
from cp_bcs.binary.instructions import Disassembler, Flow, Instruction
from cp_bcs.binary.jump_tables import JumpTable, find_jump_table
from cp_bcs.binary.reading import read_image
from cp_bcs.binary.stubs import Stubs, slot_of


@dataclass(frozen=True, slots=True)
class Call:
    """One call, or a jump that takes a call's place.

    Args:
        site: address of the instruction.
        target: address of the called function in this file; None for an imported or computed one.
        name: of the imported function.
        tail: a jump: the called function returns to this one's caller.
    """

    site: int
    target: int | None = None
    name: str | None = None
    tail: bool = False


class Program:
    """What is in a binary. Everything is computed when it is first asked for.

    Args:
        image: the file.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.disassembler = Disassembler(image)
        self.stubs = Stubs(self.disassembler)

    @classmethod
    def read(cls, path: str | Path) -> Program:
        """Read a linked ELF file.

        Raises:
            InputFileError: see `read_image`.
        """
        return cls(read_image(path))

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        """All functions, by address."""
        return find_functions(self.image, self.disassembler)

    @cached_property
    def by_address(self) -> Mapping[int, Function]:
        """Each function by its first address."""
        return {function.address: function for function in self.functions}

    @cached_property
    def _explorer(self) -> Explorer:
        return Explorer(self.disassembler, self.stubs)

    def code(self, function: Function) -> tuple[tuple[Instruction, ...], dict[int, JumpTable]]:
        """A function's instructions by address, and its computed jumps that were resolved."""
        if self.image.architecture == "arm":
            found = self._explorer.explore(function.address, function.thumb, function.end)
            return tuple(found.instructions[address] for address in sorted(found.instructions)), found.tables
        listing = tuple(self.disassembler.sweep(function.address, function.size))
        tables: dict[int, JumpTable] = {}
        for number, instruction in enumerate(listing):
            if instruction.mnemonic in ("jmp", "notrack jmp") and not instruction.operands.startswith("0x"):
                within = (function.address, function.end)
                table = find_jump_table(self.image, listing[:number], instruction, within)
                if table is not None:
                    tables[instruction.address] = table
        return listing, tables

    def flow_graph(self, function: Function) -> FlowGraph:
        """The control-flow graph of a function."""
        return build_flow_graph(self.disassembler, *self.code(function))

    def calls(self, graph: FlowGraph) -> list[Call]:
        """The calls that a function makes, in the order of their addresses."""
        found: list[Call] = []
        for instruction in graph.instructions:
            flow, target = self.disassembler.step(instruction)
            if flow is Flow.CALL:
                found.append(self._call(instruction, target))
        for node, target in graph.leaves:
            found.append(self._call(graph.instructions[node], target, tail=True))
        for node in graph.unresolved:
            call = self._call(graph.instructions[node], None, tail=True)
            if call.name is not None or call.target is not None:
                found.append(call)
        return sorted(found, key=lambda call: call.site)

    def _call(self, instruction: Instruction, target: int | None, tail: bool = False) -> Call:
        site = instruction.address
        if target is None:
            slot = None if self.image.architecture == "arm" else slot_of(self.image, instruction)
            if slot is None:
                return Call(site, tail=tail)
            return Call(site, self.image.pointers.get(slot), self.image.imports.get(slot), tail)
        name = self.stubs.name_at(target)
        return Call(site, None if name else self.stubs.behind(target), name, tail)

    @cached_property
    def parts(self) -> Mapping[int, int]:
        """Moved parts of functions (gcc's ``.cold``): address of the part -> address of the function it belongs to.

        A part has an unwind entry of its own, is never called or pointed at, and is jumped to from one function only.
        """
        entered: dict[int, set[int]] = defaultdict(set)
        called = {symbol.address for symbol in self.image.exports} | set(self.image.pointers.values())
        called |= {self.image.entry, *self.image.arrays}
        for function in self.functions:
            graph = self.flow_graph(function)
            for call in self.calls(graph):
                if call.target is not None and not call.tail:
                    called.add(call.target)
            for _, target in graph.leaves:
                entered[target].add(function.address)
        return {
            address: next(iter(sources))
            for address, sources in entered.items()
            if len(sources) == 1 and address not in called and self._is_part(address, next(iter(sources)))
        }

    def _is_part(self, address: int, owner: int) -> bool:
        """A part jumps back into its function, or ends without returning; a tail-called function returns."""
        function = self.by_address.get(address)
        if function is None or function.source not in ("unwind", "symbol"):
            return False
        graph = self.flow_graph(function)
        home = self.by_address[owner]
        back = any(home.address < target < home.end for _, target in graph.leaves)
        returns = any(self.disassembler.step(i).flow is Flow.RETURN for i in graph.instructions)
        return back or (not returns and not graph.leaves)
