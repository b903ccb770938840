"""Metrics of answers, and what a split gives away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypermr.answer import Answerer, Candidate
from hypermr.data.knowledge_base import KnowledgeBase
from hypermr.data.questions import Question
from hypermr.data.topics import EntityNames, entities_named


def hit_chance(answers: Mapping[str, float], right: frozenset[str]) -> float:
    """The probability that an answer is right: it is, if it is one of the right ones."""
    return sum(chance for entity, chance in answers.items() if entity in right)


@dataclass(frozen=True)
class SplitReport:
    """What the training questions give away of those judged on; all are shares of the questions judged on.

    Attributes:
        same_text: the very same text is in train.
        same_path: a question of the same topic and relations is in train; None where the data tells no paths.
        same_topic: one of the same topic is.
        ceiling: a right answer is a label of a training question: no head over those labels scores more.
        topic_is_answer: the topic is a right answer.
        topic_found: the topic is the first entity found in the text (`hypermr.data.topics`); None where not looked for.
        n: questions judged on.
    """

    same_text: float
    same_path: float | None
    same_topic: float
    ceiling: float
    topic_is_answer: float
    topic_found: float | None
    n: int


def report_split(train: Sequence[Question], judged: Sequence[Question], kb: KnowledgeBase | None = None) -> SplitReport:
    """Compare two parts of a split.

    Args:
        train: questions to learn from.
        judged: questions to judge on.
        kb: their knowledge base, to see whether the topics are found.
    """
    texts = {question.text.strip() for question in train}
    topics = {question.topic for question in train}
    labels = {question.label for question in train}
    paths = {(question.topic, question.path) for question in train}
    told = all(question.path is not None for question in (*train, *judged))
    names = None if kb is None else EntityNames(kb.entities)

    def share(hits: Sequence[bool]) -> float:
        return sum(hits) / len(judged)

    return SplitReport(
        same_text=share([question.text.strip() in texts for question in judged]),
        same_path=share([(question.topic, question.path) in paths for question in judged]) if told else None,
        same_topic=share([question.topic in topics for question in judged]),
        ceiling=share([bool(question.answers & labels) for question in judged]),
        topic_is_answer=share([question.topic in question.answers for question in judged]),
        topic_found=None if names is None else share([_found(question, names) for question in judged]),
        n=len(judged),
    )


def _found(question: Question, names: EntityNames) -> bool:
    return entities_named(question.text, names)[:1] == (question.topic,)


@dataclass(frozen=True)
class Judged:
    """How a model did.

    Attributes:
        accuracy: its likeliest entity is a right answer; of equally likely ones, the share that is.
        path: the relations of its likeliest hyperedge are those that the data gives; None where it gives none, or
            where the model has a closed vocabulary.
        reachable: a right answer is the end of a hyperedge.
        likelihood: mean probability that an answer drawn from the model is right: a hyperedge, and one of its ends.
    """

    accuracy: float
    path: float | None
    reachable: float
    likelihood: float


def judge(answerer: Answerer, questions: Sequence[Question]) -> Judged:
    """Hold a model's answers against the right ones."""
    rows = [answerer.encoder.encode(question) for question in questions]
    relations = answerer.kb.relations
    told = answerer.model.config.head == "pointer" and all(question.path is not None for question in questions)
    hits, likelihoods, path_hits = list[float](), list[float](), list[bool]()
    for question, (row, chances) in zip(questions, answerer.probabilities(rows), strict=True):
        candidates = answerer.candidates_of(row, chances)
        hits.append(_share_right(candidates, question.answers))
        if answerer.model.config.head == "closed":
            likelihoods.append(sum(each.probability for each in candidates if each.entity in question.answers))
        else:
            likelihoods.append(sum(chance * share for chance, share in zip(chances.tolist(), row.right, strict=False)))
        if told:
            best = row.hyperedges[int(chances.argmax())].relations if row.hyperedges else ()
            path_hits.append(tuple(relations[number] for number in best) == question.path)
    reachable = sum(any(share > 0 for share in row.right) for row in rows)
    count = len(questions)
    path = sum(path_hits) / count if told else None
    return Judged(sum(hits) / count, path, reachable / count, sum(likelihoods) / count)


def _share_right(candidates: Sequence[Candidate], right: frozenset[str]) -> float:
    """Of the likeliest entities, which all ends of one hyperedge may be, the share that is right."""
    first = [each for each in candidates if each.probability == candidates[0].probability]
    return sum(each.entity in right for each in first) / len(first) if first else 0.0
