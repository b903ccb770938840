from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_core import MPOShape, decompose
from mpo_core.decomposing.alternating import bond_order


def _random(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _error(matrix: torch.Tensor, *args, **options) -> float:
    return float((decompose(matrix, *args, **options).to_matrix().double() - matrix.double()).norm())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=5),
    st.lists(st.integers(1, 8), min_size=4, max_size=4),
    st.sampled_from([torch.float64, torch.float32]),
    st.sampled_from(["sweep", "randomized"]),
    st.integers(0, 99),
)
def test_the_error_never_rises(factors, bonds, dtype, method, seed):
    rows, cols = zip(*factors, strict=True)
    shape = MPOShape(math.prod(rows), math.prod(cols), rows, cols)
    matrix = _random(shape.rows, shape.cols, seed).to(dtype)
    errors = [_error(matrix, shape, bonds[: shape.n - 1], method=method, refine=k) for k in (0, 1, 2, 5)]
    slack = (1e-12 if dtype == torch.float64 else 1e-6) * float(matrix.double().norm())
    assert all(after <= before + slack for before, after in pairwise(errors))


@pytest.mark.parametrize("precision", ["accurate", "fast"])
def test_two_sweeps_are_worth_it(precision):
    """A few tenths of a percent of the error of random weights, at the same bonds."""
    matrix = _random(192, 192).float()
    plain, refined = (decompose(matrix, bonds=24, refine=k, precision=precision) for k in (0, 2))
    assert refined.bonds == plain.bonds
    errors = [float((mpo.to_matrix() - matrix).norm() / matrix.norm()) for mpo in (plain, refined)]
    assert errors[1] < 0.997 * errors[0]


def test_a_refined_operator_is_a_fixed_point():
    """Of a single bond at once: its cut is the best there is. Of several, the end of many sweeps."""
    shape = MPOShape(24, 24, (4, 6), (6, 4))
    assert _error(_random(24, 24), shape, 5, refine=3) == pytest.approx(_error(_random(24, 24), shape, 5), rel=1e-12)
    three = MPOShape(24, 24, (2, 3, 4), (4, 3, 2))
    many = [_error(_random(24, 24), three, 3, refine=k) for k in (200, 300)]
    assert many[0] == pytest.approx(many[1], rel=1e-6)


def test_refining_an_exact_operator_changes_nothing():
    low = _random(24, 1) @ _random(1, 24, 1)
    for matrix in (low, torch.zeros(24, 24, dtype=torch.float64), torch.eye(24, dtype=torch.float64)):
        # An outer product and the identity are products of such, site by site: bonds of 1 are enough.
        errors = [_error(matrix, MPOShape(24, 24, (2, 3, 4), (2, 3, 4)), 24, refine=k) for k in (0, 2)]
        assert max(errors) <= 1e-13 * float(matrix.norm())


def test_gauges_hold_after_refining():
    matrix = _random(36, 48)
    reference = decompose(matrix, bonds=7, refine=2).to_matrix()
    for gauge in ("symmetric", "left", "right", "central"):
        mpo = decompose(matrix, bonds=7, refine=2, gauge=gauge)
        torch.testing.assert_close(mpo.to_matrix(), reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bonds", range(1, 7))
def test_every_bond_is_visited_and_neighbouring_steps_meet(bonds):
    for home in range(bonds + 1):
        steps = bond_order(bonds, home)
        assert {bond for bond, _ in steps} == set(range(bonds))
        for (bond, side), (following, _) in pairwise(steps):
            # The centre moves over one core, away from the side that was made orthonormal, or stays where it is.
            assert following - bond in ({0, 1} if side == "left" else {0, -1})
        last, side = steps[-1]
        assert (last + 1 if side == "left" else last) == home


def test_the_range_finder_draws_the_same_numbers_and_leaves_the_callers_alone():
    matrix = _random(64, 64).float()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = (decompose(matrix, bonds=9, method="randomized") for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.cores, second.cores, strict=True))


def test_the_range_finder_is_near_where_the_spectrum_falls():
    """And loses some percent of the error where it is flat, which refining regains."""
    falling = _random(96, 96) @ torch.diag(torch.logspace(0, -3, 96, dtype=torch.float64)) @ _random(96, 96, 1)
    flat = _random(96, 96)
    for matrix, loss in ((falling, 1.05), (flat, 1.05)):
        assert _error(matrix, bonds=16, method="randomized") <= loss * _error(matrix, bonds=16)
    refined = _error(flat, bonds=16, method="randomized", refine=4)
    assert refined <= 1.002 * _error(flat, bonds=16, refine=4)
    exact = _random(96, 2) @ _random(2, 96, 1)
    shape = MPOShape(96, 96, (8, 12), (8, 12))
    assert _error(exact, shape, 4, method="randomized") <= 1.05 * _error(exact, shape, 4) + 1e-12
