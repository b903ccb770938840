"""Checkpoints of the user's own.

None of CodeT5's kind can be had here: a small T5 with fresh weights stands for it, and MiniLM's real weights for an
encoder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, T5Config

from cp_bcs.config import Config, DecodingConfig, ModelConfig
from cp_bcs.data.pairs import Pair
from cp_bcs.data.splits import Split
from cp_bcs.learned import Learned
from cp_bcs.learning import learn, learn_translator, translate
from cp_bcs.pretrained import PretrainedEncoder, Reader, Translator
from cp_bcs.refining import CheckpointRefiner, learn_refiner, load_refiner
from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.config import TrainingConfig
from mpo_core.repro.models import build_model, load_model, load_tokenizer

SIZES: dict[str, Any] = {
    "d": 32,
    "heads": 2,
    "layers": 1,
    "inner": 64,
    "pieces": 300,
    "dropout": 0.0,
    "code_length": 40,
    "pseudo_length": 24,
    "summary_length": 8,
    "nodes": "pieces",
}
FEW = TrainingConfig(epochs=1, max_steps=2, batch_size=8, weight_decay=0.0, max_grad_norm=5.0)
DONE = ("copies", "sums", "frees")


def function(number: int) -> Pair:
    done = DONE[number % 3]
    return Pair(
        "p", f"{number % 7}.c", number, f"f{number}", "x64", "O2", number, f"{done} it", ("push rbp", "ret"), (), (),
        pseudo=f"int sub(int a1) {{ return {done}(a1); }}", pseudo_twin=f"int {done}(int it);",
    )  # fmt: skip


SPLIT = Split("random-0", *(tuple(function(n) for n in part) for part in (range(24), range(24, 27), range(27, 33))))


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("t5")
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    ids: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 102, "decoder_start_token_id": 0}
    config = T5Config(vocab_size=30522, dropout_rate=0.0, **sizes, **ids)
    build_model(config, "seq2seq").save_pretrained(folder)
    load_tokenizer("minilm").save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_a_seq2seq_checkpoint_learns_to_summarise(t5: str, tmp_path: Path) -> None:
    model = ModelConfig(**SIZES, sources=("pseudo",))
    training = FEW.model_copy(update={"epochs": 60, "max_steps": 150})
    translator, fitted = learn_translator(
        t5, model, SPLIT.train, training, learning_rate=1e-2, seed=0, folder=tmp_path / "fit"
    )
    assert fitted.status == "completed"
    written = translate(translator, model, SPLIT.test, beams=2)
    assert written == [pair.sentence for pair in SPLIT.test]
    translator.save(tmp_path / "saved")
    assert translate(Translator.open(str(tmp_path / "saved")), model, SPLIT.test, beams=2) == written


def test_without_pseudo_code_a_seq2seq_checkpoint_reads_code(t5: str, tmp_path: Path) -> None:
    model = ModelConfig(**SIZES, sources=("code",))
    bare = [replace(pair, pseudo=None) for pair in SPLIT.train]
    translator, _ = learn_translator(t5, model, bare, FEW, learning_rate=1e-3, seed=0, folder=tmp_path / "fit")
    assert len(translate(translator, model, bare, beams=1)) == len(bare)
    with pytest.raises(UsageError, match="--pseudo"):
        translate(translator, ModelConfig(**SIZES, sources=("pseudo",)), bare, beams=1)


def test_a_checkpoint_becomes_the_refiner(t5: str, tmp_path: Path) -> None:
    model = ModelConfig(**SIZES, sources=("pseudo",), refined=True, refiner=t5)
    learned, _ = learn(model, DecodingConfig(beams=1), SPLIT, FEW, learning_rate=1e-3, seed=0, folder=tmp_path / "fit")
    assert isinstance(learned.refiner, CheckpointRefiner)
    texts = learned.refiner.refine([*SPLIT.test, replace(SPLIT.test[0], pseudo=None)])
    assert texts[-1] is None
    assert all(text is not None for text in texts[:-1])
    learned.save(tmp_path / "run")
    again = Learned.load(tmp_path / "run")
    assert again.refiner is not None
    assert again.refiner.refine(SPLIT.test) == texts[:-1]
    assert [d.sentence for d in again.summarize(SPLIT.test)] == [d.sentence for d in learned.summarize(SPLIT.test)]
    (tmp_path / "run" / "refiner" / "refiner.json").write_text("{}")
    with pytest.raises(InputFileError, match=r"refiner\.json"):
        load_refiner(tmp_path / "run" / "refiner")


def test_a_pretrained_encoder_reads_pseudo_code_and_stays_as_it_is(tmp_path: Path) -> None:
    model = ModelConfig(**SIZES, sources=("pseudo", "code"), encoder="minilm")
    learned, _ = learn(model, DecodingConfig(beams=1), SPLIT, FEW, learning_rate=1e-2, seed=0, folder=tmp_path / "fit")
    encoder = learned.network.encoders["pseudo"]
    assert isinstance(encoder, PretrainedEncoder)
    original = load_model("minilm", "backbone").state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in encoder.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
    assert not encoder.train().model.training
    learned.network.eval()
    learned.save(tmp_path / "run")
    again = Learned.load(tmp_path / "run")
    drafts, other = learned.summarize(SPLIT.test), again.summarize(SPLIT.test)
    assert [draft.sentence for draft in drafts] == [draft.sentence for draft in other]
    assert drafts[0].score == other[0].score


def test_the_states_of_a_pretrained_encoder_are_its_own_and_padding_changes_nothing() -> None:
    reader = Reader.open("minilm")
    encoder = PretrainedEncoder(reader, 8, 24).eval()
    texts = [pair.pseudo or "" for pair in SPLIT.test[:2]]
    rows = [reader.numbers(text, 24) for text in texts]
    assert reader.numbers("", 24) == []
    assert len(reader.numbers("int " * 100, 24)) == 24
    alone = encoder(torch.tensor(rows[:1]))
    model, tokenizer = load_model("minilm", "backbone"), load_tokenizer("minilm")
    asked: Any = tokenizer(texts[:1], return_tensors="pt")
    expected = encoder.project(model(**asked).last_hidden_state)
    torch.testing.assert_close(alone.states, expected)
    padded = torch.tensor([[*rows[0], 0, 0, 0]])
    torch.testing.assert_close(encoder(padded).states[:, : len(rows[0])], expected, rtol=1e-4, atol=1e-5)
    assert encoder(padded).there.tolist() == [[True] * len(rows[0]) + [False] * 3]


def test_what_a_checkpoint_cannot_do_is_said(t5: str, tmp_path: Path) -> None:
    few_places = tmp_path / "bert"
    config = BertConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    build_model(config, "backbone").save_pretrained(few_places)
    load_tokenizer("minilm").save_pretrained(few_places)
    with pytest.raises(UsageError, match="reads 16 pieces at most"):
        PretrainedEncoder(Reader.open(str(few_places)), 8, 24)
    with pytest.raises(InputFileError, match="cannot be read"):
        Translator.open("minilm")
    with pytest.raises(InputFileError, match="is not there"):
        Translator.open(str(tmp_path / "nothing"))
    model = ModelConfig(**SIZES, sources=("pseudo",), refined=True, refiner=t5)
    bare = [replace(pair, pseudo_twin=None) for pair in SPLIT.train]
    with pytest.raises(UsageError, match="--pseudo"):
        learn_refiner(model, bare, FEW, learning_rate=1e-3, seed=0, folder=tmp_path / "fit")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sources": ("code",), "encoder": "minilm"}, "none of the sources"),
        ({"refiner": "minilm"}, "refined is off"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ModelConfig(**settings)


@pytest.mark.parametrize(
    "arm",
    [
        {"summarizer": "seq2seq", "learning_rates": [1e-3]},
        {"summarizer": "nearest", "checkpoint": "folder"},
        {"summarizer": "seq2seq", "checkpoint": "folder"},
    ],
)
def test_an_arm_of_a_checkpoint_needs_one_and_rates(arm: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs"):
        Config.model_validate({"study": "summarize", "arms": {"a": arm}})
