"""The stubs through which imported functions are called (procedure linkage table), and the names behind them."""

from __future__ import annotations

import re

from cp_bcs.binary.image import Image
from cp_bcs.binary.instructions import Disassembler, Instruction

_STUB_INSTRUCTIONS = 4
_RIP = re.compile(r"qword ptr \[rip ([+-]) (0x[0-9a-f]+|\d+)\]\Z")
_GOT = re.compile(r"dword ptr \[e[a-d]x ([+-]) (0x[0-9a-f]+|\d+)\]\Z")
_PLAIN = re.compile(r"[dq]word ptr \[(0x[0-9a-f]+)\]\Z")
_ADD_PC = re.compile(r"ip, pc, #(0x[0-9a-f]+|\d+)(?:, #(\d+))?\Z")
_ADD_IP = re.compile(r"ip, ip, #(0x[0-9a-f]+|\d+)(?:, #(\d+))?\Z")
_LOAD_PC = re.compile(r"pc, \[ip, #(-?0x[0-9a-f]+|-?\d+)\]!\Z")


def slot_of(image: Image, instruction: Instruction) -> int | None:
    """The address from which an x86 call or jump takes its target: ``call qword ptr [rip + 0x2fe2]``."""
    operands = instruction.operands
    match = _RIP.match(operands)
    if match:
        return instruction.end + int(match.group(1) + match.group(2), 0)
    match = _PLAIN.match(operands)
    if match:
        return int(match.group(1), 16)
    match = _GOT.match(operands)
    if match and image.got is not None:
        return (image.got + int(match.group(1) + match.group(2), 0)) & 0xFFFFFFFF
    return None


class Stubs:
    """What is behind the address that a call names: an imported function, or one of this file."""

    def __init__(self, disassembler: Disassembler) -> None:
        self._disassembler = disassembler
        self._image = disassembler.image
        self._known: dict[int, int | None] = {}

    def name_at(self, address: int) -> str | None:
        """The imported function that a call to this address reaches; None where no stub of one is."""
        slot = self._slot_at(address)
        return None if slot is None else self._image.imports.get(slot)

    def behind(self, address: int) -> int:
        """The address that a call to this one reaches in this file: a library may call itself through a stub."""
        slot = self._slot_at(address)
        return address if slot is None else self._image.pointers.get(slot, address)

    def _slot_at(self, address: int) -> int | None:
        """The slot through which the stub at an address jumps; None where no stub is."""
        if address not in self._known:
            slot = self._arm_slot(address) if self._image.architecture == "arm" else self._x86_slot(address)
            self._known[address] = slot
        return self._known[address]

    def all(self) -> dict[int, str]:
        """Every stub in the sections that hold them: address -> name."""
        found: dict[int, str] = {}
        for region in self._image.regions:
            if region.executable and region.name.startswith(".plt"):
                for address in range(region.start, region.end, 4):
                    name = self.name_at(address)
                    if name is not None:
                        found[address] = name
        return found

    def _x86_slot(self, address: int) -> int | None:
        for number, instruction in enumerate(self._disassembler.sweep(address, 16)):
            if instruction.mnemonic in ("jmp", "bnd jmp", "notrack jmp"):
                return slot_of(self._image, instruction)
            if number == 1 or instruction.mnemonic not in ("endbr64", "endbr32"):
                break
        return None

    def _arm_slot(self, address: int) -> int | None:
        """``add ip, pc, #a; add ip, ip, #b; ldr pc, [ip, #c]!``, maybe behind Thumb's ``bx pc; nop``."""
        if self._image.word(address, 4) == 0x46C04778:
            address += 4
        sum_ = None
        for instruction in self._disassembler.sweep(address, 4 * _STUB_INSTRUCTIONS):
            mnemonic, operands = instruction.mnemonic, instruction.operands
            if sum_ is None:
                match = _ADD_PC.match(operands) if mnemonic == "add" else None
                if match is None:
                    if mnemonic == "adr" and operands.startswith("ip, #"):
                        sum_ = instruction.address + 8 + int(operands.removeprefix("ip, #"), 0)
                        continue
                    return None
                sum_ = instruction.address + 8 + _rotated(match)
            elif mnemonic == "add" and (match := _ADD_IP.match(operands)):
                sum_ += _rotated(match)
            elif mnemonic == "ldr" and (match := _LOAD_PC.match(operands)):
                return (sum_ + int(match.group(1), 0)) & 0xFFFFFFFF
            else:
                return None
        return None


def _rotated(match: re.Match[str]) -> int:
    """An immediate that capstone prints as value and rotation to the right: ``#0, #12``."""
    value, turn = int(match.group(1), 0), int(match.group(2) or "0")
    return ((value >> turn) | (value << (32 - turn))) & 0xFFFFFFFF
