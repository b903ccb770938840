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
    canonical_cores,
    decompose,
    decompose_batch,
    decompose_for_outputs,
    decompose_with_spectra,
    schmidt_values,
)
from mpo_core.choices import ANY_GAUGES, METHODS
from mpo_core.gauge import GAUGES

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
        assert len(str(error)) > 20
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
        covariance = covariance.triu() + 1e-2 * covariance.abs().max() * torch.ones(cols, cols).triu(1)
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


@st.composite
def operators(draw: Any, dtypes: Any = DTYPES) -> MPO:
    """Random, zero and identical operators, bonds up to and beyond the full ones, scaled and padded."""
    factors = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=5))
    rows, cols = zip(*factors, strict=True)
    dtype = draw(dtypes)
    bonds = [1, *draw(st.lists(st.integers(1, 6), min_size=4, max_size=4))[: len(factors) - 1], 1]
    generator = torch.Generator().manual_seed(draw(SEEDS))
    limit = EXPONENTS[dtype]
    scale = 10.0 ** (draw(st.integers(-limit, limit)) / len(factors))
    scale *= draw(st.sampled_from([1.0, 1.0, 1.0, 0.0]))
    cores = [
        (scale * torch.randn(left, i, j, right, generator=generator, dtype=torch.float64)).to(dtype)
        for left, i, j, right in zip(bonds[:-1], rows, cols, bonds[1:], strict=True)
    ]
    size = max(1, math.prod(rows) - draw(st.integers(0, 2))), max(1, math.prod(cols) - draw(st.integers(0, 2)))
    return MPO(cores, MPOShape(*size, rows, cols))


def _exactly(cores: Any, shape: MPOShape) -> Tensor:
    """The matrix of some cores in float64."""
    return MPO([core.double() for core in cores], shape).to_matrix()


def _whole(mpo: MPO) -> float:
    """The product of the norms of the cores: what rounding is relative to."""
    return math.prod(float(core.double().norm()) for core in mpo.cores)


@often
@given(operators(), st.sampled_from(GAUGES), st.integers(-1, 6))
def test_canonical_forms(mpo, gauge, site):
    """`canonical_cores`, `canonicalize`, `bond_spectra` and `entropies` keep the matrix, or are refused for range."""
    result = _or_refused(lambda: canonical_cores(mpo.cores, gauge))
    turned = _or_refused(lambda: mpo.canonicalize(site=site))
    assert turned is not None or not 0 <= site < mpo.shape.n or mpo.dtype == torch.float16
    if result is None:
        assert mpo.dtype == torch.float16
        return
    exact, whole = _exactly(mpo.cores, mpo.shape), _whole(mpo)
    for cores in [result[0], *([] if turned is None else [turned.cores])]:
        found = _exactly(cores, mpo.shape)
        assert torch.isfinite(found).all()
        assert float(((found - exact) / (whole or 1.0)).norm()) <= _rounding(mpo.dtype, mpo.shape.n)
    for spectrum, bond in zip(result[1], mpo.bonds, strict=True):
        assert len(spectrum) == bond
        assert torch.isfinite(spectrum).all()
    for entropy, bond in zip(mpo.entropies(base=2), mpo.bonds, strict=True):
        assert 0 <= entropy <= math.log2(bond) + 1e-9


@often
@given(operators(), st.one_of(st.integers(1, 7), st.sampled_from(BAD_NUMBERS)), st.booleans(), st.sampled_from(GAUGES))
def test_truncate_and_what_it_costs(mpo, bonds, sliced, gauge):
    """Within the error bound; the bound is the Euclidean sum of the errors of the bonds."""
    errors = _or_refused(lambda: mpo.truncation_errors(bonds))
    bound = _or_refused(lambda: mpo.error_bound(bonds))
    cut = _or_refused(lambda: mpo.truncate(bonds, "slice" if sliced else "sequential", gauge))
    if type(bonds) is int and bonds > 0:
        assert mpo.dtype == torch.float16 or cut is not None
        assert errors is not None
    else:
        assert cut is None
        assert (errors is None) == (bound is None)
    if cut is not None:
        assert errors is not None
        assert bound is not None
        assert math.isclose(bound, math.hypot(*errors), rel_tol=1e-12, abs_tol=0)
        whole = _whole(mpo) or 1.0
        left = float(((_exactly(cut.cores, mpo.shape) - _exactly(mpo.cores, mpo.shape)) / whole).norm())
        assert left <= bound / whole * (1 + 1e-9) + _rounding(mpo.dtype, mpo.shape.n)
        assert all(bond <= bonds for bond in cut.bonds)


@often
@given(operators(), st.sampled_from([torch.float64, torch.float32, torch.float16, torch.complex64, torch.int32]))
def test_conversion_and_the_matrix(mpo, dtype):
    """`to` and `to_matrix` are right, or say that the dtype cannot hold it; never an infinity."""
    matrix = _or_refused(mpo.to_matrix)
    exact = mpo.cores[0].double()
    for core in mpo.cores[1:]:
        exact = torch.einsum("aijb,bklc->aikjlc", exact, core.double())
        exact = exact.reshape(1, exact.shape[1] * exact.shape[2], exact.shape[3] * exact.shape[4], -1)
    exact = exact[0, : mpo.shape.rows, : mpo.shape.cols, 0]
    if matrix is None:
        assert float(exact.abs().max()) * _whole(mpo) > 0
        assert mpo.dtype == torch.float16
    else:
        slack = 1e4 * torch.finfo(mpo.dtype).tiny if mpo.dtype == torch.float16 else 0.0
        eps = 40 * torch.finfo(mpo.dtype).eps * mpo.shape.n
        assert float((matrix.double() - exact).norm()) <= eps * _whole(mpo) + slack
    moved = _or_refused(lambda: mpo.to(dtype))
    assert (moved is None) or moved.dtype == dtype
    if moved is None:
        limit = torch.finfo(dtype).max if dtype.is_floating_point else 0.0
        assert max(float(core.double().abs().max()) for core in mpo.cores) >= limit * 0.99
    else:
        assert all(torch.isfinite(core).all() for core in moved.cores)


@often
@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(1, 5), st.sampled_from(BAD_NUMBERS), st.lists(st.integers(0, 4), max_size=4)),
    st.sampled_from([None, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.int64, torch.bool]),
    SEEDS,
)
def test_made_operators(factors, bonds, dtype, seed):
    """`random`, `zeros` and `identity` have the asked shape, or are refused."""
    rows, cols = zip(*factors, strict=True)
    shape = MPOShape(math.prod(rows), math.prod(cols), rows, cols)
    generator = torch.Generator().manual_seed(seed)
    random = _or_refused(lambda: MPO.random(shape, bonds, generator=generator, dtype=dtype))
    zeros = _or_refused(lambda: MPO.zeros(shape, bonds, dtype=dtype))
    one = _or_refused(lambda: MPO.identity(rows, dtype=dtype))
    good = dtype in (None, torch.float64, torch.bfloat16, torch.float16)
    listed = isinstance(bonds, list) and len(bonds) == shape.n - 1 and 0 not in bonds
    bondable = bonds is None or listed or (type(bonds) is int and bonds > 0)
    assert (random is not None) == (zeros is not None) == (good and bondable)
    assert (one is not None) == good
    if random is not None and zeros is not None:
        assert random.bonds == zeros.bonds == shape.clip_bonds(bonds)
        assert all(torch.isfinite(core).all() for core in random.cores)
        assert not zeros.to_matrix().any()
    if one is not None:
        assert torch.equal(one.to_matrix(), torch.eye(math.prod(rows), dtype=one.dtype))


@st.composite
def bad_cores(draw: Any) -> list[Any]:
    """A chain with one core that does not belong into it."""
    mpo = draw(operators(st.sampled_from([torch.float64])))
    cores, k = list(mpo.cores), draw(st.integers(0, mpo.shape.n - 1))
    core = cores[k] = cores[k].clone()
    kind = draw(st.sampled_from(["number", "complex", "int", "axes", "left", "right", "dtype", "empty", "none"]))
    if kind == "number":
        core.view(-1)[draw(st.integers(0, core.numel() - 1))] = draw(st.sampled_from([math.nan, math.inf]))
    elif kind == "axes":
        cores[k] = draw(st.sampled_from([core[None], core[0], core[0, 0, 0, 0]]))
    elif kind in ("left", "right"):
        # One too many, or a single one, which an ordinary product would broadcast.
        axis = 0 if kind == "left" else 3
        cores[k] = torch.cat([core, core], axis) if core.shape[axis] == 1 or draw(st.booleans()) else core.narrow(axis, 0, 1)
    elif kind == "empty":
        return []
    else:
        kinds: dict[str, torch.dtype] = {"complex": torch.complex128, "int": torch.int64}
        if kind == "none":
            cores[k] = None
        elif kind == "dtype" and len(cores) > 1:
            cores[k] = core.float()
        else:
            cores[k] = core.to(kinds.get(kind, torch.bool))
    return cores


@often
@given(bad_cores(), st.sampled_from(GAUGES))
def test_bad_cores_are_refused(cores, gauge):
    """By the function on bare cores, and by the operator: when it is made, or when a number is computed from it."""
    with pytest.raises(MPOError):
        canonical_cores(cores, gauge)
    if not cores or any(core is None or core.dim() != 4 for core in cores):
        return
    rows, cols = [core.shape[1] for core in cores], [core.shape[2] for core in cores]
    shape = MPOShape(math.prod(rows), math.prod(cols), tuple(rows), tuple(cols))
    for compute in (MPO.to_matrix, MPO.bond_spectra, MPO.entropies, lambda mpo: mpo.truncate(1), lambda mpo: mpo.to(torch.float32)):
        with pytest.raises(MPOError):
            compute(MPO(cores, shape))
