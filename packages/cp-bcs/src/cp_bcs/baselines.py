"""What the paper's network must beat: summaries that learn nothing, or copy."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from cp_bcs.data.pairs import Pair
from cp_bcs.retrieval import Index
from cp_bcs.summaries.consensus import NEIGHBOURS, agree

Summarizer = Callable[[Sequence[Pair], Sequence[Pair], int], list[str]]
"""(train, asked, seed) -> a sentence for each function that was asked for."""


def most_common(train: Sequence[Pair], asked: Sequence[Pair], seed: int) -> list[str]:
    """The comment that most training functions have; of several the first in the alphabet."""
    counts = Counter(pair.sentence for pair in train)
    best = max(counts.values())
    sentence = min(sentence for sentence, count in counts.items() if count == best)
    return [sentence] * len(asked)


def random_comment(train: Sequence[Pair], asked: Sequence[Pair], seed: int) -> list[str]:
    """The comment of a training function drawn at random."""
    rng = random.Random(seed)
    return [rng.choice(train).sentence for _ in asked]


def nearest(train: Sequence[Pair], asked: Sequence[Pair], seed: int) -> list[str]:
    """The comment of the nearest training function."""
    return [found[0].pair.sentence for found in Index(train).search(asked, k=1)]


def nearest_code(train: Sequence[Pair], asked: Sequence[Pair], seed: int) -> list[str]:
    """The same with strings and imported names hidden."""
    return [found[0].pair.sentence for found in Index(train, texts=False).search(asked, k=1)]


def consensus(train: Sequence[Pair], asked: Sequence[Pair], seed: int) -> list[str]:
    """The comment that the nearest training functions agree on; the nearest one's where nothing is similar at all."""
    heard = Index(train).search(asked, k=NEIGHBOURS)
    chosen = (agree(neighbours)[0] or neighbours[0] for neighbours in heard)
    return [neighbour.pair.sentence for neighbour in chosen]


BASELINES: Mapping[str, Summarizer] = {
    "most-common": most_common,
    "random": random_comment,
    "nearest": nearest,
    "nearest-code": nearest_code,
    "consensus": consensus,
}
