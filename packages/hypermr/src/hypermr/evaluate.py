"""Metrics of answers, and what a split gives away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
