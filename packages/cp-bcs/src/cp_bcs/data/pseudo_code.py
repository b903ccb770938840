"""Pseudo code for the pairs of a corpus: of the binary as if it were stripped, and of its unstripped twin."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cp_bcs.binary.image import Image
from cp_bcs.binary.reading import read_image
from cp_bcs.data.pairs import Pair
from cp_bcs.decompile.decompiler import Decompiler, PseudoCode
from cp_bcs.decompile.lexing import clean_pseudo
from mpo_core.errors import InputFileError

Twin = Literal["stripped", "unstripped"]


@dataclass
class PseudoCodeOfPairs:
    """Fills in the pseudo code of pairs, and counts what became of them.

    Args:
        decompiler: that writes it.
        on_done: called with which twin, how many functions are done, and of how many.
        counts: of each twin: ``done``, ``truncated``, which are left out, and why others have none.
    """

    decompiler: Decompiler
    on_done: Callable[[str, int, int], None] | None = None
    counts: dict[Twin, Counter[str]] = field(default_factory=lambda: {"stripped": Counter(), "unstripped": Counter()})

    def add(self, pairs: Sequence[Pair], binary: Path) -> list[Pair]:
        """Pairs with pseudo code, where there is some.

        Args:
            pairs: all from the same binary.
            binary: the unstripped file.

        Raises:
            InputFileError: a pair is not of this file: no function begins at its address.
        """
        names = _names_at(read_image(binary))
        stripped = self._decompile(pairs, binary, "stripped")
        twins = self._decompile(pairs, binary, "unstripped")
        for pair in pairs:
            if pair.address not in stripped:
                raise InputFileError(f"{binary.name} has no function at {pair.address:#x}, the place of {pair.name}.")
        return [
            replace(
                pair,
                pseudo=self._text(pair, stripped[pair.address], names, "stripped"),
                pseudo_twin=self._text(pair, twins.get(pair.address, PseudoCode()), names, "unstripped"),
            )
            for pair in pairs
        ]

    def told(self) -> dict[str, object]:
        """For the manifest of a corpus."""
        counts = {twin: dict(sorted(found.items())) for twin, found in self.counts.items()}
        return {"decompiler": self.decompiler.backend.name, **counts}

    def _decompile(self, pairs: Sequence[Pair], binary: Path, twin: Twin) -> dict[int, PseudoCode]:
        tell = self.on_done
        return self.decompiler.decompile(
            binary,
            {pair.address for pair in pairs},
            symbols=twin == "unstripped",
            on_done=None if tell is None else lambda done, total: tell(f"{binary.name}, {twin}", done, total),
        )

    def _text(self, pair: Pair, made: PseudoCode, names: Mapping[int, set[str]], twin: Twin) -> str | None:
        if made.text is None or made.truncated:
            self.counts[twin]["truncated" if made.truncated else made.failure or "no function"] += 1
            return None
        self.counts[twin]["done"] += 1
        return clean_pseudo(made.text, [pair.name, made.name, *names.get(pair.address, ())])


def _names_at(image: Image) -> Mapping[int, set[str]]:
    """All names of each function, also without the suffixes that the compiler gives (``.part.0``)."""
    names: defaultdict[int, set[str]] = defaultdict(set)
    for symbol in (*image.symbols, *image.exports):
        if symbol.is_function and symbol.name:
            names[image.code_address(symbol.address)] |= {symbol.name, symbol.name.split(".")[0]}
    return names
