"""Functions of sizes, bonds and spectra: 500 drawn cases each are right, or refused with a typed error."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_core import (
    MPOError,
    MPOShape,
    allocate_bonds,
    bonds_for_params,
    bonds_for_tolerance,
    entanglement_entropy,
    error_bound,
    factorize,
    padded_size,
    truncation_errors,
    uniform_bond,
)

often = settings(deadline=None, max_examples=500)
SIZES = st.integers(1, 24)
BAD_NUMBERS = [
    0,
    -1,
    -(2**70),
    True,
    1.5,
    math.nan,
    math.inf,
    -math.inf,
    "3",
    None,
    1j,
    torch.tensor(1.5),
    torch.tensor([2, 2]),
]
BADS = st.sampled_from(BAD_NUMBERS)
FACTORS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=5)


def _shape(factors: list[tuple[int, int]], less: int = 0) -> MPOShape:
    rows, cols = zip(*factors, strict=True)
    return MPOShape(max(1, math.prod(rows) - less), math.prod(cols), rows, cols)


def _refused(call: Any) -> bool:
    """Whether a call is refused with one of our errors; any other error is one of the test."""
    try:
        call()
    except MPOError as error:
        return len(str(error)) > 20
    return False


@often
@given(st.integers(1, 10**6), st.integers(1, 8), BADS)
def test_factorize(size, n, bad):
    factors = factorize(size, n)
    assert math.prod(factors) == size
    assert len(factors) == n
    assert max(factors) == factors[n // 2]
    assert _refused(lambda: factorize(bad, n))
    assert _refused(lambda: factorize(size, bad))


@often
@given(st.integers(1, 2000), st.integers(1, 6), st.floats(0, 0.2), BADS)
def test_padded_size(size, n, padding, bad):
    assert size <= padded_size(size, n, padding) <= size * (1 + padding)
    assert _refused(lambda: padded_size(bad, n))
    assert _refused(lambda: padded_size(size, bad))
    assert _refused(lambda: padded_size(size, n, -1 - padding))
    assert _refused(lambda: padded_size(size, n, math.nan))
    if type(bad) not in (int, float) or not math.isfinite(bad):
        assert _refused(lambda: padded_size(size, n, bad))


@often
@given(FACTORS, st.integers(0, 3), BADS, st.integers(0, 4))
def test_shapes(factors, less, bad, place):
    """There and back as a dictionary; every size and factor is checked, also that lists have one length."""
    shape = _shape(factors, less)
    data = shape.to_dict()
    assert MPOShape.from_dict(data) == shape
    rows, cols = shape.row_factors, shape.col_factors
    for wrong in (
        (bad, shape.cols, rows, cols),
        (shape.rows, bad, rows, cols),
        (shape.rows, shape.cols, (*rows[:place], bad, *rows[place:]), (*cols, 1)),
        (shape.rows, shape.cols, (*rows, 1), cols),
        (shape.padded_rows + 1, shape.cols, rows, cols),
        (shape.rows, shape.padded_cols + 1, rows, cols),
        (1, 1, (), ()),
    ):
        assert _refused(lambda wrong=wrong: MPOShape(*wrong))
    assert _refused(lambda: MPOShape.from_dict({**data, "rows": bad}))
    assert _refused(lambda: MPOShape.from_dict({**data, "col_factors": bad}))
    assert _refused(lambda: MPOShape.from_dict({**data, "n": 2}))
    assert _refused(lambda: MPOShape.from_dict(bad))


@often
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 6), st.booleans(), BADS)
def test_chosen_shapes(rows, cols, n, pad, bad):
    shape = MPOShape.choose(rows, cols, n, pad)
    assert (shape.rows, shape.cols, shape.n) == (rows, cols, n)
    limit = 1.05 if pad else 1
    assert rows <= shape.padded_rows <= limit * rows
    assert cols <= shape.padded_cols <= limit * cols
    assert shape.central == n // 2
    for wrong in ((bad, cols, n), (rows, bad, n), (rows, cols, bad)):
        assert _refused(lambda wrong=wrong: MPOShape.choose(*wrong))


@often
@given(FACTORS, st.one_of(st.integers(1, 2**70), BADS, st.lists(st.one_of(st.integers(1, 99), BADS), max_size=5)))
def test_bonds_of_a_shape(factors, bonds):
    """Clipped at the full bonds, or refused; never stretched to another number of bonds."""
    shape = _shape(factors)
    listed = bonds if isinstance(bonds, list) else [bonds] * (shape.n - 1) or [bonds]
    good = bonds is None or all(type(bond) is int and bond > 0 for bond in listed)
    if isinstance(bonds, list):
        good = good and len(bonds) == shape.n - 1
    for call in (shape.clip_bonds, shape.core_shapes, shape.n_params):
        assert _refused(lambda call=call: call(bonds)) != good
    if good:
        clipped = shape.clip_bonds(bonds)
        assert all(1 <= bond <= full for bond, full in zip(clipped, shape.full_bonds, strict=True))
        assert shape.n_params(bonds) == sum(math.prod(size) for size in shape.core_shapes(bonds)) <= shape.n_params()


@st.composite
def spectra(draw: Any, shape: MPOShape) -> list[torch.Tensor]:
    """Descending values of one norm for all bonds: steep, flat, or zero, of any scale."""
    kind, scale = draw(st.sampled_from(["steep", "flat", "one", "zero"])), 10.0 ** draw(st.integers(-150, 150))
    found: list[torch.Tensor] = []
    for full in shape.full_bonds:
        values = torch.ones(full, dtype=torch.float64)
        if kind == "steep":
            values = torch.logspace(0, -draw(st.integers(1, 20)), full, dtype=torch.float64)
        elif kind in ("one", "zero"):
            values[kind == "one" :] = 0.0
        found.append(values / (float(values.norm()) or 1.0) * scale)
    return found


@st.composite
def bad_spectra(draw: Any, shape: MPOShape) -> list[Any]:
    """Spectra that are none of this shape, which has at least one bond."""
    found: list[Any] = draw(spectra(shape))
    k, kind = draw(st.integers(0, shape.n - 2)), draw(st.sampled_from(["number", "axes", "negative", "complex"]))
    values = found[k].clone()
    if kind == "number":
        values[draw(st.integers(0, len(values) - 1))] = draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    elif kind == "axes":
        values = draw(st.sampled_from([values[None], values[0]]))
    elif kind == "negative":
        values[-1] = -1.0
    else:
        values = values.to(torch.complex128)
    found[k] = values
    return found


@often
@given(st.data(), FACTORS, st.sampled_from(["probability", "released", "other"]))
def test_entropy(data: Any, factors: Any, normalization: Any):
    """Between 0 and the logarithm of the bond, at any scale; NaN, infinite, negative, complex or 2-d is refused."""
    shape = _shape([*factors, (2, 2), (2, 1)])
    good = data.draw(spectra(shape))
    if normalization == "other":
        assert _refused(lambda: entanglement_entropy(good[0], normalization))  # pyright: ignore[reportArgumentType]
        return
    for values in good:
        entropy = entanglement_entropy(values, normalization)
        limit = math.log(len(values)) * (1 if normalization == "probability" else math.sqrt(len(values)))
        assert 0 <= entropy <= limit + 1e-9
        assert entropy == pytest.approx(entanglement_entropy(values.flip(0), normalization), abs=1e-9)
    bad = data.draw(bad_spectra(shape))
    assert any(_refused(lambda values=values: entanglement_entropy(values, normalization)) for values in bad)


@often
@given(
    st.data(), FACTORS, st.one_of(st.integers(1, 2**70), BADS, st.lists(st.integers(-1, 9), max_size=5)), st.booleans()
)
def test_truncation_errors(data, factors, bonds, printed):
    """The tails, at any scale; bad caps and bad spectra are refused."""
    shape = _shape([*factors, (2, 2)])
    good, variant = data.draw(spectra(shape)), "printed" if printed else "frobenius"
    listed = bonds if isinstance(bonds, list) else [bonds] * (shape.n - 1)
    fine = len(listed) == shape.n - 1 and all(type(bond) is int and bond > 0 for bond in listed)
    assert _refused(lambda: truncation_errors(good, bonds, variant)) != fine
    assert _refused(lambda: error_bound(good, bonds, variant)) != fine
    if fine:
        errors = truncation_errors(good, bonds, variant)
        assert error_bound(good, bonds, variant) == math.hypot(*errors)
        for values, bond, error in zip(good, listed, errors, strict=True):
            scale = float(values.max()) or 1.0
            kept = min(bond, len(values))
            exact = sum(values.tolist()[-kept:]) if printed else math.hypot(*values.tolist()[kept:])
            assert error / scale == pytest.approx(exact / scale, rel=1e-12, abs=1e-15)
    bad = data.draw(bad_spectra(shape))
    assert _refused(lambda: truncation_errors(bad, 1, variant))


@often
@given(st.data(), FACTORS, st.one_of(st.floats(0, 2), BADS), st.booleans())
def test_bonds_within_a_tolerance(data, factors, tolerance, known):
    """The bound of the tails keeps to it."""
    shape = _shape([*factors, (2, 2)])
    good, factors_given = data.draw(spectra(shape)), shape if known else None
    fine = type(tolerance) in (int, float) and 0 <= tolerance < math.inf
    assert _refused(lambda: bonds_for_tolerance(good, tolerance, factors_given)) != fine
    if fine:
        bonds = bonds_for_tolerance(good, tolerance, factors_given)
        assert all(1 <= bond <= len(values) for bond, values in zip(bonds, good, strict=True))
        norm = float((good[0] / (float(good[0].max()) or 1.0)).norm()) * float(good[0].max())
        assert error_bound(good, bonds) <= tolerance * norm * (1 + 1e-9) + 1e-7 * norm
    bad = data.draw(bad_spectra(shape))
    assert _refused(lambda: bonds_for_tolerance(bad, 0.1, factors_given))
    assert _refused(lambda: bonds_for_tolerance([*good, good[-1]], 0.1, shape))


@often
@given(st.data(), FACTORS, st.one_of(st.integers(0, 500), st.integers(1, 2**70), BADS))
def test_bonds_within_a_number_of_parameters(data, factors, limit):
    """Neither they nor one cap for all exceed it, and the whole is kept where it fits."""
    shape = _shape([*factors, (2, 2)])
    good = data.draw(spectra(shape))
    fine = type(limit) is int and limit >= shape.n_params(1)
    assert _refused(lambda: bonds_for_params(good, shape, limit)) != fine
    assert _refused(lambda: uniform_bond(shape, limit)) != fine
    if fine:
        assert shape.n_params(bonds_for_params(good, shape, limit)) <= limit
        cap = uniform_bond(shape, limit)
        assert shape.n_params(cap) <= limit
        assert cap == max(shape.full_bonds) or shape.n_params(cap + 1) > limit
        if limit >= shape.n_params():
            assert cap == max(shape.full_bonds)
    bad = data.draw(bad_spectra(shape))
    assert _refused(lambda: bonds_for_params(bad, shape, shape.n_params()))


@often
@given(
    st.data(),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3),
    st.one_of(st.integers(1, 300), st.integers(1, 2**70), BADS),
    st.sampled_from(["error-per-parameter", "error", "other"]),
    st.sampled_from([None, 0.0, 1.0, 1e300, -1.0, math.nan, math.inf]),
)
def test_allocate_bonds(data: Any, factors: Any, limit: Any, order: Any, weight: Any):
    """All layers together keep to the limit; other names, negative weights and infinite norms are refused."""
    layers = {"a": _shape([*factors, (2, 2)]), "b": _shape([(3, 1), (1, 4)]), "c": _shape([(2, 3)])}
    values = {name: data.draw(spectra(shape)) for name, shape in layers.items()}
    weights = None if weight is None else {"a": weight, "b": 1.0, "c": 0.5}
    result: Any = None
    fine = type(limit) is int and limit >= sum(shape.n_params(1) for shape in layers.values()) and order != "other"
    fine = fine and (weight is None or 0 <= weight < math.inf)

    def allocate() -> None:
        nonlocal result
        result = allocate_bonds(values, layers, limit, weights=weights, order=order)  # pyright: ignore[reportArgumentType]

    refused = _refused(allocate)
    assert not refused or not fine or max(float(v[0][0]) for v in values.values() if v) ** 2 * (weight or 1) > 1e300
    if result is not None:
        assert fine
        assert sum(layers[name].n_params(bonds) for name, bonds in result.items()) <= limit
    assert _refused(lambda: allocate_bonds(values, {"a": layers["a"]}, 1000))
    broken = {**values, "a": data.draw(bad_spectra(layers["a"]))}
    assert _refused(lambda: allocate_bonds(broken, layers, 1000))


def test_bonds_that_only_grow_together() -> None:
    """Cores of one entry tie their bonds: no exchange of two of them leaves (1, 1, 1), though all three fit."""
    shape = MPOShape(1, 4, (1, 1, 1, 1), (2, 1, 1, 2))
    values = [torch.tensor([1.0, 0.3], dtype=torch.float64)] * 3
    assert bonds_for_params(values, shape, 15) == (1, 1, 1)
    for limit in (16, 63, 2**70):
        assert bonds_for_params(values, shape, limit) == (2, 2, 2)
