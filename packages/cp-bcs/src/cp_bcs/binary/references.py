"""What the instructions of a function point at: strings, imported names, functions, data.

Read from operands: addresses relative to the program counter, to the global offset table (i386), constants between
the code (ARM), and plain addresses where the file is linked for one place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cp_bcs.binary.exploring import literal_address
from cp_bcs.binary.functions import Function
from cp_bcs.binary.instructions import Flow, Instruction
from cp_bcs.binary.program import Program

Kind = Literal["string", "import", "function", "data"]

_RIP = re.compile(r"\[rip ([+-]) (0x[0-9a-f]+|\d+)\]")
_BASED = re.compile(r"\[((?:\w+(?:\*\d)? \+ )*\w+(?:\*\d)?) ([+-]) (0x[0-9a-f]+)\]")
_ADDED = re.compile(r"(\w+), (0x[0-9a-f]+)\Z")
_PLAIN = re.compile(r"(?<![\w*] )(?<![\w+*-])(?:\[)?(0x[0-9a-f]{4,})\b")
_ADD_PC = re.compile(r"(\w+), (?:pc|pc, (\w+)|(\w+), pc)\Z")
_HALF = re.compile(r"(\w+), #(0x[0-9a-f]+|\d+)\Z")
_LOWEST = 0x1000
"""Numbers below are no addresses, whatever the file maps there."""

_NEAR = 48
"""Instructions between an ARM constant's load and the addition that makes it an address."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What an instruction points at.

    Args:
        site: address of the instruction.
        kind: what is there.
        target: address of it.
        text: the string, or the imported name.
    """

    site: int
    kind: Kind
    target: int
    text: str | None = None


def find_references(program: Program, function: Function, code: Sequence[Instruction]) -> dict[int, Reference]:
    """What each instruction of a function points at, by the instruction's address. Calls and jumps are left out.

    Args:
        program: the binary.
        function: whose code it is.
        code: its instructions, by address.
    """
    found = _arm(program, function, code) if program.image.architecture == "arm" else _x86(program, code)
    return {reference.site: reference for reference in found if reference.target != function.address}


def _classify(program: Program, site: int, target: int) -> Reference | None:
    """What is at an address; None where memory has nothing."""
    image = program.image
    name = image.imports.get(target)
    if name is not None:
        return Reference(site, "import", target, name)
    held = image.pointers.get(target)
    if held is not None and (image.code_at(held) or image.text(held) is not None):
        target = held  # a word that holds the address of what is meant
    text = image.text(target)
    if text is not None:
        return Reference(site, "string", target, text)
    if image.code_address(target) in program.by_address:
        return Reference(site, "function", target)
    stub = program.stubs.name_at(target) if image.region_at(target) else None
    if stub is not None:
        return Reference(site, "import", target, stub)
    return Reference(site, "data", target) if image.holds(target) else None


def _x86(program: Program, code: Sequence[Instruction]) -> list[Reference]:
    image, found = program.image, []
    got_registers = _got_registers(program, code)
    for instruction in code:
        operands = instruction.operands
        if "0x" not in operands or program.disassembler.step(instruction).flow is not Flow.NEXT:
            continue
        target: int | None = None
        match = _RIP.search(operands)
        if match:
            target = instruction.end + int(match.group(1) + match.group(2), 0)
        elif got_registers and (match := _BASED.search(operands)):
            place = ((image.got or 0) + int(match.group(2) + match.group(3), 0)) & 0xFFFFFFFF
            # The table's address may have been kept on the stack and reloaded into another register.
            reloaded = instruction.mnemonic == "lea" and image.starts_text(place)
            target = place if reloaded or got_registers & set(match.group(1).split(" + ")) else None
        if target is None and image.fixed and (match := _PLAIN.search(operands)):
            place = int(match.group(1), 16)
            target = place if place >= _LOWEST and image.region_at(place) is not None else None
        if target is not None:
            reference = _classify(program, instruction.address, target)
            if reference is not None:
                found.append(reference)
    return found


def _got_registers(program: Program, code: Sequence[Instruction]) -> set[str]:
    """Registers that position-independent i386 code loads with the address of the global offset table.

    A thunk returns the address of the next instruction, which adds the distance: ``call …; add ebx, 0xafd9``.
    """
    got = program.image.got
    if program.image.architecture != "x86" or got is None:
        return set()
    matches = ((i.address, _ADDED.match(i.operands)) for i in code if i.mnemonic == "add")
    return {m.group(1) for address, m in matches if m and (address + int(m.group(2), 16)) & 0xFFFFFFFF == got}


def _arm(program: Program, function: Function, code: Sequence[Instruction]) -> list[Reference]:
    image, found = program.image, []
    halves: dict[str, tuple[int, int]] = {}
    for number, instruction in enumerate(code):
        target: int | None = None
        place = literal_address(instruction, function.thumb)
        if place is not None:
            word = image.word(place, 4)
            register = instruction.operands.partition(",")[0]
            if word is not None:
                target = _plus_pc(code, number, register, word, function.thumb)
                if target is None and image.fixed and word >= _LOWEST and image.region_at(word) is not None:
                    target = word
        elif instruction.mnemonic.startswith("movw") and (match := _HALF.match(instruction.operands)):
            halves[match.group(1)] = (number, int(match.group(2), 0))
        elif instruction.mnemonic.startswith("movt") and (match := _HALF.match(instruction.operands)):
            at, low = halves.pop(match.group(1), (0, 0))
            word = (int(match.group(2), 0) << 16) | low
            if image.fixed and number - at < _NEAR and image.region_at(word) is not None:
                target = word
        if target is not None:
            reference = _classify(program, instruction.address, target)
            if reference is not None:
                found.append(reference)
    return found


def _plus_pc(code: Sequence[Instruction], number: int, register: str, word: int, thumb: bool) -> int | None:
    """The address that a loaded constant becomes when the program counter is added to its register."""
    for instruction in code[number + 1 : number + _NEAR]:
        if instruction.mnemonic.startswith("add") and (match := _ADD_PC.match(instruction.operands)):
            to, a, b = match.groups()
            if register in (a, b) or (a is None and b is None and to == register):
                return (word + instruction.address + (4 if thumb else 8)) & 0xFFFFFFFF
        if instruction.mnemonic.startswith(("ldr", "mov")) and instruction.operands.startswith(f"{register}, "):
            return None
    return None
