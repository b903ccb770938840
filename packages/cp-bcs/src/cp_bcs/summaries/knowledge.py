"""An index as a folder: known functions, how far answers from them can be trusted, and where they are from."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cp_bcs.data.corpus import build_corpus
from cp_bcs.data.pairs import Pair, read_pairs
from cp_bcs.retrieval import Index
from cp_bcs.summaries.calibrating import calibration_for
from cp_bcs.summaries.calibration import Calibration
from cp_bcs.summaries.consensus import RetrievalSummarizer
from cp_bcs.summaries.drafts import Summarizer
from cp_bcs.summaries.known_functions import named_functions
from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.atomic import new_folder, write_json_atomic
from mpo_core.repro.jobs import refuse_existing

MANIFEST = "index.json"
_KIND = "cp-bcs index"
_FILES = ("pairs.jsonl", "vocabulary.json", "weights.safetensors")


@dataclass(frozen=True)
class Knowledge:
    """What summaries come from.

    Args:
        index: the known functions.
        calibration: of summaries by retrieval from it.
        digest: of the folder it was read from; empty before it is saved.
    """

    index: Index
    calibration: Calibration
    digest: str = ""

    def describe(self) -> dict[str, Any]:
        """Counts and origins."""
        pairs = self.index.pairs
        return {
            "functions": len(pairs),
            "with_sentence": sum(bool(pair.sentence) for pair in pairs),
            "projects": dict(sorted(Counter(pair.project for pair in pairs).items())),
            "architectures": sorted({pair.architecture for pair in pairs}),
        }


def known_pairs(
    corpora: Sequence[Path], tree: Path | None, binaries: Sequence[Path], project: str | None
) -> list[Pair]:
    """The functions that an index is made of.

    Args:
        corpora: folders that ``cp-bcs corpus`` or ``cp-bcs build`` wrote.
        tree: sources of the binaries; None where there are none.
        binaries: unstripped; documented functions are paired with their comments, all others known by name.
        project: name of the binaries' project; that of the tree, or of each binary, unless given.

    Raises:
        UsageError: nothing is given, or sources without a binary.
        InputFileError: a corpus or a binary cannot be read.
    """
    if tree is not None and not binaries:
        raise UsageError(f"--src {tree} needs the binary that was built from it: give --elf FILE.")
    if not corpora and not binaries:
        raise UsageError("an index needs known functions: give --corpus DIR, or --elf FILE with or without --src TREE.")
    pairs = [pair for folder in corpora for pair in read_pairs(folder / "pairs.jsonl")]
    documented: list[Pair] = []
    if tree is not None:
        documented = build_corpus(tree, binaries, project or tree.resolve().name).pairs
    for path in binaries:
        name = project or (tree.resolve().name if tree is not None else path.name)
        # With several binaries an address does not tell which one it lies in; names do.
        known = {pair.name for pair in documented}
        pairs += [pair for pair in named_functions(path, name) if pair.name not in known]
    return documented + pairs


def write_knowledge(pairs: Sequence[Pair], folder: Path) -> Knowledge:
    """Index functions, calibrate, and write a new folder, which `read_knowledge` reads.

    Raises:
        UsageError: the folder exists, or there are no functions.
    """
    refuse_existing(folder)
    index = Index(pairs)
    knowledge = Knowledge(index, calibration_for(index))
    with new_folder(folder) as place:
        index.save(place)
        manifest = {
            "schema_version": 1,
            "kind": _KIND,
            **knowledge.describe(),
            "calibration": knowledge.calibration.to_json(),
            "sha256": {name: _sha256(place / name) for name in _FILES},
        }
        write_json_atomic(place / MANIFEST, manifest)
    return knowledge


def read_knowledge(folder: Path) -> Knowledge:
    """Read a folder that `write_knowledge` wrote.

    Raises:
        InputFileError: it is none, or damaged.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
        told: Any = json.loads(data)
    except OSError as error:
        raise InputFileError(
            f"{folder} is no index ({MANIFEST}: {error.strerror}); make one with cp-bcs index."
        ) from error
    except ValueError as error:
        raise InputFileError(f"{path} is damaged ({error}); make the index again.") from error
    if not isinstance(told, dict) or told.get("kind") != _KIND or told.get("schema_version") != 1:
        raise InputFileError(f"{path} is of no index that this version reads; make one with cp-bcs index.")
    digests = told.get("sha256")
    for name in _FILES:
        try:
            damaged = not isinstance(digests, dict) or digests.get(name) != _sha256(folder / name)
        except OSError as error:
            raise InputFileError(f"{folder} is a damaged index ({name}: {error.strerror}); make it again.") from error
        if damaged:
            raise InputFileError(
                f"{folder} is a damaged index: {name} is not the file that was written; make it again."
            )
    calibration = Calibration.from_json(told.get("calibration"), str(path))
    return Knowledge(Index.load(folder), calibration, hashlib.sha256(data).hexdigest())


def load_summarizer(model: Path | None, knowledge: Knowledge | None) -> tuple[Summarizer, Calibration] | None:
    """What writes the drafts, and how far they can be trusted; None where there is nothing to write them from.

    Args:
        model: a trained network.
        knowledge: an index; with a model, what it looks at in the place of the functions that it was trained on.

    Raises:
        InputFileError: the model is none, or damaged.
    """
    if model is not None:
        from cp_bcs.training_run import load_trained  # torch, which retrieval does without

        learned, calibration = load_trained(model)
        if knowledge is not None:
            learned.use_index(knowledge.index)
        return learned, calibration
    return None if knowledge is None else (RetrievalSummarizer(knowledge.index), knowledge.calibration)


def digest_of(model: Path) -> str:
    """What tells a trained network from others: the sha256 of its weights.

    Raises:
        InputFileError: there are none.
    """
    path = model / "weights.safetensors"
    try:
        return _sha256(path)
    except OSError as error:
        raise InputFileError(f"{model} holds no trained network that can be read ({error.strerror}).") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
