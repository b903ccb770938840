import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from mpo_core import ManifestError, MPOEmbedding, MPOLinear, UsageError, count_parameters, mpo_layers
from mpop.config import Compression
from mpop.model import compress_model, load_compressed, merge_compressed, save_compressed

IDS = torch.tensor([[5, 17, 3, 90, 44], [1, 2, 80, 80, 9]])


def small_bert(kind: Callable[[BertConfig], Any] = BertModel, dtype=torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=97,
        max_position_embeddings=16,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
    )
    return kind(config).to(dtype).eval()


def small_gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=96, n_positions=16, n_embd=24, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
    return GPT2LMHeadModel(config).eval()


def output(model):
    with torch.no_grad():
        return model(IDS)[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_full_bond_is_lossless(dtype, tolerance):
    model = small_bert(dtype=dtype)
    before = output(model)
    report = compress_model(model, Compression())
    assert len(report.replacements) == 1 + 2 * 6 + 1
    assert (output(model) - before).abs().max() < tolerance


@pytest.mark.parametrize("n", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("make", [small_bert, small_gpt2])
def test_any_number_of_cores_is_lossless_and_merges_back(make, n, tmp_path):
    model = make()
    before = output(model)
    compress_model(model, Compression(n=n))
    assert {layer.shape.n for layer in mpo_layers(model).values()} == {n}
    assert (output(model) - before).abs().max() < 1e-4
    save_compressed(model, tmp_path / "m", compression=Compression(n=n))
    assert torch.equal(output(load_compressed(tmp_path / "m")), output(model))
    merge_compressed(tmp_path / "m", tmp_path / "plain")
    plain = type(make()).from_pretrained(tmp_path / "plain").eval()
    assert (output(plain) - before).abs().max() < 1e-4


def test_rules_say_how_many_cores_and_which_bonds_a_matrix_gets():
    model = small_bert()
    rules = {"*attention*query": 3, "*attention*": 7}
    compress_model(model, Compression(cores=rules, bonds={"*intermediate*": 2, "*embeddings": 4}, bond=9))
    for name, layer in mpo_layers(model).items():
        assert layer.shape.n == (3 if name.endswith("query") else 7 if "attention" in name else 5)
        cap = 2 if "intermediate" in name else 4 if "embeddings" in name else 9
        assert layer.bonds == layer.shape.clip_bonds(cap)


@pytest.mark.parametrize("rules", [{"cores": {"*query": 3, "*quarry": 3}}, {"bonds": {"*quarry": 3}}])
def test_a_rule_that_fits_nothing_is_refused(rules):
    model = small_bert()
    with pytest.raises(UsageError, match="'\\*quarry' fits none of the 14 matrices"):
        compress_model(model, Compression(**rules))
    assert not mpo_layers(model)


def test_positions_and_untied_heads_stay_dense():
    model = small_bert()
    compress_model(model, Compression())
    kept = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}
    assert kept == {"embeddings.position_embeddings", "embeddings.token_type_embeddings"}


@pytest.mark.parametrize("budget", [0.5, 0.8])
def test_the_budget_is_kept_for_the_whole_model(budget):
    model = small_bert()
    report = compress_model(model, Compression(budget=budget))
    assert report.parameters_after == count_parameters(model).total <= budget * report.parameters_before
    assert report.share > budget - 0.1


def test_an_impossible_budget_is_refused_before_anything_changes():
    model = small_bert()
    before = output(model)
    with pytest.raises(UsageError, match="raise the budget"):
        compress_model(model, Compression(budget=0.01))
    assert torch.equal(output(model), before)


def test_tolerance_bounds_the_error_of_every_matrix():
    report = compress_model(small_bert(), Compression(tolerance=0.3))
    assert all(replacement.relative_error <= 0.3 + 1e-6 for replacement in report.replacements)
    assert any(replacement.relative_error > 0.05 for replacement in report.replacements)


def test_a_bond_beyond_the_full_one_is_clipped_with_a_note():
    report = compress_model(small_bert(), Compression(bond=10_000))
    assert any("10000" in note and "clipped" in note for note in report.notes)
    assert max(replacement.relative_error for replacement in report.replacements) < 1e-5


def test_a_bond_that_some_matrices_reach_gives_no_note():
    assert compress_model(small_bert(), Compression(bond=8)).notes == ()


def test_saved_model_comes_back_bit_equal(tmp_path):
    model = small_bert()
    choices = Compression(bond=8)
    compress_model(model, choices)
    save_compressed(model, tmp_path / "m", compression=choices)
    loaded = load_compressed(tmp_path / "m")
    assert torch.equal(output(loaded), output(model))
    assert isinstance(mpo_layers(loaded)["embeddings.word_embeddings"], MPOEmbedding)
    assert not any(path.name.startswith((".", "tmp")) for path in tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_loader_without_mpo_does_not_start_from_random_weights(tmp_path):
    model = small_bert()
    compress_model(model, Compression(bond=8))
    save_compressed(model, tmp_path / "m", compression=Compression(bond=8))
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModel.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("make", [small_gpt2, lambda: small_bert(BertForMaskedLM)])
def test_merged_folder_opens_with_transformers_and_keeps_ties(tmp_path, make):
    model = make()
    compress_model(model, Compression(bond=8))
    assert any(isinstance(module, MPOLinear) for module in model.modules())
    save_compressed(model, tmp_path / "m", compression=Compression(bond=8))
    merge_compressed(tmp_path / "m", tmp_path / "d")
    plain = type(model).from_pretrained(tmp_path / "d").eval()
    assert (output(plain) - output(model)).abs().max() < 1e-5
    assert plain.get_output_embeddings().weight is plain.get_input_embeddings().weight


def test_a_decoder_loads_as_what_it_was(tmp_path):
    model = small_gpt2()
    compress_model(model, Compression(bond=8))
    save_compressed(model, tmp_path / "m", compression=Compression(bond=8))
    assert isinstance(load_compressed(tmp_path / "m"), GPT2LMHeadModel)
    merge_compressed(tmp_path / "m", tmp_path / "d")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "d").num_parameters() == small_gpt2().num_parameters()


def test_an_existing_folder_is_never_overwritten(tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(UsageError, match="exists"):
        save_compressed(small_bert(), tmp_path / "m", compression=Compression())


def test_a_plain_folder_is_no_compressed_model(tmp_path):
    small_bert().save_pretrained(tmp_path / "plain")
    with pytest.raises(ManifestError, match=r"mpo\.json"):
        load_compressed(tmp_path / "plain")


def test_truncated_weights_are_refused(tmp_path):
    model = small_bert()
    compress_model(model, Compression(bond=8))
    save_compressed(model, tmp_path / "m", compression=Compression(bond=8))
    weights = tmp_path / "m" / "mpo.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ManifestError, match=r"mpo\.safetensors"):
        load_compressed(tmp_path / "m")


def test_a_manifest_of_another_schema_is_refused(tmp_path):
    model = small_bert()
    compress_model(model, Compression(bond=8))
    save_compressed(model, tmp_path / "m", compression=Compression(bond=8))
    manifest = tmp_path / "m" / "mpo.json"
    content = json.loads(manifest.read_text())
    schema_key = next(key for key in content if "schema" in key)
    manifest.write_text(json.dumps(content | {schema_key: 999}))
    with pytest.raises(ManifestError, match="999"):
        load_compressed(tmp_path / "m")
    shutil.rmtree(tmp_path / "m")
