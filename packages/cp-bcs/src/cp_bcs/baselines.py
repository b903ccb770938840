"""What the paper's network must beat: summaries that learn nothing, or copy."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from cp_bcs.data.pairs import Pair
from cp_bcs.minimum_risk import Ballot, Weighting, best_weighting, said, voices_of, weightings
from cp_bcs.retrieval import Index
from cp_bcs.summaries.consensus import NEIGHBOURS

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


def consensus(train: Sequence[Pair], asked: Sequence[Pair], seed: int, dev: Sequence[Pair] = ()) -> list[str]:
    """The comment that the nearest training functions agree on; the nearest one's where nothing is similar at all.

    Args:
        train: functions to copy from.
        asked: functions to summarise.
        seed: not used.
        dev: functions that decide how much nearer ones count; without them it is `Weighting`'s power.
    """
    index = Index(train)
    by = Weighting()
    if dev:
        references = [said(pair.sentence) for pair in dev]
        by = best_weighting(
            [Ballot(voices_of(heard)) for heard in index.search(dev, NEIGHBOURS)], references, weightings(False, False)
        )
    sentences = {said(pair.sentence): pair.sentence for pair in train}
    chosen = (
        (Ballot(voices_of(heard)).choose(by), heard[0].pair.sentence) for heard in index.search(asked, NEIGHBOURS)
    )
    return [nearest if choice is None else sentences[choice[0]] for choice, nearest in chosen]


BASELINES: Mapping[str, Summarizer] = {
    "most-common": most_common,
    "random": random_comment,
    "nearest": nearest,
    "nearest-code": nearest_code,
    "consensus": consensus,
}
