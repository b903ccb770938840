"""Operators from bare cores: 500 drawn cases each are finite and right, or refused with a typed error."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpo_core import MPO, MPOError, MPOShape, canonical_cores
from mpo_core.operators.gauge import GAUGES

often = settings(deadline=None, max_examples=500)
EXPONENTS = {torch.float64: 150, torch.float32: 15, torch.bfloat16: 15, torch.float16: 2}
DTYPES = st.sampled_from([torch.float64, torch.float64, torch.float32, torch.bfloat16, torch.float16])
BAD_NUMBERS = [0, -1, -(2**70), 2**70, True, 1.5, math.nan, math.inf, -math.inf, "3", 1j]
SEEDS = st.integers(0, 2**16)


def _rounding(dtype: torch.dtype, n: int) -> float:
    """What storing n cores in a dtype may cost, relative to the norm."""
    eps = torch.finfo(dtype).eps
    return 8 * n * max(eps, 4e-15)


def _or_refused(call: Any) -> Any:
    """The result, or None where it is refused with a typed error whose message says where."""
    try:
        return call()
    except MPOError as error:
        if len(str(error)) <= 20:
            raise
        return None


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
        cores[k] = (
            torch.cat([core, core], axis) if core.shape[axis] == 1 or draw(st.booleans()) else core.narrow(axis, 0, 1)
        )
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
    for compute in (
        MPO.to_matrix,
        MPO.bond_spectra,
        MPO.entropies,
        lambda mpo: mpo.truncate(1),
        lambda mpo: mpo.to(torch.float32),
    ):
        with pytest.raises(MPOError):
            compute(MPO(cores, shape))


@often
@given(
    operators(st.just(torch.float64)),
    st.lists(st.integers(-200, 200), min_size=5, max_size=5),
    st.sampled_from(GAUGES),
    st.sampled_from(["slice", "sequential"]),
)
def test_cores_whose_products_leave_float64(mpo, exponents, gauge, method):
    """As the same operator with its powers of ten in one core, wherever the matrix is in range; else refused."""
    unit = MPO([core / (float(core.abs().max()) or 1.0) for core in mpo.cores], mpo.shape)
    powers = exponents[: mpo.shape.n]
    wide = MPO([core * 10.0**power for core, power in zip(unit.cores, powers, strict=True)], mpo.shape)
    for change in (lambda each: each.canonicalize(gauge), lambda each: each.truncate(2, method, gauge)):
        found, expected = _or_refused(lambda change=change: change(wide)), change(unit)
        if found is None:
            assert sum(powers) > 290
            continue
        if abs(sum(powers)) < 290 and gauge != "symmetric":
            place = {"left": -1, "right": 0, "central": mpo.shape.central}[gauge]
            cores = [core.clone() for core in found.cores]
            half = -sum(powers) // 2  # in two steps, each in range
            cores[place] = cores[place] * 10.0**half * 10.0 ** (-sum(powers) - half)
            assert float((_exactly(cores, mpo.shape) - _exactly(expected.cores, mpo.shape)).norm()) <= 1e-11 * _whole(
                unit
            )
    spectra = _or_refused(wide.bond_spectra)
    assert spectra is not None or sum(powers) > 290
