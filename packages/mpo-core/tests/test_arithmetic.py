"""What the operations on operators refuse, and the operands that Python and numpy bring."""

from __future__ import annotations

import math
import operator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_core import MPO, MPOShape, NonFiniteError, ShapeError, UsageError

SHAPE = MPOShape(22, 17, (2, 4, 3), (3, 3, 2))
BINARY = {"+": operator.add, "-": operator.sub, "@": operator.matmul, "inner": lambda a, b: a.inner(b)}


def _random(shape: MPOShape = SHAPE, bonds: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> MPO:
    return MPO.random(shape, bonds, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    "shape",
    [
        MPOShape(22, 17, (4, 2, 3), (3, 3, 2)),
        MPOShape(22, 17, (2, 4, 3), (3, 2, 3)),
        MPOShape(23, 17, (2, 4, 3), (3, 3, 2)),
        MPOShape(22, 18, (2, 4, 3), (3, 3, 2)),
        MPOShape(22, 17, (24,), (18,)),
        MPOShape(1, 1, (1, 1, 1), (1, 1, 1)),
    ],
    ids=str,
)
def test_other_sizes_or_factors(name: str, shape: MPOShape) -> None:
    """Nothing is broadcast, not even 1 x 1, and equal sizes in other factors are not regrouped in silence."""
    with pytest.raises(ShapeError, match=r"`self` .* `other` .*; expected the same size and the same factors"):
        BINARY[name](_random(), _random(shape))


def test_a_product_looks_at_the_inner_index_only() -> None:
    a, b = _random(), _random(MPOShape(17, 22, (3, 3, 2), (2, 4, 3)))
    assert (a @ b).shape == MPOShape(22, 22, (2, 4, 3), (2, 4, 3))
    with pytest.raises(ShapeError, match="`self` has 17 columns in the factors"):
        _ = a @ _random(MPOShape(18, 22, (3, 3, 2), (2, 4, 3)))


@pytest.mark.parametrize("name", BINARY)
def test_other_dtypes_and_devices(name: str) -> None:
    square = MPOShape(6, 6, (2, 3), (2, 3))
    a = _random(square)
    for other in (a.to(torch.float32), a.to("meta")):
        for pair in ((a, other), (other, a)):
            with pytest.raises(UsageError, match=r"`self` is torch.* on .*`other` is .*convert one of them with \.to"):
                BINARY[name](*pair)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float64("nan"), 10**400], ids=str)
@pytest.mark.parametrize("operation", [operator.mul, lambda a, x: x * a, operator.truediv])
def test_numbers_that_are_not_finite(operation: Any, number: Any) -> None:
    with pytest.raises(NonFiniteError, match=r"the factor is (nan|-?inf)"):
        operation(_random(), number)


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, np.float32(0), torch.tensor(0.0), torch.tensor(0)], ids=repr)
def test_division_by_zero(zero: Any) -> None:
    with pytest.raises(NonFiniteError, match="the divisor is 0"):
        _ = _random() / zero


@pytest.mark.parametrize(
    "factor", [True, False, 1j, np.complex64(1), Decimal(2), torch.tensor(True), torch.tensor(1j)], ids=repr
)
@pytest.mark.parametrize("operation", [operator.mul, lambda a, x: x * a, operator.truediv])
def test_factors_that_are_no_real_numbers(operation: Any, factor: Any) -> None:
    with pytest.raises(UsageError, match="expected a real number"):
        operation(_random(), factor)


@pytest.mark.parametrize("size", [(1,), (1, 1), (17,), (22, 17), (0,)], ids=str)
def test_factors_with_axes(size: tuple[int, ...]) -> None:
    """Not even one entry is broadcast."""
    for operation in (operator.mul, operator.truediv, lambda a, x: x * a):
        with pytest.raises(ShapeError, match="expected a number or a 0-d tensor, as nothing is broadcast"):
            operation(_random(), torch.ones(size))
    with pytest.raises(NonFiniteError, match="the factor is nan"):
        _ = _random() * torch.tensor(math.nan)


@pytest.mark.parametrize("other", [1, 0.0, True, 1j, torch.ones(22, 17)], ids=type)
def test_sums_with_numbers_and_tensors(other: Any) -> None:
    mpo = _random()
    for compute in (lambda: mpo + other, lambda: other + mpo, lambda: mpo - other):
        with pytest.raises(UsageError, match="beside an MPO; expected another MPO"):
            compute()


def test_operands_of_no_meaning() -> None:
    mpo = _random()
    for compute in (lambda: mpo * mpo, lambda: mpo / mpo, lambda: mpo @ 2, lambda: 2 @ mpo):
        with pytest.raises(UsageError, match="beside an MPO; expected a"):
            compute()
    # Anything else is Python's to refuse, after the other side had its turn.
    untyped: Any = mpo
    for compute in (lambda: mpo + "a", lambda: mpo * None, lambda: mpo @ [1.0], lambda: 2 / untyped):
        with pytest.raises(TypeError, match="unsupported operand"):
            compute()
    with pytest.raises(UsageError, match="inner: `other` is a Tensor"):
        mpo.inner(torch.ones(22, 17))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("factor", [3, np.float64(3), np.float32(3), np.int64(3), Fraction(3), torch.tensor(3.0)])
def test_numbers_of_any_library(factor: Any) -> None:
    mpo = _random()
    for scaled in (mpo * factor, factor * mpo, 9 * mpo / factor):
        assert isinstance(scaled, MPO)
        torch.testing.assert_close(scaled.to_matrix(), 3 * mpo.to_matrix(), rtol=1e-12, atol=0)


def test_the_sum_of_a_list() -> None:
    mpos = [_random(seed=seed) for seed in range(3)]
    assert sum(mpos).bonds == (9, 9)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UsageError, match="a \\+ b: found bool"):
        _ = False + mpos[0]


def test_tensors_of_another_size_dtype_or_device() -> None:
    mpo = _random()
    untyped: Any = mpo
    good = torch.ones(17, dtype=torch.float64)
    for compute, reason in (
        (lambda: mpo @ good[:1], r"a @ x: `x` has the shape \(1,\); expected 17 entries along its first axis"),
        (lambda: mpo @ torch.ones(5, 17, dtype=torch.float64), "expected 17 entries along its first axis"),
        (lambda: mpo @ torch.ones(17, 2, 3, dtype=torch.float64), "expected one or two axes"),
        (lambda: torch.ones(17, dtype=torch.float64) @ mpo, r"x @ a: .* expected 22 entries along its last axis"),
        (lambda: mpo.apply(torch.ones(3, 22, dtype=torch.float64)), r"apply: .*expected 17 entries along its last"),
        (lambda: mpo.apply(torch.tensor(1.0, dtype=torch.float64)), r"apply: `x` has the shape \(\)"),
    ):
        with pytest.raises(ShapeError, match=reason):
            compute()
    for compute, reason in (
        (lambda: mpo @ good.float(), "`x` is torch.float32 on cpu, the cores are torch.float64"),
        (lambda: mpo.apply(good.to("meta")), "`x` is torch.float64 on meta, the cores are torch.float64 on cpu"),
        (lambda: mpo.apply(good.long()), "`x` is torch.int64"),
        (lambda: mpo.apply(good.to(torch.complex128)), "`x` is torch.complex128"),
        (lambda: untyped.apply([1.0] * 17), "`x` is a list; expected a torch.Tensor"),
    ):
        with pytest.raises(UsageError, match=reason):
            compute()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
def test_operands_that_are_not_finite(bad: float) -> None:
    """Of cores and of tensors alike, and the message tells which."""
    mpo = _random()
    broken = MPO([mpo.cores[0], torch.full_like(mpo.cores[1], bad), mpo.cores[2]], SHAPE)
    x = torch.ones(2, 17, dtype=torch.float64)
    dirty = x.clone()
    dirty[1, 3] = bad
    for compute, reason in (
        (lambda: mpo + broken, "core 1 of `other`"),
        (lambda: broken - mpo, "core 1 of `self`"),
        (lambda: mpo @ broken.T, "core 1 of `other`"),
        (lambda: broken * 2, "core 1 of `self`"),
        (lambda: broken * 0, "core 1 of `self`"),
        (lambda: -broken, "core 1 of `self`"),
        (lambda: broken / 2, "core 1 of `self`"),
        (lambda: broken.apply(x), "apply: core 1 of `self`"),
        (lambda: mpo.apply(dirty), "apply: `x` holds NaN or infinity"),
        (lambda: mpo @ dirty.T, "a @ x: `x` holds NaN or infinity"),
        (lambda: mpo.inner(broken), "core 1 of 3 of `other`"),
        (lambda: broken.norm(), "core 1 of 3 of `self`"),
    ):
        with pytest.raises(NonFiniteError, match=reason):
            compute()


def test_results_beyond_the_dtype() -> None:
    shape = MPOShape(4, 4, (2, 2), (2, 2))
    mpo = MPO([torch.full((1, 2, 2, 1), 2e4, dtype=torch.float16)] * 2, shape)
    for compute in (
        lambda: mpo @ mpo,
        lambda: mpo.apply(torch.full((4,), 2e4, dtype=torch.float16)),
        lambda: mpo * 100,
        lambda: mpo.norm(),
        lambda: mpo.inner(mpo),
        lambda: mpo.trace(),
    ):
        with pytest.raises(NonFiniteError, match=r"torch\.float16.*convert"):
            compute()
    one = MPO([torch.full((1, 1, 1, 1), 6e4, dtype=torch.float16)], MPOShape(1, 1, (1,), (1,)))
    with pytest.raises(NonFiniteError, match=r"a \+ b: the result leaves the range"):
        _ = one + one


def test_the_trace_of_a_matrix_without_one() -> None:
    for shape in (SHAPE, MPOShape(6, 6, (2, 3), (3, 2)), MPOShape(5, 6, (2, 3), (2, 3))):
        with pytest.raises(ShapeError, match=r"trace: .* expected a square matrix with the same factors"):
            _random(shape).trace()


@settings(deadline=None, max_examples=500)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4),
    st.integers(0, 2**16),
    st.lists(st.integers(0, 3), max_size=3),
)
def test_apply_and_matmul(factors: list[tuple[int, int]], seed: int, batch: list[int]) -> None:
    """As those of the matrix, for any batch, also empty; padding of the columns does not enter."""
    rows, cols = zip(*factors, strict=True)
    shape = MPOShape(max(1, math.prod(rows) - seed % 3), max(1, math.prod(cols) - seed // 3 % 3), rows, cols)
    mpo = _random(shape, 3, seed)
    matrix = mpo.to_matrix()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*batch, shape.cols, generator=generator, dtype=torch.float64)
    limit: Any = {"rtol": 1e-12, "atol": 1e-12 * (1 + float(matrix.norm()))}
    torch.testing.assert_close(mpo.apply(x), x @ matrix.T, **limit)
    back = torch.randn(*batch, shape.rows, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(back @ mpo, back @ matrix, **limit)
    torch.testing.assert_close(mpo.T.apply(back), back @ matrix, **limit)
    if x.dim() == 1:
        torch.testing.assert_close(mpo @ x, matrix @ x, **limit)
    if x.dim() == 2:
        torch.testing.assert_close(mpo @ x.T, matrix @ x.T, **limit)
