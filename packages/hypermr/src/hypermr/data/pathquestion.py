"""PathQuestion and PathQuestion-Large (Zhou, Huang and Zhu 2018): five sets of questions over four knowledge bases.

A question is ``question<TAB>label(answer/answer/)<TAB>topic#relation#entity#…``; in PathQuestion ``#<end>#label``
follows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypermr.data.knowledge_base import KnowledgeBase, read_knowledge_base
from hypermr.data.lines import columns_of, read_rows
from hypermr.data.questions import Question, QuestionSet, tokenize
from mpo_core.errors import InputFileError, UsageError

FOLDER = "pathquestion"
KNOWLEDGE_BASES = {
    "PQ-2H": "2H-kb.txt",
    "PQ-3H": "3H-kb.txt",
    "PQL-2H": "PQL2-KB.txt",
    "PQL-3H": "PQL3-KB.txt",
    "PQL-3H_more": "PQL3-KB.txt",
}
"""Set of questions -> file of its knowledge base."""
END = "<end>"


def load_pathquestion(name: str, folder: Path, *, inverse: bool = False) -> QuestionSet:
    """Load one of the five sets.

    Args:
        name: a key of `KNOWLEDGE_BASES`.
        folder: holds the data set's own files, and ``splits.json`` where there is one (set -> split -> part -> row
            numbers from 0).
        inverse: as in `KnowledgeBase.of`.

    Raises:
        UsageError: no set of that name.
        InputFileError: a file is missing or bad; names file, line and reason.
    """
    if name not in KNOWLEDGE_BASES:
        raise UsageError(f"unknown data set {name!r}; expected one of {', '.join(KNOWLEDGE_BASES)}.")
    kb = read_knowledge_base(folder / KNOWLEDGE_BASES[name], inverse=inverse)
    questions = tuple(read_rows(folder / f"{name}.txt", lambda columns: parse_question(columns, kb)))
    return QuestionSet(name, questions, kb, _splits(folder / "splits.json", name, len(questions)))


def parse_question(columns: list[str], kb: KnowledgeBase) -> Question:
    """One line.

    Raises:
        ValueError: the reason why it is none.
    """
    text, answer_text, path_text = columns_of(columns, ("question", "answers", "path"))
    parts = path_text.split("#")
    if END in parts:
        parts = parts[: parts.index(END)]
    if len(parts) < 3 or len(parts) % 2 == 0:
        raise ValueError(f"the path {path_text!r} is not topic#relation#entity#…")
    topic, label, relations = parts[0], parts[-1], tuple(parts[1::2])
    # Names hold brackets and slashes nowhere but at the end of each answer.
    if not (answer_text.startswith(f"{label}(") and answer_text.endswith("/)")):
        raise ValueError(f"the answers {answer_text!r} are not {label}(answer/…/), with the last entity of the path")
    answers = frozenset(answer_text[len(label) + 1 : -2].split("/"))
    for entity in (topic, *answers):
        if entity not in kb.entity_ids:
            raise ValueError(f"{entity!r} is no entity of {kb.name}")
    if label not in answers:
        raise ValueError(f"the label {label!r} is not among the answers")
    if topic not in text.split():
        raise ValueError(f"the topic {topic!r} is no token of the question")
    return Question(text, tokenize(text, topic), topic, answers, relations, label)


def _splits(path: Path, name: str, count: int) -> dict[str, dict[str, list[int]]]:
    if not path.is_file():
        return {}
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        found = {
            split: {part: [int(row) for row in parts[part]] for part in ("train", "dev", "test")}
            for split, parts in content.get(name, {}).items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputFileError(
            f"{path} is no file of splits ({error!r}): expected set, split, part, row numbers."
        ) from error
    for split, parts in found.items():
        rows = [row for part in parts.values() for row in part]
        if len(set(rows)) != len(rows) or (rows and not 0 <= min(rows) <= max(rows) < count):
            raise InputFileError(f"{path}: the split {split!r} of {name} names a row twice, or one that is not there.")
    return found
