"""Metrics of answers, and what a split gives away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypermr.answer import Answerer
from hypermr.data.questions import Question


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
        n: questions judged on.
    """

    same_text: float
    same_path: float | None
    same_topic: float
    ceiling: float
    topic_is_answer: float
    n: int


def report_split(train: Sequence[Question], judged: Sequence[Question]) -> SplitReport:
    """Compare two parts of a split."""
    texts = {question.text.strip() for question in train}
    topics = {question.topic for question in train}
    labels = {question.label for question in train}
    paths = {(question.topic, question.path) for question in train}
    told = all(question.path is not None for question in (*train, *judged))

    def share(hits: Sequence[bool]) -> float:
        return sum(hits) / len(judged)

    return SplitReport(
        same_text=share([question.text.strip() in texts for question in judged]),
        same_path=share([(question.topic, question.path) in paths for question in judged]) if told else None,
        same_topic=share([question.topic in topics for question in judged]),
        ceiling=share([bool(question.answers & labels) for question in judged]),
        topic_is_answer=share([question.topic in question.answers for question in judged]),
        n=len(judged),
    )


@dataclass(frozen=True)
class Judged:
    """How a model did.

    Attributes:
        accuracy: its likeliest entity is a right answer.
        path: the relations of its likeliest hyperedge are those that the data gives; None where it gives none, or
            where the model has a closed vocabulary.
        reachable: a right answer is the end of a hyperedge.
        likelihood: mean probability of the right answers together.
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
    hits, likelihoods, path_hits = list[bool](), list[float](), list[bool]()
    for question, (row, chances) in zip(questions, answerer.probabilities(rows), strict=True):
        candidates = answerer.candidates_of(row, chances)
        hits.append(bool(candidates) and candidates[0].entity in question.answers)
        likelihoods.append(hit_chance({each.entity: each.probability for each in candidates}, question.answers))
        if told:
            best = row.hyperedges[int(chances.argmax())].relations if row.hyperedges else ()
            path_hits.append(tuple(relations[number] for number in best) == question.path)
    reachable = sum(any(share > 0 for share in row.right) for row in rows)
    count = len(questions)
    path = sum(path_hits) / count if told else None
    return Judged(sum(hits) / count, path, reachable / count, sum(likelihoods) / count)
