"""Pairs of a function's machine code and a sentence that says what it does."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from cp_bcs.binary.exact_code import ExactCode
from cp_bcs.binary.facts import FunctionFacts
from cp_bcs.binary.image import Architecture
from mpo_core.errors import InputFileError

OWN_NAME = "<NAME>"
"""What stands for the function's own name in strings."""


@dataclass(frozen=True)
class Pair:
    """One function.

    Args:
        project: where it is from.
        file: source file, relative to the source tree.
        line: of the name in the definition.
        name: in the source.
        architecture: of the machine code.
        optimization: of the compiler, ``O2``; empty where it is not known.
        address: in the binary.
        sentence: what it does.
        keys: normalised instructions, one for each node of the control-flow graph.
        texts: strings and imported names: [node, text].
        edges: forward edges: [from, to, type], see `EdgeType`.
        pseudo: pseudo code of the stripped function, where a decompiler made it.
        pseudo_twin: the same of the unstripped twin: what the refiner learns from.
        exact: digest of the code with its constants (`ExactCode`); empty where it is not known.
        calls: functions of the file that are called: [node, digest of the callee's code].
    """

    project: str
    file: str
    line: int
    name: str
    architecture: Architecture
    optimization: str
    address: int
    sentence: str
    keys: tuple[str, ...]
    texts: tuple[tuple[int, str], ...]
    edges: tuple[tuple[int, int, int], ...]
    pseudo: str | None = None
    pseudo_twin: str | None = None
    exact: str = ""
    calls: tuple[tuple[int, str], ...] = ()

    @property
    def source(self) -> tuple[str, str, int]:
        """The source function, whatever it was built for: (project, file, line)."""
        return self.project, self.file, self.line

    @cached_property
    def body(self) -> str:
        """Hash of the normalised instructions: equal for functions that a model cannot tell apart."""
        return hashlib.sha256("\n".join(self.keys).encode()).hexdigest()[:32]

    def is_code_of(self, other: Pair) -> bool:
        """Whether both are the very same code, constants included."""
        return self.exact != "" and self.exact == other.exact

    def text_at(self) -> Mapping[int, str]:
        """The string or imported name of each node that has one."""
        return dict(self.texts)


def hide_names(text: str, names: Sequence[str]) -> str:
    """A string without the function's own names, which ``__func__`` and messages put there."""
    for name in names:
        text = re.sub(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", OWN_NAME, text)
    return text


def leaks(pair: Pair) -> bool:
    """Whether an input of the pair holds the function's own name as a word."""
    word = re.compile(rf"(?<![A-Za-z0-9_]){re.escape(pair.name)}(?![A-Za-z0-9_])")
    inputs = (*(text for _, text in pair.texts), pair.pseudo or "")
    return any(word.search(text) for text in inputs)


def code_of(facts: FunctionFacts, exact: ExactCode, names: Sequence[str]) -> dict[str, object]:
    """The fields of a pair that come from machine code.

    Args:
        facts: of the function in the stripped file.
        exact: of that file.
        names: of the function, which are hidden in strings.
    """
    normalized = facts.normalized
    texts = ((node, each.text) for node, each in enumerate(normalized) if each.text is not None)
    return {
        "keys": tuple(each.key for each in normalized),
        "texts": tuple((node, hide_names(text, names)) for node, text in texts),
        "edges": tuple((source, target, int(why)) for source, target, why in facts.graph.edges),
        "exact": exact.digest(facts),
        "calls": tuple(_calls(facts, exact)),
    }


def _calls(facts: FunctionFacts, exact: ExactCode) -> Iterator[tuple[int, str]]:
    for node, target in facts.called:
        digest = exact.alone(target)
        if digest:
            yield node, digest


def write_pairs(pairs: Iterable[Pair]) -> bytes:
    """Pairs as JSON lines, the bytes the same for the same pairs."""
    return "".join(json.dumps(asdict(pair), ensure_ascii=False, sort_keys=True) + "\n" for pair in pairs).encode()


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a JSON lines file.

    Raises:
        InputFileError: it cannot be read, or a line is no pair; tells the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a name may hold other ends of lines
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"{path} cannot be read: {error}.") from error
    return [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _parse(line: str, where: str) -> Pair:
    try:
        row = json.loads(line)
        row["keys"] = tuple(row["keys"])
        row["texts"] = tuple((int(node), str(text)) for node, text in row["texts"])
        row["calls"] = tuple((int(node), str(digest)) for node, digest in row.get("calls", ()))
        row["edges"] = tuple((int(a), int(b), int(why)) for a, b, why in row["edges"])
        pair = Pair(**row)
    except (ValueError, KeyError, TypeError) as error:
        raise InputFileError(f"{where} is no pair of code and sentence ({error}).") from error
    count = len(pair.keys)
    if any(not (0 <= a < count and 0 <= b < count) for a, b, _ in pair.edges):
        raise InputFileError(f"{where} has an edge to a node that is not there.")
    return pair


def contradicted(pairs: Sequence[Pair]) -> set[str]:
    """Bodies that stand under different sentences: what they do cannot be told from their code."""
    sentences: dict[str, set[str]] = {}
    for pair in pairs:
        sentences.setdefault(pair.body, set()).add(pair.sentence)
    return {body for body, said in sentences.items() if len(said) > 1}


def without_duplicates(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """Each body once; those that are contradicted not at all."""
    dropped = contradicted(pairs)
    for pair in pairs:
        if pair.body not in dropped:
            dropped.add(pair.body)
            yield pair
