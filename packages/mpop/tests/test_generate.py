"""Text that a decoder writes by itself, and what is done with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mpo_core import UsageError
from mpo_core.repro.config import TaskConfig
from mpo_core.repro.tasks import load_task
from mpop import commands
from mpop.config import Compression
from mpop.generate import generate_documents, write_documents
from mpop.model import compress_model, save_compressed

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
WORDS = ["<s>", "</s>", *(f"w{k}" for k in range(30))]


def small_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")


def small_decoder() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=32, max_position_embeddings=24, bos_token_id=0, eos_token_id=1, **SIZES)
    return LlamaForCausalLM(config).eval()


def test_documents_depend_on_the_seed_alone_and_leave_the_generator_as_it_was():
    model, tokenizer = small_decoder(), small_tokenizer()
    state = torch.get_rng_state()
    texts = generate_documents(model, tokenizer, 70, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert texts == generate_documents(model, tokenizer, 70, seed=3)
    assert texts != generate_documents(model, tokenizer, 70, seed=4)
    assert len(texts) == 70
    assert all(1 <= len(text.split()) <= 23 for text in texts)  # no longer than the model sees
    assert {word for text in texts for word in text.split()} <= set(WORDS[2:])


def test_samples_follow_the_distribution_of_the_model():
    """The first words of many documents have the frequencies that the model gives them: nothing is cut off."""
    model, tokenizer = small_decoder(), small_tokenizer()
    with torch.no_grad():
        wanted = model(torch.tensor([[0]])).logits[0, 0].double().softmax(-1)[2:]
    wanted /= wanted.sum()  # an empty document is drawn again
    count = 4000
    texts = generate_documents(model, tokenizer, count, max_tokens=1)
    found = torch.tensor([texts.count(word) for word in WORDS[2:]], dtype=torch.float64)
    chi_square = ((found - count * wanted).square() / (count * wanted)).sum()
    assert chi_square < 65  # 29 degrees of freedom: p = 1e-4
    cold = generate_documents(model, tokenizer, 50, max_tokens=1, temperature=1e-4)
    assert len(set(cold)) == 1


def test_what_is_written_is_read_as_documents(tmp_path):
    texts = generate_documents(small_decoder(), small_tokenizer(), 20)
    write_documents(texts, tmp_path / "deep" / "own.txt")
    task = load_task(TaskConfig(name="text", path=str(tmp_path / "deep" / "own.txt"), select_size=3))
    read = [example.texts[0] for split in ("train", "select", "eval") for example in task.splits[split]]
    assert read == texts
    with pytest.raises(UsageError, match="exists already"):
        write_documents(texts, tmp_path / "deep" / "own.txt")


def test_other_text_may_be_judged_on(tmp_path):
    write_documents(["a b", "c d", "e f", "g h"], tmp_path / "own.txt")
    write_documents(["x y", "z"], tmp_path / "other.txt")
    paths: dict[str, Any] = {"path": str(tmp_path / "own.txt"), "eval_path": str(tmp_path / "other.txt")}
    task = load_task(TaskConfig(name="text", select_size=1, **paths))
    texts = {split: [example.texts[0] for example in examples] for split, examples in task.splits.items()}
    assert texts == {"train": ["a b", "c d", "e f"], "select": ["g h"], "eval": ["x y", "z"]}
    assert "eval other.txt" in task.source


def test_the_command_takes_plain_and_compressed_folders(tmp_path):
    model, tokenizer = small_decoder(), small_tokenizer()
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    compress_model(model, Compression())
    save_compressed(model, tmp_path / "mpo", compression=Compression(), tokenizer=tokenizer)
    for name in ("plain", "mpo"):
        commands.generate(str(tmp_path / name), tmp_path / f"{name}.txt", 5, 8, 1.0, 0)
        assert (tmp_path / f"{name}.txt").read_text().count("<|endoftext|>") == 4


@pytest.mark.parametrize(
    ("choices", "says"),
    [({"documents": 0}, "documents"), ({"max_tokens": 0}, "max-tokens"), ({"temperature": 0.0}, "temperature")],
)
def test_bad_values(choices, says):
    with pytest.raises(UsageError, match=says):
        generate_documents(small_decoder(), small_tokenizer(), **{"documents": 2, **choices})


def test_an_encoder_writes_nothing():
    with pytest.raises(UsageError, match="BertModel writes no text"):
        generate_documents(BertModel(BertConfig(vocab_size=32, **SIZES)), small_tokenizer(), 2)


def test_a_decoder_that_ends_at_once_is_named():
    model = small_decoder()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[1] = 1.0
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.fill_(5.0)
    with pytest.raises(UsageError, match="before its first word"):
        generate_documents(model, small_tokenizer(), 1, temperature=1e-3)


def test_a_name_in_the_folder_of_models(tmp_path, monkeypatch):
    from mpo_core.repro.models import load_model, resolve_model

    folder = tmp_path / "models" / "small"
    small_decoder().save_pretrained(folder)
    monkeypatch.delenv("MPO_MODELS", raising=False)
    monkeypatch.setenv("MPO_DATA", str(tmp_path / "data"))
    assert Path(resolve_model("small")) == folder
    monkeypatch.setenv("MPO_MODELS", str(tmp_path))
    assert resolve_model("small") == "small"  # the hub's
    assert isinstance(load_model("models/small", "own"), LlamaForCausalLM)
