"""Jobs on a user's own model or data that may be stopped: what was asked for lies with the checkpoints.

Until the output is complete, its unfinished parts lie in a folder beside it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.atomic import write_json_atomic
from mpo_core.repro.config import StrictModel
from mpo_core.repro.lock import LOCK, folder_lock

CONFIG, INPUTS = "config.json", "inputs.json"


@contextmanager
def unfinished(out: Path, job: StrictModel, ending: str, reads: Iterable[Path] = ()) -> Iterator[Path]:
    """The folder of the unfinished parts of an output; it is removed when the block ends, or has left nothing in it.

    Args:
        out: the output, which must not exist.
        job: everything that decides what comes out; a job is gone on with only by the very same.
        ending: what the folder is called behind the name of the output.
        reads: files and folders of the user's that the job reads; it is gone on with only while they are as they were.
            What is not there is left to the job to refuse.

    Raises:
        UsageError: `out` exists, another job was begun there, what it reads has changed, or another process is at it.
        InputFileError: what it reads cannot be read.
    """
    refuse_existing(out)
    folder = out.with_name(f"{out.name}.{ending}")
    asked = job.model_dump(mode="json")
    check_begun(folder, asked)
    inputs = {str(path): digest(path) for path in reads if path.exists()}
    _check_inputs(folder, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder):
        write_json_atomic(folder / CONFIG, asked)
        write_json_atomic(folder / INPUTS, inputs)
        try:
            yield folder
        except BaseException:
            if all(path.name in (CONFIG, INPUTS, LOCK) for path in folder.iterdir()):
                shutil.rmtree(folder)
            raise
    shutil.rmtree(folder)


def refuse_existing(path: Path) -> None:
    """Refuse to write where something is.

    Raises:
        UsageError: the path exists.
    """
    if path.exists():
        raise UsageError(f"{path} exists already; give one that does not, nothing is overwritten.")


def check_begun(folder: Path, asked: Mapping[str, Any]) -> None:
    """Hold what is asked for now against what a job was begun with.

    Raises:
        UsageError: they differ, or the file is damaged.
    """
    saved = _saved(folder / CONFIG)
    if saved is None:
        return
    name = _first_difference(saved, asked)
    if name is not None:
        raise UsageError(
            f"{folder} was begun with {name} = {_at(saved, name)!r}, but now it is {_at(asked, name)!r}; give the "
            "options it was begun with, another output folder, or remove it."
        )


def digest(path: Path) -> str:
    """The sha256 of a file's content, or of the names and contents of all files of a folder.

    Raises:
        InputFileError: it cannot be read.
    """
    try:
        if not path.is_dir():
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        files = sorted(each for each in path.rglob("*") if each.is_file())
        told = [(each.relative_to(path).as_posix(), digest(each)) for each in files]
    except OSError as error:
        raise InputFileError(f"{error.filename or path} cannot be read: {error.strerror}.") from error
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _check_inputs(folder: Path, inputs: Mapping[str, str]) -> None:
    saved = _saved(folder / INPUTS) or {}
    changed = next((name for name, found in inputs.items() if saved.get(name, found) != found), None)
    if changed is not None:
        raise UsageError(
            f"{folder} was begun with another content of {changed}; put that back, give another output folder, or "
            f"remove {folder}."
        )


def _saved(path: Path) -> Any:
    """What a file of an unfinished job holds; ``None`` where there is none."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}); remove {path.parent} to begin anew.") from error


def refused_option(error: ValidationError, parts: Collection[str]) -> UsageError:
    """What is wrong with the options that a job was made of: one sentence that names the first such option.

    Args:
        error: that the job raised.
        parts: of the job that hold options, and are no options themselves.
    """
    first = error.errors()[0]
    names = [part.replace("_", "-") for part in first["loc"] if isinstance(part, str) and part not in parts]
    where = f"--{names[-1]} {first['input']!r}: " if names else ""
    return UsageError(f"{where}{first['msg'].removeprefix('Value error, ')}.")


def _first_difference(one: Any, two: Any, name: str = "") -> str | None:
    """The dotted name of the first value that differs."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        keys = sorted({*one, *two}, key=str)
        found = (_first_difference(one.get(key), two.get(key), f"{name}.{key}" if name else str(key)) for key in keys)
        return next((each for each in found if each is not None), None)
    return None if one == two else name


def _at(content: Any, name: str) -> Any:
    for key in name.split("."):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content
