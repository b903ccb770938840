from __future__ import annotations

import importlib
import math
import pkgutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mpo_core
from mpo_core import BondError, MPOShape, NonFiniteError, ShapeError, UsageError, decompose, error_bound

GAUGES = ("symmetric", "left", "right", "central", "identity")


def _random(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 6),
    st.sampled_from(GAUGES),
    st.sampled_from([1.0, 1e-30, 1e30]),
)
def test_full_bonds_are_lossless(rows, cols, n, gauge, scale):
    matrix = scale * _random(rows, cols)
    mpo = decompose(matrix, n=n, gauge=gauge)
    assert mpo.bonds == mpo.shape.full_bonds
    assert float((mpo.to_matrix() - matrix).norm()) <= 1e-12 * float(matrix.norm())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=5),
    st.lists(st.integers(1, 12), min_size=4, max_size=4),
    st.sampled_from(["slice", "sequential"]),
    st.integers(0, 99),
)
def test_the_error_bound_is_never_violated(factors, bonds, method, seed):
    """Liu et al. 2021, Eq. 4, for any factors, balanced or not."""
    rows, cols = zip(*factors, strict=True)
    shape = MPOShape(math.prod(rows), math.prod(cols), rows, cols)
    matrix = _random(shape.rows, shape.cols, seed)
    kept = shape.clip_bonds(bonds[: shape.n - 1])
    spectra = decompose(matrix, shape).bond_spectra()
    error = float((decompose(matrix, shape, kept, method=method).to_matrix() - matrix).norm())
    assert error <= error_bound(spectra, kept) + 1e-12 * float(matrix.norm())


def test_spectra_are_the_singular_values_of_the_unfoldings():
    shape = MPOShape(24, 30, (2, 4, 3), (5, 2, 3))
    matrix = _random(24, 30)
    digits = matrix.reshape(2, 4, 3, 5, 2, 3).permute(0, 3, 1, 4, 2, 5)
    spectra = decompose(matrix, shape).bond_spectra()
    for spectrum, split in zip(spectra, (2, 4), strict=True):
        unfolding = digits.reshape(math.prod(digits.shape[:split]), -1)
        torch.testing.assert_close(spectrum, torch.linalg.svdvals(unfolding), rtol=1e-10, atol=1e-10)


def test_padding_rows_are_zero():
    shape = MPOShape(5, 7, (2, 3), (4, 2))
    mpo = decompose(_random(5, 7), shape)
    whole = type(mpo)(mpo.cores, MPOShape(6, 8, (2, 3), (4, 2))).to_matrix()
    assert float(whole[5:].abs().max()) < 1e-14
    assert float(whole[:, 7:].abs().max()) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("factors", [((3, 4, 2), (2, 4, 3)), ((9, 1, 3), (8, 2, 2)), ((1, 2, 12), (2, 2, 6))])
def test_the_identity_gauge_is_exact_to_the_bit(dtype, factors):
    """Also where the full core is not the central one."""
    rows, cols = (math.prod(f) for f in factors)
    matrix = _random(rows, cols).to(dtype)
    mpo = decompose(matrix, MPOShape(rows, cols, *factors), gauge="identity")
    assert mpo.dtype == dtype
    assert mpo.bonds == mpo.shape.full_bonds
    assert torch.equal(mpo.to_matrix(), matrix)


@pytest.mark.parametrize(
    ("dtype", "error"),
    [(torch.float16, 3e-3), (torch.bfloat16, 2e-2), (torch.float32, 1e-6), (torch.float64, 1e-14)],
)
def test_dtypes_are_kept(dtype, error):
    matrix = _random(48, 64).to(dtype)
    mpo = decompose(matrix)
    assert {core.dtype for core in mpo.cores} == {dtype}
    assert float((mpo.to_matrix() - matrix).double().norm() / matrix.double().norm()) < error


@pytest.mark.parametrize("gauge", GAUGES)
def test_zero_matrix(gauge):
    mpo = decompose(torch.zeros(12, 10), n=3, gauge=gauge)
    assert all(core.isfinite().all() for core in mpo.cores)
    assert not mpo.to_matrix().any()


def test_strides_gradient_and_input_are_left_alone():
    base = _random(20, 12).requires_grad_()
    view = base.T[::2]
    before = base.detach().clone()
    for gauge in GAUGES:
        mpo = decompose(view, n=3, gauge=gauge)
        assert not any(core.requires_grad for core in mpo.cores)
        torch.testing.assert_close(mpo.to_matrix(), view.detach(), rtol=1e-12, atol=1e-12)
        for core in mpo.cores:
            assert core.is_contiguous()
            core.zero_()
    assert torch.equal(base.detach(), before)
    one = decompose(before, n=1, gauge="identity")
    one.cores[0].zero_()
    assert before.any()


def test_ill_conditioned_matrix():
    u, v = (torch.linalg.qr(_random(64, 64, seed))[0] for seed in (0, 1))
    matrix = u * torch.logspace(0, -14, 64, dtype=torch.float64) @ v
    mpo = decompose(matrix)
    assert float((mpo.to_matrix() - matrix).norm() / matrix.norm()) < 1e-14
    values = decompose(matrix, MPOShape(64, 64, (8, 8), (8, 8))).bond_spectra()[0]
    assert values.isfinite().all()


def test_five_cores_with_full_outer_bonds_are_three():
    """The outermost cores are then square: pure gauge, at no gain."""
    matrix = _random(96, 96)
    five = MPOShape(96, 96, (2, 3, 4, 2, 2), (2, 2, 6, 2, 2))
    three = MPOShape(96, 96, (6, 4, 4), (4, 6, 4))
    assert five.full_bonds == (4, *three.full_bonds, 4)
    for kept in ((10, 7), (3, 12), (1, 1)):
        errors = [
            float((decompose(matrix, shape, bonds).to_matrix() - matrix).norm())
            for shape, bonds in ((five, (4, *kept, 4)), (three, kept))
        ]
        assert errors[0] == pytest.approx(errors[1], rel=1e-9)


@pytest.mark.parametrize("gauge", ["symmetric", "left", "right", "central"])
@pytest.mark.parametrize("method", ["slice", "sequential"])
def test_bonds_gauge_and_method_together(gauge, method):
    matrix = _random(36, 36)
    mpo = decompose(matrix, n=4, bonds=5, gauge=gauge, method=method)
    expected = decompose(matrix, n=4).truncate(5, method)
    assert mpo.bonds == expected.bonds == (4, 5, 5)
    torch.testing.assert_close(mpo.to_matrix(), expected.to_matrix(), rtol=1e-10, atol=1e-10)


def test_parameter_counts_are_those_of_the_shape():
    for bonds in (None, 7, (2, 9, 9, 3)):
        mpo = decompose(_random(60, 48), bonds=bonds)
        assert mpo.n_params == mpo.shape.n_params(bonds)


def test_bad_input_is_named():
    for value in (math.nan, math.inf, -math.inf):
        matrix = _random(6, 6)
        matrix[2, 3] = value
        with pytest.raises(NonFiniteError, match="`matrix` holds NaN or infinity in 1 of 36"):
            decompose(matrix)
    for size in ((6,), (2, 3, 4), (0, 4), (4, 0)):
        with pytest.raises(ShapeError, match="two dimensions"):
            decompose(torch.ones(size))
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(UsageError, match="floating"):
            decompose(torch.ones(4, 4, dtype=dtype))
    with pytest.raises(ShapeError, match="`shape` is for 6x4"):
        decompose(torch.ones(4, 6), MPOShape.choose(6, 4, 2))
    with pytest.raises(BondError):
        decompose(torch.ones(4, 6), bonds=0)
    with pytest.raises(UsageError, match="gauge"):
        decompose(torch.ones(4, 6), gauge="best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="method"):
        decompose(torch.ones(4, 6), method="best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="lossless"):
        decompose(torch.ones(4, 6), bonds=1, gauge="identity")


def test_no_submodule_hides_a_public_name():
    """Importing a submodule sets it as an attribute of the package, over a function of the same name."""
    submodules = {module.name for module in pkgutil.iter_modules(mpo_core.__path__)}
    assert not submodules & set(mpo_core.__all__)
    for name in mpo_core.__all__:
        home = getattr(mpo_core, name)
        assert getattr(importlib.import_module(home.__module__), name) is home
    assert set(dir(mpo_core)) <= set(mpo_core.__all__)
