"""Hyperedges of knowledge: the walks from a topic entity, all of them or a fair sample.

A walk is entity, relation, entity, relation, …; one hyperedge joins all that it passes. Where there are more walks than
the cap allows, a sample is drawn in which every walk is as likely as any other, without making a list of them all: the
walks are counted (by the number of hops that are left), and drawn by their place in the count.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from hypermr.data.knowledge_base import KnowledgeBase
from mpo_core.errors import UsageError


@dataclass(frozen=True)
class WalkRules:
    """Which walks there are.

    Attributes:
        hops: relations of a walk, at most.
        least_hops: relations of a walk, at least.
        turn_back: a walk may return to the entity that it has just come from.
        cap: walks of a question, at most.
        seed: of the sample where there are more.
    """

    hops: int = 3
    least_hops: int = 1
    turn_back: bool = True
    cap: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.least_hops <= self.hops:
            raise UsageError(f"walks have {self.least_hops} to {self.hops} hops; expected 1 <= least <= most.")
        if self.cap is not None and self.cap < 1:
            raise UsageError(f"the cap of walks is {self.cap}; expected at least 1.")

    def text(self) -> str:
        """What the rules say, in words."""
        hops = f"{self.hops}" if self.least_hops == self.hops else f"{self.least_hops} to {self.hops}"
        back = "" if self.turn_back else ", none straight back"
        return f"walks of {hops} relations{back}"


@dataclass(frozen=True)
class Walk:
    """One walk.

    Attributes:
        entities: numbers, one more than relations; the first is the topic.
        relations: numbers.
    """

    entities: tuple[int, ...]
    relations: tuple[int, ...]

    @property
    def end(self) -> int:
        """The last entity."""
        return self.entities[-1]

    def text(self, kb: KnowledgeBase) -> str:
        """In names, with arrows."""
        parts = [kb.entities[self.entities[0]]]
        for relation, entity in zip(self.relations, self.entities[1:], strict=True):
            parts += [f"-{kb.relations[relation]}->", kb.entities[entity]]
        return " ".join(parts)


@dataclass(frozen=True)
class WalkSample:
    """The walks of one topic.

    Attributes:
        walks: those that are used, shorter ones first.
        places: the place of each among all walks, from 0.
        total: how many there are.
        rules: by which.
    """

    walks: tuple[Walk, ...]
    places: tuple[int, ...]
    total: int
    rules: WalkRules

    def reason(self) -> str:
        """Why these walks are there."""
        if self.total == len(self.walks):
            return f"all {self.total} {self.rules.text()}"
        return f"{len(self.walks)} of {self.total} {self.rules.text()}, drawn with seed {self.rules.seed}"


def walks_from(kb: KnowledgeBase, start: int, rules: WalkRules) -> WalkSample:
    """The walks from an entity that the rules allow.

    Args:
        kb: the knowledge base.
        start: number of the entity.
        rules: which walks, and how many of them.
    """
    counter = _Counter(kb, rules.turn_back)
    lengths = range(rules.least_hops, rules.hops + 1)
    counts = [counter.count(start, None, hops) for hops in lengths]
    total = sum(counts)
    if rules.cap is None or total <= rules.cap:
        walks = [walk for hops in lengths for walk in counter.all(start, None, hops)]
        return WalkSample(tuple(walks), tuple(range(total)), total, rules)
    # The entity is part of the seed: two topics with as many walks get different places.
    places = _some_of(total, rules.cap, random.Random(f"{rules.seed}/{kb.entities[start]}"))
    drawn: list[Walk] = []
    for place in places:
        rank = place
        for hops, count in zip(lengths, counts, strict=True):
            if rank < count:
                drawn.append(counter.at(start, hops, rank))
                break
            rank -= count
    return WalkSample(tuple(drawn), tuple(places), total, rules)


def _some_of(total: int, size: int, draw: random.Random) -> list[int]:
    """`size` different numbers below `total`, every set as likely (Floyd's algorithm); `total` may be huge."""
    chosen: set[int] = set()
    for last in range(total - size, total):
        number = draw.randrange(last + 1)
        chosen.add(last if number in chosen else number)
    return sorted(chosen)


class _Counter:
    """Counts the walks of a length from an entity, lists them, and finds the one at a place."""

    def __init__(self, kb: KnowledgeBase, turn_back: bool) -> None:
        self.kb = kb
        self.turn_back = turn_back
        self._known: dict[tuple[int, int | None, int], int] = {}

    def count(self, entity: int, before: int | None, hops: int) -> int:
        """How many walks of `hops` relations begin at an entity that was reached from `before`."""
        if hops == 0:
            return 1
        key = entity, None if self.turn_back else before, hops
        if key not in self._known:
            self._known[key] = sum(self.count(target, entity, hops - 1) for _, target in self._edges(entity, before))
        return self._known[key]

    def all(self, entity: int, before: int | None, hops: int) -> Iterator[Walk]:
        """The walks that `count` counts, in the order of their places."""
        if hops == 0:
            yield Walk((entity,), ())
            return
        for relation, target in self._edges(entity, before):
            for rest in self.all(target, entity, hops - 1):
                yield Walk((entity, *rest.entities), (relation, *rest.relations))

    def at(self, start: int, hops: int, place: int) -> Walk:
        """The walk at a place, from 0."""
        entities, relations = [start], list[int]()
        before: int | None = None
        for left in range(hops - 1, -1, -1):
            for relation, target in self._edges(entities[-1], before):
                behind = self.count(target, entities[-1], left)
                if place < behind:
                    before = entities[-1]
                    entities.append(target)
                    relations.append(relation)
                    break
                place -= behind
        return Walk(tuple(entities), tuple(relations))

    def _edges(self, entity: int, before: int | None) -> Iterator[tuple[int, int]]:
        for relation, target in self.kb.edges[entity]:
            if self.turn_back or target != before:
                yield relation, target
