"""Decompositions and operators: 500 drawn cases each are finite and right, or refused with a typed error."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpo_core import (
    MPO,
    MPOError,
    MPOShape,
    decompose,
    decompose_batch,
    decompose_for_outputs,
    decompose_with_spectra,
    schmidt_values,
)
from mpo_core.decomposing.choices import ANY_GAUGES, METHODS
from mpo_core.operators.gauge import GAUGES

often = settings(deadline=None, max_examples=500)
EXPONENTS = {torch.float64: 150, torch.float32: 15, torch.bfloat16: 15, torch.float16: 2}
DTYPES = st.sampled_from([torch.float64, torch.float64, torch.float32, torch.bfloat16, torch.float16])
KINDS = ["normal", "zero", "rank-one", "halves", "identity", "decaying", "one-entry"]
BAD_NUMBERS = [0, -1, -(2**70), 2**70, True, 1.5, math.nan, math.inf, -math.inf, "3", 1j]


def _values(rows: int, cols: int, kind: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(rows, cols, generator=generator, dtype=torch.float64)
    if kind == "zero":
        return torch.zeros_like(normal)
    if kind == "rank-one":
        return normal[:, :1] * normal[:1]
    if kind == "halves":
        return normal[: -(-rows // 2)].repeat(2, 1)[:rows]
    if kind == "identity":
        return torch.eye(rows, cols, dtype=torch.float64)
    if kind == "decaying":
        return normal * torch.logspace(0, -8, cols, dtype=torch.float64)
    if kind == "one-entry":
        return torch.zeros_like(normal).index_put_((torch.tensor(rows - 1), torch.tensor(0)), normal[0, 0])
    return normal


def _strided(matrix: Tensor, stride: str) -> Tensor:
    """The same values in another place of the memory."""
    if stride == "transposed":
        return matrix.T.contiguous().T
    if stride == "slice":
        return matrix.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2]
    return matrix


@st.composite
def matrices(draw: Any, dtypes: Any = DTYPES) -> Tensor:
    """Of any size up to 24, structure, scale, dtype and stride."""
    dtype, limit = (found := draw(dtypes)), EXPONENTS[found]
    values = _values(draw(SIZES), draw(SIZES), draw(st.sampled_from(KINDS)), draw(SEEDS))
    values = (values * 10.0 ** draw(st.integers(-limit, limit))).to(dtype)
    return _strided(values, draw(st.sampled_from(["plain", "transposed", "slice"])))


SIZES = st.integers(1, 24)
SEEDS = st.integers(0, 2**16)


@st.composite
def shapes(draw: Any, matrix: Tensor) -> MPOShape:
    """Chosen factors, or arbitrary ones with padding."""
    rows, cols = matrix.shape
    if draw(st.booleans()):
        return MPOShape.choose(rows, cols, draw(st.integers(1, 6)), draw(st.booleans()))
    pairs = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=3))
    row_factors, col_factors = [i for i, _ in pairs], [j for _, j in pairs]
    row_factors.append(-(-rows // math.prod(row_factors)))
    col_factors.append(-(-cols // math.prod(col_factors)))
    return MPOShape(rows, cols, tuple(row_factors), tuple(col_factors))


@st.composite
def caps(draw: Any, shape: MPOShape) -> Any:
    """None, one cap, or one each."""
    one = st.integers(1, 12)
    return draw(st.one_of(st.none(), one, st.lists(one, min_size=shape.n - 1, max_size=shape.n - 1)))


@st.composite
def bad_matrices(draw: Any) -> Any:
    """What no decomposition may take."""
    rows, cols = draw(SIZES), draw(SIZES)
    good = torch.ones(rows, cols, dtype=torch.float64)
    kind = draw(st.sampled_from(["number", "dtype", "axes", "empty", "none"]))
    if kind == "number":
        good = good.to(draw(DTYPES))
        good[draw(st.integers(0, rows - 1)), draw(st.integers(0, cols - 1))] = draw(
            st.sampled_from([math.nan, math.inf, -math.inf])
        )
        return good
    if kind == "dtype":
        return good.to(draw(st.sampled_from([torch.complex64, torch.complex128, torch.int64, torch.uint8, torch.bool])))
    if kind == "axes":
        return draw(st.sampled_from([good[0], good[0, 0], good[None], good[:, :, None]]))
    if kind == "empty":
        return draw(st.sampled_from([good[:0], good[:, :0]]))
    return draw(st.sampled_from([None, [[1.0]], 1.0, "matrix"]))


def _distance(found: Tensor, expected: Tensor) -> float:
    """Frobenius distance over the norm of what is expected, for any scale; absolute for zeros."""
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    scale = float(expected.double().abs().max()) or 1.0
    expected, found = expected.double() / scale, found.double() / scale
    return float((found - expected).norm()) / (float(expected.norm()) or 1.0)


def _relative_spectra(matrix: Tensor, shape: MPOShape) -> list[Tensor]:
    """Singular values of all unfoldings over the norm, by a dense SVD in float64."""
    exact = matrix.double() / (float(matrix.double().abs().max()) or 1.0)
    padded = torch.zeros(shape.padded_rows, shape.padded_cols, dtype=torch.float64)
    padded[: shape.rows, : shape.cols] = exact / (float(exact.norm()) or 1.0)
    pairs = [axis for k in range(shape.n) for axis in (k, shape.n + k)]
    digits = padded.reshape(*shape.row_factors, *shape.col_factors).permute(pairs)
    sizes = [i * j for i, j in zip(shape.row_factors, shape.col_factors, strict=True)]
    return [torch.linalg.svdvals(digits.reshape(math.prod(sizes[:k]), -1)) for k in range(1, shape.n)]


def _bound(spectra: list[Tensor], bonds: Any) -> float:
    """Liu et al. 2021, Eq. 4, relative."""
    return math.hypot(*(float(values[bond:].norm()) for values, bond in zip(spectra, bonds, strict=True)))


def _rounding(dtype: torch.dtype, n: int, precision: str = "accurate") -> float:
    """What storing n cores in a dtype may cost, relative to the norm."""
    eps = torch.finfo(dtype).eps
    return 8 * n * (max(eps, 4e-7) if precision == "fast" and dtype != torch.float64 else max(eps, 4e-15))


def _or_refused(call: Any) -> Any:
    """The result, or None where it is refused with a typed error whose message says where."""
    try:
        return call()
    except MPOError as error:
        if len(str(error)) <= 20:
            raise
        return None


@often
@given(st.data(), matrices(), st.sampled_from(ANY_GAUGES), st.sampled_from(METHODS), st.booleans(), st.integers(0, 1))
def test_decompose(data, matrix, gauge, method, fast, refine):
    """Lossless or within the bound of the dense spectra; refused only where options or the dtype allow nothing."""
    shape = data.draw(shapes(matrix))
    bonds = data.draw(caps(shape))
    before = matrix.clone()
    precision = "fast" if fast else "accurate"
    options: Any = {"gauge": gauge, "method": method, "precision": precision, "refine": refine}
    mpo = _or_refused(lambda: decompose(matrix, shape, bonds, **options))
    assert torch.equal(matrix, before)
    full = shape.clip_bonds(bonds) == shape.full_bonds
    if mpo is None:
        contradiction = (refine and method in ("slice", "sequential")) or (gauge == "identity" and not full)
        assert contradiction or matrix.dtype == torch.float16
        return
    assert (mpo.dtype, mpo.shape) == (matrix.dtype, shape)
    assert all(torch.isfinite(core).all() for core in mpo.cores)
    assert all(bond <= cap for bond, cap in zip(mpo.bonds, shape.clip_bonds(bonds), strict=True))
    allowed = 0.0 if full else _bound(_relative_spectra(matrix, shape), shape.clip_bonds(bonds))
    if method == "randomized":  # near the best bases, not at them; a projection in any case
        allowed = min(1.25 * allowed, 1.0)
    exact = MPO([core.double() for core in mpo.cores], shape).to_matrix()
    assert _distance(exact, matrix) <= allowed * (1 + 1e-9) + _rounding(matrix.dtype, shape.n, precision)


@often
@given(
    st.data(),
    matrices(st.sampled_from([torch.float64, torch.float32])),
    st.sampled_from(["tolerance", "ratio", "max_params", "max_bytes"]),
    st.one_of(st.floats(0, 2), st.integers(1, 5000), st.sampled_from(BAD_NUMBERS)),
)
def test_decompose_within_a_limit(data, matrix, name, limit):
    """Limits are kept, or refused: negative, fractional, NaN, bool, or below what bonds of 1 need."""
    shape = data.draw(shapes(matrix))
    options: Any = {name: limit}
    mpo = _or_refused(lambda: decompose(matrix, shape, **options))
    if mpo is None:
        return
    assert type(limit) in (int, float)
    if name == "tolerance":
        assert _distance(mpo.to_matrix(), matrix) <= limit + _rounding(matrix.dtype, shape.n)
    else:
        size = mpo.n_params * (matrix.element_size() if name == "max_bytes" else 1)
        assert size <= (limit * matrix.numel() if name == "ratio" else limit)
        assert _distance(mpo.to_matrix(), matrix) <= 1 + _rounding(matrix.dtype, shape.n)


@often
@given(st.data(), matrices(), st.integers(0, 4))
def test_decompose_batch(data, matrix, count):
    """Each as by itself, whatever the scales of the others; mixed sizes and dtypes are refused."""
    shape = data.draw(shapes(matrix))
    bonds = data.draw(caps(shape))
    batch = [matrix, torch.zeros_like(matrix), (matrix.double() * 1e-3).to(matrix.dtype), matrix.flip(0)][:count]
    found = _or_refused(lambda: decompose_batch(batch, shape, bonds))
    if found is None:
        assert matrix.dtype == torch.float16
        return
    assert len(found) == count
    for mpo, each in zip(found, batch, strict=True):
        allowed = _bound(_relative_spectra(each, shape), shape.clip_bonds(bonds))
        exact = MPO([core.double() for core in mpo.cores], shape).to_matrix()
        slack = 20 * torch.finfo(each.dtype).tiny / (float(each.double().abs().max()) or 1.0)
        assert _distance(exact, each) <= allowed * (1 + 1e-9) + _rounding(each.dtype, shape.n) + slack * each.numel()
    if count > 1:
        for odd in (matrix.double() if matrix.dtype != torch.float64 else matrix.float(), matrix[None], matrix.int()):
            with pytest.raises(MPOError):
                decompose_batch([matrix, odd], shape, bonds)


@often
@given(st.data(), matrices(), st.sampled_from(ANY_GAUGES), st.booleans())
def test_decompose_with_spectra_and_schmidt_values(data, matrix, gauge, fast):
    """Lossless, with the singular values of the dense unfoldings, in a float64 that no scale leaves."""
    shape = data.draw(shapes(matrix))
    precision = "fast" if fast else "accurate"
    result = _or_refused(lambda: decompose_with_spectra(matrix, shape, gauge=gauge, precision=precision))
    alone = schmidt_values(matrix, shape, precision=precision)
    if result is None:
        assert matrix.dtype == torch.float16
        result = None, alone
    mpo, spectra = result
    if mpo is not None:
        exact = MPO([core.double() for core in mpo.cores], shape).to_matrix()
        assert _distance(exact, matrix) <= _rounding(matrix.dtype, shape.n, precision)
    largest = float(matrix.double().abs().max()) or 1.0
    norm = float((matrix.double() / largest).norm()) or 1.0
    expected = _relative_spectra(matrix, shape)
    fine = 1e-3 if fast and matrix.dtype != torch.float64 else 1e-7  # small values come from squares
    for values in (spectra, alone):
        assert [len(each) for each in values] == list(shape.full_bonds)
        for found, wanted in zip(values, expected, strict=True):
            assert found.dtype == torch.float64
            assert torch.isfinite(found).all()
            assert (found >= 0).all()
            assert (found[:-1] >= found[1:]).all()
            torch.testing.assert_close(found / largest / norm, wanted, rtol=1e-6, atol=fine)


@pytest.mark.parametrize(
    "function",
    [decompose, decompose_batch, decompose_with_spectra, schmidt_values, decompose_for_outputs, MPO.from_matrix],
)
@often
@given(bad_matrices(), st.sampled_from([None, 1, 3]))
def test_bad_matrices_are_refused(function, bad, bonds):
    """With a typed error, and without a warning, whatever function gets them."""
    given_ = [bad] if function is decompose_batch else bad
    more: Any = {} if function in (decompose_with_spectra, schmidt_values) else {"bonds": bonds}
    if function is decompose_for_outputs:
        more["covariance"] = torch.eye(4, dtype=torch.float64)
    with pytest.raises(MPOError):
        function(given_, **more)


@often
@given(matrices(), st.integers(1, 3), st.integers(1, 3), st.sampled_from(BAD_NUMBERS), st.integers(0, 5))
def test_bad_options_are_refused(matrix, more_rows, more_cols, bad, which):
    """A shape of another size, and numbers that are none, are never stretched to fit."""
    rows, cols = matrix.shape
    with pytest.raises(MPOError):
        decompose(matrix, MPOShape.choose(rows + more_rows, cols, 2))
    with pytest.raises(MPOError):
        schmidt_values(matrix, MPOShape.choose(rows, cols + more_cols, 2))
    with pytest.raises(MPOError):
        decompose(matrix, bonds=[1] * (3 + which), n=3)
    if bad != 2**70:
        with pytest.raises(MPOError):
            decompose(matrix, bonds=bad)
        with pytest.raises(MPOError):
            decompose(matrix, n=bad)
        if bad != 0:
            with pytest.raises(MPOError):
                decompose(matrix, refine=bad)


@often
@given(
    st.data(),
    matrices(st.sampled_from([torch.float64, torch.float32])),
    st.sampled_from(["normal", "rank-one", "zero", "nan", "skew", "size", "negative", "complex", "int"]),
    st.sampled_from(GAUGES),
    st.integers(0, 2),
    st.integers(-100, 100),
    st.sampled_from([0.0, 1e-4, 1.0, -1.0, math.nan, math.inf]),
)
def test_decompose_for_outputs(data, matrix, kind, gauge, sweeps, exponent, damping):
    """Never worse on the outputs than a plain decomposition; bad covariances are refused."""
    cols = matrix.shape[1]
    shape = data.draw(shapes(matrix))
    bonds = data.draw(caps(shape))
    inputs = _values(cols, 1 if kind == "rank-one" else 2 * cols, "normal", 3)
    covariance = inputs @ inputs.T * (0.0 if kind == "zero" else 10.0**exponent)
    if kind == "nan":
        covariance[0, -1] = math.nan
    elif kind == "skew":
        covariance = covariance.triu() + 1e-2 * covariance.abs().max() * torch.ones(
            cols, cols, dtype=torch.float64
        ).triu(1)
    elif kind == "size":
        covariance = covariance.flatten()
    elif kind == "negative":
        covariance = -covariance
    elif kind in ("complex", "int"):
        covariance = covariance.to(torch.complex128) if kind == "complex" else (1e3 * inputs).long()[:, :cols]
    options: Any = {"gauge": gauge, "sweeps": sweeps, "damping": damping}
    mpo = _or_refused(lambda: decompose_for_outputs(matrix, covariance, shape, bonds, **options))
    fine = kind in ("normal", "rank-one", "zero") or (cols == 1 and kind == "skew")
    if mpo is None:
        assert not fine or not 0 <= damping < math.inf
        return
    assert math.isfinite(damping)
    assert fine or kind == "int"
    if shape.clip_bonds(bonds) == shape.full_bonds:
        assert _distance(mpo.to_matrix(), matrix) <= _rounding(matrix.dtype, shape.n)
    assert _distance(mpo.to_matrix(), matrix) <= math.inf
