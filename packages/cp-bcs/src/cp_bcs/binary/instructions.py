"""Instructions as capstone prints them, and where control goes from each.

capstone's text interface decodes some 500,000 instructions a second, ten times as many as the one with operand
objects; what is needed of operands is read from the text, once for each different text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from functools import cached_property, lru_cache
from typing import NamedTuple

import capstone

from cp_bcs.binary.image import Image


class Instruction(NamedTuple):
    """One machine instruction.

    Args:
        address: of its first byte.
        size: bytes.
        mnemonic: with its prefixes, ``rep movsq``; ``(bad)`` for bytes that are no instruction.
        operands: as text, ``rax, qword ptr [rip + 0x2f10]``.
    """

    address: int
    size: int
    mnemonic: str
    operands: str

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.address + self.size


class Flow(Enum):
    """Where control goes after an instruction."""

    NEXT = "to the next one"
    JUMP = "to another place"
    BRANCH = "to another place, or to the next one"
    CALL = "to a function and back"
    RETURN = "to the caller"
    MAYBE_RETURN = "to the caller, or to the next one"
    STOP = "nowhere: the program ends, or these bytes are never reached"


class Step(NamedTuple):
    """Flow of an instruction, and the address it names; None for a computed one, or when it goes nowhere else."""

    flow: Flow
    target: int | None


BAD = "(bad)"
_NUMBER = re.compile(r"#?(-?0x[0-9a-f]+|-?\d+)\Z")
_X86_STOPS = frozenset({"hlt", "ud0", "ud1", "ud2", "int3", BAD})
_X86_RETURNS = frozenset({"ret", "retf", "retfq", "iret", "iretd", "iretq", "sysret", "sysexit"})
_X86_LOOPS = frozenset({"loop", "loope", "loopne", "jcxz", "jecxz", "jrcxz"})
_CONDITIONS = "eq|ne|hs|cs|lo|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le|al"
_ARM_BRANCH = re.compile(rf"(b|bl|blx|bx|bxj)({_CONDITIONS})?(?:\.[nw])?\Z")
_ARM_PC_LOAD = re.compile(rf"(pop|ldm|ldmdb|ldmib|ldmda|ldmfd|ldmia|ldmea)({_CONDITIONS})?(?:\.[nw])?\Z")
_ARM_TO_PC = re.compile(
    rf"(ldr|mov|movs|add|adds|sub|subs|orr|and|rsb|mvn)({_CONDITIONS})?(?:\.[nw])?\Z",
)
_ARM_STOPS = frozenset({"udf", "udf.w", "trap", BAD})

_WHOLE, _WINDOW, _LONGEST = 4096, 128, 16
"""Bytes that are decoded at once (the engine decodes all that it is given, although control may leave at once), those
of the first window of a longer stretch, and of an instruction at most."""


class Disassembler:
    """Decodes the code of one image."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.architecture = image.architecture

    @cached_property
    def _engines(self) -> tuple[capstone.Cs, capstone.Cs]:
        """For the ordinary mode, and for Thumb."""
        if self.architecture == "arm":
            version = capstone.CS_MODE_V8
            return (
                capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_ARM | version),
                capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | version),
            )
        bits = capstone.CS_MODE_64 if self.architecture == "x64" else capstone.CS_MODE_32
        plain = capstone.Cs(capstone.CS_ARCH_X86, bits)
        return plain, plain

    def sweep(self, start: int, size: int, thumb: bool = False) -> Iterator[Instruction]:
        """Every instruction of a stretch, one after the other; bytes that are none come as ``(bad)``.

        Args:
            start: address of the first one.
            size: bytes, shortened to those of the region.
            thumb: decode as Thumb (ARM only).
        """
        data = self.image.read(start, size)
        engine = self._engines[thumb]
        unit = 1 if self.architecture != "arm" else 2 if thumb else 4
        place, window = 0, len(data) if len(data) <= _WHOLE else _WINDOW
        while place < len(data):
            first, behind = place, min(place + window, len(data))
            # An instruction at the window's end may be cut off: it is decoded again with what follows.
            sure = behind if behind == len(data) else behind - _LONGEST
            for address, length, mnemonic, operands in engine.disasm_lite(data[first:behind], start + first):
                if address - start >= sure:
                    break
                yield Instruction(address, length, mnemonic, operands)
                place = address + length - start
            if place < sure:
                yield Instruction(start + place, min(unit, len(data) - place), BAD, "")
                place += unit
            window = min(4 * window, _WHOLE)

    def at(self, address: int, thumb: bool = False) -> Instruction:
        """The instruction at an address."""
        return next(self.sweep(address, 16, thumb), Instruction(address, 1, BAD, ""))

    def step(self, instruction: Instruction) -> Step:
        """Where control goes from an instruction."""
        if self.architecture == "arm":
            return _arm_step(instruction.mnemonic, instruction.operands)
        flow = _x86_flow(instruction.mnemonic)
        return _WITHOUT_TARGET[flow] if flow not in _WITH_TARGET else Step(flow, _number(instruction.operands))


_WITH_TARGET = frozenset({Flow.JUMP, Flow.BRANCH, Flow.CALL})
_WITHOUT_TARGET = {flow: Step(flow, None) for flow in Flow}


@lru_cache(maxsize=1 << 12)
def _x86_flow(mnemonic: str) -> Flow:
    word = mnemonic.rpartition(" ")[2]
    if word == "jmp":
        return Flow.JUMP
    if word == "call":
        return Flow.CALL
    if word[0] == "j" or word in _X86_LOOPS:
        return Flow.BRANCH
    if word in _X86_RETURNS:
        return Flow.RETURN
    return Flow.STOP if word in _X86_STOPS else Flow.NEXT


@lru_cache(maxsize=1 << 15)
def _arm_step(mnemonic: str, operands: str) -> Step:
    branch = _ARM_BRANCH.match(mnemonic)
    if branch:
        kind, condition = branch.groups()
        conditional = condition not in (None, "al")
        if kind in ("bl", "blx"):
            return Step(Flow.CALL, _number(operands))
        if kind == "b":
            return Step(Flow.BRANCH if conditional else Flow.JUMP, _number(operands))
        if operands == "lr":
            return Step(Flow.MAYBE_RETURN if conditional else Flow.RETURN, None)
        return Step(Flow.BRANCH if conditional else Flow.JUMP, None)
    if mnemonic.startswith(("cbz", "cbnz")):
        return Step(Flow.BRANCH, _number(operands.rpartition(", ")[2]))
    if mnemonic.startswith(("tbb", "tbh")):
        return Step(Flow.JUMP, None)
    if mnemonic in _ARM_STOPS:
        return Step(Flow.STOP, None)
    if "pc" in operands:
        loaded = _ARM_PC_LOAD.match(mnemonic)
        if loaded and operands.endswith("pc}"):
            return Step(Flow.RETURN if loaded.group(2) is None else Flow.MAYBE_RETURN, None)
        to_pc = _ARM_TO_PC.match(mnemonic)
        if to_pc and operands.startswith("pc, "):
            returns = operands == "pc, lr" or (to_pc.group(1) == "ldr" and operands.startswith("pc, [sp]"))
            conditional = to_pc.group(2) not in (None, "al")
            if returns:
                return Step(Flow.MAYBE_RETURN if conditional else Flow.RETURN, None)
            return Step(Flow.BRANCH if conditional else Flow.JUMP, None)
    return Step(Flow.NEXT, None)


def _number(operand: str) -> int | None:
    match = _NUMBER.match(operand)
    return int(match.group(1), 0) if match else None
