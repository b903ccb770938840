"""The sentence that agrees best with all that may be right: minimum Bayes risk (Kumar and Byrne, 2004); ours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from cp_bcs.metrics import NGrams, words
from cp_bcs.retrieval import Neighbour

Words = tuple[str, ...]
Voices = Sequence[tuple[Words, float]]
"""Sentences, each with how much it counts among those of its kind."""

POWERS = (1.0, 2.0, 4.0, 8.0, 16.0, 64.0)
TRUSTS = (0.25, 0.5, 1.0)
SHARES = (0.0, 0.5, 1.0)


class Weighting(NamedTuple):
    """How much the voices of a ballot count.

    Attributes:
        power: of the similarities of the index; with a high one only the nearest known function is heard.
        trust: what the sentences of the network weigh together; those of the index weigh 1.
        shared: what those of each kind of the network's shared space weigh together.
    """

    power: float = 4.0
    trust: float = 1.0
    shared: float = 1.0


@dataclass(frozen=True)
class Ballot:
    """The sentences that may be right of one function, by who says so.

    Attributes:
        near: those of the nearest known functions, with their similarities.
        written: those of a network, with their chances.
        shared: of each kind of nearness in a network's shared space, those of the nearest ones with their shares.
    """

    near: Voices
    written: Voices = ()
    shared: Sequence[Voices] = ()

    def choose(self, by: Weighting) -> tuple[Words, float] | None:
        """The sentence of least risk, of equals the first, and its expected BLEU; None where no voice counts."""
        weights = np.zeros(len(self._sentences))
        for voices, power, total in (
            (self.written, 1.0, by.trust),
            (self.near, by.power, 1.0),
            *((voices, 1.0, by.shared) for voices in self.shared),
        ):
            counts = [max(count, 0.0) ** power for _, count in voices]
            whole = math.fsum(counts)
            for (sentence, _), count in zip(voices, counts, strict=True):
                weights[self._sentences[sentence]] += total * count / whole if whole else 0.0
        if not weights.any():
            return None
        expected = self._gains @ (weights / weights.sum())
        best = int(np.argmax(expected))
        return list(self._sentences)[best], float(expected[best])

    @cached_property
    def _sentences(self) -> dict[Words, int]:
        """Each sentence once, with its number."""
        found = dict.fromkeys(said for voices in (self.written, self.near, *self.shared) for said, _ in voices)
        return {sentence: number for number, sentence in enumerate(found)}

    @cached_property
    def _gains(self) -> np.ndarray:
        return _gains(self._sentences)


@lru_cache(maxsize=1 << 16)
def said(sentence: str) -> Words:
    """The words of a sentence as a voice has them."""
    return tuple(words(sentence))


def voices_of(neighbours: Iterable[Neighbour]) -> Voices:
    """The sentences of known functions, by their similarities."""
    return [(said(neighbour.pair.sentence), neighbour.similarity) for neighbour in neighbours]


def best_weighting(ballots: Sequence[Ballot], references: Sequence[Words], among: Iterable[Weighting]) -> Weighting:
    """The weighting whose choices have the highest mean sentence BLEU, of equals the first.

    Args:
        ballots: of functions whose sentences are known, and none of which has a voice in them.
        references: the words of these sentences.
        among: weightings.
    """

    def score(weighting: Weighting) -> float:
        chosen = (ballot.choose(weighting) for ballot in ballots)
        return math.fsum(
            0.0 if choice is None else _ngrams(choice[0]).bleu(_ngrams(reference))
            for choice, reference in zip(chosen, references, strict=True)
        )

    return max(among, key=score)


def weightings(written: bool = True, shared: bool = True) -> list[Weighting]:
    """The grid that the dev part decides on.

    Args:
        written: whether a network's sentences have a voice.
        shared: whether a shared space has.
    """
    usual = Weighting()
    return [
        Weighting(*each)
        for each in product(POWERS, TRUSTS if written else (usual.trust,), SHARES if shared else (usual.shared,))
    ]


def _gains(candidates: Iterable[Words]) -> np.ndarray:
    """The BLEU of each candidate, should each other one be right."""
    sentences = [_ngrams(candidate) for candidate in candidates]
    return np.array([[made.bleu(written) for written in sentences] for made in sentences])


@lru_cache(maxsize=1 << 16)
def _ngrams(sentence: Words) -> NGrams:
    return NGrams(sentence)
