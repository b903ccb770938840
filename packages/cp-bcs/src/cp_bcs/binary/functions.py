"""Where the functions of a stripped binary begin and end.

On x86 and x64, gcc's unwind tables give both exactly. What they leave open (ARM, code without tables, of which a
program may have some beside start-up code that has them) is found from what points at it: the entry point, symbols,
relocated pointers, calls, tail calls; and last, code that nothing points at and that follows another function's end.
"""

from __future__ import annotations

import re
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cp_bcs.binary.exploring import Explored, Explorer
from cp_bcs.binary.image import Image, Region
from cp_bcs.binary.instructions import Disassembler
from cp_bcs.binary.stubs import Stubs
from cp_bcs.binary.tables import Symbol
from cp_bcs.binary.unwind import unwind_extents

Source = Literal["unwind", "symbol", "export", "entry", "pointer", "call", "gap", "angr"]

MOST_FUNCTIONS = 500_000
_MOSTLY = 0.5
"""Share of a region's bytes in read extents beyond which its gaps are rather data than code."""
_ARM_PADDING = (b"\0\0\0\0", b"\x00\xbf", b"\xc0\x46", b"\x00\xf0\x20\xe3", b"\x00\x00\xa0\xe1", b"\xaf\xf3\x00\x80")
"""Bytes between functions of ARM code: zeros, and the instructions that do nothing."""

_FILLERS_BEGIN = frozenset(
    bytes([byte]) for byte in (*b"\x90\xcc\x8d\x0f\x26\x2e\x36\x3e\x64\x65\x66\x67\xf2\xf3", *range(0x40, 0x50))
)
"""First bytes of the instructions of x86 and x64 that fill gaps, prefixes included."""
_SAME = re.compile(r"(\w+), \[\1(?: \+ (?:[er]iz(?:\*1)?|0x0|0))*\]")
"""Operands of ``lea`` that leave a register as it is, which 32-bit code is filled up with."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function of a binary.

    Args:
        address: of its first byte.
        size: bytes up to the end of its code, or of the constants behind it.
        source: how it was found.
        name: of the symbol table, where the binary is not stripped, or of an exported symbol.
        thumb: Thumb code (ARM).
        exact: the extent was read (unwind table, symbol), not inferred from the code.
    """

    address: int
    size: int
    source: Source
    name: str | None = None
    thumb: bool = False
    exact: bool = False

    @property
    def end(self) -> int:
        """The address behind its last byte."""
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class _Start:
    source: Source
    size: int = 0
    thumb: bool = False


def find_functions(image: Image, disassembler: Disassembler | None = None) -> tuple[Function, ...]:
    """Every function of a binary, by address.

    Args:
        image: the file.
        disassembler: of the image, where the caller has one.
    """
    return _Search(image, disassembler or Disassembler(image)).run()


class _Search:
    def __init__(self, image: Image, disassembler: Disassembler) -> None:
        self.image = image
        self.arm = image.architecture == "arm"
        self.disassembler = disassembler
        self.stubs = Stubs(disassembler)
        self.explorer = Explorer(disassembler, self.stubs)
        self.starts: dict[int, _Start] = {}
        self.order: list[int] = []
        self.explored: dict[int, Explored] = {}

    def run(self) -> tuple[Function, ...]:
        for extent in unwind_extents(self.image):
            self._add(extent.start, _Start("unwind", extent.size))
        self._add_named("symbol", self.image.symbols)
        self._add_named("export", self.image.exports)
        for address in (self.image.entry, *self.image.arrays):
            self._add_pointer(address, "entry")
        for address in self.image.pointers.values():
            code = self.image.code_address(address)
            if self._covered_until(code) == code:  # labels inside of functions are pointed at, too
                self._add_pointer(address, "pointer")
        if not self.arm:
            self._follow_calls_of_extents()
        self._follow(self.order)
        self._fill_gaps()
        return tuple(self._finished())

    # -- starts ------------------------------------------------------------------------------------------------

    def _add(self, address: int, start: _Start) -> bool:
        """Take up a start that lies in code, unless it is known already with better knowledge."""
        region = self.image.region_at(address)
        if region is None or region not in self.image.code or len(self.starts) >= MOST_FUNCTIONS:
            return False
        known = self.starts.get(address)
        if known is None:
            insort(self.order, address)
        if known is None or (start.size and not known.size):
            self.starts[address] = start
        return known is None

    def _add_named(self, source: Source, symbols: Iterable[Symbol]) -> None:
        for symbol in symbols:
            if symbol.is_function and symbol.defined and symbol.address:
                thumb = self.arm and bool(symbol.address & 1)
                self._add(self.image.code_address(symbol.address), _Start(source, symbol.size, thumb))

    def _add_pointer(self, address: int, source: Source) -> None:
        """A pointer to code; on ARM its lowest bit tells Thumb, and A32 code lies at multiples of four."""
        thumb = self.arm and bool(address & 1)
        if not self.arm or thumb or address % 4 == 0:
            self._add(self.image.code_address(address), _Start(source, 0, thumb))

    def _owner(self, address: int) -> int | None:
        """The last start at or before an address."""
        place = bisect_right(self.order, address) - 1
        return self.order[place] if place >= 0 else None

    def _next(self, address: int, otherwise: int) -> int:
        """The first start behind an address."""
        place = bisect_right(self.order, address)
        return min(self.order[place], otherwise) if place < len(self.order) else otherwise

    def _end_of(self, address: int) -> int:
        """Where the function that starts here ends, as far as it is known yet."""
        start = self.starts[address]
        if start.size:
            return address + start.size
        explored = self.explored.get(address)
        return explored.end if explored else address

    def _covered_until(self, address: int) -> int:
        """The end of the function in which an address lies; the address itself when it lies in none."""
        owner = self._owner(address)
        return address if owner is None else max(address, self._end_of(owner))

    # -- following control ---------------------------------------------------------------------------------------

    def _follow_calls_of_extents(self) -> None:
        """Targets of calls that no unwind entry covers: start-up code, and thunks that load the program counter."""
        extents = [(address, self.starts[address].size) for address in self.order if self.starts[address].size]
        for address, size in extents:
            for instruction in self.disassembler.sweep(address, size):
                if instruction.mnemonic == "call":
                    target = self.disassembler.step(instruction).target
                    if target is not None and self._covered_until(target) == target:
                        self._add(target, _Start("call"))

    def _follow(self, starts: Sequence[int]) -> None:
        """Explore starts without a known size, and what they call, until nothing new is found."""
        waiting = [address for address in starts if self._needs_exploring(address)]
        while waiting:
            new: list[int] = []
            for address in waiting:
                found = self._explore(address)
                tails = (leave for leave in found.leaves if self._is_start(leave[0]))
                for target, thumb in (*found.calls, *tails):
                    if self.stubs.name_at(target) is None and self._add(target, _Start("call", 0, thumb)):
                        new.append(target)
            waiting = [address for address in new if self._needs_exploring(address)]

    def _needs_exploring(self, address: int) -> bool:
        return self.arm or not self.starts[address].size

    def _explore(self, address: int) -> Explored:
        region = self.image.region_at(address)
        limit = self._next(address, region.end if region else address)
        found = self.explorer.explore(address, self.starts[address].thumb, limit)
        self.explored[address] = found
        return found

    def _is_start(self, target: int) -> bool:
        """Whether a jump out of a function is a call in the last place: not into the middle of another one."""
        owner = self._owner(target)
        inside = None if owner is None else self.explored.get(owner)
        return inside is None or target not in inside.instructions

    # -- what nothing points at ------------------------------------------------------------------------------------

    def _fill_gaps(self) -> None:
        """Take up code between functions that follows another one's end and decodes soundly."""
        unit = 2 if self.arm else 1
        for region in self.image.code:
            place = region.start
            as_functions_do = not self.arm and self._told(region) > _MOSTLY
            while place < region.end:
                covered = self._covered_until(place)
                if covered > place:
                    place = covered + covered % unit
                    continue
                padding = self._padding_at(place)
                if padding:
                    place += padding
                elif self._take_up(region, place, as_functions_do):
                    self._follow([place])
                else:
                    place += unit

    def _padding_at(self, place: int) -> int:
        """Bytes of padding at a place."""
        if self.arm:
            if place % 4 == 2 and self.image.read(place, 2) == b"\0\0":
                return 2
            return next((len(p) for p in _ARM_PADDING if self.image.read(place, len(p)) == p), 0)
        first = self.image.read(place, 1)
        if first == b"\0":
            return 1
        if first not in _FILLERS_BEGIN:
            return 0
        instruction = self.disassembler.at(place)
        kind = instruction.mnemonic.split()[-1]
        filler = kind in ("nop", "int3") or (kind == "lea" and _SAME.fullmatch(instruction.operands))
        return instruction.size if filler else 0

    def _told(self, region: Region) -> float:
        """The share of a region that lies in functions whose extent was read."""
        first, behind = bisect_right(self.order, region.start - 1), bisect_right(self.order, region.end - 1)
        return sum(self.starts[address].size for address in self.order[first:behind]) / max(1, len(region.data))

    def _take_up(self, region: Region, place: int, as_functions_do: bool) -> bool:
        """Try a gap as a function: it must decode soundly to its end.

        Args:
            region: of the place.
            place: where the gap begins.
            as_functions_do: code must begin as functions do: where extents tell of nearly all code, what is left is
                mostly data. So must it behind a function with an unresolved computed jump, for there lie the cases of
                its ``switch``.
        """
        thumb = self.arm and not self._looks_like_a32(place)
        if as_functions_do or self._follows_unresolved(place):
            first = self.disassembler.at(place, thumb)
            if not (first.mnemonic.startswith(("push", "endbr", "stmdb")) or "lr, [sp" in first.operands):
                return False
        if not self.explorer.is_sound(place, thumb, self._next(place, region.end)):
            return False
        return self._add(place, _Start("gap", 0, thumb))

    def _follows_unresolved(self, place: int) -> bool:
        owner = self._owner(place - 1)
        before = None if owner is None else self.explored.get(owner)
        return before is not None and before.unresolved

    def _looks_like_a32(self, place: int) -> bool:
        """Whether the next words, read as A32, mostly hold on condition ``always``; Thumb code seldom looks so."""
        if place % 4:
            return False
        data = self.image.read(place, 48)
        words = [data[i + 3] >> 4 for i in range(0, len(data) - 3, 4)]
        return len(words) > 0 and sum(word == 0xE for word in words) >= 0.4 * len(words)

    # -- the result ------------------------------------------------------------------------------------------------

    def _finished(self) -> Iterator[Function]:
        names = self._names()
        for address in self.order:
            start = self.starts[address]
            size = start.size or self._explore(address).end - address
            if start.source == "unwind":  # a damaged table could make every function the whole program
                size = min(size, self._next(address, address + size) - address)
            if size > 0:
                exact = bool(start.size)
                yield Function(address, size, start.source, names.get(address), start.thumb, exact)

    def _names(self) -> dict[int, str]:
        """The best name of each address: a global one of the symbol table, else of the exports."""
        names: dict[int, str] = {}
        for symbol in (*self.image.exports, *self.image.symbols):
            if symbol.is_function and symbol.defined and symbol.name:
                names[self.image.code_address(symbol.address)] = symbol.name
        return names
