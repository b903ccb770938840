"""From a trained model to answers: probabilities of entities, the hyperedges behind them, and the folder of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hypermr.config import DataConfig, ModelConfig
from hypermr.data.knowledge_base import KnowledgeBase
from hypermr.data.questions import Question, tokenize
from hypermr.data.topics import EntityNames, entities_named, normalized
from hypermr.hypergraph.encoding import Encoded, Encoder, Vocabulary
from hypermr.hypergraph.hyperedges import Hyperedge, Hypergraphs
from hypermr.hypergraph.walks import Walk, WalkRules
from hypermr.model import AnswerModel
from mpo_core.errors import InputFileError
from mpo_core.repro.atomic import write_json_atomic
from mpo_core.repro.config import StrictModel
from mpo_core.repro.devices import device_of, to_device
from mpo_core.repro.reading import validation_sentence
from mpo_core.repro.tasks.task import read_utf8

BATCH = 64
CONFIG, WEIGHTS, KNOWLEDGE = "config.json", "model.safetensors", "kb.json"

_Kind = TypeVar("_Kind", bound=StrictModel)


@dataclass(frozen=True)
class Candidate:
    """An entity that may be the answer.

    Attributes:
        entity: its name.
        probability: that it is a right answer: of all hyperedges that lead to it, together. All entities to which the
            right relations lead are right, so that the sum over entities may exceed 1.
        hyperedges: those that lead to it, with their probabilities, the likeliest first; none for a closed vocabulary.
    """

    entity: str
    probability: float
    hyperedges: tuple[tuple[Hyperedge, float], ...] = ()


@dataclass(frozen=True)
class Answered:
    """What a model says to a question.

    Attributes:
        candidates: the likeliest first.
        reason: why there are none; empty where there are.
        question: as it was understood; None where no topic was found.
        named: all entities that the text names, the one that was taken for the topic first; empty where it was given.
    """

    candidates: tuple[Candidate, ...]
    reason: str = ""
    question: Question | None = None
    named: tuple[str, ...] = ()


class Answerer:
    """A model with all that it needs to answer.

    Args:
        model: trained.
        encoder: of questions.
        labels: the closed vocabulary.
        data: what it was trained on.
    """

    def __init__(self, model: AnswerModel, encoder: Encoder, labels: Sequence[str], data: DataConfig) -> None:
        self.model, self.encoder, self.labels, self.data = model, encoder, tuple(labels), data

    @property
    def kb(self) -> KnowledgeBase:
        """The knowledge base."""
        return self.encoder.hypergraphs.kb

    def answer(self, text: str, topic: str | None = None) -> Answered:
        """Answer a question.

        Args:
            text: the question.
            topic: the entity that it is about; the first one of `entities_named` unless given.
        """
        text, named = normalized(text), tuple[str, ...]()
        if topic is None:
            named = entities_named(text, self._names)
            if not named:
                return Answered((), f"no entity of {self.kb.name} is named in the question.")
            topic = named[0]
        if topic not in self.kb.entity_ids:
            return Answered((), f"the topic {topic!r} is no entity of {self.kb.name}.")
        question = Question(text, tokenize(text, topic), topic, frozenset())
        candidates = next(self.candidates([self.encoder.encode(question)]))
        reason = "" if candidates else f"nothing leads on from {topic!r} in {self.kb.name}."
        return Answered(candidates, reason, question, named)

    @cached_property
    def _names(self) -> EntityNames:
        return EntityNames(self.kb.entities)

    def candidates(self, rows: Sequence[Encoded]) -> Iterator[tuple[Candidate, ...]]:
        """For each question the entities by their probability."""
        for row, chances in self.probabilities(rows):
            yield self.candidates_of(row, chances)

    def candidates_of(self, row: Encoded, chances: Tensor) -> tuple[Candidate, ...]:
        """The entities by their probability.

        Args:
            row: a question.
            chances: of its hyperedges, or of the labels, as `probabilities` gives them.
        """
        if self.model.config.head == "closed":
            found = [Candidate(name, chance) for name, chance in zip(self.labels, chances.tolist(), strict=True)]
        else:
            ways: dict[int, list[tuple[Hyperedge, float]]] = defaultdict(list)
            for hyperedge, chance in zip(row.hyperedges, chances.tolist(), strict=False):
                for end in hyperedge.ends:
                    ways[end].append((hyperedge, chance))
            found = [
                Candidate(
                    self.kb.entities[end],
                    sum(chance for _, chance in leading),
                    tuple(sorted(leading, key=lambda pair: -pair[1])),
                )
                for end, leading in ways.items()
            ]
        return tuple(sorted(found, key=lambda candidate: -candidate.probability))

    def walk_to(self, candidate: Candidate) -> Walk | None:
        """The first walk of a candidate's likeliest hyperedge that ends at it; None for a closed vocabulary."""
        if not candidate.hyperedges:
            return None
        end = self.kb.entity(candidate.entity)
        return next(walk for walk in candidate.hyperedges[0][0].walks if walk.end == end)

    @torch.no_grad()
    def probabilities(self, rows: Sequence[Encoded]) -> Iterator[tuple[Encoded, Tensor]]:
        """For each question, in order, the probabilities of its hyperedges, or of the labels, on the CPU."""
        training, device = self.model.training, device_of(self.model)
        self.model.eval()
        try:
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                logits = self.model(to_device(self.encoder.batch(part), device))
                yield from zip(part, logits.softmax(-1).cpu(), strict=True)
        finally:
            self.model.train(training)

    def save(self, folder: Path) -> None:
        """Write into a folder what `load_answerer` reads: weights, configuration, and the knowledge base."""
        folder.mkdir(parents=True, exist_ok=True)
        kb = self.kb
        content = {
            "model": self.model.config.model_dump(mode="json"),
            "data": self.data.model_dump(mode="json"),
            "hops": self.encoder.hypergraphs.rules.hops,
            "words": list(self.encoder.vocabulary.words),
            "labels": list(self.labels),
        }
        known = {
            "name": kb.name,
            "entities": list(kb.entities),
            "relations": list(kb.relations),
            "edges": [[list(edge) for edge in outgoing] for outgoing in kb.edges],
        }
        save_file({name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}, folder / WEIGHTS)
        write_json_atomic(folder / CONFIG, content)
        write_json_atomic(folder / KNOWLEDGE, known)


class _SavedConfig(StrictModel):
    model: ModelConfig
    data: DataConfig
    hops: int
    words: tuple[str, ...]
    labels: tuple[str, ...]


class _SavedKnowledge(StrictModel):
    name: str
    entities: tuple[str, ...]
    relations: tuple[str, ...]
    edges: tuple[tuple[tuple[int, int], ...], ...]

    @model_validator(mode="after")
    def _numbers_have_names(self) -> _SavedKnowledge:
        if len(self.edges) != len(self.entities):
            raise ValueError(f"{len(self.edges)} lists of edges for {len(self.entities)} entities")
        for outgoing in self.edges:
            for relation, entity in outgoing:
                if not (0 <= relation < len(self.relations) and 0 <= entity < len(self.entities)):
                    raise ValueError(f"the edge {[relation, entity]} leads to what has no name")
        return self


def load_answerer(folder: str | Path) -> Answerer:
    """Read a folder that `Answerer.save` wrote.

    Raises:
        InputFileError: a file is missing or damaged, or the weights are those of another model.
    """
    folder = Path(folder)
    saved = _read(folder / CONFIG, _SavedConfig)
    known = _read(folder / KNOWLEDGE, _SavedKnowledge)
    kb = KnowledgeBase(known.entities, known.relations, known.edges, known.name)
    answerer = make_answerer(saved.model, saved.data, kb, Vocabulary(saved.words), saved.labels, hops=saved.hops)
    path = folder / WEIGHTS
    try:
        answerer.model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise InputFileError(f"{path} does not hold the weights of this model: {first}.") from error
    answerer.model.eval()
    return answerer


def make_answerer(
    config: ModelConfig,
    data: DataConfig,
    kb: KnowledgeBase,
    vocabulary: Vocabulary,
    labels: Sequence[str],
    *,
    hops: int,
) -> Answerer:
    """An untrained model and what it answers with; torch's generator gives its weights.

    Args:
        config: of the model.
        data: what it is to be trained on.
        kb: the knowledge base.
        vocabulary: words.
        labels: the closed vocabulary.
        hops: relations of a walk, at most.
    """
    rules = WalkRules(hops=hops, cap=config.cap)
    hypergraphs = Hypergraphs(kb, rules, together=config.hyperedges == "paths")
    model = AnswerModel(config, vocabulary, kb, hops, len(labels))
    encoder = Encoder(vocabulary, hypergraphs, labels, with_walks=config.entities == "ids")
    return Answerer(model, encoder, labels, data)


def _read(path: Path, kind: type[_Kind]) -> _Kind:
    text = read_utf8(path)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise InputFileError(validation_sentence(error, kind, str(path))) from error
