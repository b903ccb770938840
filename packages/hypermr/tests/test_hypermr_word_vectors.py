"""Word vectors that a language model has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hypermr.answer import load_answerer
from hypermr.config import DataConfig, ModelConfig
from hypermr.data.hierarchies import HierarchyConfig, generate_hierarchy
from hypermr.data.questions import TOPIC, QuestionSet
from hypermr.hypergraph.encoding import PAD, UNKNOWN
from hypermr.train import Parts, new_answerer, train
from hypermr.word_vectors import KnownWords, known_vectors
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
    vectors = known_vectors(WORDS, "minilm", d)
    assert vectors.shape == (len(WORDS), d)
    assert not vectors[0].any()
    torch.testing.assert_close(vectors[1:].norm(dim=-1), torch.ones(len(WORDS) - 1))
    alike = vectors @ vectors.mT - 2 * torch.eye(len(WORDS))
    for one, other in zip(NAMES[::2], NAMES[1::2], strict=True):
        assert WORDS[int(alike[WORDS.index(one)].argmax())] == other


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
