"""The one form in which every text task reaches training, and the way from a configuration to it."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.hub import fast_hub, why_not

if TYPE_CHECKING:
    from mpo_core.repro.config import TaskConfig

Kind = Literal["classification", "regression", "language-modelling"]
Split = Literal["train", "select", "eval"]

DATA_VARIABLE = "MPO_DATA"
SPLIT_SEED = 1234

Item = TypeVar("Item")


@dataclass(frozen=True)
class Example:
    """One example: one text, or a pair; a label, or none in language modelling (a document)."""

    texts: tuple[str, ...]
    label: int | float | None = None


@dataclass(frozen=True)
class TextTask:
    """A task with its three splits.

    Args:
        name: as in `TaskConfig`.
        kind: what is predicted.
        num_labels: classes; 1 for regression, 0 for language modelling.
        label_names: by class index.
        splits: ``train``; ``select`` chooses learning rates; ``eval`` is read for final figures only.
        metrics: names of what `evaluate_task` reports.
        source: one line on where the examples come from and how the splits were made.
    """

    name: str
    kind: Kind
    num_labels: int
    label_names: tuple[str, ...]
    splits: dict[Split, list[Example]]
    metrics: tuple[str, ...]
    source: str


def load_task(config: TaskConfig, data_dir: Path | None = None) -> TextTask:
    """Load the task that a configuration names.

    Real data sets are read from ``data_dir`` where it has them, otherwise from the Hugging Face hub.

    Args:
        config: name and sizes; subsamples are seeded and the same for every trial.
        data_dir: folder with ``glue/``, ``ptb/``, ...; by default the environment variable ``MPO_DATA``.

    Raises:
        UsageError: no task of that name.
        InputFileError: the data is nowhere to be had, or a file of it is bad (names file, line and reason).
    """
    from mpo_core.repro.tasks import doctext, glue, language_modelling

    folder = data_folder(data_dir)
    if config.name in glue.GLUE_TASKS:
        return glue.load_glue(config, folder)
    if config.name in language_modelling.CORPORA:
        return language_modelling.load_corpus(config, folder)
    if config.name in doctext.DOCTEXT_TASKS:
        return doctext.load_doctext(config)
    known = sorted([*glue.GLUE_TASKS, *language_modelling.CORPORA, *doctext.DOCTEXT_TASKS])
    raise UsageError(f"unknown task {config.name!r}; known: {', '.join(known)}.")


def hub_dataset(path: str, name: str | None, data_dir: Path | None, **options: Any) -> Any:
    """Load a data set from the hub: parquet files only, no code of the repository.

    Args:
        path: repository on the hub.
        name: its configuration.
        data_dir: where files were looked for before, for the message.
        options: further arguments of ``datasets.load_dataset``.

    Raises:
        InputFileError: it cannot be had; says what to set.
    """
    import datasets

    try:
        with fast_hub():
            return datasets.load_dataset(path, name, **options)
    except (OSError, ValueError, RuntimeError) as error:  # datasets derives its own errors from these
        label = f"{path} ({name})" if name else path
        looked = f"it is not under {data_dir}" if data_dir else f"no --data-dir or {DATA_VARIABLE} is set"
        raise InputFileError(
            f"the data set {label} cannot be had: {looked}, and on the Hugging Face hub: {why_not()}. "
            f"Give --data-dir (or set {DATA_VARIABLE}) to a folder that has it, or go online."
        ) from error


def carve_select(train: Sequence[Item], size: int | None) -> tuple[list[Item], list[Item]]:
    """Take a fixed random part out of the training examples, for choosing learning rates.

    Args:
        train: all training examples.
        size: of the part; by default a tenth, at most 500.

    Returns:
        The remaining training examples and the part, both in their order.

    Raises:
        UsageError: nothing would be left to train on.
    """
    count = size if size is not None else min(max(len(train) // 10, 1), 500)
    if count >= len(train):
        raise UsageError(f"select_size {count} leaves nothing of {len(train)} training examples: take a smaller one.")
    chosen = set(_sample(len(train), count, SPLIT_SEED))
    rest = [item for index, item in enumerate(train) if index not in chosen]
    return rest, [train[index] for index in sorted(chosen)]


def subsample(items: Sequence[Item], size: int | None, seed: int = SPLIT_SEED + 1) -> list[Item]:
    """A fixed random subsample, in order; a smaller one is part of a larger one. ``None`` takes all."""
    if size is None or size >= len(items):
        return list(items)
    return [items[index] for index in _sample(len(items), size, seed)]


def read_utf8(file: Path) -> str:
    """The text of a UTF-8 file, plain or gzip (``.gz``), without a byte order mark.

    Raises:
        InputFileError: missing, not readable, not gzip, or not UTF-8 (names the byte).
    """
    import gzip
    import zlib

    try:
        data = file.read_bytes()
        return (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputFileError(f"{file} is not UTF-8 at byte {error.start}: save it as UTF-8 text.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputFileError(f"{file} cannot be read ({error}).") from error


def first_existing(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of these files that the folder has, each plain or with ``.gz``."""
    candidates = [folder / f"{name}{end}" for name in names for end in ("", ".gz")]
    return next((file for file in candidates if file.is_file()), None)


def _sample(total: int, size: int, seed: int) -> list[int]:
    order = list(range(total))
    random.Random(seed).shuffle(order)
    return sorted(order[:size])


def data_folder(data_dir: Path | None = None) -> Path | None:
    """The folder of the data sets, or None where none is named.

    Args:
        data_dir: by default the environment variable ``MPO_DATA``.

    Raises:
        InputFileError: it is no folder.
    """
    value = data_dir if data_dir is not None else os.environ.get(DATA_VARIABLE) or None
    if value is None:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        origin = "--data-dir" if data_dir is not None else DATA_VARIABLE
        raise InputFileError(f"{origin} names {folder}, which is not a folder: expected one with glue/, ptb/, ...")
    return folder
