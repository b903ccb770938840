"""KVQA (Shah et al. 2019): questions about the people in an image, with facts of Wikidata; to the form of its files.

``dataset.json`` holds for each image the people in it, from left to right, and questions about them; the facts are
lines of ``subject,relation,value``. An image is an entity here, ``image:NUMBER``; it ``depicts`` its people (of
several, ``depicts_1`` is the one on the left), and each of them is ``named``. Answers such as *Yes* or *74* are no
entities: only a closed vocabulary can give them. The data itself could not be had: the tests read files made by hand.

Its field ``split`` has five numbers for each image, whatever the number of its questions. They are taken for five
alternative splits of the images, ``published-1`` to ``published-5``. The released code takes number j for the role of
question j: the split ``released`` does that, and so leaves out the sixth question and all behind it, and has questions
about one image in train and in test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from hypermr.data.knowledge_base import KnowledgeBase
from hypermr.data.questions import Question, QuestionSet, tokenize
from mpo_core.errors import InputFileError
from mpo_core.repro.config import StrictModel
from mpo_core.repro.reading import validation_sentence
from mpo_core.repro.tasks.task import read_utf8

FOLDER = "kvqa"
QUESTIONS, FACTS = "dataset.json", "KGfacts-CloseWorld.csv"
REFINED_FACTS = "KGfacts-CloseWorld-refine.csv"
"""What the released code reads; taken where it is there."""
ROLES: Mapping[int, str] = {1: "train", 2: "dev", 3: "test"}
"""Of the numbers of ``split``. That 1 is train follows from its share; which of the others is which, from nothing."""
ALTERNATIVES = 5
DEPICTS, NAMED = "depicts", "named"


class _Image(StrictModel, extra="ignore"):
    names: tuple[str, ...] = Field(alias="NamedEntities")
    qids: tuple[str, ...] = Field(alias="Qids")
    questions: tuple[str, ...] = Field(alias="Questions")
    paraphrases: tuple[str, ...] = Field(alias="ParaQuestions")
    answers: tuple[str | int | float, ...] = Field(alias="Answers")
    roles: tuple[int, ...] = Field(alias="split")

    @model_validator(mode="after")
    def _lists_fit(self) -> _Image:
        if len(self.names) != len(self.qids):
            raise ValueError(f"{len(self.names)} NamedEntities, but {len(self.qids)} Qids")
        if not len(self.questions) == len(self.answers) == len(self.paraphrases):
            counts = f"{len(self.questions)} Questions, {len(self.paraphrases)} ParaQuestions"
            raise ValueError(f"{counts} and {len(self.answers)} Answers")
        if len(self.roles) != ALTERNATIVES or not set(self.roles) <= set(ROLES):
            raise ValueError(f"split is {list(self.roles)}, expected {ALTERNATIVES} numbers of {sorted(ROLES)}")
        return self


def load_kvqa(folder: Path, *, paraphrased: bool = False, inverse: bool = False) -> QuestionSet:
    """Load KVQA.

    Args:
        folder: holds ``dataset.json`` and ``KGfacts-CloseWorld.csv``, or its refined form.
        paraphrased: take ``ParaQuestions`` for ``Questions``.
        inverse: as in `KnowledgeBase.of`.

    Raises:
        InputFileError: a file is missing or bad; names file, place and reason.
    """
    images = _images(folder / QUESTIONS)
    refined = folder / REFINED_FACTS
    facts = read_facts(refined if refined.is_file() else folder / FACTS)
    depicted = [triple for number, image in images.items() for triple in _people(number, image)]
    kb = KnowledgeBase.of([*depicted, *facts], inverse=inverse, name="KVQA")
    questions: list[Question] = []
    splits: dict[str, dict[str, list[int]]] = {
        name: {role: [] for role in ROLES.values()}
        for name in ("released", *(f"published-{each}" for each in range(1, ALTERNATIVES + 1)))
    }
    for number, image in images.items():
        texts = image.paraphrases if paraphrased else image.questions
        for place, (text, given) in enumerate(zip(texts, image.answers, strict=True)):
            for alternative, role in enumerate(image.roles, start=1):
                splits[f"published-{alternative}"][ROLES[role]].append(len(questions))
            if place < len(image.roles):
                splits["released"][ROLES[image.roles[place]]].append(len(questions))
            answer = str(given)
            questions.append(Question(text, tokenize(text), f"image:{number}", frozenset([answer]), None, answer))
    if not questions:
        raise InputFileError(f"{folder / QUESTIONS} holds no questions.")
    return QuestionSet("KVQA", tuple(questions), kb, splits)


def read_facts(path: Path) -> list[tuple[str, str, str]]:
    """Read lines of ``subject,relation,value``.

    Subjects and values hold commas, too, and nothing is quoted: relations are those of the lines with two commas, and
    a line with more is cut at the one relation that it holds.

    Raises:
        InputFileError: names file, line and reason.
    """
    rows = [
        (number, [part.strip() for part in line.split(",")])
        for number, line in enumerate(read_utf8(path).splitlines(), start=1)
        if line.strip()
    ]
    relations = {parts[1] for _, parts in rows if len(parts) == 3}
    facts: list[tuple[str, str, str]] = []
    bad: list[str] = []
    for number, parts in rows:
        cuts = [place for place in range(1, len(parts) - 1) if len(parts) == 3 or parts[place] in relations]
        fact = None
        if len(cuts) == 1:
            fact = ", ".join(parts[: cuts[0]]), parts[cuts[0]], ", ".join(parts[cuts[0] + 1 :])
        if fact is None or not all(fact):
            bad.append(f"line {number}: {', '.join(parts)!r} is not subject,relation,value")
        else:
            facts.append(fact)
    if bad:
        more = f" ({len(bad) - 1} more bad lines)" if len(bad) > 1 else ""
        raise InputFileError(f"{path}, {bad[0]}{more}.")
    return facts


def _images(path: Path) -> dict[str, _Image]:
    try:
        content: Any = json.loads(read_utf8(path))
    except ValueError as error:
        raise InputFileError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise InputFileError(f"{path} is not KVQA's: expected an object with an entry for each image.")
    images: dict[str, _Image] = {}
    for number, entry in content.items():
        try:
            images[number] = _Image.model_validate(entry)
        except ValidationError as error:
            raise InputFileError(validation_sentence(error, _Image, f"{path}, image {number}")) from error
    return images


def _people(number: str, image: _Image) -> Sequence[tuple[str, str, str]]:
    """Triples that join an image to its people, and these to their names."""
    several = len(image.qids) > 1
    depicts = [
        (f"image:{number}", f"{DEPICTS}_{place}" if several else DEPICTS, qid)
        for place, qid in enumerate(image.qids, start=1)
    ]
    return [*depicts, *((qid, NAMED, name) for qid, name in zip(image.qids, image.names, strict=True))]
