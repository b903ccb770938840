"""The practical verbs on a real model, through the command line's own functions."""

import json
import math

import pytest
import torch
from transformers import AutoModel

from mpo_core import InputFileError, MPOEmbedding, mpo_layers
from mpo_core.repro.models import load_model, load_tokenizer
from mpop import commands
from mpop.config import Compression
from mpop.inspection import draw, inspect_model
from mpop.model import compress_model, load_compressed, save_compressed

pytestmark = pytest.mark.slow

SENTENCES = ["The bond dimension caps what two halves can share.", "A short one.", "Tensors, norms and spectra."]


@pytest.fixture(scope="module")
def batch():
    return load_tokenizer("minilm")(SENTENCES, padding=True, return_tensors="pt")


def output(model, batch):
    with torch.no_grad():
        return model.eval()(**batch).last_hidden_state


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_full_bond_is_lossless_on_a_trained_model(batch, dtype, tolerance):
    model = load_model("minilm", "own", dtype=dtype)
    before = output(model, batch)
    compress_model(model, Compression())
    assert isinstance(mpo_layers(model)["embeddings.word_embeddings"], MPOEmbedding)
    assert (output(model, batch) - before).abs().max() < tolerance


def test_compress_load_and_merge_agree(batch, tmp_path):
    choices = Compression(budget=0.5)
    model = load_model("minilm", "own")
    report = compress_model(model, choices)
    assert 0.48 < report.share <= 0.5
    save_compressed(model, tmp_path / "m", compression=choices, tokenizer=load_tokenizer("minilm"))
    in_memory = output(model, batch)
    assert torch.equal(output(load_compressed(tmp_path / "m"), batch), in_memory)

    commands.merge(tmp_path / "m", tmp_path / "d")
    plain = AutoModel.from_pretrained(tmp_path / "d")
    assert (output(plain, batch) - in_memory).abs().max() < 1e-5
    assert (
        load_tokenizer(str(tmp_path / "d"))(SENTENCES)["input_ids"] == load_tokenizer("minilm")(SENTENCES)["input_ids"]
    )


def test_inspect_writes_spectra_and_a_picture(tmp_path, capsys):
    choices = Compression(include=("*layer.0.attention*",), bond=16)
    commands.inspect("minilm", choices, tmp_path / "spectra.json", tmp_path / "spectra.svg")
    rows = json.loads((tmp_path / "spectra.json").read_text())
    assert len(rows) == 4
    for row in rows:
        assert [len(values) for values in row["spectra"]] == row["bonds"]
        assert row["entropies"].index(max(row["entropies"])) in (1, 2)
        assert 0.1 < row["bound"] < 2
        assert row["bound"] == pytest.approx(math.hypot(*row["bond_errors"]))
        lost = [math.hypot(*values[16:]) / math.hypot(*values) for values in row["spectra"]]
        assert row["bond_errors"] == pytest.approx(lost)
    assert (tmp_path / "spectra.svg").read_text().lstrip().startswith("<?xml")
    printed = capsys.readouterr().out
    assert "layer.0.attention.self.query" in printed
    assert "error per bond" in " ".join(printed.split())


def test_a_kind_of_picture_that_cannot_be_written(tmp_path):
    with pytest.raises(InputFileError, match="'docx'"):
        draw(inspect_model("minilm", Compression(include=("*pooler*",))), None, tmp_path / "spectra.docx")
