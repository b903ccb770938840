"""METEOR 1.5 (Denkowski and Lavie, 2014), by its authors' program, which runs in Java; the extra ``cp-bcs[meteor]``.

The released code calls it with the same options (`src/validate.py`): English, normalised text.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mpo_core.errors import MissingPartError

OPTIONS = ("-l", "en", "-norm")
_MEMORY = "-Xmx2G"
_SEGMENT = "Segment "


def meteor(summaries: Sequence[str], references: Sequence[str]) -> list[float]:
    """METEOR 1.5 of each summary, in 0 … 1.

    Args:
        summaries: what was made, a sentence each.
        references: what was written, one for each of them.

    Raises:
        ValueError: there are not equally many.
        MissingPartError: the program or Java is not there, or it does not run.
    """
    if len(summaries) != len(references):
        raise ValueError(f"meteor needs one reference for each of {len(summaries)} summaries, found {len(references)}")
    if not summaries:
        return []
    java, program = _find_parts()
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "made.txt", Path(folder) / "written.txt"]
        for file, sentences in zip(files, (summaries, references), strict=True):
            file.write_text("".join(f"{_one_line(sentence)}\n" for sentence in sentences), encoding="utf-8")
        command = [java, _MEMORY, "-jar", str(program), *map(str, files), *OPTIONS]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    scores = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith(_SEGMENT)]
    if done.returncode or len(scores) != len(summaries):
        said = (done.stderr.strip().splitlines() or ["it printed no scores"])[-1]
        raise MissingPartError(f"METEOR does not run: {said}; check the Java runtime and its memory (2 GB).")
    return scores


def _find_parts() -> tuple[str, Path]:
    """Java, and METEOR's program, which the package pycocoevalcap holds; nothing of that package is imported."""
    package = find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise MissingPartError("METEOR is not installed; install cp-bcs[meteor].")
    program = Path(next(iter(package.submodule_search_locations))) / "meteor" / "meteor-1.5.jar"
    if not program.is_file():
        raise MissingPartError("this release of pycocoevalcap lacks meteor-1.5.jar; install cp-bcs[meteor] again.")
    java = shutil.which("java")
    if java is None:
        raise MissingPartError("METEOR needs a Java runtime, and there is no program java; install one.")
    return java, program


def _one_line(sentence: str) -> str:
    """A sentence as a line of its own; an empty line is not a sentence to the program."""
    return " ".join(sentence.split()) or "."
