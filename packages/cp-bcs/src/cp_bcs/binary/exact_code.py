"""Whether two functions are the very same code: with their constants, and what they point at and call.

Normalised instructions are alike for functions that differ in a polynomial, a flag or a table. Here only what a linker
decides is left out: addresses.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from cp_bcs.binary.exploring import literal_address
from cp_bcs.binary.facts import FunctionFacts, find_facts
from cp_bcs.binary.instructions import Instruction
from cp_bcs.binary.normalisation import JUMP, without_address
from cp_bcs.binary.program import Program
from cp_bcs.binary.references import Reference

_WIDTHS = {"byte": 1, "word": 2, "dword": 4, "qword": 8, "xmmword": 16, "ymmword": 32}
_ACCESS = re.compile(r"\b(byte|word|dword|qword|xmmword|ymmword) ptr ")
_TABLE = 16
"""Bytes of constant data that are looked at where an instruction takes its address."""
_TO_GOT = re.compile(r"(\w+), (0x[0-9a-f]+)\Z")


class ExactCode:
    """Digests of the functions of one binary.

    Args:
        program: the binary.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.image = program.image
        self._alone: dict[int, str] = {}

    def digest(self, facts: FunctionFacts) -> str:
        """Of one function.

        Equal only for functions with the same instructions, constants, strings, imported names, constant data that
        instructions read, and the same code (without what that calls in turn) of the functions of the file they call.
        """
        # What is analysed here need not be analysed again for those that call it.
        if facts.function.address not in self._alone:
            self._alone[facts.function.address] = self._hash(facts, lambda _: "")
        return self._hash(facts, self.alone)

    def alone(self, address: int) -> str:
        """Of a function of the file by its address, without what it calls; empty where none can be read there."""
        if address not in self._alone:
            function = self.program.by_address.get(address)
            try:
                facts = None if function is None else find_facts(self.program, function)
            except Exception:  # a function that cannot be read must not cost those that call it
                facts = None
            self._alone[address] = "" if facts is None else self._hash(facts, lambda _: "")
        return self._alone[address]

    def _hash(self, facts: FunctionFacts, callee: Callable[[int], str]) -> str:
        nodes = facts.graph.instructions
        local = {nodes[source].address for source, _, _ in facts.graph.edges}
        lines = [self._line(facts, node, node.address in local, callee) for node in nodes]
        lines += [f"{source} {target} {int(why)}" for source, target, why in facts.graph.edges]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]

    def _line(self, facts: FunctionFacts, node: Instruction, flows: bool, callee: Callable[[int], str]) -> str:
        call, reference = facts.calls.get(node.address), facts.references.get(node.address)
        if call is not None and call.name is not None:
            return f"{node.mnemonic} {call.name}"
        if call is not None and call.target is not None:
            return f"{node.mnemonic} @{callee(call.target)}"
        if reference is not None:
            masked = without_address(node.operands, reference)
            return f"{node.mnemonic} {masked} {self._pointed_at(node, reference, callee)}"
        if flows and self.program.disassembler.step(node).target is not None:
            return f"{node.mnemonic} {node.operands.rpartition(', ')[0]} {JUMP}"
        place = literal_address(node, facts.function.thumb) if self.image.architecture == "arm" else None
        if place is not None:
            return f"{node.mnemonic} {node.operands.partition(',')[0]} {self.image.word(place, 4)}"
        return f"{node.mnemonic} {self._without_got(node)}"

    def _pointed_at(self, node: Instruction, reference: Reference, callee: Callable[[int], str]) -> str:
        if reference.text is not None:
            return repr(reference.text)
        if reference.kind == "function":
            return f"@{callee(self.image.code_address(reference.target))}"
        region = self.image.region_at(reference.target)
        if region is None or region.writable:
            return ""
        access = _ACCESS.search(node.operands)
        width = _TABLE if access is None else _WIDTHS[access.group(1)]
        if any(place in self.image.pointers for place in range(reference.target, reference.target + width)):
            return ""
        return self.image.read(reference.target, width).hex()

    def _without_got(self, node: Instruction) -> str:
        """Operands; of position-independent i386 code without the distance to the global offset table."""
        match = _TO_GOT.match(node.operands) if node.mnemonic == "add" and self.image.got is not None else None
        if match and (node.address + int(match.group(2), 16)) & 0xFFFFFFFF == self.image.got:
            return f"{match.group(1)}, <GOT>"
        return node.operands
