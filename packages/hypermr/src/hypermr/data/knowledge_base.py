"""A knowledge base: triples of subject, relation and object, and the walks that they allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hypermr.data.lines import columns_of, read_rows
from mpo_core.errors import UsageError

INVERSE = "^"
"""Stands before the name of a relation that is walked from object to subject."""

Edge = tuple[int, int]
"""Relation and entity that it leads to."""


@dataclass(frozen=True)
class KnowledgeBase:
    """Distinct triples; entities and relations are numbered in the order in which they first appear.

    Attributes:
        entities: names by number.
        relations: names by number; with inverse relations behind the others, each with `INVERSE` before its name.
        edges: for each entity its outgoing edges, in the order of the triples.
        name: where it comes from, for messages.
    """

    entities: tuple[str, ...]
    relations: tuple[str, ...]
    edges: tuple[tuple[Edge, ...], ...]
    name: str = "the knowledge base"

    @classmethod
    def of(
        cls, triples: Iterable[tuple[str, str, str]], *, inverse: bool = False, name: str = "the knowledge base"
    ) -> KnowledgeBase:
        """Make one from names.

        Args:
            triples: subject, relation, object; a triple that is given twice counts once.
            inverse: every triple can be walked backwards, too.
            name: for messages.
        """
        entities: dict[str, int] = {}
        relations: dict[str, int] = {}
        numbered: dict[tuple[int, int, int], None] = {}
        for subject, relation, target in triples:
            first = entities.setdefault(subject, len(entities))
            second = entities.setdefault(target, len(entities))
            numbered[first, relations.setdefault(relation, len(relations)), second] = None
        edges: list[list[Edge]] = [[] for _ in entities]
        for subject_id, relation_id, target_id in numbered:
            edges[subject_id].append((relation_id, target_id))
            if inverse:
                edges[target_id].append((relation_id + len(relations), subject_id))
        names = (*relations, *(f"{INVERSE}{each}" for each in relations)) if inverse else tuple(relations)
        return cls(tuple(entities), names, tuple(map(tuple, edges)), name)

    @cached_property
    def entity_ids(self) -> Mapping[str, int]:
        """Number by name."""
        return {name: number for number, name in enumerate(self.entities)}

    @cached_property
    def relation_ids(self) -> Mapping[str, int]:
        """Number by name."""
        return {name: number for number, name in enumerate(self.relations)}

    @property
    def n_triples(self) -> int:
        """Distinct triples, inverse ones left out."""
        return sum(
            not self.relations[relation].startswith(INVERSE) for outgoing in self.edges for relation, _ in outgoing
        )

    def entity(self, name: str) -> int:
        """The number of an entity.

        Raises:
            UsageError: there is none of that name.
        """
        number = self.entity_ids.get(name)
        if number is None:
            raise UsageError(f"{name!r} is no entity of {self.name} ({len(self.entities):,} entities).")
        return number

    def follow(self, start: int, relations: Sequence[int]) -> set[int]:
        """The entities that a sequence of relations leads to."""
        reached = {start}
        for wanted in relations:
            reached = {target for entity in reached for relation, target in self.edges[entity] if relation == wanted}
        return reached


def read_knowledge_base(path: Path, *, inverse: bool = False) -> KnowledgeBase:
    """Read triples: one a line, subject, relation and object parted by tabs.

    Args:
        path: a UTF-8 file without a header.
        inverse: as in `KnowledgeBase.of`.

    Raises:
        InputFileError: names file, line and reason.
    """

    def triple(columns: list[str]) -> tuple[str, str, str]:
        subject, relation, target = columns_of(columns, ("subject", "relation", "object"))
        if relation.startswith(INVERSE):
            raise ValueError(f"the relation {relation!r} begins with {INVERSE!r}, which marks inverse relations here")
        return subject, relation, target

    return KnowledgeBase.of(read_rows(path, triple), inverse=inverse, name=path.name)
