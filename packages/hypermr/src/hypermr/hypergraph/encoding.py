"""Questions and their hyperedges as padded tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from hypermr.data.knowledge_base import INVERSE, KnowledgeBase
from hypermr.data.questions import TOPIC, Question
from hypermr.hypergraph.hyperedges import Hyperedge, Hypergraphs
from mpo_core.repro.batches import SortedBatches, padded
from mpo_core.repro.training import Batch

PAD, UNKNOWN = "<pad>", "<unk>"
ABSENT = -1
"""Stands where a shorter walk, hyperedge or question has nothing."""

_SEGMENT = re.compile(r"__|[./]+")
_INNER = re.compile(r"[_\s-]+|(?<=[a-z0-9])(?=[A-Z])")
"""Where the words of one part meet: ``place_of_birth``, ``placeOfBirth``."""


def relation_words(relation: str) -> tuple[str, ...]:
    """The parts of a relation's name in lower case, the last one first.

    Freebase's types are parted by ``__`` or ``/``; the last part is what a question calls it.

    Example:
        >>> relation_words("__music__release_track__recording")
        ('recording', 'release_track', 'music')
        >>> relation_words("^place_of_birth")
        ('place_of_birth', '^')
    """
    parts = [part.lower() for part in _SEGMENT.split(relation.removeprefix(INVERSE)) if part]
    backwards = [INVERSE] if relation.startswith(INVERSE) else []
    return (*reversed(parts or [relation]), *backwards)


def relation_spellings(relation: str) -> tuple[tuple[str, ...], ...]:
    """How a question may call a relation: the last part of its name as one word, and as the words that it consists of.

    Example:
        >>> relation_spellings("__people__person__place_of_birth")
        (('place_of_birth',), ('place', 'of', 'birth'))
        >>> relation_spellings("placeOfBirth")
        (('placeofbirth',), ('place', 'of', 'birth'))
        >>> relation_spellings("gender")
        (('gender',),)
    """
    last = next((part for part in reversed(_SEGMENT.split(relation.removeprefix(INVERSE))) if part), relation)
    words = tuple(word.lower() for word in _INNER.split(last) if word)
    return tuple(dict.fromkeys([(last.lower(),), words or (last.lower(),)]))


@dataclass(frozen=True)
class Vocabulary:
    """Words of questions and of relations' names share one numbering: what is called alike is alike.

    Attributes:
        words: by number; the first ones are `PAD`, `UNKNOWN` and `TOPIC`.
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, questions: Iterable[Question], kb: KnowledgeBase) -> Vocabulary:
        """All words of questions and of a knowledge base's relations."""
        words = dict.fromkeys([PAD, UNKNOWN, TOPIC])
        words |= dict.fromkeys(word for relation in kb.relations for word in relation_words(relation))
        spellings = (spelling for relation in kb.relations for spelling in relation_spellings(relation))
        words |= dict.fromkeys(word for spelling in spellings for word in spelling)
        words |= dict.fromkeys(word for question in questions for word in question.tokens)
        return cls(tuple(words))

    def together_with(self, words: Iterable[str]) -> Vocabulary:
        """With more words behind its own."""
        return Vocabulary(tuple(dict.fromkeys([*self.words, *words])))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def numbers(self, words: Iterable[str]) -> list[int]:
        """Of words; one that is not known is `UNKNOWN`."""
        unknown = self._numbers[UNKNOWN]
        return [self._numbers.get(word, unknown) for word in words]


@dataclass(frozen=True)
class Encoded:
    """One question as numbers.

    Attributes:
        tokens: words.
        topic_place: where the topic stands among them; behind the last where it is not named.
        hyperedges: of its topic.
        right: of each hyperedge the share of its ends that are right answers.
        label: number of its label in the closed vocabulary, or `ABSENT`.
    """

    tokens: list[int]
    topic_place: int
    hyperedges: tuple[Hyperedge, ...]
    right: list[float]
    label: int


class Encoder:
    """Turns questions into tensors.

    Args:
        vocabulary: words.
        hypergraphs: of the knowledge base.
        labels: the entities of a closed vocabulary.
        with_walks: batches hold the entities of all walks.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        hypergraphs: Hypergraphs,
        labels: Sequence[str] = (),
        *,
        with_walks: bool = False,
    ) -> None:
        self.vocabulary, self.hypergraphs, self.with_walks = vocabulary, hypergraphs, with_walks
        self._labels = {name: number for number, name in enumerate(labels)}

    def encode(self, question: Question) -> Encoded:
        """One question.

        Raises:
            UsageError: its topic is no entity of the knowledge base.
        """
        kb = self.hypergraphs.kb
        hyperedges = self.hypergraphs.around(kb.entity(question.topic)).hyperedges
        answers = {kb.entity_ids[name] for name in question.answers if name in kb.entity_ids}
        right = [sum(end in answers for end in edge.ends) / len(edge.ends) for edge in hyperedges]
        tokens = question.tokens
        place = tokens.index(TOPIC) if TOPIC in tokens else len(tokens)
        label = ABSENT if question.label is None else self._labels.get(question.label, ABSENT)
        return Encoded(self.vocabulary.numbers(tokens), place, hyperedges, right, label)

    def batches(self, rows: Sequence[Encoded], batch_size: int, seed: int) -> SortedBatches[Encoded]:
        """Training batches of questions.

        Args:
            rows: the questions.
            batch_size: questions of a batch, at most.
            seed: of the order.
        """
        return SortedBatches(rows, lambda row: len(row.hyperedges), self.batch, batch_size, seed)

    def batch(self, rows: Sequence[Encoded]) -> Batch:
        """Rows side by side.

        Returns:
            ``tokens (b, t)``, ``topic_place (b,)``, ``relations (b, e, hops)``, ``right (b, e)``, ``label (b,)``; with
            walks also ``walks (b, w, hops + 1)`` the entities of all walks, and ``walk_edge (b, w)`` the hyperedge of
            each.
        """
        hops = self.hypergraphs.rules.hops
        pad = self.vocabulary.numbers([PAD])[0]
        relations = [[_filled(edge.relations, hops) for edge in row.hyperedges] for row in rows]
        batch = {
            "tokens": padded([row.tokens for row in rows], pad),
            "topic_place": torch.tensor([row.topic_place for row in rows]),
            "relations": padded(relations, [ABSENT] * hops),
            "right": padded([row.right for row in rows], 0.0),
            "label": torch.tensor([row.label for row in rows]),
        }
        if self.with_walks:
            walks = [[(n, walk) for n, edge in enumerate(row.hyperedges) for walk in edge.walks] for row in rows]
            entities = [[_filled(walk.entities, hops + 1) for _, walk in row] for row in walks]
            batch["walks"] = padded(entities, [ABSENT] * (hops + 1))
            batch["walk_edge"] = padded([[number for number, _ in row] for row in walks], ABSENT)
        return batch


def _filled(numbers: tuple[int, ...], length: int) -> list[int]:
    return [*numbers, *[ABSENT] * (length - len(numbers))]
