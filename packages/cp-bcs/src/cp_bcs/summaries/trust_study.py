"""The study ``calibrate``: how many summaries of a held-out project are shown, and how many of those are right."""

from __future__ import annotations

from pathlib import PurePosixPath

from cp_bcs.config import DataConfig
from cp_bcs.data.loading import load_pairs
from cp_bcs.data.pairs import Pair
from cp_bcs.data.splits import make_split
from cp_bcs.summaries.calibrating import Group, judge_trust, project_of
from mpo_core.errors import UsageError
from mpo_core.repro.record import Measurement, TrialOutcome


def measure_trust(config: DataConfig, seed: int) -> TrialOutcome:
    """Index and calibrate all functions but the held-out ones, and judge the summaries of these.

    Args:
        config: with the split ``project-NAME``: all documented functions of the project are held out, those that other
            projects share as well, as in use; or ``files``: the test part's source files stand for projects.
        seed: of the split ``files``.

    Raises:
        UsageError: another split; no such project.
    """
    known, asked, group = _held_out(load_pairs(config), config.split, seed)
    judged = judge_trust(known, asked, group)
    metrics = {
        "shown": Measurement(value=judged.shown, n=judged.n),
        "own_shown": Measurement(value=judged.own_shown, n=judged.own_n),
        "all_right": Measurement(value=judged.all_right, n=judged.n),
        "random_median": Measurement(value=judged.random_median, n=judged.n),
    }
    if judged.right is not None:
        metrics["right"] = Measurement(value=judged.right, n=round(judged.shown * judged.n))
    if judged.own_right is not None:
        metrics["own_right"] = Measurement(value=judged.own_right, n=round(judged.own_shown * judged.own_n))
    if judged.threshold is not None:
        metrics["threshold"] = Measurement(value=judged.threshold)
    columns = zip(*judged.each, strict=True)
    names = ("confidence of each function", "bleu of each function", "shown of each function")
    return TrialOutcome(
        metrics=metrics,
        arrays={
            name: [round(float(value), 6) for value in column] for name, column in zip(names, columns, strict=True)
        },
        notes=["no threshold reached the target: only known bodies are shown"] if judged.threshold is None else [],
    )


def _held_out(pairs: list[Pair], split: str, seed: int) -> tuple[list[Pair], list[Pair], Group]:
    if split == "files":
        files = {_file_of(pair) for pair in make_split(pairs, f"files-{seed}").test}
        known = [pair for pair in pairs if _file_of(pair) not in files]
        return known, [pair for pair in pairs if _file_of(pair) in files], _file_of
    rule, _, project = split.partition("-")
    if rule != "project" or not project:
        raise UsageError(f"the study calibrate holds out projects or files, not by the split {split!r}.")
    known, asked = [pair for pair in pairs if pair.project != project], [p for p in pairs if p.project == project]
    if not known or not asked:
        raise UsageError(f"there is no project {project!r} to hold out; there are {', '.join(_projects(pairs))}.")
    return known, asked, project_of


def _file_of(pair: Pair) -> str:
    return PurePosixPath(pair.file).name


def _projects(pairs: list[Pair]) -> list[str]:
    return sorted({pair.project for pair in pairs})
