"""Where machine code came from: DWARF's functions with source file and line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from elftools.common.exceptions import DWARFError, ELFError
from elftools.dwarf.compileunit import CompileUnit
from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile

from mpo_core.errors import InputFileError


@dataclass(frozen=True, slots=True)
class SourceFunction:
    """A function in machine code, and its place in the source.

    Args:
        address: of its first instruction; on ARM without the mode's bit.
        name: in the source.
        file: path as the compiler was given it, joined to the folder it worked in.
        line: of the name in the definition.
        producer: compiler, version and options, as the compiler wrote them.
    """

    address: int
    name: str
    file: str
    line: int
    producer: str


def read_source_functions(path: Path) -> list[SourceFunction]:
    """The functions of an unstripped file.

    Raises:
        InputFileError: it has no DWARF, or damaged DWARF.
    """
    with path.open("rb") as stream:
        try:
            elf = ELFFile(stream)
            if not elf.has_dwarf_info(strict=True):
                raise InputFileError(f"{path} has no debug information; build it with -g and do not strip it.")
            dwarf = elf.get_dwarf_info()
            return [function for unit in dwarf.iter_CUs() for function in _functions(unit)]
        except (ELFError, DWARFError, KeyError, ValueError, AssertionError) as error:
            if isinstance(error, InputFileError):
                raise
            raise InputFileError(f"{path} has damaged debug information ({error or type(error).__name__}).") from error


def _functions(unit: CompileUnit) -> Iterator[SourceFunction]:
    top = unit.get_top_DIE()
    files = _Files(unit, top)
    producer = _string(top, "DW_AT_producer")
    for die in top.iter_children():
        if die.tag != "DW_TAG_subprogram" or "DW_AT_low_pc" not in die.attributes:
            continue
        origin = die
        while "DW_AT_decl_line" not in origin.attributes:
            if "DW_AT_abstract_origin" in origin.attributes:
                origin = origin.get_DIE_from_attribute("DW_AT_abstract_origin")
            elif "DW_AT_specification" in origin.attributes:
                origin = origin.get_DIE_from_attribute("DW_AT_specification")
            else:
                break
        name = _string(origin, "DW_AT_name")
        line = origin.attributes.get("DW_AT_decl_line")
        number = origin.attributes.get("DW_AT_decl_file")
        if name and line is not None and number is not None:
            file = files.path(int(number.value))
            if file is not None:
                yield SourceFunction(int(die.attributes["DW_AT_low_pc"].value), name, file, int(line.value), producer)


class _Files:
    """The file table of a unit's line program."""

    def __init__(self, unit: CompileUnit, top: DIE) -> None:
        program = unit.dwarfinfo.line_program_for_CU(unit)
        self._folder = _string(top, "DW_AT_comp_dir")
        self._files = [] if program is None else list(program["file_entry"])
        self._folders = [] if program is None else [_decoded(f) for f in program["include_directory"]]
        self._first = 0 if program is not None and program["version"] >= 5 else 1

    def path(self, number: int) -> str | None:
        """The path of a file by its number in the table."""
        place = number - self._first
        if not 0 <= place < len(self._files):
            return None
        entry = self._files[place]
        folder = entry.dir_index - self._first
        parts = [self._folder]
        if self._first == 0 or folder >= 0:
            parts.append(self._folders[folder] if 0 <= folder < len(self._folders) else "")
        return str(PurePosixPath(*(part for part in parts if part), _decoded(entry.name)))


def _string(die: DIE, attribute: str) -> str:
    found = die.attributes.get(attribute)
    return "" if found is None else _decoded(found.value)


def _decoded(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
