"""What answers without learning anything of the geometry: how far one gets by copying and by chance.

Each answers with a distribution over entities; what is judged is the chance that its answer is right.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from hypermr.data.knowledge_base import KnowledgeBase
from hypermr.data.questions import TOPIC, Question
from hypermr.hypergraph.walks import WalkRules, walks_from

Answers = Mapping[str, float]
"""Entity -> probability; the sum is at most 1."""
Answerer = Callable[[Question], Answers]


def answer_topic(train: Sequence[Question], kb: KnowledgeBase, hops: int) -> Answerer:
    """Name the topic itself."""
    return lambda question: {question.topic: 1.0}


def copy_nearest(train: Sequence[Question], kb: KnowledgeBase, hops: int) -> Answerer:
    """Copy the label of the most similar training question, of the same topic where there is one.

    Similarity is the cosine of token counts, weighted by how rare a token is among the training questions (TF-IDF); of
    equally similar ones the first is taken. The knowledge base is not used.
    """
    documents = Counter(token for question in train for token in set(question.tokens))
    weights = {token: math.log((1 + len(train)) / (1 + count)) + 1 for token, count in documents.items()}

    def vector(question: Question) -> dict[str, float]:
        counts = Counter(token for token in question.tokens if token in weights and token != TOPIC)
        raw = {token: count * weights[token] for token, count in counts.items()}
        length = math.sqrt(sum(value**2 for value in raw.values())) or 1.0
        return {token: value / length for token, value in raw.items()}

    vectors = [vector(question) for question in train]
    by_topic: dict[str, list[int]] = defaultdict(list)
    for number, question in enumerate(train):
        by_topic[question.topic].append(number)

    def answer(question: Question) -> Answers:
        own = vector(question)
        candidates = by_topic.get(question.topic) or range(len(train))
        nearest = max(
            candidates,
            key=lambda number: (sum(value * own.get(token, 0.0) for token, value in vectors[number].items()), -number),
        )
        label = train[nearest].label
        return {label: 1.0} if label is not None else {}

    return answer


def random_path(train: Sequence[Question], kb: KnowledgeBase, hops: int) -> Answerer:
    """Take one of the relation sequences that lead on from the topic, and one of the entities that it leads to.

    All sequences of 1 to `hops` relations are as likely as each other: the number of hops is not told.
    """
    known: dict[str, Answers] = {}

    def answer(question: Question) -> Answers:
        if question.topic not in known:
            sample = walks_from(kb, kb.entity(question.topic), WalkRules(hops=hops))
            ends: dict[tuple[int, ...], set[int]] = defaultdict(set)
            for walk in sample.walks:
                ends[walk.relations].add(walk.end)
            chances: dict[str, float] = defaultdict(float)
            for reached in ends.values():
                for entity in reached:
                    chances[kb.entities[entity]] += 1 / (len(ends) * len(reached))
            known[question.topic] = dict(chances)
        return known[question.topic]

    return answer


BASELINES: dict[str, Callable[[Sequence[Question], KnowledgeBase, int], Answerer]] = {
    "answer-topic": answer_topic,
    "copy-nearest": copy_nearest,
    "random-path": random_path,
}
