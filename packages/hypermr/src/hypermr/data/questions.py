"""Questions about a knowledge base, and the user's own files of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hypermr.data.knowledge_base import KnowledgeBase
from hypermr.data.lines import columns_of, read_rows
from hypermr.data.topics import WORD, find_topic
from mpo_core.errors import InputFileError

TOPIC = "<topic>"
"""Stands for the topic entity among the tokens of a question."""


@dataclass(frozen=True)
class Question:
    """One question; the names are those of the knowledge base.

    Attributes:
        text: as given.
        tokens: lower-case words and marks; the topic entity is the one token `TOPIC`.
        topic: the entity that it starts from.
        answers: all right answers.
        path: relations from the topic to the answers, where the data tells; never given to a model.
        label: the one answer that the data names as such, for the closed-vocabulary head; else the first answer.
    """

    text: str
    tokens: tuple[str, ...]
    topic: str
    answers: frozenset[str]
    path: tuple[str, ...] | None = None
    label: str | None = None


@dataclass(frozen=True)
class QuestionSet:
    """Questions and the knowledge base that they are about.

    Attributes:
        name: of the data set.
        questions: in the order of the file.
        kb: the knowledge base.
        splits: those that the data brings: name -> part -> numbers of questions.
    """

    name: str
    questions: tuple[Question, ...]
    kb: KnowledgeBase
    splits: dict[str, dict[str, list[int]]]

    def take(self, numbers: Sequence[int]) -> QuestionSet:
        """Only these questions."""
        return replace(self, questions=tuple(self.questions[number] for number in numbers), splits={})


def tokenize(text: str, topic: str | None = None) -> tuple[str, ...]:
    """Lower-case words and marks; the first place where the topic stands becomes `TOPIC`.

    A topic is found as it is written, with blanks for its underscores, or without regard to case.
    """
    if topic is None:
        return tuple(WORD.findall(text.lower()))
    place = find_topic(text, topic)
    if place is None:
        return tuple(WORD.findall(text.lower()))
    before, after = text[: place[0]], text[place[1] :]
    return (*WORD.findall(before.lower()), TOPIC, *WORD.findall(after.lower()))


def read_questions(path: Path, kb: KnowledgeBase) -> QuestionSet:
    """Read the user's questions: ``question<TAB>topic<TAB>answer|answer…[<TAB>relation|relation…]`` on each line.

    Args:
        path: a UTF-8 file without a header.
        kb: their knowledge base.

    Raises:
        InputFileError: names file, line and reason: wrong columns, a topic, answer or relation that the knowledge base
            does not hold, or a path that does not lead to the answers.
    """

    def question(columns: list[str]) -> Question:
        text, topic, answers, path_text = columns_of(columns, ("question", "topic", "answers", "path"), optional=1)
        names = [name.strip() for name in answers.split("|") if name.strip()]
        if not names:
            raise ValueError("the answers are empty")
        for name in (topic, *names):
            if name not in kb.entity_ids:
                raise ValueError(f"{name!r} is no entity of {kb.name}")
        relations = tuple(name.strip() for name in path_text.split("|")) if path_text else None
        if relations is not None:
            unknown = next((name for name in relations if name not in kb.relation_ids), None)
            if unknown is not None:
                raise ValueError(f"{unknown!r} is no relation of {kb.name}")
            reached = kb.follow(kb.entity(topic), [kb.relation_ids[name] for name in relations])
            if {kb.entities[entity] for entity in reached} != set(names):
                raise ValueError(f"the path leads from {topic!r} to other entities than the answers")
        return Question(text, tokenize(text, topic), topic, frozenset(names), relations, names[0])

    questions = tuple(read_rows(path, question))
    if len(questions) < 3:
        raise InputFileError(
            f"{path} holds {len(questions)} questions: expected at least 3, to train, choose and judge."
        )
    return QuestionSet(path.stem, questions, kb, {})
