"""A corpus from a C project that the user built with ``-g``: documented functions joined to their machine code.

Source files are read by tree-sitter, places come from DWARF, code from the binary as if it were stripped: its symbol
table is not looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath

from cp_bcs.binary.exact_code import ExactCode
from cp_bcs.binary.facts import find_facts
from cp_bcs.binary.program import Program
from cp_bcs.binary.reading import read_image
from cp_bcs.data.c_sources import Definition, read_definitions
from cp_bcs.data.comments import clean_comment
from cp_bcs.data.debug_info import SourceFunction, read_source_functions
from cp_bcs.data.pairs import Pair, code_of, contradicted, leaks, write_pairs
from cp_bcs.data.pseudo_code import PseudoCodeOfPairs
from cp_bcs.evaluate import Discovery, judge_discovery
from mpo_core.errors import InputFileError
from mpo_core.repro.atomic import write_bytes_atomic

EDITED = "another function at its line (was the source edited after it was built?)"
"""Why a function is left out whose place in the source belongs to another one of the same file."""
SHORTEST_CODE = 5
"""Instructions of a function that is used."""

_OPTIMIZATION = re.compile(r"(?:^| )-(O(?:[0-3sgz]|fast)?)(?= |$)")


@dataclass
class Corpus:
    """Pairs, and what became of all other functions.

    Args:
        pairs: in the order of files and addresses.
        binaries: name and sha256 of each binary, and how the functions found in it, stripped, agree with its symbols.
        functions: of all binaries, in machine code.
        left_out: how many were left out, by reason.
        pseudo_code: how many have some, and why others have none; None where none was asked for.
    """

    pairs: list[Pair] = field(default_factory=list)
    binaries: list[tuple[str, str, Discovery]] = field(default_factory=list)
    functions: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    pseudo_code: Mapping[str, object] | None = None


def build_corpus(
    tree: Path, binaries: Sequence[Path], project: str, pseudo_code: PseudoCodeOfPairs | None = None
) -> Corpus:
    """Join a project's documented functions to machine code.

    Args:
        tree: folder of the sources.
        binaries: unstripped ELF files with DWARF, built from them; of several that hold the same source function for
            the same architecture and optimization, the first counts.
        project: name.
        pseudo_code: what fills in the pseudo code of the pairs.

    Raises:
        InputFileError: no such folder; a file that is no ELF file, or has no debug information.
    """
    if not tree.is_dir():
        raise InputFileError(f"{tree} is no folder of sources.")
    sources = _Sources(tree)
    corpus = Corpus()
    seen: set[tuple[object, ...]] = set()
    for path in binaries:
        image = read_image(path)
        program = Program(replace(image, symbols=()))
        corpus.binaries.append((path.name, image.sha256, judge_discovery(program.functions, image)))
        exact = ExactCode(program)
        known = {image.code_address(each.address): each for each in read_source_functions(path)}
        names = {(each.file, each.name) for each in known.values()}
        corpus.functions += len(program.functions)
        first = len(corpus.pairs)
        for function in program.functions:
            origin = known.get(function.address)
            if origin is None:
                corpus.left_out["no debug information (parts, start-up code, other languages)"] += 1
                continue
            found = sources.find(origin)
            if isinstance(found, str):
                corpus.left_out[found] += 1
                continue
            file, definition = found
            if definition.name not in origin.name and (origin.file, definition.name) in names:
                corpus.left_out[EDITED] += 1
                continue
            # Macros may give the machine code's function a longer name: xmlFreeDoc__internal_alias, _glp_scf_r0_solve.
            name = definition.name if definition.name and definition.name in origin.name else origin.name
            sentence = clean_comment(definition.comment, name)
            if sentence.sentence is None:
                corpus.left_out[f"comment {sentence.reason}"] += 1
                continue
            facts = find_facts(program, function)
            if len(facts.graph.instructions) < SHORTEST_CODE:
                corpus.left_out[f"fewer than {SHORTEST_CODE} instructions"] += 1
                continue
            levels = _OPTIMIZATION.findall(origin.producer)
            pair = Pair(
                project=project,
                file=file,
                line=origin.line,
                name=name,
                architecture=image.architecture,
                optimization=levels[-1] if levels else "O0",
                address=function.address,
                sentence=sentence.sentence,
                **code_of(facts, exact, (name, origin.name)),  # pyright: ignore[reportArgumentType]
            )
            key = (*pair.source, pair.architecture, pair.optimization)
            if key in seen:
                corpus.left_out["the same source function in an earlier place"] += 1
                continue
            seen.add(key)
            corpus.pairs.append(pair)
        if pseudo_code is not None:
            corpus.pairs[first:] = pseudo_code.add(corpus.pairs[first:], path)
    if pseudo_code is not None:
        corpus.pseudo_code = pseudo_code.told()
    return corpus


def write_corpus(corpus: Corpus, folder: Path, project: str) -> dict[str, object]:
    """Write ``pairs.jsonl`` and ``manifest.json``; the manifest tells counts and hashes, and no path of this machine.

    Returns:
        The manifest.

    Raises:
        InputFileError: an input holds its function's own name.
    """
    leaking = [pair.name for pair in corpus.pairs if leaks(pair)]
    if leaking:
        raise InputFileError(f"the code of {leaking[0]} and {len(leaking) - 1} others holds the function's own name.")
    data = write_pairs(corpus.pairs)
    bodies = {pair.body for pair in corpus.pairs}
    manifest: dict[str, object] = {
        "schema_version": 1,
        "project": project,
        "pairs": len(corpus.pairs),
        "distinct_bodies": len(bodies),
        "contradicted_bodies": len(contradicted(corpus.pairs)),
        "cells": dict(sorted(Counter(f"{p.architecture}-{p.optimization}" for p in corpus.pairs).items())),
        "functions": corpus.functions,
        "left_out": dict(sorted(corpus.left_out.items())),
        "leaks": len(leaking),
        **({} if corpus.pseudo_code is None else {"pseudo_code": corpus.pseudo_code}),
        "binaries": [
            {"name": name, "sha256": digest, "discovery": asdict(found)} for name, digest, found in corpus.binaries
        ],
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(folder / "pairs.jsonl", data)
    write_bytes_atomic(folder / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    return manifest


class _Sources:
    """The source tree: files by the ends of their paths, read when first needed."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree.resolve()
        self._by_name: dict[str, list[PurePosixPath]] = {}
        for path in sorted(self._tree.rglob("*.[ch]")):
            relative = PurePosixPath(path.relative_to(self._tree).as_posix())
            if not any(part.startswith(".") for part in relative.parts):  # dpkg keeps unpatched files in .pc
                self._by_name.setdefault(relative.name, []).append(relative)
        self._read: dict[PurePosixPath, list[Definition]] = {}

    def find(self, origin: SourceFunction) -> tuple[str, Definition] | str:
        """The source file and the documented definition of a function; or why there is none."""
        file = self._file(origin.file)
        if file is None:
            return "source not in the tree"
        if file not in self._read:
            self._read[file] = read_definitions(self._tree / file)[1]
        for definition in self._read[file]:
            if definition.first <= origin.line <= definition.body:
                return str(file), definition
        return "no comment above it"

    def _file(self, path: str) -> PurePosixPath | None:
        """The file of the tree whose path agrees with the given one from the end on the longest."""
        wanted = PurePosixPath(path).parts
        candidates = self._by_name.get(PurePosixPath(path).name, [])
        return max(candidates, key=lambda each: _common_end(each.parts, wanted), default=None)


def _common_end(a: Sequence[str], b: Sequence[str]) -> int:
    count = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        count += 1
    return count
