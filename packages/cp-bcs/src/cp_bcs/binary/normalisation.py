"""Instructions as the tokens that models read (CP-BCS, section 3.1).

Mnemonics and registers stay. Constants become ``<POSITIVE>``, ``<NEGATIVE>`` or ``<ZERO>``, calls ``<ICALL>`` or
``<ECALL>``, targets of local jumps ``<JUMP>``. What an instruction points at becomes ``<STRING>``, ``<IMPORT>``,
``<FUNCTION>`` or ``<DATA>``; the strings and imported names themselves are kept beside it, and can be left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cp_bcs.binary.instructions import Instruction
from cp_bcs.binary.program import Call
from cp_bcs.binary.references import Reference

POSITIVE, NEGATIVE, ZERO = "<POSITIVE>", "<NEGATIVE>", "<ZERO>"
INTERNAL_CALL, EXTERNAL_CALL, JUMP = "<ICALL>", "<ECALL>", "<JUMP>"
STRING, IMPORT, FUNCTION, DATA = "<STRING>", "<IMPORT>", "<FUNCTION>", "<DATA>"
SPECIAL = (POSITIVE, NEGATIVE, ZERO, INTERNAL_CALL, EXTERNAL_CALL, JUMP, STRING, IMPORT, FUNCTION, DATA)

_KINDS = {"string": STRING, "import": IMPORT, "function": FUNCTION, "data": DATA}
_SIGNED = re.compile(r"([+-] |#?-)?#?\b(0x[0-9a-f]+|\d+(?:\.\d+)?(?:e[+-]\d+)?)\b")
_WORDS = re.compile(r"<[A-Z]+>|[A-Za-z_][\w.]*|\*\d|[^\s,]")
_SIZES = re.compile(r"\b(byte|word|dword|qword|xmmword|ymmword|zmmword|fword|tbyte|xword) ptr ")
_RELATIVE = re.compile(r"\[(?:rip|pc)[^\]]*\]")
_WORD = re.compile(r"[A-Za-z]+|\d+|[^\sA-Za-z\d]")


@dataclass(frozen=True, slots=True)
class Normalized:
    """One normalised instruction.

    Args:
        tokens: mnemonic and operands.
        text: the string or the imported name that it uses.
    """

    tokens: tuple[str, ...]
    text: str | None = None

    @property
    def key(self) -> str:
        """The whole instruction as one entry of the graph's vocabulary; without ``text``."""
        return " ".join(self.tokens)


def normalize(
    code: Sequence[Instruction],
    calls: Mapping[int, Call],
    references: Mapping[int, Reference],
    local_jumps: frozenset[int] | set[int],
) -> list[Normalized]:
    """Normalise the code of one function.

    Args:
        code: its instructions.
        calls: its calls and tail calls, by address.
        references: what its instructions point at, by address.
        local_jumps: addresses of its jumps that stay inside.
    """
    return [
        _one(
            instruction,
            calls.get(instruction.address),
            references.get(instruction.address),
            instruction.address in local_jumps,
        )
        for instruction in code
    ]


def _one(instruction: Instruction, call: Call | None, reference: Reference | None, local: bool) -> Normalized:
    mnemonic, operands = instruction.mnemonic, instruction.operands
    head = tuple(mnemonic.split())
    if call is not None and (call.target is not None or call.name is not None):
        if call.name is not None:
            return Normalized((*head, EXTERNAL_CALL), call.name)
        return Normalized((*head, INTERNAL_CALL))
    if local and not operands.startswith(("[", "pc")):
        register = operands.rpartition(", ")[0]  # cbz r3, #0x71c
        return Normalized((*head, *_operand_tokens(register), JUMP))
    if reference is None:
        return Normalized((*head, *_operand_tokens(operands)))
    return Normalized((*head, *_operand_tokens(without_address(operands, reference))), reference.text)


def without_address(operands: str, reference: Reference) -> str:
    """Operands with what they point at named by its kind; all other constants stay."""
    kind = _KINDS[reference.kind]
    replaced = _RELATIVE.sub(kind, operands)
    if replaced == operands:
        number = operands.rpartition(", ")[2] if "[" not in operands else operands[operands.index("[") :]
        replaced = operands.replace(number, kind)
    return replaced


@lru_cache(maxsize=1 << 16)
def _operand_tokens(operands: str) -> tuple[str, ...]:
    """Tokens of operands: registers, sizes of memory accesses, brackets, and what became of the constants."""
    if not operands:
        return ()
    text = _SIZES.sub(r"\1 ", operands)
    text = re.sub(r"\*(\d)", r" times\1 ", text)
    text = _SIGNED.sub(lambda match: f" {_sign(match.group(1) or '', match.group(2))} ", text)
    text = re.sub(r"times(\d)", r"*\1", text)
    return tuple(_WORDS.findall(text))


def _sign(sign: str, digits: str) -> str:
    value = int(digits, 16) if digits.startswith("0x") else float(digits)
    if value == 0:
        return ZERO
    # Negative numbers are printed in two's complement, of 32 or of 64 bits.
    negative = "-" in sign or 0x80000000 <= value <= 0xFFFFFFFF or value >= 1 << 63
    return NEGATIVE if negative else POSITIVE


def sequence(code: Sequence[Normalized], texts: bool = True) -> list[str]:
    """The tokens of a function in one row.

    Args:
        code: its normalised instructions.
        texts: with the words of strings and imported names; ``False`` hides them.
    """
    row: list[str] = []
    for instruction in code:
        row += instruction.tokens
        if texts and instruction.text is not None:
            row += _WORD.findall(instruction.text)
    return row
