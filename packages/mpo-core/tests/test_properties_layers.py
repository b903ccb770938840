"""Layers and products with vectors: 500 drawn cases each are those of the dense twin, or refused with a typed error.

Layers are drop-in: NaN and infinity in the *input* come out where `nn.Linear` gives them out, and are not hidden.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from mpo_core import MPO, Machine, MPOEmbedding, MPOError, MPOLinear, MPOShape, apply_mpo, plan_linear, use_machine

often = settings(deadline=None, max_examples=500)
SIZES = st.integers(1, 24)
SEEDS = st.integers(0, 2**16)
BATCHES = st.lists(st.integers(0, 3), max_size=3)
DTYPES = st.sampled_from([torch.float64, torch.float64, torch.float32, torch.bfloat16, torch.float16])
STRATEGIES = st.sampled_from(["auto", "rebuild", "chain", "mixed"])
BAD_NUMBERS = [-1, -(2**70), True, 1.5, math.nan, math.inf, "3", 1j, torch.tensor(1.5), torch.tensor([2, 2])]


def _refused(call: Any) -> bool:
    try:
        call()
    except MPOError as error:
        return len(str(error)) > 20
    return False


def _randn(*size: int, seed: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*size, generator=generator, dtype=torch.float64)).to(dtype)


def _close(found: Tensor, expected: Tensor, size: float, n: int) -> None:
    """To the rounding of the dtype found, relative to a size that nothing cancels in."""
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    limit = 60 * n * torch.finfo(found.dtype).eps * size + 1e3 * torch.finfo(found.dtype).tiny
    assert float((found.detach().double() - expected.detach().double()).norm()) <= limit


@st.composite
def chains(draw: Any, dtypes: Any = DTYPES) -> tuple[list[Tensor], MPOShape]:
    """Cores with bonds below, at and above the full ones, of scales up to 1e15 in all, some zero, with padding."""
    factors = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4))
    rows, cols = zip(*factors, strict=True)
    dtype = draw(dtypes)
    limit = 0 if dtype == torch.float16 else 15
    scale = 10.0 ** (draw(st.integers(-limit, limit)) / len(factors)) * draw(st.sampled_from([1.0, 1.0, 1.0, 0.0]))
    ends = [1, *draw(st.lists(st.integers(1, 5), min_size=3, max_size=3))[: len(factors) - 1], 1]
    sizes = zip(ends[:-1], rows, cols, ends[1:], strict=True)
    seed = draw(SEEDS)
    cores = [_randn(*size, seed=seed + k, dtype=dtype, scale=scale) for k, size in enumerate(sizes)]
    shape = MPOShape(max(1, math.prod(rows) - draw(st.integers(0, 2))), math.prod(cols), rows, cols)
    return cores, shape


def _matrix(cores: list[Tensor], shape: MPOShape) -> Tensor:
    return MPO([core.detach().double() for core in cores], shape).to_matrix()


def _whole(cores: list[Tensor]) -> float:
    return math.prod(float(core.detach().double().norm()) for core in cores)


def _strided(x: Tensor, strided: bool) -> Tensor:
    return x.repeat_interleave(2, -1)[..., ::2] if strided else x


@often
@given(chains(), BATCHES, STRATEGIES, st.booleans(), st.booleans(), st.booleans(), SEEDS)
def test_apply(chain, batch, strategy, biased, strided, training, seed):
    """As `functional.linear` with the matrix, with gradients; another size, dtype or bias is refused."""
    cores, shape = chain
    dtype = cores[0].dtype
    x = _strided(_randn(*batch, shape.cols, seed=seed, dtype=dtype), strided)
    bias = _randn(shape.rows, seed=seed, dtype=dtype) if biased else None
    cores = [core.requires_grad_(training) for core in cores]
    found = apply_mpo(x, cores, shape, bias, strategy=strategy)
    wide = None if bias is None else bias.double()
    expected = functional.linear(x.double(), _matrix(cores, shape), wide)
    size = _whole(cores) * float(x.double().norm()) + (0.0 if wide is None else float(expected.norm()))
    _close(found, expected, size, shape.n)
    if training:
        found.sum().backward()
        assert all(core.grad is None or torch.isfinite(core.grad).all() for core in cores)
    other = torch.float32 if dtype == torch.float64 else torch.float64
    wrongs: list[Any] = [
        (x.to(other), cores, shape, bias),
        (x.to(torch.complex64), cores, shape, bias),
        (x.long(), cores, shape, bias),
        (torch.cat([x, x[..., :1]], -1), cores, shape, bias),
        (x[..., :-1], cores, shape, bias),
        (x.new_ones(()), cores, shape, bias),
        (x, cores, shape, torch.ones(shape.rows + 1, dtype=dtype)),
        (x, cores, shape, torch.ones((), dtype=dtype)),
        (x, cores, shape, torch.ones(1, shape.rows, dtype=dtype)),
        (x, cores[:-1], shape, bias),
        (x, [*cores, cores[-1]], shape, bias),
        (x, [torch.cat([core, core], 1) for core in cores], shape, bias),
        (x, [core[None] for core in cores], shape, bias),
    ]
    if shape.rows > 1:
        wrongs.append((x, cores, shape, torch.ones(1, dtype=dtype)))
    for k, wrong in enumerate(wrongs):
        assert _refused(lambda wrong=wrong: apply_mpo(*wrong, strategy=strategy)), k
    assert _refused(lambda: apply_mpo(x, cores, shape, bias, strategy="other"))  # type: ignore[arg-type]


@often
@given(chains(), st.integers(0, 5000), st.booleans(), STRATEGIES, st.sampled_from(BAD_NUMBERS), st.integers(1, 9))
def test_plans(chain, tokens, training, strategy, bad, itemsize):
    """A plan has positive counts; bonds that are none, other strategies and machines of another size are refused."""
    cores, shape = chain
    bonds = tuple(core.shape[-1] for core in cores[:-1])
    plan = plan_linear(shape, bonds, tokens, training, strategy=strategy)
    assert plan.flops > 0
    assert 0 < plan.seconds < math.inf
    assert plan.chunk >= 1
    assert plan.kept_bytes >= 0
    assert _refused(lambda: plan_linear(shape, bonds, tokens, strategy="other"))  # type: ignore[arg-type]
    assert _refused(lambda: plan_linear(shape, (*bonds, 1), tokens))
    if bad is not True:  # the same key as 1 to the cache of plans
        assert _refused(lambda: plan_linear(shape, bonds, bad))
    if bonds:
        if bad is not True:
            assert _refused(lambda: plan_linear(shape, (bad, *bonds[1:]), tokens))
        assert _refused(lambda: plan_linear(shape, (0, *bonds[1:]), tokens))
    machine = Machine(itemsize=itemsize)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        if itemsize != dtype.itemsize:
            assert _refused(lambda dtype=dtype: use_machine(machine, "cpu", dtype))


@often
@given(
    SIZES, SIZES, st.integers(1, 5), DTYPES, BATCHES, st.one_of(st.none(), st.integers(1, 6)),
    st.booleans(), STRATEGIES, st.booleans(), SEEDS, st.integers(-15, 15),
)  # fmt: skip
def test_linear(rows, cols, n, dtype, batch, bonds, biased, strategy, cache, seed, exponent):
    """The layer computes what its own dense twin computes, trained or cached; other inputs are refused."""
    dense = nn.Linear(cols, rows, bias=biased, dtype=dtype)
    scale = 1.0 if dtype == torch.float16 else 10.0**exponent
    dense.weight = nn.Parameter(_randn(rows, cols, seed=seed, dtype=dtype, scale=scale))
    layer = MPOLinear.from_dense(dense, bonds=bonds, n=n, strategy=strategy, cache=cache)
    x = _randn(*batch, cols, seed=seed + 1, dtype=dtype)
    expected = functional.linear(
        x.double(), _matrix(list(layer.cores), layer.shape), None if layer.bias is None else layer.bias.double()
    )
    size = _whole(list(layer.cores)) * float(x.double().norm()) + float(expected.detach().norm())
    for mode in (True, False):
        layer.train(mode)
        with torch.set_grad_enabled(mode):
            _close(layer(x), expected, size, n)
            _close(layer(x), expected, size, n)
    twin = layer.to_dense()
    assert isinstance(twin, nn.Linear)
    _close(twin(x), expected, size, n)
    if bonds is None:
        _close(layer.mpo().to_matrix(), dense.weight.detach(), float(dense.weight.detach().double().norm()), n)
    assert [tuple(core.shape) for core in layer.core_list()] == [tuple(core.shape) for core in layer.cores]
    assert str(layer.bonds) in layer.extra_repr()
    layer.drop_cache()
    for wrong in (
        torch.cat([x, x[..., :1]], -1),
        x[..., :-1],
        x.to(torch.complex64),
        x.long(),
        x.bool(),
        x.new_ones(()),
    ):
        assert _refused(lambda wrong=wrong: layer(wrong))
    if cols > 1:
        assert _refused(lambda: layer(x[..., :1]))
    assert layer(x * math.nan).isnan().all()


@often
@given(
    SIZES, SIZES, st.integers(1, 5), st.booleans(), BATCHES, st.one_of(st.none(), st.integers(1, 6)),
    st.sampled_from(["auto", "lookup", "rebuild"]), st.booleans(), SEEDS, st.integers(-15, 15),
)  # fmt: skip
def test_embedding(rows, cols, n, double, batch, bonds, strategy, cache, seed, exponent):
    """As its own dense twin; ids that are out of range or no integers are refused."""
    dense = nn.Embedding(rows, cols, dtype=torch.float64 if double else torch.float32)
    dense.weight = nn.Parameter(_randn(rows, cols, seed=seed, dtype=dense.weight.dtype, scale=10.0**exponent))
    layer = MPOEmbedding.from_dense(dense, bonds=bonds, n=n, strategy=strategy, cache=cache)
    ids = torch.randint(rows, batch, generator=torch.Generator().manual_seed(seed))
    table, size = _matrix(list(layer.cores), layer.shape), _whole(list(layer.cores)) * (1 + ids.numel())
    for mode in (True, False):
        layer.train(mode)
        with torch.set_grad_enabled(mode):
            for given_ in (ids, ids.int(), _strided(ids, bool(batch))):
                _close(layer(given_), table[ids], size, n)
    _close(layer.to_dense()(ids), table[ids], size, n)
    if bonds is None:
        _close(layer.mpo().to_matrix(), dense.weight.detach(), float(dense.weight.detach().double().norm()), n)
    assert str(layer.bonds) in layer.extra_repr()
    layer.drop_cache()
    assert len(layer.core_list()) == n
    for wrong in (
        torch.tensor([0, rows]),
        torch.tensor(-1),
        torch.tensor([2**62]),
        ids.float(),
        ids.bool(),
        ids.short(),
    ):
        assert _refused(lambda wrong=wrong: layer(wrong))
    for padding in (rows, -rows - 1, 2**70, True, 1.5, math.nan, "0"):
        assert _refused(lambda padding=padding: MPOEmbedding(list(layer.cores), layer.shape, padding))  # type: ignore


@often
@given(chains(), st.integers(1, 5000), st.booleans(), st.booleans(), st.sampled_from([0, *BAD_NUMBERS]))
def test_cost_of_a_linear_layer(chain, tokens, training, cache, bad):
    layer = MPOLinear(*chain, cache=cache)
    cost = layer.cost(tokens, training)
    assert all(row.flops > 0 and 0 < row.relative_time < math.inf and row.extra_bytes >= 0 for row in cost.rows)
    assert cost.chosen in str(cost)
    assert _refused(lambda: layer.cost(bad))


@often
@given(chains(), SEEDS, st.booleans(), st.booleans(), st.sampled_from([0, *BAD_NUMBERS]))
def test_cost_of_an_embedding(chain, seed, training, cache, bad):
    layer = MPOEmbedding(*chain, cache=cache)
    rows = layer.num_embeddings
    for ids in (seed % rows + 1, torch.arange(rows)[: seed % rows + 1]):
        cost = layer.cost(ids, training)
        assert all(way.flops >= 0 and 0 <= way.seconds < math.inf for way in cost.ways.values())
        assert cost.chosen in str(cost)
    if isinstance(bad, Tensor):
        bad = bad.double()  # whole ones are ids
    for wrong in (rows + 1, torch.tensor([rows]), torch.tensor([-1]), torch.tensor([], dtype=torch.int64), bad):
        assert _refused(lambda wrong=wrong: layer.cost(wrong))


@often
@given(
    chains(),
    st.sampled_from(["number", "complex", "axes", "first", "last", "bond", "factor", "count", "bias"]),
    st.integers(0, 3),
)
def test_cores_that_make_no_layer(chain, kind, place):
    """Refused when the layer is made; NaN is found by what reads the matrix."""
    cores, shape = list(chain[0]), chain[1]
    k = place % len(cores)
    bias: Any = None
    if kind == "number":
        cores[k] = torch.full_like(cores[k], math.nan)
        for layer in (MPOLinear(cores, shape), MPOEmbedding(cores, shape)):
            assert _refused(layer.mpo().to_matrix)
        return
    if kind == "complex":
        cores = [core.to(torch.complex64) for core in cores]
    elif kind == "axes":
        cores[k] = cores[k][0]
    elif kind == "first":
        cores[0] = torch.cat([cores[0], cores[0]], 0)
    elif kind == "last":
        cores[-1] = torch.cat([cores[-1], cores[-1]], 3)
    elif kind == "bond":
        cores[k] = torch.cat([cores[k], cores[k]], 0)
    elif kind == "factor":
        cores[k] = torch.cat([cores[k], cores[k]], 2)
    elif kind == "count":
        cores = cores[:-1]
    else:
        bias = torch.ones(1, shape.rows)
    with pytest.raises(MPOError):
        MPOLinear(cores, shape, bias)
    if bias is None:
        with pytest.raises(MPOError):
            MPOEmbedding(cores, shape)


def test_a_kept_weight_that_was_written_to_is_built_again() -> None:
    """Whoever gets the kept matrix cannot change what the layer computes."""
    layer = MPOLinear.from_dense(nn.Linear(6, 4), n=2, cache=True).eval().requires_grad_(False)
    x = torch.ones(3, 6)
    before = layer(x)
    layer.weight.zero_()
    assert torch.equal(layer(x), before)


def test_weights_that_are_no_tensors_are_refused() -> None:
    """As in quantized layers, where the weight is a method."""
    for dense, kind in ((nn.Linear(2, 2), MPOLinear), (nn.Embedding(2, 2), MPOEmbedding)):
        del dense.weight
        object.__setattr__(dense, "weight", lambda: None)
        with pytest.raises(MPOError, match="no tensor"):
            kind.from_dense(dense)
