"""Train, dev and test: the random splits of the papers, and splits that share no topic entity."""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hypermr.data.questions import QuestionSet
from mpo_core.errors import UsageError

TEST_SHARE = 0.1
DEV_SHARE = 0.11
"""Of what is left without the test questions."""

_NAME = re.compile(r"(random|topic-disjoint)-(\d+)")


@dataclass(frozen=True)
class Split:
    """Numbers of questions; each question is in one part.

    Attributes:
        name: ``random-SEED``, ``topic-disjoint-SEED``, or one that the data brings.
        train: what is learnt from.
        dev: what settings are chosen on.
        test: what is read once, at the end.
    """

    name: str
    train: tuple[int, ...]
    dev: tuple[int, ...]
    test: tuple[int, ...]


def make_split(data: QuestionSet, name: str) -> Split:
    """The split of a name: as the data brings it, else made.

    ``random-SEED`` is that of Hypergraph Transformer and HyperMR: a tenth for test, 11 % of the rest, drawn with seed
    0, for dev. ``topic-disjoint-SEED`` has the same shares, and no topic entity is in two parts.

    Raises:
        UsageError: another name, or a data set so small that a part would be empty.
    """
    given = data.splits.get(name)
    if given is not None:
        return Split(name, *(tuple(given[part]) for part in ("train", "dev", "test")))
    matched = _NAME.fullmatch(name)
    if matched is None:
        known = ", ".join([*data.splits, "random-SEED", "topic-disjoint-SEED"])
        raise UsageError(f"unknown split {name!r}; expected one of {known}.")
    kind, seed = matched[1], int(matched[2])
    if seed >= 2**32:
        raise UsageError(f"the seed of the split {name!r} is too large; expected one below 2^32.")
    made = random_split(len(data.questions), seed) if kind == "random" else _topic_disjoint(data, seed)
    if not all(made):
        raise UsageError(f"{data.name} has too few questions or topics ({len(data.questions)}) for the split {name!r}.")
    return Split(name, *made)


def random_split(count: int, seed: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Train, dev and test, as two calls of scikit-learn's ``train_test_split`` give them (seeds `seed` and 0)."""
    rest, test = _cut(range(count), TEST_SHARE, seed)
    train, dev = _cut(rest, DEV_SHARE, 0)
    return train, dev, test


def _cut(items: Sequence[int], share: float, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    order = np.random.RandomState(seed).permutation(len(items))
    size = math.ceil(share * len(items))
    return tuple(items[place] for place in order[size:]), tuple(items[place] for place in order[:size])


def _topic_disjoint(data: QuestionSet, seed: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Topics in random order fill test, then dev, up to their shares; the others are train."""
    by_topic: dict[str, list[int]] = defaultdict(list)
    for number, question in enumerate(data.questions):
        by_topic[question.topic].append(number)
    topics = sorted(by_topic)
    random.Random(seed).shuffle(topics)
    count = len(data.questions)
    wanted_test = math.ceil(TEST_SHARE * count)
    wanted_dev = math.ceil(DEV_SHARE * (count - wanted_test))
    parts: dict[str, list[int]] = {"train": [], "dev": [], "test": []}
    for topic in topics:
        part = "test" if len(parts["test"]) < wanted_test else "dev" if len(parts["dev"]) < wanted_dev else "train"
        parts[part] += by_topic[topic]
    return tuple(parts["train"]), tuple(parts["dev"]), tuple(parts["test"])
