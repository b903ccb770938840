"""The tables of an ELF file that name things: symbols, the dynamic section, relocations.

They are arrays of fixed-size records, read here at once and with bounds; headers are pyelftools'.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

LARGEST_TABLE = 1 << 21
"""Entries of a table that are read at most."""

_SYMBOL = {32: struct.Struct("<IIIBBH"), 64: struct.Struct("<IBBHQQ")}
_TAG = {32: struct.Struct("<iI"), 64: struct.Struct("<qQ")}
_RELOCATION = {(32, False): "<II", (32, True): "<IIi", (64, False): "<QQ", (64, True): "<QQq"}
_LONGEST_NAME = 1024


class SymbolType(IntEnum):
    """What a symbol stands for (ELF, st_info)."""

    NOTYPE, OBJECT, FUNC, SECTION, FILE, COMMON, TLS = range(7)
    GNU_IFUNC = 10


class Tag(IntEnum):
    """Entries of the dynamic section (ELF, d_tag)."""

    NULL, NEEDED, PLTRELSZ, PLTGOT, HASH, STRTAB, SYMTAB, RELA, RELASZ, RELAENT, STRSZ, SYMENT, INIT, FINI = range(14)
    REL, RELSZ, RELENT, PLTREL = 17, 18, 19, 20
    JMPREL, INIT_ARRAY, FINI_ARRAY, INIT_ARRAYSZ, FINI_ARRAYSZ = 23, 25, 26, 27, 28
    GNU_HASH = 0x6FFFFEF5


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name for an address.

    Args:
        name: as in the file.
        address: on ARM with the lowest bit set for a Thumb function.
        size: bytes, 0 where it is not known.
        kind: what it stands for.
        defined: in this file; else it is imported.
    """

    name: str
    address: int
    size: int
    kind: int
    defined: bool

    @property
    def is_function(self) -> bool:
        """Whether it names code."""
        return self.kind in (SymbolType.FUNC, SymbolType.GNU_IFUNC)


@dataclass(frozen=True)
class Dynamic:
    """What the loader is told.

    Args:
        bits: 32 or 64.
        symbols: of the dynamic symbol table, in its order.
        relocations: (place, type, index of a symbol, addend or None).
        arrays: functions that are called at start and end.
        got: address of the global offset table.
    """

    bits: int
    symbols: tuple[Symbol, ...]
    relocations: tuple[tuple[int, int, int, int | None], ...]
    arrays: tuple[int, ...]
    got: int | None


def read_symbols(table: bytes, names: bytes, bits: int) -> tuple[Symbol, ...]:
    """The symbols of a symbol table.

    Args:
        table: the section's bytes; a broken entry at the end is left out.
        names: the bytes of its string table.
        bits: 32 or 64.
    """
    layout = _SYMBOL[bits]
    usable = min(len(table) // layout.size, LARGEST_TABLE) * layout.size
    found: list[Symbol] = []
    for entry in layout.iter_unpack(memoryview(table)[:usable]):
        if bits == 32:
            name, value, size, info, _, section = entry
        else:
            name, info, _, section, value, size = entry
        found.append(Symbol(name_at(names, name), value, size, info & 15, section != 0))
    return tuple(found)


def name_at(names: bytes, offset: int) -> str:
    """The string at an offset of a string table; empty where there is none."""
    end = names.find(b"\0", offset, offset + _LONGEST_NAME)
    return names[offset:end].decode("utf-8", "replace") if end > offset else ""


def read_dynamic(section: bytes, read: Callable[[int, int], bytes], bits: int) -> Dynamic:
    """Follow the dynamic section.

    Args:
        section: its bytes.
        read: (address, size) -> the bytes of memory that are there.
        bits: 32 or 64.
    """
    layout = _TAG[bits]
    tags: dict[int, int] = {}
    for tag, value in layout.iter_unpack(section[: len(section) // layout.size * layout.size]):
        if tag == Tag.NULL:
            break
        tags.setdefault(tag, value)
    names = read(tags.get(Tag.STRTAB, 0), tags.get(Tag.STRSZ, 0))
    relocations: list[tuple[int, int, int, int | None]] = []
    with_addends = tags.get(Tag.PLTREL) == Tag.RELA
    for start, size, addends in (
        (Tag.RELA, Tag.RELASZ, True),
        (Tag.REL, Tag.RELSZ, False),
        (Tag.JMPREL, Tag.PLTRELSZ, with_addends),
    ):
        if start in tags:
            relocations += _read_relocations(read(tags[start], tags.get(size, 0)), bits, addends)
    # Nothing says how many symbols there are; their strings follow them, and relocations name the ones that matter.
    entry = _SYMBOL[bits].size
    start, end = tags.get(Tag.SYMTAB, 0), tags.get(Tag.STRTAB, 0)
    count = (end - start) // entry if end > start else 1 + max((index for _, _, index, _ in relocations), default=0)
    symbols = read_symbols(read(start, min(count, LARGEST_TABLE) * entry), names, bits) if start else ()
    arrays = [tags[tag] for tag in (Tag.INIT, Tag.FINI) if tags.get(tag)]
    width = bits // 8
    for start, size in ((Tag.INIT_ARRAY, Tag.INIT_ARRAYSZ), (Tag.FINI_ARRAY, Tag.FINI_ARRAYSZ)):
        data = read(tags.get(start, 0), tags.get(size, 0))
        words = [int.from_bytes(data[i : i + width], "little") for i in range(0, len(data) // width * width, width)]
        arrays += [word for word in words if word not in (0, (1 << bits) - 1)]
    return Dynamic(bits, symbols, tuple(relocations), tuple(arrays), tags.get(Tag.PLTGOT))


def _read_relocations(table: bytes, bits: int, addends: bool) -> list[tuple[int, int, int, int | None]]:
    layout = struct.Struct(_RELOCATION[bits, addends])
    usable = min(len(table) // layout.size, LARGEST_TABLE) * layout.size
    shift, mask = (8, 0xFF) if bits == 32 else (32, 0xFFFFFFFF)
    return [
        (place, info & mask, info >> shift, rest[0] if rest else None)
        for place, info, *rest in layout.iter_unpack(memoryview(table)[:usable])
    ]


# Relocation types by architecture: a slot that gets a symbol's address, and a word that gets this file's own base.
_TO_SYMBOL: Mapping[str, frozenset[int]] = {
    "x86": frozenset({1, 6, 7}),  # R_386_32, R_386_GLOB_DAT, R_386_JMP_SLOT
    "x64": frozenset({1, 6, 7}),  # R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT
    "arm": frozenset({2, 21, 22}),  # R_ARM_ABS32, R_ARM_GLOB_DAT, R_ARM_JUMP_SLOT
}
_RELATIVE: Mapping[str, frozenset[int]] = {
    "x86": frozenset({8, 42}),  # R_386_RELATIVE, R_386_IRELATIVE
    "x64": frozenset({8, 37}),  # R_X86_64_RELATIVE, R_X86_64_IRELATIVE
    "arm": frozenset({23, 160}),  # R_ARM_RELATIVE, R_ARM_IRELATIVE
}


def relocated_names(
    dynamic: Dynamic, architecture: str, word: Callable[[int], int | None]
) -> tuple[dict[int, str], dict[int, int]]:
    """What relocations tell: slots of imported names, and words that will point into the file itself.

    Args:
        dynamic: of `read_dynamic`.
        architecture: ``x86``, ``x64`` or ``arm``.
        word: the pointer that the file holds at an address, where relocations without addend keep it.

    Returns:
        Slot -> name of the imported symbol; and word -> the address in this file that it will hold.
    """
    imports: dict[int, str] = {}
    pointers: dict[int, int] = {}
    for place, kind, index, addend in dynamic.relocations:
        if kind in _TO_SYMBOL[architecture] and index < len(dynamic.symbols):
            symbol = dynamic.symbols[index]
            if symbol.defined:
                pointers[place] = symbol.address + (addend or 0)
            elif symbol.name:
                imports[place] = symbol.name
        elif kind in _RELATIVE[architecture]:
            target = addend if addend is not None else word(place)
            if target is not None:
                pointers[place] = target
    return imports, pointers
