"""Hyperedges of knowledge: the walks from a topic, each by itself, or those along the same relations together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property

from hypermr.data.knowledge_base import KnowledgeBase
from hypermr.hypergraph.walks import Walk, WalkRules, WalkSample, walks_from


@dataclass(frozen=True)
class Hyperedge:
    """Relations in a row from a topic, and walks along them; it joins all that they pass.

    Attributes:
        walks: of the same relations, at least one.
    """

    walks: tuple[Walk, ...]

    @property
    def relations(self) -> tuple[int, ...]:
        """Numbers."""
        return self.walks[0].relations

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The entities that it leads to, by number, each once."""
        return tuple(dict.fromkeys(walk.end for walk in self.walks))


@dataclass(frozen=True)
class Neighbourhood:
    """What is known around a topic.

    Attributes:
        hyperedges: shorter ones first.
        sample: the walks, and why these.
    """

    hyperedges: tuple[Hyperedge, ...]
    sample: WalkSample


class Hypergraphs:
    """The neighbourhoods of a knowledge base, made once for each topic.

    Args:
        kb: the knowledge base.
        rules: of the walks.
        together: walks along the same relations are one hyperedge.
    """

    def __init__(self, kb: KnowledgeBase, rules: WalkRules, *, together: bool) -> None:
        self.kb, self.rules, self.together = kb, rules, together
        self._known: dict[int, Neighbourhood] = {}

    def around(self, topic: int) -> Neighbourhood:
        """Of an entity, by number."""
        if topic not in self._known:
            sample = walks_from(self.kb, topic, self.rules)
            groups: dict[Hashable, list[Walk]] = defaultdict(list)
            for place, walk in zip(sample.places, sample.walks, strict=True):
                groups[walk.relations if self.together else place].append(walk)
            hyperedges = tuple(Hyperedge(tuple(walks)) for walks in groups.values())
            self._known[topic] = Neighbourhood(hyperedges, sample)
        return self._known[topic]
