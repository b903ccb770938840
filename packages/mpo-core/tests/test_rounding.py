from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_core import MPO, BondError, MPOShape, NonFiniteError, UsageError, decompose
from mpo_core.operators.contraction import contract_matrix
from mpo_core.operators.rounding import round_cores

often = settings(deadline=None, max_examples=500)
SEEDS = st.integers(0, 2**16)
FACTORS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4)
SHAPE = MPOShape(22, 17, (2, 4, 3), (3, 3, 2))


def _operator(factors: list[tuple[int, int]], seed: int) -> MPO:
    """With padding in half of the cases, bonds up to 5, and cores whose sizes differ by orders of magnitude."""
    rows, cols = zip(*factors, strict=True)
    shape = MPOShape(max(1, math.prod(rows) - seed // 2 % 3 * (seed % 2)), math.prod(cols), rows, cols)
    generator = torch.Generator().manual_seed(seed)
    ends = (1, *torch.randint(1, 6, (shape.n - 1,), generator=generator).tolist(), 1)
    sizes = zip(ends[:-1], rows, cols, ends[1:], strict=True)
    decay = torch.logspace(0, -(seed % 4), 5, dtype=torch.float64)
    cores = [torch.randn(size, generator=generator, dtype=torch.float64) * decay[: size[3]] for size in sizes]
    return MPO([core * 10.0 ** (seed % 5 - 2) for core in cores], shape)


def _error(mpo: MPO, rounded: MPO) -> float:
    return float((mpo.to_matrix() - rounded.to_matrix()).norm())


@often
@given(FACTORS, SEEDS, st.floats(0, 1.5))
def test_a_tolerance_is_kept(factors, seed, tolerance):
    """Relative to the norm of the matrix without its padding."""
    mpo = _operator(factors, seed)
    rounded = mpo.round(tolerance=tolerance)
    norm = float(mpo.to_matrix().norm())
    whole = math.prod(float(core.norm()) for core in mpo.cores)
    assert _error(mpo, rounded) <= tolerance * norm + 1e-13 * whole
    assert all(a <= b for a, b in zip(rounded.bonds, mpo.bonds, strict=True))
    for core in rounded.cores[:-1]:
        side = core.flatten(0, 2)
        torch.testing.assert_close(side.T @ side, torch.eye(core.shape[3], dtype=side.dtype), rtol=1e-12, atol=1e-12)


@often
@given(FACTORS, SEEDS, st.integers(1, 6))
def test_caps_are_kept(factors, seed, cap):
    """The error is within the bound of the Schmidt values; with a tolerance as well, bonds are never larger."""
    mpo = _operator(factors, seed)
    rounded = mpo.round(cap)
    assert all(bond <= cap for bond in rounded.bonds)
    whole = math.prod(float(core.norm()) for core in mpo.cores)
    assert _error(mpo, rounded) <= mpo.error_bound(cap) + 1e-13 * whole
    both = mpo.round(cap, tolerance=0.3)
    assert all(a <= b for a, b in zip(both.bonds, rounded.bonds, strict=True))
    enough = mpo.round(tolerance=0.3)
    if all(bond <= cap for bond in enough.bonds):
        assert _error(mpo, both) <= 0.3 * float(mpo.to_matrix().norm()) + 1e-13 * whole


@often
@given(FACTORS, SEEDS, st.integers(0, 200))
def test_a_number_of_parameters_is_kept(factors, seed, more):
    mpo = _operator(factors, seed)
    limit = mpo.shape.n_params(1) + more
    rounded = mpo.round(max_params=limit)
    assert rounded.n_params <= limit
    if limit >= max(mpo.n_params, mpo.shape.n_params()):
        assert _error(mpo, rounded) <= 1e-13 * math.prod(float(core.norm()) for core in mpo.cores)


@often
@given(FACTORS, SEEDS, st.integers(1, 3))
def test_rounding_undoes_the_growth_of_sums(factors, seed, terms):
    """The bonds of ``a + a + ..`` are again at most those of ``a``, and nothing is lost."""
    mpo = _operator(factors, seed)
    total = mpo
    for _ in range(terms):
        total = total + mpo
    rounded = total.round()
    assert all(a <= b for a, b in zip(rounded.bonds, mpo.bonds, strict=True))
    whole = math.prod(float(core.norm()) for core in mpo.cores)
    assert _error(total, rounded) <= 1e-12 * whole * terms
    again = rounded.round()
    assert again.bonds == rounded.bonds


@pytest.mark.parametrize("tolerance", [None, 0, 1e-12, 1e-3])
def test_what_cancels_leaves_bonds_of_one(tolerance):
    mpo = MPO.random(SHAPE, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = mpo.canonicalize(site=1)
    for nothing in (mpo - mpo, mpo - other, 2 * mpo - other - mpo, MPO.zeros(SHAPE, 4, dtype=torch.float64)):
        rounded = nothing.round(tolerance=tolerance)
        assert rounded.bonds == (1, 1)
        assert float(rounded.norm()) < 1e-13 * float(mpo.norm())


def test_the_tolerance_counts_the_true_matrix_only():
    """Nine tenths of the padded norm are padding here; a tolerance of that norm would lose the matrix."""
    shape = MPOShape(2, 6, (2, 3), (3, 2))
    mpo = MPO.random(shape, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    padding = torch.zeros(6, 6, dtype=torch.float64)
    padding[2:] = 50.0 * torch.randn(4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    heavy = decompose(padding, MPOShape(6, 6, (2, 3), (3, 2)), gauge="left")
    mpo = mpo + MPO(heavy.cores, shape)
    rounded = mpo.round(tolerance=0.2)
    assert 0 < _error(mpo, rounded) <= 0.2 * float(mpo.to_matrix().norm())


def test_rounding_is_about_as_good_as_the_best_cut():
    """Against TT-SVD of the matrix at the same bonds; a rounded decomposition differs by rounding only."""
    for seed in range(5):
        matrix = torch.randn(36, 36, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        exact = MPO.from_matrix(matrix, MPOShape.choose(36, 36, 4), gauge="left")
        best = exact.truncate(6, "sequential")
        torch.testing.assert_close(exact.round(6).to_matrix(), best.to_matrix(), rtol=1e-9, atol=1e-9)


def test_a_tolerance_is_used_up():
    """Bonds do not stay larger than needed: one less anywhere would break the tolerance or nearly so."""
    mpo = MPO.random(MPOShape.choose(64, 64, 5), 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounded = mpo.round(tolerance=0.3)
    assert 0.2 < _error(mpo, rounded) / float(mpo.norm()) <= 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_low_precision_keeps_the_tolerance_up_to_its_rounding(dtype):
    mpo = MPO.random(SHAPE, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    total = mpo + mpo
    wide = total.to(torch.float64)
    assert total.round().bonds == mpo.bonds
    for tolerance in (0.1, 0.5):
        rounded = total.round(tolerance=tolerance)
        assert rounded.dtype == dtype
        error = _error(wide, rounded.to(torch.float64)) / float(wide.norm())
        assert error <= tolerance + 4 * torch.finfo(dtype).eps


def test_a_norm_beyond_the_dtype_is_refused():
    """The last core holds the norm, which may be larger than any entry of the matrix."""
    shape = MPOShape(64, 64, (8, 8), (8, 8))
    mpo = MPO([torch.full((1, 8, 8, 1), 200.0, dtype=torch.float16)] * 2, shape)
    with pytest.raises(NonFiniteError, match=r"round: the result leaves the range of torch.float16"):
        mpo.round(2)
    assert mpo.to(torch.float32).round(2).bonds == (1,)


@pytest.mark.parametrize(
    ("limits", "error", "reason"),
    [
        ({"bonds": 0}, BondError, "bonds 0"),
        ({"bonds": [2]}, BondError, "2 of them"),
        ({"bonds": True}, BondError, "True"),
        ({"bonds": 2.0}, BondError, r"2\.0"),
        ({"tolerance": -0.1}, UsageError, r"`tolerance` is -0\.1"),
        ({"tolerance": math.nan}, NonFiniteError, "`tolerance` is nan"),
        ({"tolerance": math.inf}, NonFiniteError, "`tolerance` is inf"),
        ({"tolerance": True}, UsageError, "`tolerance` is True"),
        ({"tolerance": "small"}, UsageError, "`tolerance` is 'small'"),
        ({"max_params": 3}, BondError, "`max_params` is 3; expected an integer of at least 24"),
        ({"max_params": 99.5}, BondError, r"`max_params` is 99\.5"),
        ({"max_params": True}, BondError, "`max_params` is True"),
        ({"max_params": 99, "bonds": 2}, UsageError, "`max_params` is given beside another limit"),
        ({"max_params": 99, "tolerance": 0.1}, UsageError, "`max_params` is given beside another limit"),
    ],
)
def test_limits_that_are_none(limits, error, reason):
    with pytest.raises(error, match=reason):
        MPO.random(SHAPE, 2).round(**limits)


def test_on_the_meta_device_only_caps_make_sense():
    mpo = MPO.random(SHAPE, 5, device="meta")
    assert mpo.round(3).bonds == (3, 3)
    cases: list[dict[str, Any]] = [{}, {"tolerance": 0.1}, {"bonds": 3, "tolerance": 0.1}, {"max_params": 99}]
    for limits in cases:
        with pytest.raises(UsageError, match="hold no values to judge; give `bonds` alone"):
            mpo.round(**limits)


def test_the_function_takes_cores():
    mpo = MPO.random(SHAPE, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cores = round_cores(mpo.cores, SHAPE, tolerance=0.5)
    torch.testing.assert_close(contract_matrix(cores, SHAPE), mpo.round(tolerance=0.5).to_matrix())
    broken = [*mpo.cores[:2], torch.full_like(mpo.cores[2], math.nan)]
    with pytest.raises(NonFiniteError, match="round: core 2 of 3 of `self`"):
        round_cores(broken, SHAPE, 2)
