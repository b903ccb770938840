"""The pairs that an experiment works on."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from cp_bcs.binary.image import Architecture
from cp_bcs.config import DataConfig
from cp_bcs.data.compiling import Optimization, build_embedded, embedded_sources
from cp_bcs.data.corpus import build_corpus
from cp_bcs.data.pairs import Pair, read_pairs
from cp_bcs.data.splits import Split, make_split
from mpo_core.errors import InputFileError, UsageError

FOLDER = "cp-bcs"


def load_pairs(config: DataConfig) -> list[Pair]:
    """The pairs of one kind of build.

    Args:
        config: which.

    Raises:
        UsageError: corpora are wanted, and no data folder is named.
        InputFileError: the data folder holds no corpus of that kind of build.
    """
    if config.name == "embedded":
        pairs = _embedded(config.architecture, config.optimization)
    else:
        pairs = [pair for path in _corpora() for pair in read_pairs(path)]
    kind = (config.architecture, config.optimization)
    kept = [
        pair
        for pair in pairs
        if (pair.architecture, pair.optimization) == kind and (not config.projects or pair.project in config.projects)
    ]
    if not kept:
        raise InputFileError(
            f"no corpus holds functions for {config.architecture} at {config.optimization}"
            f"{' of ' + ', '.join(config.projects) if config.projects else ''}; make one with cp-bcs build."
        )
    return kept


def load_split(config: DataConfig, seed: int) -> Split:
    """The divided pairs; all splits but ``project-NAME`` depend on the seed."""
    if config.split == "project":
        name = f"project-{config.held_out[seed % len(config.held_out)]}"
    else:
        name = config.split if config.split.startswith("project-") else f"{config.split}-{seed}"
    return make_split(load_pairs(config), name)


@cache
def _embedded(architecture: Architecture, optimization: Optimization) -> list[Pair]:
    """Of the package's own sources, which are built once in a process."""
    with TemporaryDirectory() as folder:
        twins = build_embedded(Path(folder), architecture, optimization)
        return build_corpus(embedded_sources()[0].parent, [twins.unstripped], "embedded").pairs


def _corpora() -> list[Path]:
    place = os.environ.get("MPO_DATA")
    if not place:
        raise UsageError(
            f"corpora lie in the folder {FOLDER} of the data sets: name it with --data-dir or MPO_DATA; "
            "`cp-bcs build` makes them."
        )
    found = sorted((Path(place) / FOLDER).glob("*/pairs.jsonl"))
    if not found:
        raise InputFileError(f"{Path(place) / FOLDER} holds no corpus; make one there with cp-bcs build --out.")
    return found
