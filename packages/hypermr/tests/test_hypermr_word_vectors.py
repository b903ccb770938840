"""Word vectors that a language model has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hypermr.answer import load_answerer
from hypermr.config import DataConfig, ModelConfig
from hypermr.data.hierarchies import HierarchyConfig, generate_hierarchy
from hypermr.data.knowledge_base import KnowledgeBase
from hypermr.data.questions import TOPIC, Question, QuestionSet
from hypermr.explain import unknown_words
from hypermr.hypergraph.encoding import PAD, UNKNOWN
from hypermr.train import Parts, new_answerer, train
from hypermr.word_vectors import KnownWords, known_vectors, words_of
from mpo_core.errors import InputFileError
from mpo_core.repro.config import TrainingConfig

NAMES = ["gender", "sex", "spouse", "wife", "profession", "job", "place_of_birth", "birthplace"]
WORDS = [PAD, UNKNOWN, TOPIC, "^", *NAMES]
DATA = DataConfig(name="hierarchy")


@pytest.fixture(scope="module")
def data() -> QuestionSet:
    return generate_hierarchy(HierarchyConfig(depth=3, branching=3, questions=40))


@pytest.mark.parametrize("d", [64, 400])
def test_words_of_one_meaning_lie_close(d):
    torch.manual_seed(0)
    vectors = known_vectors(WORDS, len(WORDS), "minilm", d)
    assert vectors.shape == (len(WORDS), d)
    assert not vectors[0].any()
    torch.testing.assert_close(vectors[1:].norm(dim=-1), torch.ones(len(WORDS) - 1))
    alike = vectors @ vectors.mT - 2 * torch.eye(len(WORDS))
    for one, other in zip(NAMES[::2], NAMES[1::2], strict=True):
        assert WORDS[int(alike[WORDS.index(one)].argmax())] == other


def test_more_words_change_no_vector_of_those_that_are_used():
    torch.manual_seed(0)
    few = known_vectors(WORDS, len(WORDS), "minilm", 8)
    torch.manual_seed(0)
    more = known_vectors([*WORDS, "occupation", "husband"], len(WORDS), "minilm", 8)
    assert torch.equal(few, more[: len(WORDS)])
    assert WORDS[int((few @ more[-2]).argmax())] in {"job", "profession"}
    assert WORDS[int((few @ more[-1]).argmax())] in {"wife", "spouse"}


def test_the_words_of_a_language_model():
    words = words_of("minilm")
    assert list(words) == sorted(set(words))
    assert len(words) > 15_000
    assert {"husband", "occupation"} <= set(words)
    assert all(word.isalpha() and word.islower() for word in words)


def test_words_that_no_training_question_uses_are_read_like_those_that_mean_the_same(tmp_path: Path):
    """The relations' names say nothing; were the words unknown, all would get the same answer, half of them right."""
    people = [f"p{number}" for number in range(16)]
    kb = KnowledgeBase.of([(each, relation, f"{each}-{relation}") for each in people for relation in ("r1", "r2")])
    used = {"r1": ("wife", "bride", "lover", "mother"), "r2": ("profession", "career", "employment", "work")}
    new = {"r1": ("husband", "spouse", "daughter", "father"), "r2": ("occupation", "job", "duty", "trade")}

    def asked(word: str, relation: str, person: str) -> Question:
        answer = frozenset({f"{person}-{relation}"})
        return Question(f"the {word} of {person}", ("the", word, "of", TOPIC), person, answer)

    seen = [asked(word, relation, person) for person in people for relation in used for word in used[relation]]
    data = QuestionSet("own", tuple(seen), kb, {})
    model = ModelConfig(d=32, heads=2, stages=1, word_vectors="minilm", names=False)
    answerer = new_answerer(model, DATA, Parts(data, data.questions, (), ()), seed=0)
    train(answerer, seen, TrainingConfig(epochs=10), learning_rate=3e-3, seed=0, folder=tmp_path / "training")
    questions = [asked(word, relation, "p3") for relation in new for word in new[relation]]
    assert not any(unknown_words(answerer, question) for question in questions)
    best = [answerer.answer(each.text, each.topic).candidates[0].entity for each in questions]
    assert sum(entity in each.answers for entity, each in zip(best, questions, strict=True)) >= 7
    assert unknown_words(answerer, asked("qqqxz", "r1", "p3")) == ["qqqxz"]


def test_known_vectors_stay_and_their_map_is_learnt(data, tmp_path: Path):
    parts = Parts(data, data.questions, data.questions[:5], ())
    model = ModelConfig(d=16, heads=2, stages=1, dropout=0.0, word_vectors="minilm")
    answerer = new_answerer(model, DATA, parts, seed=0)
    words = answerer.model.embeddings.words
    assert isinstance(words, KnownWords)
    before, map_before = words.vectors.clone(), words.map.weight.detach().clone()
    assert torch.equal(new_answerer(model, DATA, parts, seed=0).model.state_dict()["embeddings.words.vectors"], before)
    train(answerer, data.questions, TrainingConfig(epochs=2), learning_rate=1e-2, seed=0, folder=tmp_path / "training")
    assert torch.equal(words.vectors, before)
    assert not torch.equal(words.map.weight, map_before)


def test_a_saved_model_needs_the_language_model_no_more(data, tmp_path: Path, monkeypatch):
    parts = Parts(data, data.questions, data.questions[:5], ())
    model = ModelConfig(d=16, heads=2, stages=1, word_vectors="minilm")
    answerer = new_answerer(model, DATA, parts, seed=0)
    answerer.save(tmp_path / "saved")
    monkeypatch.setattr("hypermr.word_vectors.load_model", None)
    question = data.questions[0]
    first, again = (
        each.answer(question.text, question.topic).candidates for each in (answerer, load_answerer(tmp_path / "saved"))
    )
    assert first
    assert [candidate.probability for candidate in first] == [candidate.probability for candidate in again]


def test_a_language_model_that_is_not_there(data, tmp_path: Path):
    model = ModelConfig(word_vectors=str(tmp_path / "none"))
    with pytest.raises(InputFileError, match="none' is not there: expected a model folder"):
        new_answerer(model, DATA, Parts(data, data.questions, (), ()), seed=0)
