from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoConfig,
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

from mpo_core.embeddings.embedding import MPOEmbedding
from mpo_core.errors import ManifestError, UsageError
from mpo_core.forward.linear import MPOLinear
from mpo_core.models.io import load_mpo, read_manifest, save_mpo
from mpo_core.models.roles import count_parameters, freeze_cores
from mpo_core.models.surgery import find_targets, merge_modules, mpo_layers, replace_modules
from mpo_core.shapes import MPOShape

MODELS = Path(os.environ.get("MPO_MODELS") or Path(__file__).parents[4] / "shared" / "models")
STORIES = MODELS / "stories260k"
LAST = "transformer.ln_f.bias"
IDS = torch.tensor([[1, 5, 9, 2], [4, 4, 11, 0]])

BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=2, n_head=2)),
    "bert": lambda: BertForMaskedLM(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    ),
    "albert": lambda: AlbertModel(
        AlbertConfig(vocab_size=50, embedding_size=8, hidden_size=16, num_attention_heads=2, intermediate_size=32)
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
        T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    ),
}


def build(name: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return BUILDERS[name]().eval()


def compressed(name: str) -> PreTrainedModel:
    model = build(name)
    replace_modules(model, find_targets(model, min_size=4), n=3, bonds=4)
    return model


def output(model: nn.Module) -> Tensor:
    extra = {"decoder_input_ids": IDS} if isinstance(model, T5ForConditionalGeneration) else {}
    return model(input_ids=IDS, **extra)[0]


def ties(model: nn.Module) -> set[frozenset[str]]:
    groups: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(name)
    return {frozenset(names) for names in groups.values()}


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "mpo.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def seal(folder: Path) -> None:
    """Give the manifest the checksum of the weights file as it is, as a careless tool would."""
    digest = hashlib.sha256((folder / "mpo.safetensors").read_bytes()).hexdigest()
    edit(folder, lambda m: m["weights"].update(sha256=digest))


def problem(folder: Path, name: str = "gpt2") -> str:
    with pytest.raises(ManifestError) as info:
        load_mpo(build(name), folder)
    message = str(info.value)
    assert "\n" not in message.strip()
    return message


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_mpo(compressed("gpt2"), tmp_path / "gpt2")


# -- round trips -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
def test_a_model_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    model = compressed(name)
    save_mpo(model, tmp_path)
    skeleton = build(name, seed=1)
    assert not torch.equal(output(skeleton), output(model))
    loaded = load_mpo(skeleton, tmp_path)
    assert loaded is skeleton
    expected, found = model.state_dict(), loaded.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in expected.items())
    assert ties(loaded) == ties(model)
    assert count_parameters(loaded) == count_parameters(model)
    assert {n: (type(x), x.shape, x.bonds) for n, x in mpo_layers(loaded).items()} == {
        n: (type(x), x.shape, x.bonds) for n, x in mpo_layers(model).items()
    }
    assert torch.equal(output(loaded), output(model))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_loaded_model_merges_and_ties_like_the_saved_one(name: str, tmp_path: Path) -> None:
    model = compressed(name)
    loaded = load_mpo(build(name, seed=1), save_mpo(model, tmp_path))
    loaded.tie_weights()
    assert merge_modules(loaded) == merge_modules(model)
    loaded.tie_weights()
    assert ties(loaded) == ties(model) == ties(build(name))
    assert torch.equal(output(loaded), output(model))


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    model = compressed("bert")
    first, second = save_mpo(model, tmp_path / "a"), save_mpo(model, tmp_path / "b")
    for file in ("mpo.safetensors", "mpo.json"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
    assert sorted(p.name for p in first.iterdir()) == ["mpo.json", "mpo.safetensors"]


def test_shared_tensors_are_stored_once(saved: Path) -> None:
    stored = load_file(saved / "mpo.safetensors")
    assert "transformer.wte.cores.1" in stored
    assert not any(key.startswith("lm_head") for key in stored)
    entry = read_manifest(saved).tensors["transformer.wte.cores.1"]
    assert entry.tied == ("lm_head.cores.1",)
    assert entry.shape == tuple(stored["transformer.wte.cores.1"].shape)
    assert sum(v.numel() for v in stored.values()) == count_parameters(compressed("gpt2")).total


def test_the_manifest_tells_what_the_layers_are(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(10, 8, padding_idx=3), nn.Linear(8, 6, bias=False))
    replace_modules(net, find_targets(net), n=3, bonds=2)
    extra = {"backbone": "toy", "metrics": {"accuracy": 0.5}, "note": "Größe"}
    manifest = read_manifest(save_mpo(net, tmp_path, extra=extra))
    assert manifest.extra == extra
    embedding, linear = manifest.layers
    assert (embedding.name, embedding.kind, embedding.padding_idx) == ("0", "embedding", 3)
    assert (linear.name, linear.kind, linear.bias, linear.bonds) == ("1", "linear", False, (2, 2))
    assert linear.shape == MPOShape.choose(8, 6, 3) or linear.shape == MPOShape.choose(6, 8, 3)
    loaded = load_mpo(nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 6, bias=False)), tmp_path)
    assert isinstance(loaded[0], MPOEmbedding)
    assert loaded[0].padding_idx == 3
    assert torch.equal(loaded(torch.tensor([3, 1])), net(torch.tensor([3, 1])))


def test_dtypes_come_from_the_file_and_flags_from_the_skeleton(tmp_path: Path) -> None:
    model = compressed("bert").bfloat16()
    model.get_submodule("bert.embeddings.LayerNorm").float()
    save_mpo(model, tmp_path)
    skeleton = build("bert", seed=1).train()
    skeleton.get_parameter("bert.embeddings.LayerNorm.weight").requires_grad_(False)
    skeleton.get_parameter("bert.encoder.layer.0.attention.self.query.weight").requires_grad_(False)
    loaded = load_mpo(skeleton, tmp_path)
    assert {k: v.dtype for k, v in loaded.state_dict().items()} == {k: v.dtype for k, v in model.state_dict().items()}
    frozen = {name for name, p in loaded.named_parameters() if not p.requires_grad}
    assert frozen == {
        "bert.embeddings.LayerNorm.weight",
        *(f"bert.encoder.layer.0.attention.self.query.cores.{k}" for k in range(3)),
    }
    assert all(module.training for module in loaded.modules())


def test_lfa_state_is_not_stored(tmp_path: Path) -> None:
    model = compressed("gpt2")
    freeze_cores(model, "central")
    loaded = load_mpo(build("gpt2"), save_mpo(model, tmp_path))
    assert count_parameters(loaded).trained == count_parameters(loaded).total


def test_a_skeleton_on_the_meta_device_is_filled(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 8)
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.layer(x))

    net = Net()
    net(torch.randn(4, 6))
    replace_modules(net, find_targets(net), n=2)
    save_mpo(net.eval(), tmp_path)
    with torch.device("meta"):
        skeleton = Net()
    loaded = load_mpo(skeleton, tmp_path).eval()
    assert not any(t.is_meta for t in loaded.state_dict().values())
    assert int(loaded.get_buffer("norm.num_batches_tracked")) == 1
    x = torch.randn(3, 6)
    assert torch.equal(loaded(x), net(x))


def test_non_persistent_buffers_stay_those_of_the_skeleton(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("table", torch.full((2,), value), persistent=False)

    net = Net(1.0)
    replace_modules(net, find_targets(net), n=2)
    loaded = load_mpo(Net(2.0), save_mpo(net, tmp_path))
    assert loaded.get_buffer("table").tolist() == [2.0, 2.0]


def test_partly_shared_cores_and_module_aliases_are_restored(tmp_path: Path) -> None:
    """Layers that share only the central core (MPOBERT), and one module under two names."""

    def dense() -> nn.ModuleDict:
        first = nn.Linear(8, 8)
        return nn.ModuleDict({"a": first, "b": nn.Linear(8, 8), "again": nn.ModuleList([first])})

    net = dense()
    replace_modules(net, find_targets(net), n=3)
    layers = mpo_layers(net)
    layers["b"].cores[1] = layers["a"].cores[1]
    loaded = load_mpo(dense(), save_mpo(net, tmp_path))
    assert ties(loaded) == ties(net)
    assert loaded.get_submodule("again.0") is loaded["a"]
    assert read_manifest(tmp_path).layers[0].aliases == ("again.0",)


def test_a_saved_untied_head_unties_the_skeleton(tmp_path: Path) -> None:
    model = build("gpt2")
    model.get_submodule("lm_head").register_parameter(
        "weight", nn.Parameter(model.get_parameter("lm_head.weight").detach() * 2)
    )
    replace_modules(model, find_targets(model, ["*c_fc"]), n=3)
    loaded = load_mpo(build("gpt2", seed=1), save_mpo(model, tmp_path))
    assert torch.equal(output(loaded), output(model))
    assert ties(loaded) == ties(model)


def test_trained_bonds_above_the_full_ones_round_trip(tmp_path: Path) -> None:
    shape = MPOShape(4, 4, (2, 2), (2, 2))
    net = nn.Sequential(MPOLinear([torch.randn(1, 2, 2, 7), torch.randn(7, 2, 2, 1)], shape))
    loaded = load_mpo(nn.Sequential(nn.Linear(4, 4, bias=False)), save_mpo(net, tmp_path))
    x = torch.randn(2, 4)
    assert torch.equal(loaded(x), net(x))


def test_a_second_save_replaces_the_first(saved: Path) -> None:
    other = build("gpt2", seed=5)
    replace_modules(other, find_targets(other, ["*c_fc"]), n=2)
    save_mpo(other, saved, extra={"round": 2})
    assert read_manifest(saved).extra == {"round": 2}
    assert torch.equal(output(load_mpo(build("gpt2"), saved)), output(other))


# -- refused saves -----------------------------------------------------------------------------------------


def test_a_refused_save_leaves_the_folder_as_it_was(saved: Path) -> None:
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    with pytest.raises(UsageError, match="JSON"):
        save_mpo(compressed("gpt2"), saved, extra={"model": object()})
    with pytest.raises(UsageError, match="JSON"):
        save_mpo(compressed("gpt2"), saved, extra={"loss": float("nan")})
    with torch.device("meta"):
        hollow = BUILDERS["gpt2"]()
    with pytest.raises(UsageError, match=r"'transformer\.wte\.weight' lies on the meta device"):
        save_mpo(hollow, saved)
    with pytest.raises(UsageError, match="itself an MPO layer"):
        save_mpo(MPOLinear.from_dense(nn.Linear(4, 4), n=2), saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_a_save_that_cannot_be_written_leaves_no_rest(tmp_path: Path) -> None:
    (tmp_path / "mpo.safetensors").mkdir()
    with pytest.raises(OSError, match=r"mpo\.safetensors"):
        save_mpo(compressed("gpt2"), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mpo.safetensors"]


# -- damaged folders ---------------------------------------------------------------------------------------


def test_a_folder_without_manifest_is_no_mpo_folder(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ManifestError, match=r"is no MPO folder: it holds no mpo\.json"):
            read_manifest(folder)


def test_a_cut_or_changed_weights_file_is_noticed(saved: Path) -> None:
    path = saved / "mpo.safetensors"
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "sha256" in problem(saved)
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    path.write_bytes(flipped)
    assert "mpo.safetensors has the sha256" in problem(saved)
    path.unlink()
    assert "mpo.safetensors is missing" in problem(saved)


def test_a_crash_between_the_two_files_is_noticed(saved: Path, tmp_path: Path) -> None:
    newer = build("gpt2", seed=3)
    replace_modules(newer, find_targets(newer, ["*c_fc"]), n=2)
    save_mpo(newer, tmp_path / "newer")
    (tmp_path / "newer" / "mpo.safetensors").replace(saved / "mpo.safetensors")
    assert "of another save" in problem(saved)


def test_a_sealed_but_broken_weights_file_is_noticed(saved: Path) -> None:
    (saved / "mpo.safetensors").write_bytes(b"not a tensor in sight")
    seal(saved)
    assert "is no safetensors file" in problem(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("transformer.wte.cores.0"),
            "mpo.safetensors lacks the tensor 'transformer.wte.cores.0'",
        ),
        (lambda t: t.update(stray=torch.zeros(1)), "mpo.json lacks the tensor 'stray'"),
        (
            lambda t: t.update({LAST: torch.zeros(3)}),
            "'transformer.ln_f.bias' is float32 of shape (3,)",
        ),
        (
            lambda t: t.update({LAST: torch.zeros(16).half()}),
            "'transformer.ln_f.bias' is float16",
        ),
    ],
)
def test_weights_that_do_not_fit_the_manifest_name_the_key(
    saved: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    stored = load_file(saved / "mpo.safetensors")
    change(stored)
    save_file(stored, saved / "mpo.safetensors")
    seal(saved)
    assert message in problem(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=2), "schema_version is 2, this mpo-core reads 1; update mpo-core"),
        (lambda m: m.update(schema_version=0), "schema_version is 0, this mpo-core reads 1; save"),
        (lambda m: m.pop("schema_version"), "schema_version is missing"),
        (lambda m: m.update(schema_version=True), "schema_version is True; expected a int"),
        (lambda m: m.update(layers={}), "layers is {}; expected a list"),
        (lambda m: m["layers"][1].pop("kind"), "layers[1].kind is missing"),
        (lambda m: m["layers"][1].update(kind="conv2d"), "layers[1].kind is 'conv2d'"),
        (lambda m: m["layers"][1].update(bonds=[4]), "layers[1].bonds is [4]; expected 2 positive"),
        (lambda m: m["layers"][1].update(bonds=[4, 0]), "layers[1].bonds is [4, 0]"),
        (lambda m: m["layers"][1].update(bonds="44"), "layers[1].bonds is '44'; expected a list"),
        (lambda m: m["layers"][1]["shape"].update(rows=10**9), "layers[1].shape is no factorisation"),
        (lambda m: m["layers"][1].update(name="transformer.wte"), "'transformer.wte' twice"),
        (lambda m: m["layers"][1].update(name="transformer.h.9"), "'transformer.h.9' does not exist"),
        (lambda m: m["layers"][1].update(name=""), "the layer '' does not exist"),
        (lambda m: m["layers"][1].update(name="transformer.ln_f"), "it is a LayerNorm"),
        (lambda m: m["layers"][2].update(kind="linear"), "is linear 48x16 in the manifest and conv1d"),
        (lambda m: m["layers"].pop(), "lm_head.weight"),
        (lambda m: m["layers"][2].update(bias=False), "c_attn.bias', which the model lacks"),
        (lambda m: m["layers"][2].update(bonds=[2, 2]), "'transformer.h.0.attn.c_attn.cores.0' has"),
        (lambda m: m["layers"][0].update(padding_idx=50), "padding_idx is 50"),
        (lambda m: m["tensors"][LAST].update(tied=["lm_head.cores.0"]), "'lm_head.cores.0' twice"),
        (lambda m: m["tensors"][LAST].update(shape=[True]), "shape is [True]"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named(saved: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(saved, change)
    found = problem(saved)
    assert message in found
    assert "mpo.json" in found


def test_text_that_is_no_json_is_refused(saved: Path) -> None:
    for text in ("", "{", "[]", "\x00\xff"):
        (saved / "mpo.json").write_text(text)
        assert "mpo.json" in problem(saved)


def test_another_architecture_is_refused(saved: Path, tmp_path: Path) -> None:
    assert "layer 'transformer.wte' does not exist in this BertForMaskedLM" in problem(saved, "bert")
    wider = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=32, n_layer=2, n_head=2))
    with pytest.raises(
        ManifestError, match=r"'transformer\.wte' is embedding 50x16 in the manifest and embedding 50x32"
    ):
        load_mpo(wider, saved)
    deeper = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=3, n_head=2))
    with pytest.raises(ManifestError, match=r"lacks 'transformer\.h\.2\.ln_1\.weight', which the model needs"):
        load_mpo(deeper, saved)
    longer = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    longer.transformer.ln_f = nn.LayerNorm(17)
    with pytest.raises(
        ManifestError, match=r"'transformer\.ln_f\.weight' has the shape \(16,\), the model needs \(17,\)"
    ):
        load_mpo(longer, saved)


# -- a really trained model --------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.skipif(not STORIES.is_dir(), reason=f"the real decoder is not there: {STORIES}")
def test_the_trained_story_teller_comes_back(tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32).eval()
    replace_modules(model, find_targets(model), bonds=24)
    save_mpo(model, tmp_path)
    loaded: Any = load_mpo(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(STORIES)).eval(), tmp_path)
    start = torch.tensor([[1]])
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 20, "pad_token_id": 2}
    assert torch.equal(loaded.generate(start, **options), model.generate(start, **options))
    assert loaded.get_input_embeddings().cores[0] is loaded.get_output_embeddings().cores[0]
