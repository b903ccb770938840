from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from mpo_core.adapters.adoption import MPOConfig, MPOModel, get_mpo_model
from mpo_core.adapters.adoption_config import fits_any, name_globs
from mpo_core.embeddings.embedding import MPOEmbedding
from mpo_core.errors import BondError, MPOError, NonFiniteError, UsageError
from mpo_core.forward.linear import MPOLinear
from mpo_core.models.roles import count_parameters
from mpo_core.models.surgery import mpo_layers

IDS = torch.tensor([[1, 5, 9, 2, 7, 3], [4, 4, 11, 2, 8, 6]])

BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=16,
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


@pytest.fixture(params=BUILDERS.keys())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def build(name: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return BUILDERS[name]().eval()


def call(model: nn.Module) -> Any:
    """Logits and loss, whatever the architecture."""
    labels = torch.tensor([0, 1]) if isinstance(inner(model), BertForSequenceClassification) else IDS
    return model(input_ids=IDS, labels=labels)


@torch.no_grad()  # torch and the layers choose their algorithm by whether a gradient is recorded
def outputs(model: nn.Module) -> Tensor:
    return call(model).logits


def inner(model: nn.Module) -> nn.Module:
    return model.get_base_model() if isinstance(model, MPOModel) else model


def train(model: nn.Module, steps: int = 12) -> list[float]:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses: list[float] = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = call(model).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def ties(model: nn.Module) -> set[frozenset[str]]:
    groups: dict[int, set[str]] = {}
    for key, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(key)
    return {frozenset(keys) for keys in groups.values()}


def values(model: nn.Module) -> dict[str, Tensor]:
    return {key: p.detach().clone() for key, p in model.named_parameters(remove_duplicate=False)}


# -- the configuration -------------------------------------------------------------------------------------


def test_a_configuration_comes_back_from_json() -> None:
    config = MPOConfig(
        target_modules=["q_proj", "*.mlp.*"],
        exclude_modules="lm_head",
        n=3,
        bond_pattern={"*.0.*": 4, "q_proj": [2, 3]},
        tolerance=0.1,
        allocation="per-matrix",
        gauge="left",
        train="all",
        modules_to_save=["classifier"],
        bias="mpo_only",
        strategy="chain",
        cache=True,
        min_size=8,
    )
    assert MPOConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert set(config.to_dict()) == {entry.name for entry in dataclasses.fields(MPOConfig)}
    assert MPOConfig.from_dict({}) == MPOConfig()
    assert list(MPOConfig.from_dict(config.to_dict()).bond_pattern) == ["*.0.*", "q_proj"]


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(2, 7),
    bonds=st.none() | st.integers(1, 300),
    names=st.lists(st.text("abc.*_0123", min_size=1, max_size=6), min_size=1, max_size=4),
    role=st.sampled_from(["auxiliary", "central", "all"]),
)
def test_any_configuration_comes_back_from_json(n: int, bonds: int | None, names: list[str], role: Any) -> None:
    config = MPOConfig(names, n=n, bonds=bonds, bond_pattern={names[0]: [3] * (n - 1)}, train=role)
    assert MPOConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bonds": 4, "ratio": 0.5}, UsageError, "bonds and ratio are given; expected at most one"),
        ({"ratio": 0.5, "tolerance": 0.1}, UsageError, "ratio and tolerance"),
        ({"bonds": 0}, BondError, "bonds is 0"),
        ({"bonds": True}, BondError, "bonds is True"),
        ({"bonds": "64"}, BondError, "bonds is '64'"),
        ({"bonds": [1, 2]}, BondError, r"2 entries; expected 4 for n = 5"),
        ({"bonds": [1, 2, 3, 0]}, BondError, "expected a positive integer or 4"),
        ({"bond_pattern": {"q": None}}, BondError, r"bond_pattern\['q'\] is None"),
        ({"bond_pattern": {"q": -1}}, BondError, r"bond_pattern\['q'\] is -1"),
        ({"bond_pattern": {3: 4}}, UsageError, "bond_pattern holds 3"),
        ({"bond_pattern": [("q", 4)]}, UsageError, "expected a mapping"),
        ({"ratio": 0.0}, UsageError, "ratio is 0.0"),
        ({"ratio": float("nan")}, UsageError, "ratio is nan"),
        ({"ratio": "0.5"}, UsageError, "ratio is '0.5'"),
        ({"tolerance": -0.1}, UsageError, "tolerance is -0.1"),
        ({"tolerance": float("inf")}, UsageError, "tolerance is inf"),
        ({"n": 0}, UsageError, "n is 0"),
        ({"n": 2.0}, UsageError, "n is 2.0"),
        ({"min_size": -1}, UsageError, "min_size is -1"),
        ({"train": "none"}, UsageError, "train is 'none'; expected one of 'auxiliary', 'central', 'all'"),
        ({"gauge": "vidal"}, UsageError, "gauge is 'vidal'"),
        ({"bias": True}, UsageError, "bias is True"),
        ({"strategy": "fast"}, UsageError, "strategy is 'fast'"),
        ({"allocation": "best"}, UsageError, "allocation is 'best'"),
        ({"cache": 1}, UsageError, "cache is 1"),
        ({"target_modules": []}, UsageError, "target_modules is empty"),
        ({"target_modules": None}, UsageError, "target_modules is None"),
        ({"target_modules": [""]}, UsageError, "target_modules holds ''"),
        ({"modules_to_save": {"head": 1}}, UsageError, "modules_to_save is"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(options: dict[str, Any], error: type[MPOError], message: str) -> None:
    with pytest.raises(error, match=message):
        MPOConfig(**options)


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown key 'r'; the keys are target_modules, exclude_modules, n, "):
        MPOConfig.from_dict({"r": 8})
    with pytest.raises(UsageError, match="found a list"):
        MPOConfig.from_dict(["q_proj"])  # pyright: ignore[reportArgumentType]


def test_the_rule_for_names() -> None:
    assert fits_any(["model.layers.0.self_attn.q_proj"], ["q_proj"])
    assert fits_any(["q_proj"], ["q_proj"])
    assert fits_any(["encoder.layer.0.attention.self.query"], ["layer.0.attention"])
    assert not fits_any(["encoder.layer.0.seq_proj"], ["q_proj"])
    assert not fits_any(["encoder.layer.10.attention.query"], ["layer.0.attention", "layer.1"])
    assert not fits_any(["model.q_proj"], ["q_*"])
    assert fits_any(["model.q_proj"], ["*q_*"])
    assert len(name_globs("a[bc]")) == 1


# -- what is replaced, and what trains ---------------------------------------------------------------------


def test_full_bonds_compute_what_the_base_model_does(name: str) -> None:
    base, model = build(name), get_mpo_model(build(name), MPOConfig(n=3))
    torch.testing.assert_close(outputs(model), outputs(base))
    exact = get_mpo_model(build(name), MPOConfig(n=3, strategy="rebuild"))
    assert torch.equal(outputs(exact), outputs(base))
    count = model.trainable_parameters()
    assert count.trained == count.auxiliary == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert model.get_nb_trainable_parameters() == (count.trained, count.total)


@pytest.mark.parametrize("bonds", [None, 3])
def test_only_the_auxiliary_tensors_move(name: str, bonds: int | None) -> None:
    model = get_mpo_model(build(name), MPOConfig(n=3, bonds=bonds))
    before, tied = values(model), ties(model)
    losses = train(model)
    assert losses[-1] < 0.99 * losses[0]
    moved = {key for key, value in values(model).items() if not torch.equal(value, before[key])}
    auxiliary = {key for key in before if key.endswith((".cores.0", ".cores.2"))}
    assert moved <= auxiliary
    assert len(moved) > 0.9 * len(auxiliary)
    for key in (
        auxiliary - moved
    ):  # a row of numbers by which the loss does not change, as that of the single token type
        gradient = model.get_parameter(key).grad
        assert gradient is None or not gradient.any(), key
    assert ties(model) == tied


@pytest.mark.parametrize("role", ["central", "all"])
def test_the_other_roles_train(role: Any) -> None:
    model = get_mpo_model(build("bert"), MPOConfig("query", n=3, bonds=4, train=role))
    trained = {key.rsplit(".", 1)[1] for key, p in model.named_parameters() if p.requires_grad}
    assert trained == ({"1"} if role == "central" else {"0", "1", "2"})
    losses = train(model, 20)
    assert losses[-1] < losses[0]


def trained_keys(model: nn.Module) -> set[str]:
    return {key.removeprefix("base_model.") for key, p in model.named_parameters() if p.requires_grad}


def test_biases_train_on_request() -> None:
    cores = {f"bert.encoder.layer.{i}.attention.self.query.cores.{k}" for i in range(2) for k in (0, 2)}
    own = {f"bert.encoder.layer.{i}.attention.self.query.bias" for i in range(2)}
    every = {key for key, _ in build("bert").named_parameters() if key.endswith("bias")}
    for bias, expected in (("none", set()), ("mpo_only", own), ("all", every)):
        model = get_mpo_model(build("bert"), MPOConfig("query", n=3, bias=bias))  # pyright: ignore[reportArgumentType]
        assert trained_keys(model) == cores | expected


def test_a_saved_module_stays_dense_and_trains() -> None:
    model = get_mpo_model(build("bert"), MPOConfig(n=3, modules_to_save=["classifier"]))
    assert type(model.classifier) is nn.Linear
    assert {"classifier.weight", "classifier.bias"} <= trained_keys(model)
    before = model.classifier.weight.detach().clone()
    train(model, 1)
    assert not torch.equal(model.classifier.weight, before)


def test_exclusion_wins_and_reaches_over_ties() -> None:
    model = get_mpo_model(build("gpt2"), MPOConfig(n=3, exclude_modules=["lm_head", "h.1"]))
    names = set(mpo_layers(inner(model)))
    assert names == {"transformer.wpe", *(f"transformer.h.0.{x}" for x in ("attn.c_attn", "attn.c_proj", "mlp.c_fc",
                                                                           "mlp.c_proj"))}  # fmt: skip
    assert type(model.lm_head) is nn.Linear
    assert model.lm_head.weight is model.transformer.wte.weight
    assert not model.lm_head.weight.requires_grad


def test_a_saved_head_keeps_its_tie_and_trains_in_both_places() -> None:
    model = get_mpo_model(build("gpt2"), MPOConfig(n=3, modules_to_save="lm_head"))
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.lm_head.weight.requires_grad
    assert type(model.transformer.wte) is nn.Embedding


def test_tied_layers_share_their_cores() -> None:
    model = get_mpo_model(build("t5"), MPOConfig(target_modules="lm_head", n=3))
    layers = mpo_layers(inner(model))
    assert set(layers) == {"shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"}
    assert len({tuple(id(core) for core in layer.cores) for layer in layers.values()}) == 1
    assert {type(layer) for layer in layers.values()} == {MPOEmbedding, MPOLinear}


def test_bond_patterns_override_the_cap() -> None:
    config = MPOConfig(["query", "key", "value"], n=3, bonds=4, bond_pattern={"layer.0.*": 2, "key": [3, 4]})
    with pytest.raises(UsageError, match=r"the pattern 'layer\.0\.\*' of bond_pattern fits none"):
        get_mpo_model(build("bert"), config)
    config = dataclasses.replace(config, bond_pattern={"*.layer.0.*": 2, "key": [3, 4]})
    layers = mpo_layers(inner(get_mpo_model(build("bert"), config)))
    bonds = {key.split("layer.")[1]: layer.bonds for key, layer in layers.items()}
    assert bonds == {
        "0.attention.self.query": (2, 2),
        "0.attention.self.key": (2, 2),
        "0.attention.self.value": (2, 2),
        "1.attention.self.query": (4, 4),
        "1.attention.self.key": (3, 4),
        "1.attention.self.value": (4, 4),
    }


@pytest.mark.parametrize("allocation", ["global", "per-matrix", "uniform"])
def test_a_ratio_is_kept(allocation: Any) -> None:
    base = build("llama")
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    dense = {key: p.numel() for key, p in base.named_parameters() if key.split(".")[-2] in targets}
    model = get_mpo_model(base, MPOConfig(targets, n=3, ratio=0.5, allocation=allocation))
    layers = mpo_layers(inner(model))
    assert len(layers) == len(dense)
    sizes = {key: sum(core.numel() for core in layer.cores) for key, layer in layers.items()}
    assert sum(sizes.values()) <= 0.5 * sum(dense.values())
    assert sum(sizes.values()) > 0.35 * sum(dense.values())
    if allocation != "global":
        assert all(size <= 0.5 * dense[f"{key}.weight"] for key, size in sizes.items())
    if allocation == "uniform":
        assert all(max(layer.bonds) <= min(max(layer.bonds), layer.shape.full_bonds[0]) for layer in layers.values())


@pytest.mark.parametrize("tolerance", [0.0, 0.3])
def test_a_tolerance_is_kept(tolerance: float) -> None:
    base = build("gpt2")
    dense = {key: p.detach().clone() for key, p in base.named_parameters()}
    model = get_mpo_model(base, MPOConfig(["mlp"], n=3, tolerance=tolerance))
    for key, layer in mpo_layers(inner(model)).items():
        weight = dense[f"{key}.weight"].T
        error = float((layer.weight.detach() - weight).norm() / weight.norm())
        assert error <= tolerance + 1e-6
        assert (layer.bonds == layer.shape.full_bonds) == (tolerance == 0)


def test_a_ratio_too_small_for_one_layer_names_it() -> None:
    with pytest.raises(UsageError, match=r"ratio 0\.001 leaves 'bert\.embeddings\.word_embeddings' 0 parameters"):
        get_mpo_model(build("bert"), MPOConfig(n=3, ratio=0.001, allocation="uniform"))


def test_covariances_change_what_is_kept() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16, bias=False))
    weight = net.get_parameter("0.weight").detach().clone()
    inputs = torch.randn(400, 16) * torch.logspace(1, -2, 16)
    covariance = (inputs.T @ inputs / len(inputs)).double()
    config = MPOConfig(n=3, bonds=3)
    plain = get_mpo_model(copy.deepcopy(net), config)
    aware = get_mpo_model(copy.deepcopy(net), config, covariances={"0": covariance})
    wanted = inputs @ weight.T
    assert (aware(inputs) - wanted).norm() < 0.7 * (plain(inputs) - wanted).norm()


def test_a_zero_matrix_can_still_be_trained() -> None:
    net = nn.Sequential(nn.Linear(16, 16))
    nn.init.zeros_(net.get_parameter("0.weight"))
    model = get_mpo_model(net, MPOConfig(n=3, bonds=4, train="all"))
    model(torch.ones(2, 16)).sum().backward()
    assert any(bool(core.grad.any()) for core in mpo_layers(net)["0"].cores)


def test_the_meta_device_counts_without_weights() -> None:
    with torch.device("meta"):
        hollow = BUILDERS["bert"]()
    config = MPOConfig(n=3, bonds=4)
    assert get_mpo_model(hollow, config).trainable_parameters() == count_parameters(
        get_mpo_model(build("bert"), config)
    )
    with torch.device("meta"):
        hollow = BUILDERS["bert"]()
    with pytest.raises(UsageError, match="is on the meta device; give bonds"):
        get_mpo_model(hollow, MPOConfig(n=3, tolerance=0.1))


def test_the_count_is_told(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mpo_core"):
        model = get_mpo_model(build("bert"), MPOConfig("query", n=3, bonds=2))
    assert "2 weights in MPO form, largest relative error 0." in caplog.text
    model.print_trainable_parameters()
    count = model.trainable_parameters()
    printed = capsys.readouterr().out
    assert printed.startswith(f"{count.trained:,} of {count.total:,} parameters train (")
    assert f"{count.central:,} are in central tensors" in printed


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": "qerry"}, "the pattern 'qerry' fits no linear"),
        ({"target_modules": ["query", "LayerNorm"]}, "the pattern 'LayerNorm' fits no linear"),
        ({"exclude_modules": "clasifier"}, "the pattern 'clasifier' of exclude_modules fits no module"),
        ({"modules_to_save": "clasifier"}, "the pattern 'clasifier' of modules_to_save fits no module with parameters"),
        ({"modules_to_save": "dropout"}, "'dropout' of modules_to_save fits no module with parameters"),
        ({"target_modules": "classifier", "modules_to_save": "classifier"}, "no layer of this Bert.* is left"),
        ({"min_size": 1000}, "no layer of this Bert.* is left to decompose; of its 17"),
        ({"gauge": "identity", "bonds": 2}, "identity"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_and_changes_nothing(
    options: dict[str, Any], message: str
) -> None:
    model = build("bert")
    before = {key: (id(p), p.requires_grad) for key, p in model.named_parameters()}
    with pytest.raises(MPOError, match=message):
        get_mpo_model(model, MPOConfig(n=3, **options))
    assert {key: (id(p), p.requires_grad) for key, p in model.named_parameters()} == before


def test_a_model_is_adapted_once() -> None:
    model = get_mpo_model(build("bert"), MPOConfig("query", n=3))
    for again in (model, inner(model)):
        with pytest.raises(UsageError, match="holds MPO layers already"):
            get_mpo_model(again, MPOConfig("key", n=3))
    with pytest.raises(UsageError, match="config is a dict"):
        get_mpo_model(build("bert"), {"n": 3})  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="no layer of this Linear is left"):
        get_mpo_model(nn.Linear(4, 4), MPOConfig())


# -- the wrapper -------------------------------------------------------------------------------------------


def test_the_wrapper_passes_on_what_it_does_not_have() -> None:
    base = build("gpt2")
    model = get_mpo_model(base, MPOConfig(n=3))
    assert model.get_base_model() is base
    assert model.config is base.config
    assert model.transformer is base.transformer
    assert model.device.type == "cpu"
    assert isinstance(model.get_input_embeddings(), MPOEmbedding)
    model.activation_checkpointing_enable()
    assert base.is_activation_checkpointing
    with pytest.raises(AttributeError, match="'GPT2LMHeadModel' object has no attribute 'nonsense'"):
        _ = model.nonsense
    other = copy.deepcopy(base.generation_config)
    model.generation_config = other
    assert base.generation_config is other
    assert repr(model).startswith("MPOModel(GPT2LMHeadModel(")
    with pytest.raises(UsageError, match="upload the folder"):
        model.push_to_hub("me/model")


def test_generation_is_that_of_the_base_model(name: str) -> None:
    if name == "bert":
        pytest.skip("an encoder does not generate")
    base: Any = build(name)
    model = get_mpo_model(build(name), MPOConfig(n=3))
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5, "pad_token_id": 0}
    assert torch.equal(model.generate(IDS, **options), base.generate(IDS, **options))


def test_the_signature_is_that_of_the_base_model() -> None:
    model, base = get_mpo_model(build("bert"), MPOConfig("query", n=3)), build("bert")
    assert inspect.signature(type(model).forward) == inspect.signature(type(base).forward)
    assert inspect.signature(model.forward) == inspect.signature(base.forward)
    assert type(model).__name__ == "MPOBertForSequenceClassification"
    assert isinstance(model, MPOModel)
    assert type(get_mpo_model(build("bert"), MPOConfig("key", n=3))) is type(model)


def test_training_mode_is_kept_and_passed_on() -> None:
    assert not get_mpo_model(build("bert"), MPOConfig("query", n=3)).training
    model = get_mpo_model(build("bert").train(), MPOConfig("query", n=3))
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in model.eval().modules())


def test_copies_are_independent() -> None:
    model = get_mpo_model(build("gpt2"), MPOConfig(n=3, bonds=4))
    expected = outputs(model)
    other = copy.deepcopy(model)
    assert torch.equal(outputs(other), expected)
    assert type(other) is type(model)
    assert ties(other) == ties(model)
    assert trained_keys(other) == trained_keys(model)
    train(other, 2)
    other.merge_and_unload()
    assert torch.equal(outputs(model), expected)


def test_the_state_dict_has_every_tensor_once_and_takes_either_form(name: str) -> None:
    model = get_mpo_model(build(name), MPOConfig(n=3, bonds=4))
    state = model.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    assert {f"base_model.{key}" for key in inner(model).state_dict()} >= state.keys()
    assert sum(v.numel() for v in state.values()) == sum(p.numel() for p in model.parameters())
    other = get_mpo_model(build(name, seed=1), MPOConfig(n=3, bonds=4))
    tied = ties(other)
    full = {f"base_model.{key}": value for key, value in inner(model).state_dict().items()}
    for form in (state, full):
        other.load_state_dict(form)
        assert torch.equal(outputs(other), outputs(model))
        assert ties(other) == tied
    incomplete = dict(list(state.items())[1:])
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(incomplete)


def test_inside_another_module_the_state_dict_works_too() -> None:
    outer = nn.ModuleDict({"a": get_mpo_model(build("gpt2"), MPOConfig(n=3)), "b": nn.Linear(2, 2)})
    state = outer.state_dict()
    assert "b.weight" in state
    assert not any(key.startswith("a.base_model.lm_head") for key in state)
    outer.load_state_dict(state)


# -- merging and undoing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bonds", [None, 4])
def test_merging_gives_a_plain_model_with_the_same_outputs(name: str, bonds: int | None) -> None:
    base = build(name)
    kinds, tied = [type(m) for m in base.modules()], ties(base)
    base.get_input_embeddings().weight.requires_grad_(False)
    flags = {key: p.requires_grad for key, p in base.named_parameters()}
    model = get_mpo_model(base, MPOConfig(n=3, bonds=bonds, bias="all"))
    train(model, 3)
    expected = outputs(model)
    merged = model.merge_and_unload()
    assert merged is base
    assert [type(m) for m in merged.modules()] == kinds
    assert ties(merged) == tied
    assert {key: p.requires_grad for key, p in merged.named_parameters()} == flags
    torch.testing.assert_close(outputs(merged), expected, rtol=1e-4, atol=1e-5)


def test_a_diverged_model_is_not_merged() -> None:
    model = get_mpo_model(build("bert"), MPOConfig("query", n=3))
    core = next(p for p in model.parameters() if p.requires_grad)
    core.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"layer\.0\.attention\.self\.query\.cores\.0' holds NaN"):
        model.merge_and_unload()
    assert mpo_layers(inner(model))


def test_unloading_gives_the_base_model_back_to_the_bit(name: str) -> None:
    base = build(name)
    expected, before, tied = outputs(base), values(base), ties(base)
    model = get_mpo_model(base, MPOConfig(n=3, bias="all"))
    train(model, 3)
    assert not torch.equal(outputs(model), expected)
    undone = model.unload()
    assert undone is base
    after = values(undone)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(p.requires_grad for p in undone.parameters())
    assert ties(undone) == tied
    assert torch.equal(outputs(undone), expected)


def test_the_adapter_can_be_switched_off_for_a_while() -> None:
    model = get_mpo_model(build("bert"), MPOConfig(n=3, modules_to_save="classifier", strategy="rebuild"))
    expected = outputs(build("bert"))
    train(model, 3)
    trained = outputs(model)
    assert not torch.equal(trained, expected)
    with model.disable_adapter():
        assert torch.equal(outputs(model), expected)
    assert torch.equal(outputs(model), trained)
    with pytest.raises(KeyError), model.disable_adapter():
        raise KeyError
    assert torch.equal(outputs(model), trained)


def test_kept_weights_follow_the_switch() -> None:
    """With a cache, the rebuilt weights are those of the cores of the moment."""
    model = get_mpo_model(build("gpt2"), MPOConfig(n=3, cache=True))
    expected = outputs(model)
    train(model, 3)
    trained = outputs(model)
    assert not torch.equal(trained, expected)
    with model.disable_adapter():
        assert torch.equal(outputs(model), expected)
    assert torch.equal(outputs(model), trained)


def test_what_is_lost_cannot_be_undone() -> None:
    cut = get_mpo_model(build("bert"), MPOConfig("query", n=3, bonds=2))
    trained_home = get_mpo_model(build("bert"), MPOConfig("query", n=3, train="all"))
    schmidt = get_mpo_model(build("bert"), MPOConfig("query", n=3, gauge="left"))
    for model in (cut, trained_home, schmidt):
        with pytest.raises(UsageError, match=r"unload: the weight that 'bert\.encoder\.layer\.0\.attention\.self\.qu"):
            model.unload()
        with pytest.raises(UsageError, match="disable_adapter: the weight"), model.disable_adapter():
            pass
        assert len(mpo_layers(inner(model))) == 2
    changed = get_mpo_model(build("bert"), MPOConfig("query", n=3))
    changed.bert.pooler.dense.bias.data += 1
    with pytest.raises(UsageError, match=r"'bert\.pooler\.dense\.bias' was to stay frozen, but was changed"):
        changed.unload()
