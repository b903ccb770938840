"""Tab-separated text files, read line by line; whatever is wrong is told with file, line and reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from hypermr.data.topics import normalized
from mpo_core.errors import InputFileError
from mpo_core.repro.tasks.task import read_utf8

Row = TypeVar("Row")


def read_rows(path: Path, parse: Callable[[list[str]], Row]) -> list[Row]:
    """Parse every line of a UTF-8 file; blank lines are left out.

    Args:
        path: the file.
        parse: columns -> row; raises `ValueError` with the reason.

    Raises:
        InputFileError: the file is missing, not UTF-8, empty, or a line is bad: the first one is named, and how many
            more there are.
    """
    rows: list[Row] = []
    bad: list[str] = []
    for number, columns in _lines(path):
        try:
            rows.append(parse(columns))
        except ValueError as error:
            bad.append(f"line {number}: {error}")
    if bad:
        more = f" ({len(bad) - 1} more bad lines)" if len(bad) > 1 else ""
        raise InputFileError(f"{path}, {bad[0]}{more}.")
    if not rows:
        raise InputFileError(f"{path} holds no rows: expected tab-separated lines.")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(normalized(read_utf8(path)).split("\n"), start=1):
        line = line.rstrip("\r")
        if line.strip():
            yield number, line.split("\t")


def columns_of(columns: list[str], names: tuple[str, ...], optional: int = 0) -> list[str]:
    """The columns without outer blanks.

    Args:
        columns: of one line.
        names: what they are called.
        optional: so many of the last ones may be absent; they are then empty.

    Raises:
        ValueError: too few or too many, or an empty one that is needed.
    """
    least = len(names) - optional
    if not least <= len(columns) <= len(names):
        wanted = f"{least}" if not optional else f"{least} to {len(names)}"
        raise ValueError(f"found {len(columns)} tab-separated columns, expected {wanted} ({', '.join(names)})")
    stripped = [column.strip() for column in columns]
    for name, column in zip(names[:least], stripped, strict=False):
        if not column:
            raise ValueError(f"the {name} is empty")
    return stripped + [""] * (len(names) - len(columns))
