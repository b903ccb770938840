"""Train, dev and test parts of a corpus, by five rules.

``random-SEED``
    By function, as the paper's counts suggest. Near-copies of a test function may stand in train.
``deduplicated-SEED``
    The same without duplicates: each body once, none that stands under different sentences, and each function that
    several projects share (gnulib) once.
``files-SEED``
    Deduplicated; whole source files are held out. Files of one name in several projects go together.
``project-NAME``
    Deduplicated; one project is held out whole.

Under all of them a source function stands on one side, whatever it was built for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from cp_bcs.data.pairs import Pair, contradicted
from mpo_core.errors import UsageError

RULES = ("random-SEED", "deduplicated-SEED", "files-SEED", "project-NAME")
HELD_OUT = 0.1
"""Share of the groups in dev, and again in test."""


@dataclass(frozen=True)
class Split:
    """A division of a corpus.

    Args:
        name: its rule.
        train: what models learn from.
        dev: what settings are chosen on.
        test: what is read once.
    """

    name: str
    train: tuple[Pair, ...]
    dev: tuple[Pair, ...]
    test: tuple[Pair, ...]

    @property
    def seen_bodies(self) -> float:
        """Share of the test functions whose very body stands in train."""
        bodies = {pair.body for pair in self.train}
        return sum(pair.body in bodies for pair in self.test) / len(self.test)

    def group(self, pair: Pair) -> Hashable:
        """What stands on one side together with a pair: its source function, its file or its project."""
        rule = self.name.partition("-")[0]
        return pair.project if rule == "project" else _file(pair) if rule == "files" else _source(pair)


def make_split(pairs: Sequence[Pair], name: str) -> Split:
    """Divide a corpus.

    Args:
        pairs: of one or several builds.
        name: one of ``random-SEED``, ``deduplicated-SEED``, ``files-SEED``, ``project-NAME``.

    Raises:
        UsageError: no such rule; no such project; too few groups for three parts.
    """
    rule, _, value = name.partition("-")
    if rule == "project":
        return _by_project(pairs, name, value)
    if rule not in ("random", "deduplicated", "files") or not value.isdecimal():
        raise UsageError(f"there is no split {name!r}; expected {', '.join(RULES)}.")
    kept = list(pairs) if rule == "random" else deduplicate(pairs)
    group: Callable[[Pair], Hashable] = _file if rule == "files" else _source
    return _by_groups(kept, name, int(value), group)


def deduplicate(pairs: Sequence[Pair]) -> list[Pair]:
    """Each body once in every kind of build; none that is contradicted; each shared function once."""
    dropped = contradicted(pairs)
    bodies: set[tuple[str, str]] = set()
    owners: dict[tuple[str, str], tuple[str, str, int]] = {}
    kept: list[Pair] = []
    for pair in pairs:
        build = f"{pair.architecture}-{pair.optimization}"
        owner = owners.setdefault((pair.name, pair.sentence.lower()), pair.source)
        if pair.body in dropped or (pair.body, build) in bodies or owner != pair.source:
            continue
        bodies.add((pair.body, build))
        kept.append(pair)
    return kept


def _source(pair: Pair) -> Hashable:
    return pair.source


def _file(pair: Pair) -> Hashable:
    return PurePosixPath(pair.file).name


def _by_groups(pairs: Sequence[Pair], name: str, seed: int, group: Callable[[Pair], Hashable]) -> Split:
    """Shuffle groups; fill test, then dev, up to their share of the pairs."""
    members: dict[Hashable, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda p: (p.source, p.architecture, p.optimization)):
        members.setdefault(group(pair), []).append(pair)
    order = list(members)
    random.Random(seed).shuffle(order)
    wanted = HELD_OUT * len(pairs)
    parts: dict[str, list[Pair]] = {"test": [], "dev": [], "train": []}
    for key in order:
        part = next((each for each in ("test", "dev") if len(parts[each]) < wanted), "train")
        parts[part] += members[key]
    return _checked(Split(name, tuple(parts["train"]), tuple(parts["dev"]), tuple(parts["test"])))


def _by_project(pairs: Sequence[Pair], name: str, project: str) -> Split:
    projects = sorted({pair.project for pair in pairs})
    if project not in projects:
        raise UsageError(f"there is no project {project!r}; the corpus has {', '.join(projects)}.")
    others = deduplicate([pair for pair in pairs if pair.project != project])
    known = {(pair.name, pair.sentence.lower()) for pair in others}
    bodies = {pair.body for pair in others}
    test = [
        pair
        for pair in deduplicate([pair for pair in pairs if pair.project == project])
        if (pair.name, pair.sentence.lower()) not in known and pair.body not in bodies
    ]
    inner = _by_groups(others, name, 0, _file)
    return _checked(Split(name, (*inner.train, *inner.test), inner.dev, tuple(test)))


def _checked(split: Split) -> Split:
    for part in ("train", "dev", "test"):
        if not getattr(split, part):
            raise UsageError(f"the split {split.name} leaves nothing for {part}; the corpus is too small for it.")
    return split
