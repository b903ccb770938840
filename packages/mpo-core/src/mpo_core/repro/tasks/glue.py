"""GLUE (Wang et al. 2019): the original TSV files, or the hub's ``nyu-mll/glue``, as the same examples.

``eval`` is the official development set (the test labels are not public), ``select`` a fixed part of the
training set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpo_core.errors import InputFileError
from mpo_core.repro.tasks.task import (
    Example,
    TextTask,
    carve_select,
    first_existing,
    hub_dataset,
    read_utf8,
    subsample,
)

if TYPE_CHECKING:
    from mpo_core.repro.config import TaskConfig

HUB_REPOSITORY = "nyu-mll/glue"


@dataclass(frozen=True)
class GlueFormat:
    """How one GLUE task is written.

    Args:
        folder: below ``glue/``.
        text_columns: in the TSV header.
        label_column: in the TSV header.
        hub_text_columns: on the hub, where the label is always ``label``.
        label_names: by class index; empty for regression.
        file_labels: label in the file -> class index; empty for regression.
        metrics: as the benchmark reports.
        train_files: by preference.
        eval_files: by preference.
        hub_eval: name of the development split on the hub.
        header: column names where the file has no header line.
    """

    folder: str
    text_columns: tuple[str, ...]
    label_column: str
    hub_text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    file_labels: Mapping[str, int]
    metrics: tuple[str, ...] = ("accuracy",)
    train_files: tuple[str, ...] = ("train.tsv",)
    eval_files: tuple[str, ...] = ("dev.tsv",)
    hub_eval: str = "validation"
    header: tuple[str, ...] | None = None


_PAIR = ("sentence1", "sentence2")
_BINARY = {"0": 0, "1": 1}
_ENTAILMENT = {"entailment": 0, "not_entailment": 1}

GLUE_TASKS: dict[str, GlueFormat] = {
    "cola": GlueFormat(
        "CoLA",
        ("sentence",),
        "label",
        ("sentence",),
        ("unacceptable", "acceptable"),
        _BINARY,
        metrics=("mcc",),
        header=("source", "label", "mark", "sentence"),
    ),
    "sst2": GlueFormat("SST-2", ("sentence",), "label", ("sentence",), ("negative", "positive"), _BINARY),
    "mrpc": GlueFormat(
        "MRPC",
        ("#1 String", "#2 String"),
        "Quality",
        _PAIR,
        ("not_equivalent", "equivalent"),
        _BINARY,
        metrics=("accuracy", "f1"),
    ),
    "stsb": GlueFormat("STS-B", _PAIR, "score", _PAIR, (), {}, metrics=("pearson", "spearman")),
    "rte": GlueFormat("RTE", _PAIR, "label", _PAIR, tuple(_ENTAILMENT), _ENTAILMENT),
    "wnli": GlueFormat("WNLI", _PAIR, "label", _PAIR, ("not_entailment", "entailment"), _BINARY),
    "qnli": GlueFormat(
        "QNLI",
        ("question", "sentence"),
        "label",
        ("question", "sentence"),
        tuple(_ENTAILMENT),
        _ENTAILMENT,
        train_files=("train.tsv", "sub9k_train.tsv"),
    ),
    "qqp": GlueFormat(
        "QQP",
        ("question1", "question2"),
        "is_duplicate",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        _BINARY,
        metrics=("accuracy", "f1"),
        train_files=("train.tsv", "sub9k_train.tsv"),
        eval_files=("dev.tsv", "sub9k_dev.tsv"),
    ),
    "mnli": GlueFormat(
        "MNLI",
        _PAIR,
        "gold_label",
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        {"entailment": 0, "neutral": 1, "contradiction": 2},
        train_files=("train.tsv", "sub9k_train.tsv"),
        eval_files=("dev_matched.tsv", "sub9k_dev.tsv"),
        hub_eval="validation_matched",
    ),
}


def load_glue(config: TaskConfig, data_dir: Path | None) -> TextTask:
    """Load a GLUE task from files where the folder has them, otherwise from the hub.

    Args:
        config: its name is one of `GLUE_TASKS`.
        data_dir: holds ``glue/<TASK>/``.

    Raises:
        InputFileError: a bad row, or the data is nowhere to be had.
    """
    form = GLUE_TASKS[config.name]
    train, held_out, source = _from_files(form, data_dir) or _from_hub(config.name, form, data_dir)
    train, select = carve_select(train, config.select_size)
    return TextTask(
        name=config.name,
        kind="classification" if form.label_names else "regression",
        num_labels=len(form.label_names) or 1,
        label_names=form.label_names,
        splits={
            "train": subsample(train, config.train_size),
            "select": select,
            "eval": subsample(held_out, config.eval_size),
        },
        metrics=form.metrics,
        source=source,
    )


def read_tsv(file: Path, form: GlueFormat) -> list[Example]:
    """Read one labelled file: tabs, no quoting, a header unless the task has none.

    Raises:
        InputFileError: a row with another number of columns, or a label that the task does not have (file and
            line).
    """
    lines = read_utf8(file).split("\n")
    if not lines[-1].strip("\r"):
        lines.pop()
    header, first = (form.header, 1) if form.header else (tuple(_cells(lines.pop(0))) if lines else (), 2)
    if absent := [name for name in (*form.text_columns, form.label_column) if name not in header]:
        raise InputFileError(
            f"{file}, line 1: expected a column {absent[0]!r}, found {', '.join(header) or 'nothing'}."
        )
    if not lines:
        raise InputFileError(f"{file} holds no examples.")
    text_places = [header.index(name) for name in form.text_columns]
    label_place = header.index(form.label_column)
    examples = []
    for number, line in enumerate(lines, start=first):
        cells = _cells(line)
        if len(cells) != len(header):
            raise InputFileError(f"{file}, line {number}: expected {len(header)} columns, found {len(cells)}.")
        label = _label(cells[label_place], form, f"{file}, line {number}")
        examples.append(Example(tuple(cells[place] for place in text_places), label))
    return examples


def read_hub(rows: Iterable[Any], form: GlueFormat) -> list[Example]:
    """Turn rows of the hub's form into examples.

    Args:
        rows: a ``datasets.Dataset`` with the hub's columns.
        form: of the task.
    """
    convert: Callable[[Any], int | float] = int if form.label_names else float
    return [Example(tuple(row[c] for c in form.hub_text_columns), convert(row["label"])) for row in rows]


def _from_files(form: GlueFormat, data_dir: Path | None) -> tuple[list[Example], list[Example], str] | None:
    if data_dir is None:
        return None
    folder = data_dir / "glue" / form.folder
    train = first_existing(folder, form.train_files)
    held_out = first_existing(folder, form.eval_files)
    if train is None or held_out is None:
        return None
    source = f"GLUE {form.folder} files: train {train.name}, eval {held_out.name}"
    if train.name.startswith("sub9k"):
        source += "; training set is a sample of 8,999 pairs"
    if held_out.name.startswith("sub9k"):
        source += "; evaluation set is not the official one, so figures do not compare with published ones"
    return read_tsv(train, form), read_tsv(held_out, form), source


def _from_hub(name: str, form: GlueFormat, data_dir: Path | None) -> tuple[list[Example], list[Example], str]:
    splits = hub_dataset(HUB_REPOSITORY, name, data_dir)
    source = f"Hugging Face hub, {HUB_REPOSITORY} ({name}): train, eval {form.hub_eval}"
    return read_hub(splits["train"], form), read_hub(splits[form.hub_eval], form), source


def _cells(line: str) -> list[str]:
    return line.removesuffix("\r").split("\t")


def _label(cell: str, form: GlueFormat, where: str) -> int | float:
    if form.label_names:
        if cell not in form.file_labels:
            raise InputFileError(f"{where}: expected a label of {', '.join(form.file_labels)}, found {cell!r}.")
        return form.file_labels[cell]
    try:
        score = float(cell)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 5:
        raise InputFileError(f"{where}: expected a score from 0 to 5, found {cell!r}.")
    return score
