"""Targets of computed jumps, where a compiler's ``switch`` put them into a table.

gcc's forms are recognised by the instructions before the jump: the bound that the index is compared with, and the
table's address. What is not recognised stays unresolved; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cp_bcs.binary.image import Image
from cp_bcs.binary.instructions import Instruction

LARGEST = 4096
"""Entries of a table that are read at most."""

_LOOK_BACK = 24
_INDEXED = re.compile(r"\*[48]\b")
_COMPARE = re.compile(r"[\w ]*(?:\[.*\])?, #?(0x[0-9a-f]+|\d+)\Z")
_X64_BASE = re.compile(r"(\w+), \[rip ([+-]) (0x[0-9a-f]+|\d+)\]\Z")
_X64_ENTRY = re.compile(r"(\w+), dword ptr \[(\w+) \+ (\w+)\*4\]\Z")
_ABSOLUTE = re.compile(r"(?:\w+, )?[dq]word ptr \[(\w+)\*([48]) \+ (0x[0-9a-f]+)\]\Z")
_GOT_ENTRY = re.compile(r"(\w+), dword ptr \[(\w+) \+ (\w+)\*4 ([+-]) (0x[0-9a-f]+|\d+)\]\Z")
_THUMB_TABLE = re.compile(r"\[pc, (\w+)(?:, lsl #1)?\]\Z")
_ARM_TABLE = re.compile(r"pc, (?:\[pc, (\w+), lsl #2\]|pc, (\w+), lsl #2)\Z")


@dataclass(frozen=True)
class JumpTable:
    """A table and where its jump goes.

    Args:
        start: address of the first entry.
        size: bytes.
        targets: addresses of code, one for each entry.
    """

    start: int
    size: int
    targets: tuple[int, ...]


def find_jump_table(
    image: Image, before: Sequence[Instruction], jump: Instruction, within: tuple[int, int], thumb: bool = False
) -> JumpTable | None:
    """The table of a computed jump; None where the form is not known or an entry leaves the function.

    Args:
        image: the file.
        before: the instructions before the jump, in order.
        jump: the jump.
        within: first address of the function, and the one behind its end.
        thumb: whether this is Thumb code.
    """
    near = before[-_LOOK_BACK:]
    count = _bound(near)
    if image.architecture == "arm":
        return _arm_table(image, jump, count, within, thumb)
    absolute = _ABSOLUTE.match(jump.operands) or next(
        (m for i in reversed(near) if i.mnemonic == "mov" and (m := _ABSOLUTE.match(i.operands))), None
    )
    if absolute:
        width = int(absolute.group(2))
        return _read(image, int(absolute.group(3), 16), width, 0, False, count, within)
    if image.architecture == "x64":
        entry = _last(near, ("movsxd",), _X64_ENTRY)
        # A loop may have loaded the table's address long before.
        table = None if entry is None else _loaded(before, entry.group(2))
        if table is None:
            return None
        return _read(image, table, 4, table, True, count, within)
    entry = _last(near, ("mov", "add"), _GOT_ENTRY)
    if entry is None or image.got is None:
        return None
    table = (image.got + int(entry.group(4) + entry.group(5), 0)) & 0xFFFFFFFF
    return _read(image, table, 4, image.got, True, count, within)


def reads_a_table(before: Sequence[Instruction], jump: Instruction) -> bool:
    """Whether a computed jump of x86 takes its target out of a table; else it is a call in the last place.

    Args:
        before: the instructions before the jump, in order.
        jump: the jump.
    """
    if _INDEXED.search(jump.operands):
        return True
    sought = {_whole(jump.operands)}
    for instruction in reversed(before[-_LOOK_BACK:]):
        to, _, value = instruction.operands.partition(", ")
        if _whole(to) not in sought:
            continue
        if _INDEXED.search(value):
            return True
        if instruction.mnemonic != "add":
            sought.discard(_whole(to))
        if value.isalnum():
            sought.add(_whole(value))
    return False


def _whole(register: str) -> str:
    """The name that a register's halves share: ``eax`` and ``rax``, ``r8d`` and ``r8``."""
    return re.sub(r"\A[er](?=[a-z])|(?<=\d)d\Z", "", register)


def _last(near: Sequence[Instruction], mnemonics: Sequence[str], form: re.Pattern[str]) -> re.Match[str] | None:
    found = (m for i in reversed(near) if i.mnemonic in mnemonics and (m := form.match(i.operands)))
    return next(found, None)


def _loaded(near: Sequence[Instruction], register: str) -> int | None:
    """The address that was last loaded into a register relative to the program counter."""
    for instruction in reversed(near):
        match = _X64_BASE.match(instruction.operands) if instruction.mnemonic == "lea" else None
        if match and match.group(1) == register:
            return instruction.end + int(match.group(2) + match.group(3), 0)
    return None


def _bound(near: Sequence[Instruction]) -> int | None:
    """Entries of the table, from the comparison that guards it."""
    for instruction in reversed(near):
        if instruction.mnemonic in ("cmp", "cmp.w"):
            match = _COMPARE.match(instruction.operands)
            return int(match.group(1), 0) + 1 if match else None
    return None


def _read(
    image: Image, table: int, width: int, base: int, relative: bool, count: int | None, within: tuple[int, int]
) -> JumpTable | None:
    """Read entries up to the bound, else up to the first one that is no address of the function."""
    targets: list[int] = []
    mask = (1 << 8 * image.pointer_size) - 1
    for number in range(min(count or LARGEST, LARGEST)):
        entry = image.word(table + number * width, width, signed=relative)
        target = None if entry is None else (entry + base) & mask
        if target is None or not within[0] <= target < within[1]:
            if count is None:
                break
            continue  # gcc also sends cases to the function's cold part
        targets.append(target)
    return JumpTable(table, width * len(targets), tuple(targets)) if targets else None


def _arm_table(
    image: Image, jump: Instruction, count: int | None, within: tuple[int, int], thumb: bool
) -> JumpTable | None:
    """Tables that lie behind the jump itself: bytes, half-words, addresses or branches."""
    if count is None or count > LARGEST:
        return None
    if thumb:
        if not _THUMB_TABLE.match(jump.operands):
            return None
        width = 1 if jump.mnemonic.startswith("tbb") else 2
        table = jump.address + 4
        offsets = [image.word(table + number * width, width) for number in range(count)]
        targets = [table + 2 * offset for offset in offsets if offset is not None]
        size = width * count + (width * count) % 2
    else:
        match = _ARM_TABLE.match(jump.operands)
        if match is None:
            return None
        table = jump.address + 8
        size = 4 * count
        if match.group(1):
            targets = [word for number in range(count) if (word := image.word(table + 4 * number)) is not None]
        else:  # branches: they are instructions themselves
            targets, size = [table + 4 * number for number in range(count)], 0
    if len(targets) != count or not all(within[0] <= target < within[1] for target in targets):
        return None
    return JumpTable(table, size, tuple(targets))
