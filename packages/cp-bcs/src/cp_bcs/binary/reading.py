"""Reading an ELF file into an `Image`.

Everything is read with bounds: what a damaged file promises and does not hold is left out with a note, or the file is
refused in one sentence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from elftools.elf.elffile import ELFFile

from cp_bcs.binary.image import Architecture, Image, Region
from cp_bcs.binary.tables import read_dynamic, read_symbols, relocated_names
from mpo_core.errors import InputFileError

MACHINES: Mapping[tuple[str, int], Architecture] = {
    ("EM_386", 32): "x86",
    ("EM_X86_64", 64): "x64",
    ("EM_ARM", 32): "arm",
}
LARGEST = 1 << 30
"""Bytes of a file that is read at all."""

_MAGICS = {
    b"MZ": "a PE (Windows) file",
    b"\xcf\xfa\xed\xfe": "a Mach-O file",
    b"\xce\xfa\xed\xfe": "a Mach-O file",
    b"\xca\xfe\xba\xbe": "a Mach-O file of several architectures, or a Java class",
    b"!<ar": "a static library (extract its objects and link them)",
    b"#!": "a script",
}
_TYPES = {
    "ET_REL": "a relocatable object (link it first)",
    "ET_CORE": "a core dump",
}
_MOST_HEADERS = 20_000
_SHF_WRITE, _SHF_ALLOC, _SHF_EXECINSTR = 1, 2, 4


def read_image(path: str | Path) -> Image:
    """Read a linked ELF file for x86, x64 or ARM.

    Raises:
        InputFileError: no such file, no ELF file, another architecture, not linked, damaged, or without code.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise InputFileError(f"{path} has more than {LARGEST >> 20} MiB; expected a program or a library.")
        data = path.read_bytes()
    except OSError as error:
        raise InputFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    return parse_image(data, readable_name(path))


def readable_name(path: Path) -> str:
    """The name of a file for reports: a file's name may be bytes that are no UTF-8, but a report is UTF-8."""
    return path.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def parse_image(data: bytes, name: str) -> Image:
    """`read_image` of the bytes of a file.

    Args:
        data: the whole file.
        name: for messages and reports.
    """
    if not data.startswith(b"\x7fELF"):
        found = next((what for magic, what in _MAGICS.items() if data.startswith(magic)), "no ELF file")
        raise InputFileError(f"{name} is {found}; expected an ELF program or library for x86, x64 or ARM.")
    with _reading(name, "its header"):
        elf = ELFFile(BytesIO(data))
        bits, machine, kind = int(elf.elfclass), str(elf["e_machine"]), str(elf["e_type"])
    architecture = MACHINES.get((machine, bits))
    if architecture is None or not elf.little_endian:
        order = "" if elf.little_endian else "big-endian "
        raise InputFileError(
            f"{name} is an ELF file for {order}{machine.removeprefix('EM_')} ({bits} bits); expected x86, x64 or "
            "little-endian ARM (32 bits)."
        )
    if kind not in ("ET_EXEC", "ET_DYN"):
        raise InputFileError(f"{name} is {_TYPES.get(kind, f'of type {kind}')}; expected a linked program or library.")
    notes: list[str] = []
    with _reading(name, "its program headers"):
        segments = _segments(elf)
    sections: list[_Section] = []
    with _optional("the section headers", notes):
        sections = _sections(elf, len(data))
    entry = int(elf["e_entry"])
    regions = _regions(data, segments, sections)
    if entry and _inside(entry, segments) and not any(r.executable and r.start <= entry < r.end for r in regions):
        notes.append("the section headers do not tell where code is; memory was read by segments")
        regions = _regions(data, segments, [])
    if not any(region.executable and region.data for region in regions):
        raise InputFileError(f"{name} holds no code: no part of it is both executable and in the file.")
    sha256 = hashlib.sha256(data).hexdigest()
    image = Image(name, sha256, architecture, entry, regions, fixed=kind == "ET_EXEC")
    image = replace(image, spans=tuple((s.address, s.address + s.memory) for s in segments if s.kind == "PT_LOAD"))
    with _optional("the symbol table", notes):
        for section in sections:
            if section.kind == "SHT_SYMTAB" and section.link < len(sections):
                symbols = read_symbols(section.bytes_of(data), sections[section.link].bytes_of(data), bits)
                image = replace(image, symbols=symbols)
    with _optional("the dynamic section", notes):
        for segment in segments:
            if segment.kind == "PT_DYNAMIC":
                dynamic = read_dynamic(data[segment.offset : segment.offset + segment.size], image.read, bits)
                imports, pointers = relocated_names(dynamic, architecture, image.word)
                image = replace(
                    image,
                    exports=tuple(symbol for symbol in dynamic.symbols if symbol.defined and symbol.name),
                    imports=imports,
                    arrays=dynamic.arrays,
                    pointers=pointers,
                    got=dynamic.got,
                )
    return replace(image, notes=tuple(notes))


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: str
    address: int
    offset: int
    size: int
    memory: int
    flags: int


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: str
    address: int
    offset: int
    size: int
    flags: int
    link: int

    def bytes_of(self, data: bytes) -> bytes:
        return b"" if self.kind == "SHT_NOBITS" else data[self.offset : self.offset + self.size]


def _segments(elf: ELFFile) -> list[_Segment]:
    if elf.num_segments() > _MOST_HEADERS:
        raise ValueError(f"{elf.num_segments()} program headers")
    return [
        _Segment(str(s["p_type"]), s["p_vaddr"], s["p_offset"], s["p_filesz"], s["p_memsz"], s["p_flags"])
        for s in elf.iter_segments()
    ]


def _sections(elf: ELFFile, size: int) -> list[_Section]:
    count = elf.num_sections()
    if count > _MOST_HEADERS or elf["e_shoff"] + count * elf["e_shentsize"] > size:
        raise ValueError(f"{count} section headers do not fit into the file")
    return [
        _Section(s.name, str(s["sh_type"]), s["sh_addr"], s["sh_offset"], s["sh_size"], s["sh_flags"], s["sh_link"])
        for s in elf.iter_sections()
    ]


def _inside(entry: int, segments: list[_Segment]) -> bool:
    """Whether the program starts in bytes of the file that may be executed."""
    return any(s.kind == "PT_LOAD" and s.flags & 1 and s.address <= entry < s.address + s.size for s in segments)


def _regions(data: bytes, segments: list[_Segment], sections: list[_Section]) -> tuple[Region, ...]:
    """Memory by sections where they tell of code, else by segments."""
    found = [
        Region(s.name, s.address, s.bytes_of(data), bool(s.flags & _SHF_EXECINSTR), bool(s.flags & _SHF_WRITE))
        for s in sections
        if s.flags & _SHF_ALLOC and s.kind != "SHT_NOBITS"
    ]
    if not any(region.executable for region in found):
        found = [
            Region(f"segment {n}", s.address, data[s.offset : s.offset + s.size], bool(s.flags & 1), bool(s.flags & 2))
            for n, s in enumerate(segments)
            if s.kind == "PT_LOAD"
        ]
    return tuple(_without_overlaps(found))


def _without_overlaps(regions: list[Region]) -> Iterator[Region]:
    end = -1
    for region in sorted((r for r in regions if r.data), key=lambda r: r.start):
        if region.start >= end:
            yield region
            end = region.end


@contextmanager
def _reading(name: str, what: str) -> Iterator[None]:
    """Whatever a damaged file leads pyelftools to raise becomes one sentence."""
    try:
        yield
    except InputFileError:
        raise
    except Exception as error:
        raise InputFileError(f"{name} is a damaged ELF file: {what} cannot be read ({_said(error)}).") from error


@contextmanager
def _optional(what: str, notes: list[str]) -> Iterator[None]:
    """The same for a part that a program runs without: it is left out with a note."""
    try:
        yield
    except Exception as error:
        notes.append(f"{what} cannot be read ({_said(error)}) and was left out")


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
