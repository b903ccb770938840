"""Which entities a text names, and where."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
"""Letters of scripts that part no words by blanks, or hang particles onto them (Thai to Khmer, Chinese to Korean)."""

_NO_LETTER_BEFORE, _NO_LETTER_BEHIND = rf"(?<![^\W{_UNSPACED}])", rf"(?![^\W{_UNSPACED}])"
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
WORD = re.compile(rf"'s\b|[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")
"""Words and marks of a text; of scripts without blanks, every letter."""


def normalized(text: str) -> str:
    """The text in Unicode's form NFC: letters with marks are one character, however they were typed."""
    return unicodedata.normalize("NFC", text)


def find_topic(text: str, topic: str) -> tuple[int, int] | None:
    """Where an entity is named in a text: start and end, or None.

    It is found as it is written or with blanks for its underscores, and only then without regard to case. It must not
    be part of a longer word.
    """
    for flags in (0, re.IGNORECASE):
        place = _find(text, topic, flags)
        if place is not None:
            return place
    return None


@dataclass(frozen=True)
class EntityNames:
    """The names of entities, in the order in which a text is searched for them.

    Attributes:
        names: in any order.
    """

    names: Iterable[str]

    @cached_property
    def longest_first(self) -> tuple[tuple[str, str, str], ...]:
        """Each name with two spellings in lower case: as it is, and with blanks for underscores."""
        ordered = sorted(self.names, key=lambda name: (-len(name), name))
        return tuple((name, name.lower(), name.lower().replace("_", " ")) for name in ordered)


def entities_named(text: str, names: EntityNames) -> tuple[str, ...]:
    """The entities that a text names: first those in their own spelling, then those in another case; longer ones first.

    A name that stands only inside of another one found is none.

    Args:
        text: of a question.
        names: of the entities.
    """
    lowered = text.lower()
    possible = [name for name, spelled, parted in names.longest_first if spelled in lowered or parted in lowered]
    found: dict[str, tuple[int, int]] = {}
    for flags in (0, re.IGNORECASE):
        for name in possible:
            place = None if name in found else _find(text, name, flags)
            if place is not None and not any(start <= place[0] and place[1] <= end for start, end in found.values()):
                found[name] = place
    return tuple(found)


def _find(text: str, topic: str, flags: int) -> tuple[int, int] | None:
    for spelling in dict.fromkeys([topic, topic.replace("_", " ")]):
        before = "" if _IS_UNSPACED.match(spelling[:1]) else _NO_LETTER_BEFORE
        behind = "" if _IS_UNSPACED.match(spelling[-1:]) else _NO_LETTER_BEHIND
        found = re.search(f"{before}{re.escape(spelling)}{behind}", text, flags)
        if found:
            return found.span()
    return None
