from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from mpo_core.adapters.adapter_manifest import read_adapter_manifest
from mpo_core.adapters.adoption import MPOConfig, MPOModel, get_mpo_model
from mpo_core.adapters.base_weights import home_of_weight, weight_of_home
from mpo_core.decomposing.chain import home_site
from mpo_core.decomposing.lossless import identity_cores
from mpo_core.errors import ManifestError, MPOError, NonFiniteError, UsageError
from mpo_core.models.surgery import mpo_layers
from mpo_core.operators.contraction import contract_matrix
from mpo_core.shapes import MPOShape

MODELS = Path(os.environ.get("MPO_MODELS") or Path(__file__).parents[4] / "shared" / "models")
STORIES = MODELS / "stories260k"
IDS = torch.tensor([[1, 5, 9, 2], [4, 4, 11, 6]])
NORM = "transformer.ln_f.bias"
CORE = "transformer.h.0.mlp.c_fc.cores.0"

BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertForMaskedLM(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config.from_dict(
            {
                "vocab_size": 50,
                "d_model": 16,
                "d_kv": 8,
                "d_ff": 32,
                "num_layers": 1,
                "num_heads": 2,
                "decoder_start_token_id": 0,
            }
        )
    ),
}


def build(name: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return BUILDERS[name]().eval()


@torch.no_grad()  # torch and the layers choose their algorithm by whether a gradient is recorded
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=IDS, labels=IDS).logits


def adapted(name: str = "gpt2", steps: int = 3, **options: Any) -> MPOModel:
    """A model that was really trained."""
    model = get_mpo_model(build(name), MPOConfig(**{"n": 3, **options}))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    return model


def saved_keys(folder: Path) -> set[str]:
    return set(load_file(folder / "mpo_model.safetensors"))


def trained_keys(model: MPOModel) -> set[str]:
    """Every tensor once, as `named_parameters` lists them."""
    return {key for key, p in model.get_base_model().named_parameters() if p.requires_grad}


def ties(model: nn.Module) -> set[frozenset[str]]:
    groups: dict[int, set[str]] = {}
    for key, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(key)
    return {frozenset(keys) for keys in groups.values()}


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "mpo_config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def reseal(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors, and the checksum with them, as a careless tool would."""
    path = folder / "mpo_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    edit(folder, lambda m: m["weights"].update(sha256=hashlib.sha256(path.read_bytes()).hexdigest()))


def problem(folder: Path, base: nn.Module | None = None) -> str:
    """The one-line message of the refusal, which leaves the base model as it was."""
    base = base or build("gpt2")
    before = {key: (id(p), p.clone()) for key, p in base.named_parameters()}
    with pytest.raises(ManifestError) as info:
        MPOModel.from_pretrained(base, folder)
    after = dict(base.named_parameters())
    assert after.keys() == before.keys()
    assert all(id(after[key]) == i and torch.equal(after[key], value) for key, (i, value) in before.items())
    message = str(info.value)
    assert "\n" not in message.strip()
    return message


@pytest.fixture(params=BUILDERS.keys())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    adapted().save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


# -- what is in the file -----------------------------------------------------------------------------------


def test_at_full_bonds_only_what_trains_is_in_the_file(name: str, tmp_path: Path) -> None:
    model = adapted(name)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mpo_config.json", "mpo_model.safetensors"]
    assert saved_keys(tmp_path) == trained_keys(model)
    tensors = load_file(tmp_path / "mpo_model.safetensors")
    assert sum(v.numel() for v in tensors.values()) == model.trainable_parameters().trained
    assert all(".cores." in key for key in tensors)
    assert not any(key.endswith(".cores.1") for key in tensors)


def test_cut_cores_are_in_the_file_in_full(name: str, tmp_path: Path) -> None:
    model = adapted(name, bonds=4)
    model.save_pretrained(tmp_path)
    count = model.trainable_parameters()
    tensors = load_file(tmp_path / "mpo_model.safetensors")
    cut = {key for key, layer in mpo_layers(model.get_base_model()).items() if layer.bonds != layer.shape.full_bonds}
    assert {key.rsplit(".cores.", 1)[0] for key in tensors if key.endswith(".cores.1")} <= cut
    assert sum(v.numel() for v in tensors.values()) <= count.central + count.auxiliary
    assert not any(".cores." not in key for key in tensors)


def test_a_schmidt_gauge_at_full_bonds_is_stored_in_full(tmp_path: Path) -> None:
    model = adapted(gauge="left")
    model.save_pretrained(tmp_path)
    cores = {key for key, _ in model.get_base_model().named_parameters() if ".cores." in key}
    assert saved_keys(tmp_path) == cores
    loaded = MPOModel.from_pretrained(build("gpt2"), tmp_path)
    assert torch.equal(logits(loaded), logits(model))


def test_modules_and_biases_that_train_are_in_the_file(tmp_path: Path) -> None:
    model = adapted("bert", modules_to_save="cls", bias="mpo_only", target_modules="attention", bonds=2)
    model.save_pretrained(tmp_path)
    keys = saved_keys(tmp_path)
    assert trained_keys(model) <= keys
    extra = keys - trained_keys(model)
    assert extra == {key for key in extra if key.endswith(".cores.1")}
    # The head is tied to the embedding, and stored once.
    assert "bert.embeddings.word_embeddings.weight" in keys
    assert "cls.predictions.decoder.weight" not in keys


def test_the_size_of_a_file_is_that_of_what_trains(tmp_path: Path) -> None:
    """At 256 x 256 and n = 5 the auxiliary tensors are a few percent of the matrix."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(256, 256) for _ in range(8)))
    dense = sum(p.numel() for p in net.parameters())
    model = get_mpo_model(net, MPOConfig())
    model.save_pretrained(tmp_path)
    trained = model.trainable_parameters().trained
    size = (tmp_path / "mpo_model.safetensors").stat().st_size
    assert trained < 0.2 * dense
    assert 4 * trained < size < 4 * trained + 8000
    assert (tmp_path / "mpo_config.json").stat().st_size < 60_000


def test_the_manifest_tells_what_was_done(saved: Path) -> None:
    manifest = read_adapter_manifest(saved)
    assert manifest.config == MPOConfig(n=3)
    by_name = {layer.name: layer for layer in manifest.layers}
    assert by_name["transformer.h.0.attn.c_attn"].kind == "conv1d"
    assert by_name["transformer.h.0.attn.c_attn"].bonds == MPOShape.choose(48, 16, 3).full_bonds
    assert manifest.base["transformer.h.0.attn.c_attn.weight"].shape == (16, 48)
    assert manifest.base[NORM].dtype == "float32"
    assert manifest.recomputed["transformer.wte.cores.1"].tied == ("lm_head.cores.1",)
    assert set(manifest.trained) == saved_keys(saved)


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    model = adapted("bert", bonds=4)
    for folder in ("a", "b"):
        model.save_pretrained(tmp_path / folder)
    for file in ("mpo_config.json", "mpo_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    model.save_pretrained(tmp_path / "c", is_main_process=False)
    assert not (tmp_path / "c").exists()


# -- round trips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bonds": 4},
        {"bonds": 4, "train": "all", "bias": "all"},
        {"train": "central"},
        {"gauge": "central"},
        {"target_modules": "*.0.*", "bond_pattern": {"*.0.*": 3}},
    ],
    ids=str,
)
def test_outputs_come_back_to_the_bit(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = adapted(name, **options)
    model.save_pretrained(tmp_path / "first")
    loaded = MPOModel.from_pretrained(build(name), tmp_path / "first")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.mpo_config == model.mpo_config
    assert ties(loaded) == ties(model)
    assert not any(p.requires_grad for p in loaded.parameters())
    expected = model.get_base_model().state_dict()
    found = loaded.get_base_model().state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    # A loaded model, frozen as it is, saves as the same adapter.
    loaded.save_pretrained(tmp_path / "second")
    for file in ("mpo_config.json", "mpo_model.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_training_goes_on_after_loading(tmp_path: Path) -> None:
    model = adapted("bert", modules_to_save="cls.predictions.transform", bias="mpo_only", bonds=4)
    model.save_pretrained(tmp_path)
    loaded = MPOModel.from_pretrained(build("bert"), tmp_path, is_trainable=True)
    assert trained_keys(loaded) == trained_keys(model)
    assert loaded.trainable_parameters() == model.trainable_parameters()
    for each in (model, loaded):
        optimizer = torch.optim.SGD([p for p in each.parameters() if p.requires_grad], lr=0.1)
        optimizer.zero_grad()
        each(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert torch.equal(logits(loaded), logits(model))


def test_a_loaded_model_merges_and_unloads(name: str, tmp_path: Path) -> None:
    model = adapted(name, modules_to_save="lm_head" if name == "t5" else ())
    model.save_pretrained(tmp_path)
    base = build(name)
    expected, tied = logits(base), ties(base)
    loaded = MPOModel.from_pretrained(base, tmp_path)
    merged = copy.deepcopy(loaded).merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-5)
    assert ties(merged) == tied
    with loaded.disable_adapter():
        torch.testing.assert_close(logits(loaded), expected)
    undone = loaded.unload()
    assert torch.equal(logits(undone), expected)
    assert ties(undone) == tied
    assert all(p.requires_grad for p in undone.parameters())


def test_everything_in_bfloat16(tmp_path: Path) -> None:
    model = get_mpo_model(build("gpt2").bfloat16(), MPOConfig(n=3))
    model.save_pretrained(tmp_path)
    loaded = MPOModel.from_pretrained(build("gpt2").bfloat16(), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert "is float32, the adapter was made on bfloat16; load the base model in bfloat16" in problem(tmp_path)


def test_a_model_converted_after_adaptation_is_stored_in_full_and_loads(tmp_path: Path) -> None:
    """Its home cores are no longer those of the base model, so none is left out."""
    model = get_mpo_model(build("gpt2"), MPOConfig("c_fc", n=3)).bfloat16()
    model.save_pretrained(tmp_path)
    assert f"{CORE[:-1]}1" in saved_keys(tmp_path)
    assert NORM in saved_keys(tmp_path)
    loaded = MPOModel.from_pretrained(build("gpt2"), tmp_path)
    assert torch.equal(logits(loaded), logits(model))


def test_what_was_changed_although_frozen_is_stored(tmp_path: Path) -> None:
    model = adapted()
    home = model.get_parameter(f"base_model.{CORE[:-1]}1")
    home.data[0, 0, 0, 0] += 1
    model.transformer.ln_f.bias.data += 1
    model.transformer.ln_f.weight.requires_grad_(True)
    model.save_pretrained(tmp_path)
    assert {f"{CORE[:-1]}1", NORM, "transformer.ln_f.weight"} <= saved_keys(tmp_path)
    loaded = MPOModel.from_pretrained(build("gpt2"), tmp_path, is_trainable=True)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.transformer.ln_f.weight.requires_grad
    assert not loaded.transformer.ln_f.bias.requires_grad
    with pytest.raises(UsageError, match="unload"):
        model.unload()


def test_trained_padding_of_a_home_core_is_noticed(tmp_path: Path) -> None:
    """Padding is outside of the weight, but enters the product with trained cores."""
    net = nn.Sequential(nn.Linear(16, 53))
    base = copy.deepcopy(net)
    model = get_mpo_model(net, MPOConfig(n=3))
    layer = mpo_layers(net)["0"]
    assert layer.shape.padded_rows > 53
    model.save_pretrained(tmp_path)
    assert saved_keys(tmp_path) == {"0.cores.0", "0.cores.2"}
    layer.cores[1].data.add_(layer.cores[1].data.eq(0))
    layer.cores[0].data += 0.1
    model.save_pretrained(tmp_path)
    assert saved_keys(tmp_path) == {"0.cores.0", "0.cores.1", "0.cores.2"}
    loaded = MPOModel.from_pretrained(base, tmp_path)
    x = torch.randn(3, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_running_statistics_are_stored_when_they_moved(tmp_path: Path) -> None:
    def net() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

    base = net()
    model = get_mpo_model(base, MPOConfig("0", n=2))
    model.save_pretrained(tmp_path / "before")
    assert saved_keys(tmp_path / "before") == {"0.cores.0"}
    model.train()(torch.randn(5, 6))
    model.eval().save_pretrained(tmp_path / "after")
    assert saved_keys(tmp_path / "after") == {"0.cores.0", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    x = torch.randn(4, 6)
    loaded = MPOModel.from_pretrained(net().eval(), tmp_path / "after")
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
        assert torch.equal(loaded.unload()(x), net().eval()(x))


@pytest.mark.parametrize("bonds", [None, 4])
def test_a_module_under_two_names_and_cores_shared_later_come_back(bonds: int | None, tmp_path: Path) -> None:
    """Layers that share only the central core (MPOBERT): at full bonds it is not the second layer's own weight."""

    def net() -> Any:
        torch.manual_seed(0)
        first = nn.Linear(8, 8)
        return nn.ModuleDict({"a": first, "b": nn.Linear(8, 8), "again": nn.ModuleList([first])})

    base = net()
    model = get_mpo_model(base, MPOConfig(["a", "b"], n=3, bonds=bonds))
    layers = mpo_layers(base)
    layers["b"].cores[1] = layers["a"].cores[1]
    base["b"].register_parameter("bias", base["a"].bias)
    model.save_pretrained(tmp_path)
    assert {"a.cores.1", "a.bias"} <= saved_keys(tmp_path)
    loaded = MPOModel.from_pretrained(net(), tmp_path)
    assert ties(loaded) == ties(model)
    x = torch.randn(2, 8)
    found: Any = loaded.get_base_model()
    with torch.no_grad():
        assert all(torch.equal(found[key](x), base[key](x)) for key in ("a", "b"))
    assert found["again"][0] is found["a"]


def test_padding_idx_strategy_and_cache_come_back(tmp_path: Path) -> None:
    def net() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(10, 8, padding_idx=3), nn.Linear(8, 6, bias=False))

    model = get_mpo_model(net(), MPOConfig(n=3, bonds=2, strategy="rebuild", cache=True))
    model.save_pretrained(tmp_path)
    loaded = MPOModel.from_pretrained(net().eval(), tmp_path)
    layers = mpo_layers(loaded.get_base_model())
    assert layers["0"].padding_idx == 3  # pyright: ignore[reportAttributeAccessIssue]
    for key, layer in mpo_layers(model.get_base_model()).items():
        for option in ("strategy", "cache"):
            assert getattr(layers[key], option, None) == getattr(layer, option, None)
    with torch.no_grad():
        assert torch.equal(loaded(torch.tensor([3, 1])), model.eval()(torch.tensor([3, 1])))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["linear", "conv1d", "embedding"]))
def test_the_home_core_holds_the_weight_to_the_bit(data: st.DataObject, kind: Any) -> None:
    """Also for factors so unbalanced that it is not the central core, for padding, and for negative zeros."""
    n = data.draw(st.integers(1, 4))
    rows = tuple(data.draw(st.lists(st.integers(1, 4), min_size=n, max_size=n)))
    cols = tuple(data.draw(st.lists(st.integers(1, 4), min_size=n, max_size=n)))
    padded = MPOShape(1, 1, rows, cols)
    shape = MPOShape(
        data.draw(st.integers(1, padded.padded_rows)), data.draw(st.integers(1, padded.padded_cols)), rows, cols
    )
    matrix = torch.randn(shape.rows, shape.cols)
    matrix[matrix.abs() < 0.3] = -0.0
    weight = matrix.T.contiguous() if kind == "conv1d" else matrix
    home = home_of_weight(weight, shape, kind)
    again = weight_of_home(home, shape, kind)
    assert again.shape == weight.shape
    assert torch.equal(again.view(torch.int32), weight.view(torch.int32))
    for given_matrix in (matrix, matrix.T.contiguous().T):
        cores = identity_cores(given_matrix, shape)
        assert torch.equal(cores[home_site(shape)], home)
        assert torch.equal(contract_matrix(cores, shape), matrix)


# -- refusals: the folder ----------------------------------------------------------------------------------


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mpo.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "absent"):
        assert "holds no mpo_config.json; expected a folder that MPOModel.save_pretrained has written" in problem(
            folder
        )


def test_a_cut_or_changed_file_is_noticed(saved: Path) -> None:
    path = saved / "mpo_model.safetensors"
    whole = path.read_bytes()
    for length in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "has the sha256" in problem(saved)
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    path.write_bytes(flipped)
    assert "damaged, cut short or of another save" in problem(saved)
    path.unlink()
    assert "mpo_model.safetensors is missing" in problem(saved)


def test_a_crash_between_the_two_files_is_noticed(saved: Path, tmp_path: Path) -> None:
    adapted(bonds=2).save_pretrained(tmp_path / "newer")
    (tmp_path / "newer" / "mpo_model.safetensors").replace(saved / "mpo_model.safetensors")
    assert "of another save" in problem(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(CORE), f"mpo_model.safetensors lacks the tensor '{CORE}'"),
        (lambda t: t.update(stray=torch.zeros(1)), "mpo_config.json lacks the tensor 'stray'"),
        (lambda t: t.update({CORE: t[CORE].half()}), f"'{CORE}' is float16"),
        (lambda t: t.update({CORE: t[CORE][..., :2].clone()}), f"'{CORE}' is float32 of shape (1, 4, 2, 2)"),
        (lambda t: t[CORE].view(-1)[0].fill_(float("nan")), f"'{CORE}' holds NaN or infinity"),
        (lambda t: t[CORE].view(-1)[0].fill_(float("inf")), f"'{CORE}' holds NaN or infinity"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    saved: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    reseal(saved, change)
    assert message in problem(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=2), "schema_version is 2, this mpo-core reads 1; update mpo-core"),
        (lambda m: m.pop("config"), "config is missing"),
        (lambda m: m["config"].update(r=8), "config is refused (MPOConfig.from_dict: unknown key 'r'"),
        (lambda m: m["config"].update(n=0), "config is refused (MPOConfig: n is 0"),
        (lambda m: m["weights"].update(sha256=3), "weights.sha256 is 3"),
        (lambda m: m.update(base=[]), "base is []; expected a dict"),
        (lambda m: m["base"][NORM].pop("sha256"), "sha256 is missing"),
        (lambda m: m["base"].pop(NORM), f"lacks '{NORM}', which the model needs"),
        (lambda m: m["base"].update({"x.weight": m["base"][NORM]}), "has 'x.weight', which the model lacks"),
        (lambda m: m["base"].pop("transformer.h.0.mlp.c_fc.weight"), "cannot be computed from the base model"),
        (lambda m: m["recomputed"].pop(f"{CORE[:-1]}1"), f"lacks '{CORE[:-1]}1', which the model needs"),
        (lambda m: m["recomputed"].update({CORE: m["tensors"][CORE]}), f"'{CORE}' twice"),
        (lambda m: m["recomputed"][f"{CORE[:-1]}1"].update(shape=[8, 4, 4, 7]), "has the shape (8, 4, 4, 7)"),
        (lambda m: m["recomputed"][f"{CORE[:-1]}1"].update(dtype="float16"), "is float16 in the manifest"),
        (lambda m: m["trained"].append("stray"), "trained names 'stray'"),
        (lambda m: m["layers"].pop(), "which the model"),
        (lambda m: m["layers"][0].update(name="transformer.h.7"), "'transformer.h.7' does not exist"),
        (lambda m: m["layers"][2].update(kind="linear"), "in the manifest and conv1d"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named(saved: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(saved, change)
    found = problem(saved)
    assert message in found
    assert "mpo_config.json" in found


def test_text_that_is_no_json_is_refused(saved: Path) -> None:
    for text in ("", "{", "[]", "\x00\xff"):
        (saved / "mpo_config.json").write_text(text)
        assert "mpo_config.json" in problem(saved)


# -- refusals: the base model ------------------------------------------------------------------------------


def test_another_base_model_is_refused(saved: Path) -> None:
    assert "the base model's 'transformer.wte.weight' has the sha256" in problem(saved, build("gpt2", 1))
    assert "layer 'transformer.wte' does not exist in this BertForMaskedLM" in problem(saved, build("bert"))
    config: dict[str, Any] = {"vocab_size": 50, "n_positions": 8, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
    wider = GPT2LMHeadModel(GPT2Config(**config, n_embd=32, n_layer=2))
    assert "is embedding 50x16 in the manifest and embedding 50x32 in the model" in problem(saved, wider)
    deeper = GPT2LMHeadModel(GPT2Config(**config, n_embd=16, n_layer=3))
    assert "lacks 'transformer.h.2.attn.c_attn.bias', which the model needs" in problem(saved, deeper)
    shallower = GPT2LMHeadModel(GPT2Config(**config, n_embd=16, n_layer=1))
    assert "'transformer.h.1.attn.c_attn' does not exist" in problem(saved, shallower)


def test_one_changed_bit_of_the_base_model_is_noticed(saved: Path) -> None:
    for key in (NORM, "transformer.h.1.mlp.c_proj.weight", "lm_head.weight"):
        base = build("gpt2")
        with torch.no_grad():
            entry = base.get_parameter(key).view(-1)[-1:]
            entry.copy_(torch.nextafter(entry, torch.tensor([9.0])))
        assert "the adapter was made on" in problem(saved, base)


def test_a_new_head_that_was_not_saved_is_explained(tmp_path: Path) -> None:
    def with_head(seed: int) -> nn.Module:
        base = build("gpt2")
        torch.manual_seed(seed)
        base.lm_head = nn.Linear(16, 50, bias=False)
        return base

    get_mpo_model(with_head(1), MPOConfig("c_fc", n=3)).save_pretrained(tmp_path)
    MPOModel.from_pretrained(with_head(1), tmp_path)
    message = problem(tmp_path, with_head(2))
    assert "'lm_head.weight'" in message
    assert "name it in modules_to_save before training" in message


def test_base_models_without_plain_weights_are_refused(saved: Path) -> None:
    with torch.device("meta"):
        hollow = BUILDERS["gpt2"]()
    with pytest.raises(UsageError, match="is no tensor with values"):
        MPOModel.from_pretrained(hollow, saved)
    loaded = MPOModel.from_pretrained(build("gpt2"), saved)
    for again in (loaded, loaded.get_base_model()):
        with pytest.raises(UsageError, match="holds MPO layers already"):
            MPOModel.from_pretrained(again, saved)


def test_a_diverged_or_hollow_model_is_not_saved(saved: Path) -> None:
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    model = adapted()
    model.transformer.h[0].mlp.c_fc.cores[0].data[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=rf"save_pretrained: '{CORE}' holds NaN"):
        model.save_pretrained(saved)
    with torch.device("meta"):
        hollow = BUILDERS["gpt2"]()
    with pytest.raises(MPOError, match="meta device"):
        get_mpo_model(hollow, MPOConfig(n=3)).save_pretrained(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


# -- really trained models ---------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.skipif(not STORIES.is_dir(), reason=f"the real decoder is not there: {STORIES}")
def test_the_trained_story_teller_learns_and_comes_back(tmp_path: Path) -> None:
    def teller() -> Any:
        return AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32).eval()

    base = teller()
    dense = sum(p.numel() for p in base.parameters())
    ids = base.generate(torch.tensor([[1]]), do_sample=False, max_new_tokens=30, pad_token_id=2)
    wanted = ids.flip(1)
    model = get_mpo_model(base, MPOConfig())
    assert torch.equal(model.generate(torch.tensor([[1]]), do_sample=False, max_new_tokens=30, pad_token_id=2), ids)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses: list[float] = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(input_ids=wanted, labels=wanted).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    model.save_pretrained(tmp_path)
    assert (tmp_path / "mpo_model.safetensors").stat().st_size < 0.6 * 4 * dense
    loaded = MPOModel.from_pretrained(teller(), tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=wanted).logits, model(input_ids=wanted).logits)
