"""Extents of functions from ``.eh_frame``, which gcc writes for x86 and x64 and ``strip`` leaves.

One frame description entry (FDE) covers one function, or one part of it that the compiler moved away. Only the
ranges are read; pyelftools, which also interprets what is inside, is the oracle in the tests.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cp_bcs.binary.image import Image

_ABSOLUTE, _RELATIVE = 0x00, 0x10
_FORMATS = {0x02: "<H", 0x03: "<I", 0x04: "<Q", 0x0A: "<h", 0x0B: "<i", 0x0C: "<q"}
_TABLE = ".eh_frame"


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a function lies: address of its first byte, and number of bytes."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The address behind its last byte."""
        return self.start + self.size


def unwind_extents(image: Image) -> tuple[Extent, ...]:
    """The extents that ``.eh_frame`` describes, by address; none on ARM and where the section is missing."""
    found: set[Extent] = set()
    for region in image.regions:
        if region.name == _TABLE:
            found |= set(read_extents(region.data, region.start, image.pointer_size))
    if not any(region.name == _TABLE for region in image.regions):
        place = _table_without_sections(image)
        if place is not None:
            found |= set(read_extents(image.read(place, 1 << 28), place, image.pointer_size))
    return tuple(sorted((e for e in found if e.size > 0), key=lambda extent: (extent.start, extent.size)))


def _table_without_sections(image: Image) -> int | None:
    """The address of the table where no section tells it: its header starts with version 1 and known encodings."""
    for region in image.regions:
        place = region.data.find(b"\x01\x1b\x03\x3b")  # pc-relative sdata4, udata4, data-relative sdata4
        if place >= 0 and place + 8 <= len(region.data):
            (offset,) = struct.unpack_from("<i", region.data, place + 4)
            return region.start + place + 4 + offset
    return None


def read_extents(table: bytes, address: int, pointer_size: int) -> list[Extent]:
    """The extents in the bytes of an ``.eh_frame`` section; reading ends where an entry cannot be.

    Args:
        table: the section's bytes.
        address: of its first byte.
        pointer_size: 4 or 8.
    """
    encodings: dict[int, int] = {}
    extents: list[Extent] = []
    place = 0
    while place + 8 <= len(table):
        (length,) = struct.unpack_from("<I", table, place)
        start = place + 4
        if length == 0:  # ends one file's part of the table; linkers may leave it between others
            place = start
            continue
        if length == 0xFFFFFFFF or start + length > len(table):
            break
        end = start + length
        (identity,) = struct.unpack_from("<I", table, start)
        if identity == 0:
            encoding = _pointer_encoding(table[start + 4 : end], pointer_size)
            if encoding is not None:
                encodings[place] = encoding
        else:
            encoding = encodings.get(start - identity)
            if encoding is not None:
                extent = _read_extent(table[start + 4 : end], address + start + 4, encoding, pointer_size)
                if extent is not None:
                    extents.append(extent)
        place = end
    return extents


def _pointer_encoding(entry: bytes, pointer_size: int) -> int | None:
    """How the FDEs of a common information entry (CIE) write addresses; None where that is not understood.

    Args:
        entry: the CIE from its version on.
        pointer_size: 4 or 8.
    """
    end = entry.find(b"\0", 1)
    if end < 0 or entry[0] not in (1, 3):
        return None
    augmentation = entry[1:end]
    if not augmentation.startswith(b"z"):
        return _ABSOLUTE if not augmentation else None
    place = _skip_leb(entry, _skip_leb(entry, end + 1))  # alignment factors of code and data
    place = place + 1 if entry[0] == 1 else _skip_leb(entry, place)  # register of the return address
    place = _skip_leb(entry, place)  # length of what follows
    for letter in augmentation[1:]:
        if place >= len(entry):
            return None
        if letter == ord("R"):
            return entry[place]
        if letter == ord("L"):
            place += 1
        elif letter == ord("P"):
            layout = _layout(entry[place], pointer_size)
            if layout is None:
                return None
            place += 1 + struct.calcsize(layout)
        elif letter not in b"SB":
            return None
    return _ABSOLUTE


def _layout(encoding: int, pointer_size: int) -> str | None:
    kind = encoding & 0x0F
    return ("<Q" if pointer_size == 8 else "<I") if kind == 0 else _FORMATS.get(kind)


def _skip_leb(data: bytes, place: int) -> int:
    while place < len(data) and data[place] & 0x80:
        place += 1
    return place + 1


def _read_extent(entry: bytes, address: int, encoding: int, pointer_size: int) -> Extent | None:
    """The extent of an FDE.

    Args:
        entry: the FDE from its initial location on.
        address: of that place.
        encoding: of its CIE.
        pointer_size: 4 or 8.
    """
    layout = _layout(encoding, pointer_size)
    if layout is None or encoding & 0xF0 not in (_ABSOLUTE, _RELATIVE):
        return None
    width = struct.calcsize(layout)
    if len(entry) < 2 * width:
        return None
    (start,) = struct.unpack_from(layout, entry)
    size = int.from_bytes(entry[width : 2 * width], "little")
    if encoding & 0xF0 == _RELATIVE:
        start += address
    return Extent(start & ((1 << 8 * pointer_size) - 1), size)
