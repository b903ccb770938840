"""A linked ELF file as it lies in memory: regions, symbols, imported names."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from cp_bcs.binary.tables import Symbol

Architecture = Literal["x86", "x64", "arm"]

_LONGEST_STRING = 4096
_FOR_THE_LOADER = (".dyn", ".gnu", ".rel", ".note", ".interp", ".hash", ".eh_frame", ".gcc_except_table", ".ARM.ex")
"""Beginnings of the names of sections that no instruction reads."""


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of memory.

    Args:
        name: of the section, or of the segment's number where the file has no sections.
        start: address of the first byte.
        data: what the file gives; bytes beyond are zero at run time.
        executable: code may lie here.
        writable: the program may change it.
    """

    name: str
    start: int
    data: bytes = field(repr=False)
    executable: bool
    writable: bool

    @property
    def end(self) -> int:
        """The address behind the last byte of the file's data."""
        return self.start + len(self.data)


@dataclass(frozen=True)
class Image:
    """A linked ELF file.

    Args:
        name: of the file.
        sha256: of its bytes.
        architecture: ``x86`` (i386 and later, 32 bits), ``x64`` or ``arm`` (A32 and Thumb).
        entry: address at which it starts, 0 for none; on ARM the lowest bit says Thumb.
        fixed: linked for one place, so that plain numbers in the code may be addresses; else it can be loaded anywhere.
        regions: what is in memory, by address, without overlaps.
        symbols: of the static symbol table; empty where the file is stripped.
        exports: the functions and data that the dynamic symbol table defines.
        imports: address of a slot that the loader fills -> name of what it will point to.
        arrays: functions that the loader calls at start and end.
        pointers: address of a word that the loader relocates -> the address in this file that it will hold.
        spans: first address and the one behind the end of each loaded segment.
        got: address of the global offset table, which position-independent x86 code counts from.
        notes: what was damaged and left out.
    """

    name: str
    sha256: str
    architecture: Architecture
    entry: int
    regions: tuple[Region, ...]
    fixed: bool = False
    symbols: tuple[Symbol, ...] = ()
    exports: tuple[Symbol, ...] = ()
    imports: Mapping[int, str] = field(default_factory=dict)
    arrays: tuple[int, ...] = ()
    pointers: Mapping[int, int] = field(default_factory=dict)
    spans: tuple[tuple[int, int], ...] = ()
    got: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def pointer_size(self) -> int:
        """Bytes of an address."""
        return 8 if self.architecture == "x64" else 4

    def code_address(self, pointer: int) -> int:
        """The address that a pointer to code names: on ARM without the lowest bit, which says Thumb."""
        return pointer & ~1 if self.architecture == "arm" else pointer

    @cached_property
    def code(self) -> tuple[Region, ...]:
        """The executable regions, without the stubs through which imported functions are called."""
        return tuple(r for r in self.regions if r.executable and r.data and not r.name.startswith(".plt"))

    @cached_property
    def _starts(self) -> list[int]:
        return [region.start for region in self.regions]

    def region_at(self, address: int) -> Region | None:
        """The region that holds this address."""
        place = bisect_right(self._starts, address) - 1
        if place < 0:
            return None
        region = self.regions[place]
        return region if address < region.end else None

    def code_at(self, address: int) -> bool:
        """Whether code may lie at an address."""
        region = self.region_at(address)
        return region is not None and region.executable

    def holds(self, address: int) -> bool:
        """Whether an address lies in the memory of the file, data that is zero at the start included."""
        return any(first <= address < end for first, end in self.spans)

    def starts_text(self, address: int) -> bool:
        """Whether a string begins at an address: there is one, and no character of it before."""
        region = self.region_at(address)
        if region is None or self.text(address) is None:
            return False
        return address == region.start or region.data[address - region.start - 1] == 0

    def read(self, address: int, size: int) -> bytes:
        """Up to so many bytes from an address; fewer at the end of its region, none outside of all."""
        region = self.region_at(address)
        if region is None:
            return b""
        offset = address - region.start
        return region.data[offset : offset + size]

    def word(self, address: int, size: int | None = None, signed: bool = False) -> int | None:
        """The number of ``size`` bytes (of a pointer unless given) at an address; None where memory has none."""
        size = size or self.pointer_size
        data = self.read(address, size)
        return int.from_bytes(data, "little", signed=signed) if len(data) == size else None

    def text(self, address: int) -> str | None:
        """The string that ends with a zero byte at an address in constant data; None where there is none.

        At least two characters, all of them printable ASCII or white space, or well-formed UTF-8.
        """
        region = self.region_at(address)
        if region is None or region.executable or region.writable or region.name.startswith(_FOR_THE_LOADER):
            return None
        offset = address - region.start
        end = region.data.find(b"\0", offset, offset + _LONGEST_STRING)
        if end - offset < 2:
            return None
        try:
            text = region.data[offset:end].decode()
        except UnicodeDecodeError:
            return None
        return text if all(character.isprintable() or character in "\t\n\r\x1b" for character in text) else None
