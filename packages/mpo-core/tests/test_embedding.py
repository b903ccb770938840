from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from mpo_core import MPOEmbedding, MPOLinear, MPOShape, ShapeError, UsageError
from mpo_core.embeddings.lookup import side_tables
from mpo_core.embeddings.lookup_cost import EMBEDDING_STRATEGIES, EmbeddingStrategy
from mpo_core.testing import LayerContract

TOKENS = torch.tensor([[5, 17, 2, 5], [0, 112, 5, 3]])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


SHAPE = MPOShape(113, 22, (2, 4, 4, 2, 2), (2, 2, 3, 2, 1))


def make_layer(
    strategy: EmbeddingStrategy = "lookup",
    *,
    padding_idx: int | None = None,
    dtype: torch.dtype = torch.float64,
    cache: bool = False,
) -> MPOEmbedding:
    """A truncated table, padded in rows and columns."""
    dense = nn.Embedding(113, 22, padding_idx, dtype=dtype)
    nn.init.normal_(dense.weight)
    return MPOEmbedding.from_dense(dense, SHAPE, 7, strategy=strategy, cache=cache)


def gradients(layer: MPOEmbedding, output: Tensor) -> list[Tensor]:
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    return list(torch.autograd.grad(output, list(layer.cores), probe))


def twin_gradients(layer: MPOEmbedding, tokens: Tensor) -> list[Tensor]:
    """By way of the dense twin's gradient."""
    twin = layer.to_dense()
    output = twin(tokens)
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    (output * probe).sum().backward()
    table = layer.mpo().to_matrix()
    return list(torch.autograd.grad((table * cast("Tensor", twin.weight.grad)).sum(), list(layer.cores)))


def assert_all_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-11) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert float((a - b).detach().norm()) <= tolerance * max(float(b.detach().norm()), 1e-300)


class TestEmbedding(LayerContract):
    def make_pair(self):
        dense = nn.Embedding(120, 24, dtype=torch.float64)
        return MPOEmbedding.from_dense(dense), dense


class TestPaddedLookup(LayerContract):
    def make_pair(self):
        dense = nn.Embedding(113, 17, padding_idx=3, dtype=torch.float64)
        # The contract looks up random ids; a row of zeros would say nothing.
        nn.init.normal_(dense.weight)
        return MPOEmbedding.from_dense(dense, n=3, strategy="lookup"), dense


class TestTruncatedLookup(LayerContract):
    def make_pair(self):
        dense = nn.Embedding(90, 16, dtype=torch.float64)
        layer = MPOEmbedding.from_dense(dense, bonds=(2, 7, 3), n=4, strategy="lookup")
        return layer, layer.to_dense()


class TestRebuiltEmbedding(LayerContract):
    def make_pair(self):
        dense = nn.Embedding(31, 6, dtype=torch.float64)
        return MPOEmbedding.from_dense(dense, strategy="rebuild"), dense


class TestLookupOfOneCore(LayerContract):
    def make_pair(self):
        dense = nn.Embedding(9, 4, dtype=torch.float64)
        return MPOEmbedding.from_dense(dense, n=1, strategy="lookup"), dense


class TestLookupOfTwoCores(LayerContract):
    def make_pair(self):
        dense = nn.Embedding(24, 6, dtype=torch.float64)
        return MPOEmbedding.from_dense(dense, n=2, strategy="lookup"), dense


@pytest.mark.parametrize("strategy", EMBEDDING_STRATEGIES)
@pytest.mark.parametrize("padding_idx", [None, 5])
def test_strategies_agree_with_the_twin(strategy: EmbeddingStrategy, padding_idx: int | None):
    layer = make_layer(strategy, padding_idx=padding_idx)
    twin = layer.to_dense()
    assert twin.padding_idx == padding_idx
    for tokens in (TOKENS, TOKENS.int(), TOKENS[0, 0], TOKENS[:, :0], torch.full((3,), 5), TOKENS.T):
        output = layer(tokens)
        assert_all_close([output], [twin(tokens)])
        if tokens.numel():
            assert_all_close(gradients(layer, output), twin_gradients(layer, tokens))
        else:
            assert not any(gradient.any() for gradient in gradients(layer, output))


@pytest.mark.parametrize("strategy", EMBEDDING_STRATEGIES)
@pytest.mark.parametrize("bad", [-1, 113, 119])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ids_out_of_range_are_refused(strategy: EmbeddingStrategy, bad: int, dtype: torch.dtype):
    """Also those of the padding: 113 rows are padded to more."""
    layer = make_layer(strategy)
    assert layer.shape.padded_rows > 119
    with pytest.raises(ShapeError, match=f"ids from {min(bad, 0)} to {max(bad, 0)}; expected 0 to 112"):
        layer(torch.tensor([0, bad], dtype=dtype))
    layer = make_layer(strategy, cache=True).eval()
    with torch.no_grad(), pytest.raises(ShapeError, match="expected 0 to 112"):
        layer(torch.tensor([0, bad], dtype=dtype))


def test_wrong_use_is_refused():
    layer = make_layer()
    with pytest.raises(ShapeError, match="float32"):
        layer(torch.zeros(2))
    with pytest.raises(UsageError, match="the ids are on meta, the cores on cpu"):
        layer(TOKENS.to("meta"))
    with pytest.raises(UsageError, match="strategy is 'chain'; expected one of auto, lookup, rebuild"):
        make_layer(cast("EmbeddingStrategy", "chain"))
    with pytest.raises(UsageError, match="cache is 1"):
        make_layer(cache=cast("bool", 1))
    with pytest.raises(UsageError, match="found Linear"):
        MPOEmbedding.from_dense(nn.Linear(2, 2))
    options: list[dict[str, Any]] = [{"max_norm": 1.0}, {"sparse": True}, {"scale_grad_by_freq": True}]
    for option in options:
        with pytest.raises(UsageError, match=next(iter(option))):
            MPOEmbedding.from_dense(nn.Embedding(10, 8, **option))
    for padding_idx in (113, -114):
        with pytest.raises(ShapeError, match="padding_idx"):
            MPOEmbedding(list(layer.cores), layer.shape, padding_idx)
    assert MPOEmbedding(list(layer.cores), layer.shape, -1).padding_idx == 112


def test_padding_row_passes_no_gradient_on():
    layer = make_layer(padding_idx=2)
    assert not any(gradient.any() for gradient in gradients(layer, layer(torch.tensor([2, 2]))))
    assert all(gradient.any() for gradient in gradients(layer, layer(torch.tensor([2, 5]))))


def test_lookup_never_builds_the_table(monkeypatch: pytest.MonkeyPatch):
    layer = make_layer("lookup")

    def refuse(*_: object) -> None:
        raise AssertionError("the table was built")

    monkeypatch.setattr("mpo_core.embeddings.embedding_rows.contract_matrix", refuse)
    layer(TOKENS).sum().backward()
    layer.strategy = "rebuild"
    with pytest.raises(AssertionError, match="table was built"):
        layer(TOKENS)


def test_auto_does_what_the_estimate_says(monkeypatch: pytest.MonkeyPatch):
    shape = MPOShape.choose(5000, 64)
    layer = MPOEmbedding([torch.randn(size) for size in shape.core_shapes(16)], shape)
    built: list[int] = []
    monkeypatch.setattr(
        "mpo_core.embeddings.embedding_rows.contract_matrix", lambda *_: built.append(1) or torch.zeros(5000, 64)
    )
    chosen = [layer.cost(number, training=True).chosen for number in (10, 5000)]
    assert chosen == ["lookup", "rebuild"]
    layer(torch.arange(10))
    assert not built
    layer(torch.arange(5000))
    assert built


def test_the_kept_table_follows_the_cores():
    layer = make_layer(cache=True).eval()
    with torch.no_grad():
        kept = layer.weight
        assert layer.weight is kept
        assert torch.equal(layer(TOKENS), kept[TOKENS])
        layer.cores[2].mul_(3)
        assert_all_close([layer(TOKENS)], [kept[TOKENS] * 3])
        layer.load_state_dict(make_layer().state_dict())
        assert torch.equal(layer(TOKENS), layer.mpo().to_matrix()[TOKENS])
        layer.float()
        assert layer(TOKENS).dtype == torch.float32
        assert layer.weight is layer.weight
        layer.drop_cache()
    # With gradients nothing is kept, and training lets go of the table.
    assert layer(TOKENS).requires_grad
    with torch.no_grad():
        before = layer.weight
    layer.train()
    layer.eval()
    with torch.no_grad():
        assert layer.weight is not before
    assert list(layer.state_dict()) == [f"cores.{k}" for k in range(5)]
    assert copy.deepcopy(layer).weight is not layer.weight


def test_a_kept_table_of_one_core_is_a_copy():
    layer = MPOEmbedding.from_dense(nn.Embedding(9, 4), n=1, cache=True).eval()
    with torch.no_grad():
        expected = layer.cores[0].clone()
        layer.weight.zero_()
        assert torch.equal(layer.cores[0], expected)
        assert torch.equal(layer(torch.tensor(3)), expected[0, 3, :, 0])


def test_frozen_cores_use_the_kept_table_with_gradients_on():
    layer = make_layer(cache=True).eval().requires_grad_(False)
    assert layer.weight is layer.weight
    assert not layer(TOKENS).requires_grad


@pytest.mark.parametrize("strategy", EMBEDDING_STRATEGIES)
def test_autocast_changes_nothing(strategy: EmbeddingStrategy):
    """As for `nn.Embedding`."""
    layer = make_layer(strategy, dtype=torch.float32)
    expected = layer(TOKENS)
    expected_gradients = gradients(layer, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(TOKENS)
    assert torch.equal(output, expected)
    assert_all_close(gradients(layer, output), expected_gradients, 1e-6)
    layer.eval().cache = True
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first = layer(TOKENS)
        assert_all_close([first, layer(TOKENS)], [expected, expected], 1e-6)


@pytest.mark.parametrize("strategy", EMBEDDING_STRATEGIES)
def test_a_compiled_graph_is_whole(strategy: EmbeddingStrategy):
    torch.compiler.reset()
    layer = make_layer(strategy, padding_idx=5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for tokens in (TOKENS, TOKENS[:, :3], TOKENS[:, :2]):
        output = compiled(tokens)
        assert_all_close([output], [layer(tokens)])
        assert_all_close(gradients(layer, output), gradients(layer, layer(tokens)))
    exported = torch.export.export(layer, (TOKENS,)).module()
    assert_all_close([exported(TOKENS)], [layer(TOKENS)])
    layer.eval().cache = True
    with torch.no_grad():
        assert_all_close([torch.compile(layer, fullgraph=True, backend="eager")(TOKENS)], [layer(TOKENS)])


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck looks at it
def test_the_operator_keeps_the_rules_of_operators():
    layer = make_layer(padding_idx=5)
    tables = [None if table is None else table.detach().requires_grad_() for table in side_tables(list(layer.cores))]
    sizes = [SHAPE.rows, SHAPE.cols, *SHAPE.row_factors, *SHAPE.col_factors]
    operator: Any = torch.ops.mpo_core.look_up.default
    torch.library.opcheck(operator, (TOKENS, *tables, sizes, list(layer.bonds), 5))
    assert operator(TOKENS[:, :0], *tables, sizes, list(layer.bonds), -1).shape == (2, 0, 22)
    with pytest.raises(ShapeError, match="ids from 100 to 212"):
        operator(TOKENS + 100, *tables, sizes, list(layer.bonds), 5)


def test_a_few_ids_of_a_large_vocabulary():
    """These are sorted instead of marked in a list of all ids."""
    shape = MPOShape.choose(200_000, 8)
    layer = MPOEmbedding([torch.randn(size, dtype=torch.float64) for size in shape.core_shapes(2)], shape)
    tokens = torch.tensor([199_999, 0, 77_777, 0], dtype=torch.int32)
    assert_all_close([layer(tokens)], [layer.weight[tokens.long()]])


def test_no_tokens_in_a_graph():
    layer = make_layer()
    torch.compiler.reset()
    output = torch.compile(layer, fullgraph=True, backend="aot_eager")(TOKENS[:, :0])
    assert output.shape == (2, 0, 22)
    assert not any(gradient.any() for gradient in gradients(layer, output))


def test_shapes_can_be_inferred_without_values():
    with FakeTensorMode():
        for strategy in EMBEDDING_STRATEGIES:
            layer = MPOEmbedding([torch.empty(size) for size in SHAPE.core_shapes(7)], SHAPE, strategy=strategy)
            output = layer(torch.zeros(2, 3, dtype=torch.int32))
            assert output.shape == (2, 3, 22)
            output.sum().backward()
            assert [cast("Tensor", core.grad).shape for core in layer.cores] == [core.shape for core in layer.cores]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(reentrant: bool):
    layer = make_layer()
    switch = torch.zeros((), requires_grad=True)  # the reentrant kind wants an input with a gradient

    def rows(tokens: Tensor, zero: Tensor) -> Tensor:
        return layer(tokens) + zero

    layer(TOKENS).square().sum().backward()
    expected = [cast("Tensor", core.grad).clone() for core in layer.cores]
    layer.zero_grad()
    cast("Tensor", checkpoint(rows, TOKENS, switch, use_reentrant=reentrant)).square().sum().backward()
    assert_all_close([cast("Tensor", core.grad) for core in layer.cores], expected)


def test_torch_func_differentiates_and_maps():
    layer = make_layer()
    parameters: dict[str, Tensor] = dict(layer.named_parameters())

    def loss(own: dict[str, Tensor], tokens: Tensor) -> Tensor:
        return torch.func.functional_call(layer, own, (tokens,)).square().sum()

    found = torch.func.grad(loss)(parameters, TOKENS)
    expected = torch.autograd.grad(loss(parameters, TOKENS), list(parameters.values()))
    assert_all_close(list(found.values()), list(expected))
    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, TOKENS)
    assert_all_close([gradient.sum(0) for gradient in per_sample.values()], list(expected))


def test_a_head_with_the_same_cores_adds_its_gradient():
    layer = make_layer()
    head = MPOLinear(list(layer.cores), layer.shape)
    logits = head(layer(TOKENS))
    weight = layer.mpo().to_matrix()
    assert_all_close([logits], [weight[TOKENS] @ weight.T])
    assert_all_close(gradients(layer, logits), gradients(layer, weight[TOKENS] @ weight.T))


def test_half_types_add_up_in_float32():
    """4000 equal tokens: a sum in bfloat16 would stop at 256."""
    layer = make_layer(dtype=torch.bfloat16, padding_idx=None)
    layer(torch.full((4000,), 7)).sum().backward()
    once = copy.deepcopy(layer)
    once.zero_grad()
    once(torch.tensor([7])).sum().backward()
    for core, single in zip(layer.cores, once.cores, strict=True):
        wanted = 4000 * cast("Tensor", single.grad).float()
        assert float((cast("Tensor", core.grad).float() - wanted).norm()) < 0.02 * float(wanted.norm())


def test_from_dense_passes_everything_on():
    dense = nn.Embedding(60, 18, padding_idx=4).eval()
    dense.weight.requires_grad_(False)
    layer = MPOEmbedding.from_embedding(dense, n=4, gauge="left", strategy="rebuild", cache=True, ratio=0.5)
    assert (layer.strategy, layer.cache, layer.padding_idx, layer.training) == ("rebuild", True, 4, False)
    assert layer.shape.n == 4
    assert sum(core.numel() for core in layer.cores) <= 0.5 * 60 * 18
    assert not any(core.requires_grad for core in layer.cores)
    back = layer.to_dense()
    assert not back.training
    assert not back.weight.requires_grad
    assert repr(layer).startswith("MPOEmbedding(\n  60, 18, padding_idx=4")


def test_to_dense_draws_no_random_numbers():
    layer = make_layer()
    before = torch.get_rng_state()
    layer.to_dense()
    assert torch.equal(before, torch.get_rng_state())


def test_works_on_the_meta_device():
    shape = MPOShape.choose(40, 12, 3)
    layer = MPOEmbedding([torch.empty(size, device="meta") for size in shape.core_shapes(4)], shape)
    assert layer(torch.empty(2, 3, dtype=torch.int64, device="meta")).shape == (2, 3, 12)


def test_cost_counts_distinct_ids_and_prints_a_table():
    layer = make_layer("auto", cache=True)
    cost = layer.cost(TOKENS, training=True)
    assert "113x22" in cost.title
    assert "6 ids, training" in cost.title
    assert cost.ways["lookup"].flops == 3 * layer.cost(TOKENS).ways["lookup"].flops
    assert layer.cost(6).chosen == "cached"
    lines = str(cost).splitlines()
    assert len(lines) == 4
    assert sum(line.startswith("* ") for line in lines) == 1
    layer.strategy = "lookup"
    assert layer.cost(113, training=True).chosen == "lookup"
    for bad in (0, -1, 114, torch.empty(0, dtype=torch.int64), torch.tensor([113])):
        with pytest.raises(ShapeError, match=r"MPOEmbedding\.cost"):
            layer.cost(bad)
