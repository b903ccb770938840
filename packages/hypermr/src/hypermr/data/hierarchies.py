"""Generated knowledge bases that are trees, more or less, with questions about them: embedded data.

Entities stand in a tree: each but those at the bottom *contains* some, by one of a few kinds, and each is *part of*
one. Cross links, as many as `noise` says, join entities that the tree keeps apart, and make the whole less tree-like:
the hyperbolicity of the knowledge base is what a study sets. A question asks for what a random walk leads to, in one
of several wordings.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypermr.data.knowledge_base import KnowledgeBase
from hypermr.data.questions import TOPIC, Question, QuestionSet
from mpo_core.errors import UsageError

KINDS = ("district", "team", "branch", "chapter", "section", "unit")
WORDINGS: dict[str, tuple[str, ...]] = {
    "part_of": ("owner", "parent", "whole"),
    "linked_to": ("partner", "counterpart", "link"),
    **{f"has_{kind}": (kind, f"{kind} inside", f"own {kind}") for kind in KINDS},
}
"""Relation -> what a question may call it."""
TEMPLATES = ("what is the {chain} ?", "which is the {chain} ?", "tell me the {chain} .")
MOST_ENTITIES = 200_000


@dataclass(frozen=True)
class HierarchyConfig:
    """How a hierarchy is made.

    Attributes:
        depth: levels below the root.
        branching: what each entity contains, at most one of each kind at a time.
        noise: cross links, as a share of the tree's edges.
        questions: how many.
        hops: relations of a question's path, at most; all lengths from 1 are asked for.
        seed: of all of it.
    """

    depth: int = 4
    branching: int = 3
    noise: float = 0.0
    questions: int = 1000
    hops: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.depth < 1 or not 1 <= self.branching <= len(KINDS) or self.questions < 1 or self.hops < 1:
            raise UsageError(
                f"a hierarchy has a depth and hops of at least 1, questions, and a branching of 1 to {len(KINDS)}."
            )
        if not 0 <= self.noise <= 1:
            raise UsageError(f"the noise of a hierarchy is {self.noise:g}; expected a share from 0 to 1.")
        if self.entities > MOST_ENTITIES:
            raise UsageError(
                f"this hierarchy would have {self.entities:,} entities; at most {MOST_ENTITIES:,} are made."
            )

    @property
    def entities(self) -> int:
        """How many entities there will be."""
        return sum(self.branching**level for level in range(self.depth + 1))


def generate_hierarchy(config: HierarchyConfig) -> QuestionSet:
    """Make a knowledge base and questions; the same configuration makes the same.

    Args:
        config: depth, branching, noise, questions, seed.

    Example:
        >>> data = generate_hierarchy(HierarchyConfig(depth=2, branching=2, questions=5))
        >>> len(data.kb.entities), len(data.questions)
        (7, 5)
    """
    draw = random.Random(config.seed)
    kb = KnowledgeBase.of(_triples(config, draw), name=f"a hierarchy of depth {config.depth}")
    questions = tuple(_question(kb, config, draw) for _ in range(config.questions))
    return QuestionSet(f"hierarchy-{config.depth}", questions, kb, {})


def _triples(config: HierarchyConfig, draw: random.Random) -> list[tuple[str, str, str]]:
    names = [f"e{number}" for number in range(config.entities)]
    draw.shuffle(names)  # a name tells nothing of the place
    triples: list[tuple[str, str, str]] = []
    parents: dict[str, str] = {}
    level, unused = [names[0]], iter(names[1:])
    for _ in range(config.depth):
        below: list[str] = []
        for parent in level:
            for kind in draw.sample(KINDS, config.branching):
                child = next(unused)
                parents[child] = parent
                below.append(child)
                triples += [(parent, f"has_{kind}", child), (child, "part_of", parent)]
        level = below
    links = round(config.noise * (config.entities - 1))
    while links:
        one, two = draw.sample(names, 2)
        if parents.get(one) == two or parents.get(two) == one:
            if config.entities == 2:  # nothing else can be linked
                break
            continue
        triples.append((one, "linked_to", two))
        links -= 1
    return triples


def _question(kb: KnowledgeBase, config: HierarchyConfig, draw: random.Random) -> Question:
    """A walk that goes on where it can, and what it is called."""
    while True:
        topic = draw.randrange(len(kb.entities))
        relations: list[int] = []
        entity = topic
        for _ in range(draw.randint(1, config.hops)):
            edges = kb.edges[entity]
            if not edges:
                break
            relation, entity = draw.choice(edges)
            relations.append(relation)
        if relations:
            break
    names = tuple(kb.relations[relation] for relation in relations)
    answers = frozenset(kb.entities[number] for number in kb.follow(topic, relations))
    called = [draw.choice(WORDINGS[name]) for name in names]
    name = kb.entities[topic]
    # The last relation is named first: the partner of the team of e7.
    text = draw.choice(TEMPLATES).format(chain=f"{' of the '.join(reversed(called))} of {name}")
    tokens = tuple(TOPIC if token == name else token for token in text.split())
    return Question(text, tokens, name, answers, names, kb.entities[entity])
