"""A function's instructions, found by following control from its first one.

On x86 and x64 compilers put no data between instructions, so a function whose extent is known is decoded from end to
end. On ARM constants and jump tables lie in between, and extents are not known: there control is followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from cp_bcs.binary.instructions import BAD, Disassembler, Flow, Instruction
from cp_bcs.binary.jump_tables import JumpTable, find_jump_table, reads_a_table
from cp_bcs.binary.stubs import Stubs

MOST_INSTRUCTIONS = 200_000
"""Instructions of one function at most."""

_LITERAL = re.compile(r"\w+, \[pc(?:, #(-?0x[0-9a-f]+|-?\d+))?\]\Z")

NEVER_RETURN = frozenset(
    {
        *("abort", "exit", "_exit", "_Exit", "quick_exit", "pthread_exit", "__libc_start_main"),
        *("__assert_fail", "__assert", "__stack_chk_fail", "__fortify_fail", "__chk_fail"),
        *("longjmp", "_longjmp", "siglongjmp", "__longjmp_chk", "err", "errx", "verr", "verrx"),
        *("_Unwind_Resume", "__cxa_throw", "__cxa_rethrow", "__cxa_bad_cast", "__cxa_call_unexpected"),
    }
)
"""Functions of the C and C++ libraries after which control does not come back."""


@dataclass
class Explored:
    """What was reached from a function's first instruction.

    Args:
        instructions: by address.
        tables: computed jumps that were resolved, by the jump's address.
        literals: addresses of constants between the code (ARM).
        leaves: targets of jumps out of the function, with whether they are Thumb.
        calls: targets of direct calls, likewise.
        end: address behind the last instruction or constant.
        sound: no bytes were met that are no instruction, and nothing ran over the limit.
        unresolved: the table of a ``switch`` was not found (on ARM also: a computed call in the last place).
    """

    instructions: dict[int, Instruction] = field(default_factory=dict)
    tables: dict[int, JumpTable] = field(default_factory=dict)
    literals: set[int] = field(default_factory=set)
    leaves: set[tuple[int, bool]] = field(default_factory=set)
    calls: set[tuple[int, bool]] = field(default_factory=set)
    end: int = 0
    sound: bool = True
    unresolved: bool = False


class Explorer:
    """Follows control inside one image.

    Args:
        disassembler: of the image.
        stubs: of the image; after some imported functions control does not come back.
    """

    def __init__(self, disassembler: Disassembler, stubs: Stubs) -> None:
        self.disassembler = disassembler
        self.image = disassembler.image
        self._ends_here = {address for address, name in stubs.all().items() if name in NEVER_RETURN}
        self._lost: dict[tuple[int, bool], int] = {}

    def explore(self, start: int, thumb: bool, limit: int) -> Explored:
        """Follow control from a function's start.

        Args:
            start: address of its first instruction.
            thumb: whether it is Thumb code.
            limit: address of the next function's start; jumps beyond leave the function.
        """
        found = Explored(end=start)
        for _ in self._runs(found, start, thumb, limit):
            pass
        return found

    def is_sound(self, start: int, thumb: bool, limit: int) -> bool:
        """Whether all that is reached from a place is code: `Explored.sound` of `explore`, and not nothing.

        Ends with the first run of instructions that runs into something else, and remembers it: what falls into the
        same run later is not code, either. So trying one place after the other does not decode the same bytes again and
        again.

        Args:
            start: as for `explore`.
            thumb: likewise.
            limit: likewise; between two calls starts may have been added, but none taken away.
        """
        found = Explored(end=start)
        for run in self._runs(found, start, thumb, limit, remember=True):
            if not found.sound:
                self._lost.update(((instruction.address, thumb), found.end) for instruction in run)
                return False
        return bool(found.instructions)

    def _runs(
        self, found: Explored, start: int, thumb: bool, limit: int, remember: bool = False
    ) -> Iterator[list[Instruction]]:
        """Explore one run of instructions after the other."""
        waiting = [start]
        while waiting and len(found.instructions) < MOST_INSTRUCTIONS:
            place = waiting.pop()
            if place not in found.instructions:
                yield self._run(found, place, (start, limit), thumb, waiting, remember)

    def _run(
        self, found: Explored, place: int, within: tuple[int, int], thumb: bool, waiting: list[int], remember: bool
    ) -> list[Instruction]:
        """Decode from a place until control goes elsewhere for good, or where it has been already."""
        run: list[Instruction] = []
        for instruction in self.disassembler.sweep(place, max(0, within[1] - place), thumb):
            address = instruction.address
            if address in found.instructions or address in found.literals:
                return run
            if instruction.mnemonic == BAD or (remember and self._falls_into_lost(found, address, thumb)):
                found.sound = False
                return run
            found.instructions[address] = instruction
            found.end = max(found.end, instruction.end)
            if self.image.architecture == "arm":
                self._note_literal(found, instruction, thumb)
            goes_on = self._follow(found, run, instruction, within, thumb, waiting)
            run.append(instruction)
            if not goes_on:
                return run
        found.sound = False
        return run

    def _falls_into_lost(self, found: Explored, address: int, thumb: bool) -> bool:
        """Whether an instruction is known to run into what is no code, with no constant before that."""
        end = self._lost.get((address, thumb))
        if end is None or any(address <= literal <= end for literal in found.literals):
            return False
        found.end = max(found.end, end)
        return True

    def _follow(
        self,
        found: Explored,
        before: list[Instruction],
        instruction: Instruction,
        within: tuple[int, int],
        thumb: bool,
        waiting: list[int],
    ) -> bool:
        """Take up where an instruction goes; whether the next one is reached from it."""
        flow, target = self.disassembler.step(instruction)
        if flow is Flow.CALL:
            if target is None:
                return True
            changes = instruction.mnemonic.startswith("blx")
            found.calls.add((target, thumb != changes))
            return target not in self._ends_here
        if flow in (Flow.JUMP, Flow.BRANCH):
            if target is not None:
                if within[0] <= target < within[1]:
                    waiting.append(target)
                else:
                    found.leaves.add((target, thumb))
            else:
                table = find_jump_table(self.image, before, instruction, within, thumb)
                if table is None:
                    arm = self.image.architecture == "arm"
                    found.unresolved |= arm or reads_a_table(before, instruction)
                else:
                    found.tables[instruction.address] = table
                    if within[0] <= table.start < within[1]:  # on x86 tables lie among the constants, far away
                        found.end = max(found.end, table.start + table.size)
                    waiting += table.targets
        return flow not in (Flow.JUMP, Flow.RETURN, Flow.STOP)

    def _note_literal(self, found: Explored, instruction: Instruction, thumb: bool) -> None:
        place = literal_address(instruction, thumb)
        if place is not None:
            found.literals.add(place)
            if self.image.region_at(place) is self.image.region_at(instruction.address):
                wide = instruction.operands.startswith("d")
                found.end = max(found.end, place + (8 if wide else 4))


def literal_address(instruction: Instruction, thumb: bool) -> int | None:
    """Where an ARM instruction reads a constant from, relative to itself; None for other instructions."""
    if not instruction.mnemonic.startswith(("ldr", "vldr")) or "[pc" not in instruction.operands:
        return None
    match = _LITERAL.match(instruction.operands)
    if match is None:
        return None
    offset = int(match.group(1) or "0", 0)
    return ((instruction.address + (4 if thumb else 8)) & ~3) + offset
