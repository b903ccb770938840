from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
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
from transformers.pytorch_utils import Conv1D

from mpo_core.embeddings.embedding import MPOEmbedding
from mpo_core.errors import NonFiniteError, ShapeError, UsageError
from mpo_core.forward.linear import MPOLinear
from mpo_core.models.optim import swap_parameters
from mpo_core.models.roles import count_parameters
from mpo_core.models.surgery import find_targets, merge_modules, mpo_layers, replace_modules
from mpo_core.shapes import MPOShape

MODELS = Path(os.environ.get("MPO_MODELS") or Path(__file__).parents[4] / "shared" / "models")
STORIES = MODELS / "stories260k"
IDS = torch.tensor([[1, 5, 9, 2, 7, 3], [4, 4, 11, 2, 8, 0]])


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2))


def bert() -> BertForMaskedLM:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
    )


def albert() -> AlbertForMaskedLM:
    return AlbertForMaskedLM(
        AlbertConfig(
            vocab_size=50,
            embedding_size=8,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
    )


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
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
    )


def t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2))


BACKBONES: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": gpt2,
    "bert": bert,
    "albert": albert,
    "llama": llama,
    "t5": t5,
}
TIED: dict[str, set[str]] = {
    "gpt2": {"transformer.wte", "lm_head"},
    "bert": {"bert.embeddings.word_embeddings", "cls.predictions.decoder"},
    "albert": {"albert.embeddings.word_embeddings", "predictions.decoder"},
    "llama": {"model.embed_tokens", "lm_head"},
    "t5": {"shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"},
}


@pytest.fixture(params=BACKBONES.keys())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def build(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return BACKBONES[name]().double().eval()


def logits(model: nn.Module) -> Tensor:
    extra = {"decoder_input_ids": IDS.flip(1)} if isinstance(model, T5ForConditionalGeneration) else {}
    return model(input_ids=IDS, **extra).logits


def ties(model: nn.Module) -> set[frozenset[str]]:
    """Names that share one parameter."""
    groups: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(name)
    return {frozenset(names) for names in groups.values()}


# -- finding targets ---------------------------------------------------------------------------------------


def test_targets_of_gpt2_have_kind_and_orientation() -> None:
    found = {t.name: (t.kind, t.rows, t.cols) for t in find_targets(gpt2(), ["transformer.h.0.*", "*wte", "lm_head"])}
    assert found == {
        "transformer.wte": ("embedding", 50, 16),
        "transformer.h.0.attn.c_attn": ("conv1d", 48, 16),
        "transformer.h.0.attn.c_proj": ("conv1d", 16, 16),
        "transformer.h.0.mlp.c_fc": ("conv1d", 64, 16),
        "transformer.h.0.mlp.c_proj": ("conv1d", 16, 64),
        "lm_head": ("linear", 50, 16),
    }


def test_exclude_wins_and_small_matrices_are_left() -> None:
    names = [t.name for t in find_targets(bert(), ["*attention*"], ["*.1.*", "*.output.*"])]
    assert names == [f"bert.encoder.layer.0.attention.self.{x}" for x in ("query", "key", "value")]
    assert "bert.embeddings.token_type_embeddings" in {t.name for t in find_targets(bert())}
    assert "bert.embeddings.token_type_embeddings" not in {t.name for t in find_targets(bert(), min_size=3)}


@pytest.mark.parametrize("pattern", ["*.querry", "bert.encoder", "bert.encoder.layer.0.output.LayerNorm"])
def test_a_pattern_without_a_layer_is_named(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"fits no linear, Conv1D or embedding layer of the BertForMaskedLM") as info:
        find_targets(bert(), ["*query", pattern])
    assert repr(pattern) in str(info.value)


def test_star_on_a_model_without_layers_finds_nothing() -> None:
    assert find_targets(nn.Sequential(nn.ReLU())) == []


def test_subclasses_count_only_while_they_compute_the_same() -> None:
    class Marked(nn.Linear):
        pass

    class Scaled(nn.Embedding):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    net = nn.ModuleDict({"marked": Marked(4, 4), "scaled": Scaled(4, 4)})
    assert [t.name for t in find_targets(net)] == ["marked"]
    with pytest.raises(UsageError, match="'scaled'"):
        find_targets(net, ["scaled"])


class Shared(nn.Module):
    """One module under two names, as the first models with shared layers had it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.rest = nn.ModuleList([self.first, nn.Linear(8, 8)])

    def forward(self, x: Tensor) -> Tensor:
        return self.rest[1](self.rest[0](self.first(x)))


def test_a_module_under_two_names_is_one_target_found_by_either() -> None:
    net = Shared()
    assert [t.name for t in find_targets(net)] == ["first", "rest.1"]
    assert [t.name for t in find_targets(net, ["rest.0"])] == ["first"]
    x = torch.randn(3, 8)
    expected = net(x)
    (done,) = replace_modules(net, find_targets(net, ["rest.0"]), n=3)
    assert done.names == ("first", "rest.0")
    assert net.first is net.rest[0] is done.layer
    assert mpo_layers(net) == {"first": done.layer}
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
    assert merge_modules(net) == ["first"]
    assert net.first is net.rest[0]
    assert type(net.first) is nn.Linear
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


# -- replacing and merging whole backbones -----------------------------------------------------------------


def test_full_bonds_keep_the_outputs_and_merging_gives_the_model_back(name: str) -> None:
    model = build(name)
    expected, before, tied = logits(model), model.state_dict(), ties(model)
    targets = find_targets(model)
    done = replace_modules(model, targets, n=3)
    assert {n for r in done for n in r.names} == {t.name for t in targets}
    assert not find_targets(model)
    assert max(r.relative_error for r in done) < 1e-13
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-11)

    merged = merge_modules(model)
    assert merged == [t.name for t in targets]
    assert not mpo_layers(model)
    assert ties(model) == tied
    after = model.state_dict()
    assert after.keys() == before.keys()
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=1e-12)
    assert [type(m) for m in model.modules()] == [type(m) for m in BACKBONES[name]().modules()]
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-11)


def test_one_tied_layer_takes_its_whole_group_along(name: str) -> None:
    model = build(name)
    expected = logits(model)
    some_name = min(TIED[name])
    (done,) = replace_modules(model, find_targets(model, [some_name]), n=3)
    layers = mpo_layers(model)
    assert set(layers) == set(done.names) == TIED[name]
    assert {tuple(id(c) for c in layer.cores) for layer in layers.values()} == {tuple(map(id, done.cores))}
    assert {type(layer) for layer in layers.values()} == {MPOEmbedding, MPOLinear}
    counted = count_parameters(model)
    assert counted.central + counted.auxiliary == sum(core.numel() for core in done.cores)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-11)


def test_tied_gradients_add_up() -> None:
    """The gradient of a shared core is that of embedding and head together."""
    model, dense = build("gpt2"), build("gpt2")
    (done,) = replace_modules(model, find_targets(model, ["lm_head"]), n=3, gauge="left")
    model(input_ids=IDS, labels=IDS).loss.backward()
    dense(input_ids=IDS, labels=IDS).loss.backward()
    rebuilt = done.layer.weight
    weight_gradient = dense.get_parameter("lm_head.weight").grad
    expected = torch.autograd.grad(rebuilt, done.cores, grad_outputs=weight_gradient)
    for core, gradient in zip(done.cores, expected, strict=True):
        torch.testing.assert_close(core.grad, gradient, rtol=0, atol=1e-12)


def test_transformers_calls_do_no_harm_after_surgery(name: str) -> None:
    model = build(name)
    original = dict(model.all_tied_weights_keys)
    replace_modules(model, find_targets(model), n=3)
    expected, state, tied = logits(model), model.state_dict(keep_vars=True), ties(model)

    model.tie_weights()
    assert isinstance(model.get_input_embeddings(), MPOEmbedding)
    assert isinstance(model.get_output_embeddings(), MPOLinear)
    after = model.state_dict(keep_vars=True)
    assert {k: id(v) for k, v in after.items()} == {k: id(v) for k, v in state.items()}
    assert ties(model) == tied
    assert torch.equal(logits(model), expected)
    assert len(model.train().eval().all_tied_weights_keys) < len(original)

    merge_modules(model)
    assert model.all_tied_weights_keys == original
    model.tie_weights()
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-11)


def test_other_ties_stay_listed() -> None:
    model = build("bert")
    replace_modules(model, find_targets(model, ["*word_embeddings"]), n=3)
    assert model.all_tied_weights_keys == {"cls.predictions.decoder.bias": "cls.predictions.bias"}
    decoder = model.get_submodule("cls.predictions.decoder")
    assert decoder.bias is model.get_parameter("cls.predictions.bias")
    assert type(model)._tied_weights_keys.keys() == {
        "cls.predictions.decoder.weight",
        "cls.predictions.decoder.bias",
    }


def test_a_merged_model_saves_and_loads_as_usual(name: str, tmp_path: Path) -> None:
    model = build(name)
    replace_modules(model, find_targets(model), n=3, bonds=3)
    expected = logits(model)
    merge_modules(model)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float64).eval()
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-11)
    assert ties(loaded) == ties(model)


def test_bfloat16_device_flags_and_frozen_weights_carry_over() -> None:
    model = bert().bfloat16().eval()
    query = model.get_submodule("bert.encoder.layer.0.attention.self.query")
    query.get_parameter("weight").requires_grad_(False)
    bias = query.get_parameter("bias")
    replace_modules(model, find_targets(model, ["*query", "*key"]), n=3)
    layers = mpo_layers(model)
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert not any(module.training for module in model.modules())
    new = layers["bert.encoder.layer.0.attention.self.query"]
    assert not any(core.requires_grad for core in new.cores)
    assert isinstance(new, MPOLinear)
    assert new.bias is bias
    assert bias.requires_grad
    assert all(core.requires_grad for core in layers["bert.encoder.layer.0.attention.self.key"].cores)
    merge_modules(model)
    assert not model.get_parameter("bert.encoder.layer.0.attention.self.query.weight").requires_grad
    assert model.get_parameter("bert.encoder.layer.0.attention.self.key.weight").requires_grad


def test_torch_transformer_layer_works_in_both_paths() -> None:
    """`nn.MultiheadAttention` reads the weight of its output layer instead of calling the layer."""
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    trained, evaluated = net(x), net.eval()(x)
    done = replace_modules(net, find_targets(net), n=3)
    assert {r.name for r in done} == {"self_attn.out_proj", "linear1", "linear2"}
    torch.testing.assert_close(net(x), evaluated, rtol=0, atol=1e-12)
    torch.testing.assert_close(net.train()(x), trained, rtol=0, atol=1e-12)
    net(x).sum().backward()
    assert all(core.grad is not None for r in done for core in r.cores)


# -- bonds and shapes --------------------------------------------------------------------------------------


def test_relative_error_is_that_of_the_weight() -> None:
    model = build("gpt2")
    done = replace_modules(model, find_targets(model, ["*h.0.*"]), n=3, bonds=3)
    for r in done:
        weight = r.weight.detach()
        rebuilt = merge_weight(r.layer)
        assert rebuilt.shape == weight.shape
        assert r.relative_error == pytest.approx(float((weight - rebuilt).norm() / weight.norm()), rel=1e-9)
        assert r.relative_error > 0.01
        assert max(r.layer.bonds) == 3


def merge_weight(layer: MPOLinear | MPOEmbedding) -> Tensor:
    return layer.to_dense().get_parameter("weight").detach()


def test_bonds_and_shapes_by_name() -> None:
    model = build("bert")
    base = "bert.encoder.layer.0.attention.self."
    shape = MPOShape(16, 16, (2, 4, 2), (4, 2, 2))
    replace_modules(
        model,
        find_targets(model, [base + "*"]),
        bonds={base + "query": 3, base + "key": [2, 4]},
        shapes={base + "key": shape},
        n=4,
    )
    layers = mpo_layers(model)
    assert layers[base + "query"].shape == MPOShape.choose(16, 16, 4)
    assert layers[base + "query"].bonds == layers[base + "query"].shape.clip_bonds(3)
    assert layers[base + "key"].shape == shape
    assert layers[base + "key"].bonds == (2, 4)
    assert layers[base + "value"].bonds == layers[base + "value"].shape.full_bonds


def test_shapes_by_function_get_rows_and_columns() -> None:
    model = build("gpt2")
    seen: list[tuple[int, int]] = []

    def choose(rows: int, cols: int) -> MPOShape:
        seen.append((rows, cols))
        return MPOShape.choose(rows, cols, 2)

    done = replace_modules(model, find_targets(model, ["*h.1.*"]), shapes=choose)
    assert seen == [(48, 16), (16, 16), (64, 16), (16, 64)]
    assert all(len(r.cores) == 2 for r in done)


def test_a_tied_group_can_be_named_by_any_of_its_layers() -> None:
    model = build("gpt2")
    (done,) = replace_modules(model, find_targets(model, ["*wte"]), bonds={"lm_head": 2}, n=3)
    assert done.layer.bonds == (2, 2)


@pytest.mark.parametrize("what", ["bonds", "shapes"])
def test_a_mapping_must_name_replaced_layers(what: str) -> None:
    model = build("bert")
    options: dict[str, Any] = {
        "bonds": {"bert.pooler": 3},
        "shapes": {"bert.pooler": MPOShape.choose(16, 16)},
    }
    with pytest.raises(UsageError, match=rf"{what} names the layer 'bert.pooler'"):
        replace_modules(model, find_targets(model, ["*query"]), **{what: options[what]})
    assert not mpo_layers(model)


def test_contradicting_entries_for_a_tied_group_are_refused() -> None:
    model = build("gpt2")
    with pytest.raises(UsageError, match=r"transformer\.wte, lm_head share one weight"):
        replace_modules(model, find_targets(model, ["*wte"]), bonds={"lm_head": 2, "transformer.wte": 3})
    assert not mpo_layers(model)


def test_a_wrong_shape_or_a_broken_weight_names_the_layer_and_changes_nothing() -> None:
    model = build("gpt2")
    targets = find_targets(model, ["*c_fc"])
    with pytest.raises(ShapeError, match=r"'transformer\.h\.0\.mlp\.c_fc': the shape is for 16x64"):
        replace_modules(model, targets, shapes=lambda rows, cols: MPOShape.choose(cols, rows))
    model.get_parameter("transformer.h.1.mlp.c_fc.weight").data[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"'transformer\.h\.1\.mlp\.c_fc'"):
        replace_modules(model, targets)
    assert not mpo_layers(model)


def test_the_meta_device_gives_shapes_without_values() -> None:
    with torch.device("meta"):
        model = gpt2()
    done = replace_modules(model, find_targets(model), bonds=5)
    real = gpt2()
    replace_modules(real, find_targets(real), bonds=5)
    assert all(r.relative_error != r.relative_error for r in done)
    assert count_parameters(model) == count_parameters(real)
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}


# -- options of the decomposition and of the layers --------------------------------------------------------


def test_left_to_itself_the_gauge_is_exact_at_full_bonds_and_symmetric_below(name: str) -> None:
    model, dense = build(name).float(), build(name).float()
    done = replace_modules(model, find_targets(model), n=3, gauge=None)
    assert {r.gauge for r in done} == {"identity"}
    assert {r.relative_error for r in done} == {0.0}
    for r in done:
        assert torch.equal(merge_weight(r.layer), r.weight)
    assert torch.equal(logits(model), logits(dense))

    cut = build(name)
    for r in replace_modules(cut, find_targets(cut), n=3, bonds=3, gauge=None):
        full = r.layer.bonds == r.layer.shape.full_bonds
        assert r.gauge == ("identity" if full else "symmetric")


@pytest.mark.parametrize(("gauge", "side"), [("left", 0), ("right", -1), ("mixed", 0), ("central", 0)])
def test_cut_layers_have_the_gauge_asked_for(gauge: Any, side: int) -> None:
    model = build("bert")
    (done,) = replace_modules(model, find_targets(model, ["*0.attention.self.query"]), n=3, bonds=3, gauge=gauge)
    assert done.gauge == gauge
    core = done.cores[side].detach()
    matrix = core.flatten(0, 2) if side == 0 else core.flatten(1).T
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(3, dtype=torch.float64))


def test_a_zero_weight_gets_a_gauge_in_which_it_can_be_trained() -> None:
    net = nn.Sequential(nn.Linear(8, 8))
    nn.init.zeros_(net.get_parameter("0.weight"))
    (done,) = replace_modules(net, find_targets(net), n=3, bonds=2, gauge=None)
    net(torch.ones(1, 8)).sum().backward()
    assert done.relative_error == 0
    assert any(core.grad is not None and core.grad.any() for core in done.cores)


def test_the_identity_gauge_refuses_to_cut() -> None:
    model = build("bert")
    targets = find_targets(model, ["*query"])
    given: list[dict[str, Any]] = [{}, {"covariances": {t.name: torch.eye(16, dtype=torch.float64) for t in targets}}]
    for options in given:
        with pytest.raises(UsageError, match=r"query': .*'identity' is lossless"):
            replace_modules(model, targets, n=3, bonds=2, gauge="identity", **options)


def test_method_precision_and_refinement_reach_the_decomposition() -> None:
    def errors(**options: Any) -> list[float]:
        model = build("gpt2")
        return [
            r.relative_error for r in replace_modules(model, find_targets(model, ["*mlp*"]), n=4, bonds=4, **options)
        ]

    sliced, swept, refined = errors(method="slice"), errors(), errors(refine=4)
    assert sum(swept) < sum(sliced)
    assert all(better <= worse + 1e-12 for better, worse in zip(refined, swept, strict=True))
    assert sum(refined) < sum(swept) - 1e-6
    assert errors(method="sequential") != swept
    for option in ({"method": "best"}, {"precision": "half"}, {"refine": -1}):
        with pytest.raises(UsageError, match=rf"replace_modules: layer 'transformer.*{next(iter(option))} is"):
            errors(**option)


def test_covariances_make_the_outputs_close_instead_of_the_weight() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(300, 16, dtype=torch.float64) * torch.logspace(0, -3, 16, dtype=torch.float64)
    covariance = inputs.T @ inputs / len(inputs)

    def build_net() -> nn.Sequential:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16)).double()

    found: list[tuple[float, float]] = []
    for covariances in (None, {"0": covariance}):
        for gauge in ("symmetric", "mixed"):
            net, dense = build_net(), build_net()
            done = replace_modules(net, find_targets(net), n=3, bonds=2, gauge=gauge, covariances=covariances)
            output = dense[0](inputs)
            found.append((float((net[0](inputs) - output).norm().detach()), done[0].relative_error))
    plain, plain_mixed, aware, aware_mixed = found
    assert aware[0] < 0.7 * plain[0]
    assert aware[1] > plain[1]
    assert plain_mixed == pytest.approx(plain)
    assert aware_mixed == pytest.approx(aware)
    net = build_net()
    with pytest.raises(UsageError, match="covariances names the layer '9'"):
        replace_modules(net, find_targets(net), covariances={"9": covariance})


def test_covariances_of_tied_layers_are_added() -> None:
    """The head has inputs; that the embedding beside it has none does not matter."""
    torch.manual_seed(0)
    model = build("gpt2")
    covariance = torch.diag(torch.logspace(0, -4, 16, dtype=torch.float64))
    weight = model.get_parameter("lm_head.weight").detach().clone()
    (done,) = replace_modules(model, find_targets(model, ["*wte"]), n=3, bonds=6, covariances={"lm_head": covariance})
    difference = merge_weight(done.layer) - weight
    plain = build("gpt2")
    (other,) = replace_modules(plain, find_targets(plain, ["*wte"]), n=3, bonds=6)
    worse = merge_weight(other.layer) - weight
    assert (difference @ covariance.sqrt()).norm() < 0.9 * (worse @ covariance.sqrt()).norm()


@pytest.mark.parametrize(("strategy", "lookup"), [("auto", "auto"), ("rebuild", "rebuild"), ("chain", "lookup")])
def test_the_layers_are_told_how_to_compute(strategy: Any, lookup: str) -> None:
    model, dense = build("gpt2"), build("gpt2")
    done = replace_modules(model, find_targets(model), n=3, strategy=strategy, cache=True)
    for layer in mpo_layers(model).values():
        assert layer.strategy == (lookup if isinstance(layer, MPOEmbedding) else strategy)
        assert layer.cache is True
    torch.testing.assert_close(logits(model), logits(dense), rtol=0, atol=1e-11)
    assert len(done) == 10
    with pytest.raises(UsageError, match="strategy is 'fast'; expected one of auto, rebuild, chain, mixed"):
        replace_modules(model, [], strategy="fast")  # pyright: ignore[reportArgumentType]


# -- refusals ----------------------------------------------------------------------------------------------


def refused(net: nn.Module) -> str:
    with pytest.raises(UsageError) as info:
        find_targets(net)
    return str(info.value)


def test_layers_that_would_lose_something_are_refused() -> None:
    assert "'0' cannot be put into MPO form because its weight is parametrised" in refused(
        nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)))
    )
    hooked = nn.Sequential(nn.Linear(4, 4))
    hooked[0].register_forward_hook(lambda *_: None)
    assert "hooks" in refused(hooked)
    assert "max_norm" in refused(nn.Sequential(nn.Embedding(4, 4, max_norm=1.0)))
    assert "sparse" in refused(nn.Sequential(nn.Embedding(4, 4, sparse=True)))
    assert "not initialised" in refused(nn.Sequential(nn.LazyLinear(4)))
    excluded = nn.ModuleDict({"bad": parametrizations.weight_norm(nn.Linear(4, 4)), "good": nn.Linear(4, 4)})
    assert [t.name for t in find_targets(excluded, exclude=["bad"])] == ["good"]


def test_a_weight_that_something_else_holds_is_refused() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(6, 4)
            self.scores = nn.ParameterDict({"out": self.embed.weight})

    net = Holder()
    with pytest.raises(UsageError, match=r"the weight of 'embed' is also 'scores\.out'"):
        replace_modules(net, find_targets(net))
    assert isinstance(net.embed, nn.Embedding)


def test_a_conv1d_tied_to_a_linear_layer_is_refused() -> None:
    net = nn.ModuleDict({"conv": Conv1D(8, 4), "linear": nn.Linear(8, 4)})
    net["linear"].register_parameter("weight", net["conv"].get_parameter("weight"))
    with pytest.raises(UsageError, match="reads it transposed"):
        replace_modules(net, find_targets(net, ["linear"]))


def test_targets_of_another_model_are_refused() -> None:
    with pytest.raises(UsageError, match="is no layer inside this GPT2LMHeadModel"):
        replace_modules(gpt2(), find_targets(gpt2(), ["lm_head"]))


def test_an_mpo_layer_cannot_merge_itself() -> None:
    with pytest.raises(UsageError, match="to_dense"):
        merge_modules(MPOLinear.from_dense(nn.Linear(4, 4), n=2))


# -- with an optimizer, and on a really trained model ------------------------------------------------------


def test_training_goes_on_after_surgery() -> None:
    """The error of the released code: cores that no optimizer knows never move."""
    model = build("gpt2").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step() -> float:
        optimizer.zero_grad()
        torch.manual_seed(1)
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    step()
    done = replace_modules(model, find_targets(model, ["*h.*", "*wte"]), n=3, gauge="left")
    swap_parameters(optimizer, {r.weight: r.cores for r in done})
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses = [step() for _ in range(8)]
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.data
@pytest.mark.skipif(not STORIES.is_dir(), reason=f"the real decoder is not there: {STORIES}")
def test_the_trained_story_teller_tells_the_same_story() -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32).eval()
    start = torch.tensor([[1]])
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 40, "pad_token_id": 2}
    expected = model.generate(start, **options)
    done = replace_modules(model, find_targets(model))
    assert len(done) == 5 * 7 + 1
    assert max(r.relative_error for r in done) < 1e-5
    assert torch.equal(model.generate(start, **options), expected)
    merge_modules(model)
    assert torch.equal(model.generate(start, **options), expected)
