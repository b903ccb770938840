from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpo_core import MPO, MPOShape, NonFiniteError
from mpo_core.operators.algebra import (
    frobenius_norm,
    inner_product,
    orthonormal_cores,
    orthonormal_sweep,
    product_cores,
    sum_cores,
    trace_of_cores,
    transpose_cores,
)
from mpo_core.operators.contraction import contract_matrix
from mpo_core.operators.operands import as_scalar
from mpo_core.operators.padding import digit_masks, mask_padding, mask_rows
from mpo_core.operators.scaling import normalize, scale_cores

often = settings(deadline=None, max_examples=500)
SEEDS = st.integers(0, 2**16)
FACTORS = st.lists(st.tuples(*[st.integers(1, 3)] * 3), min_size=1, max_size=4)


def _cut(size: int, seed: int) -> int:
    """A true size that the factors fit: without padding in half of the cases."""
    return size if seed % 2 else max(1, size - seed // 2 % 5)


def _shapes(factors: list[tuple[int, int, int]], seed: int) -> tuple[MPOShape, MPOShape]:
    """Of two matrices that can be multiplied, with padding or without it on all three sides."""
    sides = tuple(zip(*factors, strict=True))
    rows, inner, cols = (_cut(math.prod(side), seed >> shift) for side, shift in zip(sides, (0, 4, 8), strict=True))
    return MPOShape(rows, inner, sides[0], sides[1]), MPOShape(inner, cols, sides[1], sides[2])


def _cores(shape: MPOShape, seed: int) -> list[Tensor]:
    """Random cores with any bonds up to 4, also above what their sides allow; nothing is zero in the padding."""
    generator = torch.Generator().manual_seed(seed)
    bonds = torch.randint(1, 5, (shape.n - 1,), generator=generator).tolist()
    ends = (1, *bonds, 1)
    sizes = zip(ends[:-1], shape.row_factors, shape.col_factors, ends[1:], strict=True)
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


def _matrix(cores: list[Tensor], shape: MPOShape) -> Tensor:
    return contract_matrix(cores, shape)


def _padded(cores: list[Tensor], shape: MPOShape) -> Tensor:
    full = MPOShape(shape.padded_rows, shape.padded_cols, shape.row_factors, shape.col_factors)
    return contract_matrix(cores, full)


def _bonds(cores: list[Tensor]) -> list[int]:
    return [core.shape[-1] for core in cores[:-1]]


def _size(*operands: list[Tensor]) -> float:
    """What the numbers on the way to a small result may be as large as: the product of the norms of all cores."""
    return 1e-2 * math.prod(float(core.norm()) for cores in operands for core in cores)


def _close(found: Tensor, expected: Tensor, scale: float | Tensor = 0.0) -> None:
    limit = 1e-12 * max(float(expected.norm()), float(scale))
    assert float((found - expected).norm()) <= limit


@often
@given(FACTORS, SEEDS)
def test_sum(factors, seed):
    """A sum is linear, commutes, and its bonds add."""
    shape = _shapes(factors, seed)[0]
    a, b = _cores(shape, seed), _cores(shape, seed + 1)
    A, B = _matrix(a, shape), _matrix(b, shape)
    total = sum_cores(a, b)
    _close(_matrix(total, shape), A + B, _size(a) + _size(b))
    _close(_matrix(sum_cores(b, a), shape), A + B, _size(a) + _size(b))
    assert _bonds(total) == [x + y for x, y in zip(_bonds(a), _bonds(b), strict=True)]


@often
@given(FACTORS, SEEDS)
def test_product(factors, seed):
    """Of padded matrices, whose padding holds numbers, the product is that of the true parts."""
    first, second = _shapes(factors, seed)
    a, b = _cores(first, seed), _cores(second, seed + 1)
    A, B = _matrix(a, first), _matrix(b, second)
    shape = MPOShape(first.rows, second.cols, first.row_factors, second.col_factors)
    product = product_cores(a, b, first)
    _close(_matrix(product, shape), A @ B, _size(a, b))
    bonds = [x * y for x, y in zip(_bonds(a), _bonds(b), strict=True)]
    if first.cols == first.padded_cols:
        assert _bonds(product) == bonds
    else:
        assert all(bond <= found <= 2 * bond for bond, found in zip(bonds, _bonds(product), strict=True))


def test_padding_would_spoil_a_plain_product():
    """What the projector is for: cut cores hold numbers where the matrix was padded with zeros."""
    shape, turned = MPOShape(8, 7, (2, 4), (2, 4)), MPOShape(7, 8, (2, 4), (2, 4))
    matrix = torch.randn(8, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = MPO.from_matrix(matrix, shape, bonds=2)
    b = MPO.from_matrix(matrix.T, turned, bonds=2)
    expected = a.to_matrix() @ b.to_matrix()
    plain = _padded(list(a.cores), shape) @ _padded(list(b.cores), turned)
    assert float((plain - expected).norm()) > 1e-3
    torch.testing.assert_close((a @ b).to_matrix(), expected, rtol=1e-12, atol=1e-12)


@often
@given(FACTORS, SEEDS)
def test_transpose(factors, seed):
    shape = _shapes(factors, seed)[0]
    cores = _cores(shape, seed)
    turned = MPOShape(shape.cols, shape.rows, shape.col_factors, shape.row_factors)
    _close(_padded(transpose_cores(cores), turned), _padded(cores, shape).T, _size(cores))


@often
@given(FACTORS, SEEDS)
def test_inner_product(factors, seed):
    """Against the dense one; symmetric, linear, and within the bound of Cauchy and Schwarz."""
    shape = _shapes(factors, seed)[0]
    a, b = _cores(shape, seed), _cores(shape, seed + 1)
    A, B = _matrix(a, shape), _matrix(b, shape)
    scale = A.norm() * B.norm()
    noise = _size(a, b)
    found = inner_product(a, b, shape)
    _close(found, (A * B).sum(), scale + noise)
    _close(found, inner_product(b, a, shape), scale + noise)
    _close(inner_product(sum_cores(a, b), b, shape), (A * B).sum() + (B * B).sum(), scale + B.norm() ** 2 + noise)
    assert abs(float(found)) <= float(frobenius_norm(a, shape) * frobenius_norm(b, shape)) * (1 + 1e-12) + 1e-12 * noise
    _close(inner_product(a, a, shape), frobenius_norm(a, shape) ** 2, noise)


@often
@given(FACTORS, SEEDS)
def test_norm(factors, seed):
    """Against the dense one; homogeneous, and within the triangle inequality."""
    shape = _shapes(factors, seed)[0]
    a, b = _cores(shape, seed), _cores(shape, seed + 1)
    A, B = _matrix(a, shape), _matrix(b, shape)
    whole = _size(a) + _size(b)
    _close(frobenius_norm(a, shape), A.norm(), whole)
    _close(frobenius_norm(scale_cores(a, as_scalar(-3.0, "x"), "x"), shape), 3 * A.norm(), whole)
    assert float(frobenius_norm(sum_cores(a, b), shape)) <= float(A.norm() + B.norm()) + 1e-12 * whole


@often
@given(FACTORS, SEEDS)
def test_trace(factors, seed):
    """Against the dense one; of a product it does not depend on the order."""
    sides = [(i, j, i) for i, j, _ in factors]
    first, second = _shapes(sides, seed)
    second = MPOShape(second.rows, first.rows, second.row_factors, second.col_factors)
    a, b = _cores(first, seed), _cores(second, seed + 1)
    A, B = _matrix(a, first), _matrix(b, second)
    scale = A.norm() * B.norm()
    noise = _size(a, b)
    rows = MPOShape(first.rows, first.rows, first.row_factors, first.row_factors)
    cols = MPOShape(first.cols, first.cols, first.col_factors, first.col_factors)
    _close(trace_of_cores(product_cores(a, b, first), rows), (A @ B).trace(), scale + noise)
    _close(trace_of_cores(product_cores(b, a, second), cols), (A @ B).trace(), scale + noise)
    square = _cores(rows, seed)
    _close(trace_of_cores(square, rows), _matrix(square, rows).trace(), _size(square))


@often
@given(FACTORS, SEEDS, st.floats(-1e30, 1e30, allow_subnormal=False))
def test_scale(factors, seed, number):
    """Linear: the multiple of a sum is the sum of the multiples; one core takes what one can."""
    shape = _shapes(factors, seed)[0]
    a, b = _cores(shape, seed), _cores(shape, seed + 1)
    scalar = as_scalar(number, "x")
    scaled = scale_cores(a, scalar, "x")
    _close(_matrix(scaled, shape), number * _matrix(a, shape), abs(number) * _size(a))
    if number == 0 or abs(number) > 1e-100:
        assert sum(new is not old for new, old in zip(scaled, a, strict=True)) == 1
    total = _matrix(scale_cores(sum_cores(a, b), scalar, "x"), shape)
    parts = _matrix(sum_cores(scaled, scale_cores(b, scalar, "x")), shape)
    _close(total, parts, abs(number) * (_size(a) + _size(b)))
    if number != 0:
        back = scale_cores(scaled, scalar.inverse("x"), "x")
        _close(_padded(back, shape), _padded(a, shape), _size(a))


@often
@given(FACTORS, SEEDS, st.integers(0, 3))
def test_orthonormal_cores(factors, seed, site):
    """The same matrix; every core but one is orthonormal towards it, whatever the rank, and that one has the norm."""
    shape = _shapes(factors, seed)[0]
    cores, site = _cores(shape, seed), site % shape.n
    if seed % 7 == 0:
        cores[seed % shape.n].zero_()
    if seed % 5 == 0:
        cores = sum_cores(cores, cores)
    found = orthonormal_cores(cores, site)
    whole = _padded(cores, shape)
    _close(_padded(found, shape), whole, _size(cores))
    _assert_orthonormal(found, site)
    assert float(found[site].norm()) == pytest.approx(float(whole.norm()), rel=1e-12, abs=1e-12 * _size(cores))
    assert all(after <= before for before, after in zip(_bonds(cores), _bonds(found), strict=True))


def _assert_orthonormal(cores: list[Tensor], site: int) -> None:
    for k, core in enumerate(cores):
        if k != site:
            side = core.flatten(0, 2).T if k < site else core.flatten(1)
            one = torch.eye(len(side), dtype=side.dtype)
            torch.testing.assert_close(side @ side.T, one, rtol=1e-12, atol=1e-12)


@often
@given(FACTORS, SEEDS)
def test_masks_leave_the_matrix_alone_and_zero_the_padding(factors, seed):
    shape = _shapes(factors, seed)[0]
    cores = _cores(shape, seed)
    rows = _padded(mask_rows(cores, shape.row_factors, shape.rows), shape)
    assert not rows[shape.rows :].any()
    _close(rows[: shape.rows], _padded(cores, shape)[: shape.rows], _size(cores))
    both = _padded(mask_padding(cores, shape), shape)
    _close(both[: shape.rows, : shape.cols], _matrix(cores, shape), _size(cores))
    assert not both[shape.rows :].any()
    assert not both[:, shape.cols :].any()


def test_digit_masks_of_every_size():
    """All sizes of all factors up to 4: a one for every index below the size, and bonds of at most 2."""
    for factors in itertools.chain.from_iterable(itertools.product(range(1, 5), repeat=n) for n in (1, 2, 3)):
        whole = math.prod(factors)
        for size in range(1, whole + 1):
            masks = digit_masks(factors, size)
            assert [mask.shape[1] for mask in masks] == list(factors)
            assert max(mask.shape[2] for mask in masks) <= 2
            values = masks[0]
            for mask in masks[1:]:
                values = torch.tensordot(values, mask, dims=1)
            assert torch.equal(values.flatten(), (torch.arange(whole) < size).float())
    # Bonds of 1 where the digits that follow decide nothing: 12 of 4 * 2 * 2 is 3 of 4.
    assert [mask.shape[2] for mask in digit_masks((4, 2, 2), 12)] == [1, 1, 1]
    assert [mask.shape[2] for mask in digit_masks((4, 2, 2), 13)] == [2, 2, 1]


@pytest.mark.parametrize("exponents", [(0, 0, 0), (-300, 300, 0), (200, 100, -250), (-150, -150, 20)])
def test_norm_and_inner_product_stay_in_range(exponents):
    """The squares of the cores leave the range of float64, and some of their products; the results do not."""
    shape = MPOShape(11, 12, (3, 2, 2), (2, 2, 3))
    cores = _cores(shape, 3)
    shifted = [core * 10.0**e for core, e in zip(cores, exponents, strict=True)]
    against = [core * 10.0**-e for core, e in zip(cores, exponents, strict=True)]
    total = sum(exponents)
    expected = float(_matrix(cores, shape).norm())
    assert float(inner_product(shifted, against, shape)) == pytest.approx(expected**2, rel=1e-9)
    assert float(frobenius_norm(shifted, shape)) / 10.0**total == pytest.approx(expected, rel=1e-9)
    leaves = [core.clone().requires_grad_() for core in shifted]
    norm = frobenius_norm(leaves, shape)
    gradients = torch.autograd.grad(norm, leaves)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        # Euler: the norm is homogeneous of degree one in every core.
        assert gradient.isfinite().all()
        assert float((leaf * (gradient / norm)).detach().sum()) == pytest.approx(1.0, rel=1e-9)


def test_norms_beyond_float64_are_refused():
    shape = MPOShape(4, 4, (2, 2), (2, 2))
    cores = [core * 1e200 for core in _cores(shape, 0)]
    with pytest.raises(NonFiniteError, match=r"norm: the result is about 2\^13\d\d, which torch.float64 cannot hold"):
        frobenius_norm(cores, shape)
    with pytest.raises(NonFiniteError, match=r"inner: the result is about 2\^26\d\d"):
        inner_product(cores, cores, shape)


def test_norm_of_a_small_difference():
    """The square root of an inner product sees nothing below the square root of the precision; the norm does."""
    shape = MPOShape(24, 24, (2, 3, 4), (4, 3, 2))
    a = MPO(_cores(shape, 1), shape)
    nearby = MPO([a.cores[0] + 1e-11 * torch.ones_like(a.cores[0]), *a.cores[1:]], shape)
    expected = (a.to_matrix() - nearby.to_matrix()).norm()
    assert float((a - nearby).norm()) == pytest.approx(float(expected), rel=1e-3)
    assert float((a - a).norm()) < 1e-13 * float(a.norm())


def test_the_norm_of_nothing():
    shape = MPOShape(5, 5, (2, 3), (3, 2))
    leaves = [torch.zeros(1, 2, 3, 2).requires_grad_(), torch.ones(2, 3, 2, 1).requires_grad_()]
    norm = frobenius_norm(leaves, shape)
    assert not norm.detach().any()
    assert not any(gradient.any() for gradient in torch.autograd.grad(norm, leaves))


def test_results_beyond_a_dtype_are_refused():
    shape = MPOShape(4, 4, (2, 2), (2, 2))
    cores = [torch.full((1, 2, 2, 1), 250.0, dtype=torch.float16)] * 2
    assert float(frobenius_norm([cores[0], cores[1] / 64], shape)) == pytest.approx(250 * 250 / 16, rel=1e-3)
    for compute in (
        lambda: frobenius_norm(cores, shape),
        lambda: inner_product(cores, cores, shape),
        lambda: trace_of_cores(cores, shape),
    ):
        with pytest.raises(NonFiniteError, match=r"about 2\^\d+, which torch.float16 cannot hold"):
            compute()
    with pytest.raises(NonFiniteError, match=r"canonicalize: the result leaves the range of torch.float16"):
        orthonormal_cores(cores, 0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
def test_cores_that_are_not_finite_are_named(bad):
    shape = MPOShape(4, 4, (2, 2), (2, 2))
    good = _cores(shape, 0)
    broken = [good[0], good[1].clone()]
    broken[1][0, 1, 1, 0] = bad
    for compute, name in (
        (lambda: inner_product(good, broken, shape), "other"),
        (lambda: inner_product(broken, good, shape), "self"),
        (lambda: frobenius_norm(broken, shape), "self"),
        (lambda: trace_of_cores(broken, shape), "self"),
        (lambda: orthonormal_cores(broken, 0), "self"),
    ):
        with pytest.raises(NonFiniteError, match=f"core 1 of 2 of `{name}` holds NaN or infinity"):
            compute()
    with pytest.raises(NonFiniteError, match="core 1 of `self` holds NaN or infinity"):
        scale_cores(broken, as_scalar(2.0, "x"), "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_number_goes_where_there_is_room(dtype):
    """No core overflows or loses its small entries while another one can take the number."""
    info = torch.finfo(dtype)
    shape = MPOShape(8, 8, (2, 2, 2), (2, 2, 2))
    large, small = math.sqrt(info.max) / 2, math.sqrt(info.tiny) * 2
    cores = [core.to(dtype) for core in _cores(shape, 0)]
    for first, number in ((large, large), (small, 1 / large), (large, info.max / 8), (info.max / 8, 16.0)):
        filled = [torch.full_like(cores[0], first), *cores[1:]]
        scaled = scale_cores(filled, as_scalar(number, "x"), "x")
        assert all(core.isfinite().all() for core in scaled)
        pairs = zip(scaled, filled, strict=True)
        ratio = [float(new.double().abs().amax() / old.double().abs().amax()) for new, old in pairs]
        assert math.prod(ratio) == pytest.approx(number, rel=8 * info.eps)


def test_a_number_is_shared_where_no_core_can_take_it():
    shape = MPOShape(4, 4, (2, 2), (2, 2))
    cores = [torch.full((1, 2, 2, 1), 4.0, dtype=torch.float16), torch.full((1, 2, 2, 1), 4.0, dtype=torch.float16)]
    scaled = scale_cores(cores, as_scalar(1e7, "x"), "x")
    assert [core.isfinite().all().item() for core in scaled] == [True, True]
    product = scaled[0].double().amax() * scaled[1].double().amax()
    assert float(product) == pytest.approx(16e7, rel=1e-3)
    with pytest.raises(NonFiniteError, match=r"x: the result leaves the range of torch\.float16"):
        scale_cores(cores, as_scalar(1e9, "x"), "x")
    zero = scale_cores([torch.zeros_like(cores[0]), cores[1]], as_scalar(1e300, "x"), "x")
    assert not zero[0].any()
    # One core alone can be filled to the brim.
    (full,) = scale_cores([torch.full((1, 1, 1, 1), 40000.0, dtype=torch.float16)], as_scalar(1.5, "x"), "x")
    assert float(full) == 60000.0
    assert float(frobenius_norm(scale_cores(cores, as_scalar(1e-5, "x"), "x"), shape)) == pytest.approx(64e-5, rel=1e-2)


@often
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4))
def test_a_power_of_two_is_taken_out_exactly(values):
    tensor = torch.tensor(values, dtype=torch.float64)
    scaled, exponent = normalize(tensor)
    if tensor.any():
        assert 1 <= float(scaled.abs().max()) < 2
    assert scaled.tolist() == [math.ldexp(value, -int(exponent)) for value in values]


@often
@given(FACTORS, SEEDS, st.integers(0, 3))
def test_a_sweep_and_its_power_of_two(factors, seed, site):
    shape = _shapes(factors, seed)[0]
    cores, site = _cores(shape, seed), site % shape.n
    swept, exponent, noise = orthonormal_sweep(cores, site)
    assert 1 <= float(swept[site].abs().max()) < 2
    norm = float(swept[site].norm())
    expected = float(_padded(cores, shape).norm())
    assert norm * 2.0 ** float(exponent) == pytest.approx(expected, rel=1e-12, abs=1e-12 * _size(cores))
    assert float(noise) * 2.0 ** float(exponent) <= 1e-12 * _size(cores)
