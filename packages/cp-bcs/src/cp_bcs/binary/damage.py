"""Damaged copies of ELF files, each the same for the same seed: what readers are tried on."""

from __future__ import annotations

import random
import struct
from typing import Literal, get_args

Damage = Literal["header", "program headers", "section headers", "dynamic", "unwind", "anywhere", "truncated", "random"]
DAMAGES: tuple[Damage, ...] = get_args(Damage)

_ODD = (0, 1, 127, 128, 255)
_RANDOM_BYTES = 4000
_PT_DYNAMIC, _PT_GNU_EH_FRAME, _PT_ARM_EXIDX = 2, 0x6474E550, 0x70000001


def damaged(data: bytes, kind: Damage, seed: int) -> bytes:
    """A damaged copy.

    Args:
        data: a sound ELF file.
        kind: where it is damaged: in one of its headers, in the dynamic section, in the unwind table, anywhere behind
            the header, by losing its end, or by random bytes behind its first 16.
        seed: of the damage.
    """
    rng, changed = random.Random(f"{kind}-{seed}"), bytearray(data)
    if kind == "truncated":
        return bytes(changed[: rng.randrange(len(changed))])
    if kind == "random":
        return data[:16] + rng.randbytes(rng.randrange(_RANDOM_BYTES))
    first, length, count = _place(data, kind, rng)
    for _ in range(rng.randint(1, count)):
        place = min(len(changed) - 1, first + rng.randrange(length))
        changed[place] = rng.choice((*_ODD, rng.randrange(256)))
    return bytes(changed)


def _place(data: bytes, kind: Damage, rng: random.Random) -> tuple[int, int, int]:
    """Where the damage begins, over how many bytes it is spread, and how many change at most."""
    match kind:
        case "header":
            return 16, 48, 4
        case "program headers":
            return _number(data, 28, 32), 400, 12
        case "section headers":
            return _number(data, 32, 40), 1400, 12
        case "dynamic":
            start, length = _segment(data, (_PT_DYNAMIC,)) or (64, 600)
            return start, length, 30
        case "unwind":
            start, _ = _segment(data, (_PT_GNU_EH_FRAME, _PT_ARM_EXIDX)) or (64, 600)
            return start, 6000, 60
        case _:
            return rng.randrange(64, len(data)), 600, 200


def _number(data: bytes, place32: int, place64: int) -> int:
    """An offset that the header tells."""
    wide = data[4] == 2
    return struct.unpack_from("<Q" if wide else "<I", data, place64 if wide else place32)[0]


def _segment(data: bytes, kinds: tuple[int, ...]) -> tuple[int, int] | None:
    """Offset and length in the file of the first segment of some kinds."""
    wide = data[4] == 2
    table = _number(data, 28, 32)
    size, count = struct.unpack_from("<HH", data, 54 if wide else 42)
    for number in range(count):
        entry = table + number * size
        (kind,) = struct.unpack_from("<I", data, entry)
        if kind in kinds:
            offset, length = struct.unpack_from("<Q24xQ" if wide else "<I8xI", data, entry + (8 if wide else 4))
            return offset, max(1, length)
    return None
