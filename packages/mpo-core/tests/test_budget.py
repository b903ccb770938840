from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_core.budgets.budget import (
    bonds_for_params,
    bonds_for_tolerance,
    estimated_error,
    kept_losses,
    reachable_bonds,
    uniform_bond,
)
from mpo_core.decomposing.decomposition import decompose, schmidt_values
from mpo_core.errors import BondError, NonFiniteError, ShapeError, UsageError
from mpo_core.operators.spectra import error_bound
from mpo_core.shapes import MPOShape

SIZES = [  # BERT, GPT-2, T5, Llama
    (768, 768),
    (3072, 768),
    (768, 3072),
    (30522, 768),
    (2304, 768),
    (50257, 768),
    (512, 512),
    (2048, 512),
    (32128, 512),
    (1024, 4096),
    (4096, 4096),
    (11008, 4096),
    (32000, 4096),
]
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


def matrix_of(kind: str, rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, cols, generator=generator, dtype=torch.float64)
    rank = {"gauss": 0, "power": min(rows, cols), "low rank": 8}[kind]
    if rank == 0:
        return noise
    left = torch.linalg.qr(torch.randn(rows, rank, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(cols, rank, generator=generator, dtype=torch.float64))[0]
    values = torch.arange(1, rank + 1).double() ** -0.7 if kind == "power" else torch.ones(rank).double()
    signal = (left * values) @ right.T
    return signal / signal.norm() + 0.5 * noise / noise.norm()


def synthetic_spectra(shape: MPOShape, kind: str) -> list[torch.Tensor]:
    sizes = [i * j for i, j in zip(shape.row_factors, shape.col_factors, strict=True)]
    spectra = []
    for k, bond in enumerate(shape.full_bonds):
        aspect = bond / max(math.prod(sizes[: k + 1]), math.prod(sizes[k + 1 :]))
        place = (torch.arange(bond).double() + 0.5) / bond
        values = 1 + math.sqrt(aspect) * torch.cos(math.pi * place)  # about those of a random matrix
        if kind == "power":
            values = torch.arange(1, bond + 1).double() ** -0.7
        spectra.append(values / values.norm())
    return spectra


def every_choice(shape: MPOShape):
    for bonds in itertools.product(*(range(1, bond + 1) for bond in shape.full_bonds)):
        if reachable_bonds(shape, bonds) == bonds:
            yield bonds


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["flat", "power"])
def test_uses_the_limit_to_two_percent_and_never_more(size, kind):
    shape = MPOShape.choose(*size)
    spectra = synthetic_spectra(shape, kind)
    for share in SHARES:
        limit = int(share * size[0] * size[1])
        bonds = bonds_for_params(spectra, shape, limit)
        assert 0.98 * limit <= shape.n_params(bonds) <= limit
        assert reachable_bonds(shape, bonds) == bonds


@pytest.mark.parametrize("size", [(128, 128), (96, 250), (144, 192)], ids=str)
@pytest.mark.parametrize("kind", ["gauss", "power", "low rank"])
def test_loses_no_more_than_one_cap_for_all_bonds(size, kind):
    matrix, shape = matrix_of(kind, *size), MPOShape.choose(*size)
    spectra = schmidt_values(matrix, shape)
    for share in (0.1, 0.2, 0.35, 0.5):
        limit = int(share * matrix.numel())
        planned = decompose(matrix, shape, bonds_for_params(spectra, shape, limit))
        uniform = decompose(matrix, shape, uniform_bond(shape, limit))
        assert planned.n_params <= limit
        assert (planned.to_matrix() - matrix).norm() <= (uniform.to_matrix() - matrix).norm() * (1 + 1e-9)


def test_gains_much_over_one_cap_where_bonds_differ():
    # Nothing is correlated across the second bond, all across the first.
    shape = MPOShape(64, 64, (8, 4, 2), (8, 4, 2))
    inner = torch.randn(8, 8, dtype=torch.float64)
    matrix = torch.kron(torch.kron(inner, torch.eye(4)), torch.eye(2)).double() + 1e-6 * matrix_of("gauss", 64, 64)
    limit = shape.n_params(1) + 10
    spectra = schmidt_values(matrix, shape)
    assert (decompose(matrix, shape, bonds_for_params(spectra, shape, limit)).to_matrix() - matrix).norm() < 1e-3


@pytest.mark.parametrize("kind", ["gauss", "power", "low rank"])
def test_finds_the_least_loss_of_all_choices(kind):
    shape = MPOShape(24, 24, (2, 3, 4), (4, 3, 2))
    spectra = schmidt_values(matrix_of(kind, 24, 24), shape)
    squares = [spectrum.numpy() ** 2 for spectrum in spectra]
    losses = [kept_losses(values) for values in squares]
    for limit in (60, 150, 300, 450):
        fitting = [bonds for bonds in every_choice(shape) if shape.n_params(bonds) <= limit]
        least = min(fitting, key=lambda bonds: sum(loss[bond] for loss, bond in zip(losses, bonds, strict=True)))
        found = bonds_for_params(spectra, shape, limit)
        assert shape.n_params(found) <= limit
        # Or what is as good by the estimate and nowhere below the single cap.
        assert estimated_error(squares, found) <= 1.006 * estimated_error(squares, least) + 1e-12


def test_spends_nothing_on_values_that_are_zero():
    generator = torch.Generator().manual_seed(1)
    shape = MPOShape.choose(64, 64, 3)
    cores = [torch.randn(left, i, j, right, generator=generator, dtype=torch.float64)
             for left, i, j, right in shape.core_shapes((3, 2))]  # fmt: skip
    spectra = schmidt_values(torch.einsum("aijb,bklc,cmnd->ikmjln", *cores).reshape(64, 64), shape)
    assert bonds_for_params(spectra, shape, shape.n_params()) == (3, 2)
    assert bonds_for_tolerance(spectra, 1e-6, shape) == (3, 2)


@pytest.mark.parametrize("kind", ["gauss", "power", "low rank"])
@pytest.mark.parametrize("tolerance", [0.05, 0.3, 0.6, 0.9])
def test_keeps_to_the_tolerance(kind, tolerance):
    matrix, shape = matrix_of(kind, 96, 128), MPOShape.choose(96, 128)
    spectra = schmidt_values(matrix, shape)
    bonds = bonds_for_tolerance(spectra, tolerance, shape)
    assert error_bound(spectra, bonds) <= tolerance * matrix.norm() * (1 + 1e-12)
    assert (decompose(matrix, shape, bonds).to_matrix() - matrix).norm() <= tolerance * matrix.norm()
    share = torch.tensor(tolerance**2 / len(spectra))
    equal = [int((values.square().flip(0).cumsum(0).flip(0) > share * matrix.norm() ** 2).sum()) for values in spectra]
    assert shape.n_params(bonds) <= shape.n_params([max(1, bond) for bond in equal])


@pytest.mark.parametrize("kind", ["gauss", "power", "low rank"])
def test_finds_the_fewest_parameters_of_all_choices(kind):
    shape = MPOShape(24, 24, (2, 3, 4), (4, 3, 2))
    matrix = matrix_of(kind, 24, 24)
    spectra = schmidt_values(matrix, shape)
    for tolerance in (0.05, 0.2, 0.5, 0.8):
        allowed = tolerance * matrix.norm()
        fewest = min(shape.n_params(bonds) for bonds in every_choice(shape) if error_bound(spectra, bonds) <= allowed)
        assert shape.n_params(bonds_for_tolerance(spectra, tolerance, shape)) == fewest


def test_the_factors_are_inferred_from_full_bonds():
    shape = MPOShape.choose(96, 96)
    spectra = schmidt_values(matrix_of("power", 96, 96), shape)
    for tolerance in (0.1, 0.5):
        inferred = shape.n_params(bonds_for_tolerance(spectra, tolerance))
        assert inferred <= 1.05 * shape.n_params(bonds_for_tolerance(spectra, tolerance, shape))


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=6),
    st.integers(0, 2**31),
    st.floats(0, 1),
    st.floats(-140, 140),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_and_scale(factors, seed, share, exponent):
    rows, cols = zip(*factors, strict=True)
    shape = MPOShape(math.prod(rows), math.prod(cols), rows, cols)
    generator = torch.Generator().manual_seed(seed)
    spectra = []
    for bond in shape.full_bonds:
        values = torch.rand(bond, generator=generator, dtype=torch.float64).sort(descending=True).values
        spectra.append(values / values.norm() * 10.0**exponent)
    least, most = shape.n_params(1), shape.n_params()
    limit = least + int(share * (most - least))
    bonds = bonds_for_params(spectra, shape, limit)
    assert shape.n_params(bonds) <= limit
    assert reachable_bonds(shape, bonds) == bonds
    assert bonds == bonds_for_params([values * 4.0 for values in spectra], shape, limit)
    bonds = bonds_for_tolerance(spectra, share, shape)
    if spectra:
        assert error_bound(spectra, bonds) <= share * 10.0**exponent * (1 + 1e-9)
    cap = uniform_bond(shape, limit)
    assert shape.n_params(cap) <= limit
    assert cap >= max((1, *shape.full_bonds)) or shape.n_params(cap + 1) > limit


def test_one_core_and_one_bond():
    assert bonds_for_params([], MPOShape.choose(6, 4, 1), 24) == ()
    assert bonds_for_tolerance([], 0.1) == ()
    shape = MPOShape(8, 8, (2, 4), (4, 2))
    values = torch.arange(8, 0, -1).double()
    assert bonds_for_params([values], shape, 5 * 16) == (5,)
    assert bonds_for_tolerance([values], 0.0) == (8,)


def test_a_zero_matrix_needs_bonds_of_one():
    shape = MPOShape.choose(64, 64, 3)
    zeros = [torch.zeros(bond) for bond in shape.full_bonds]
    assert bonds_for_params(zeros, shape, 1000) == (1, 1)
    assert bonds_for_tolerance(zeros, 0.1, shape) == (1, 1)


def test_estimate_lies_between_its_bounds():
    shape = MPOShape.choose(64, 64, 3)
    squares = [values.numpy() ** 2 for values in schmidt_values(matrix_of("power", 64, 64), shape)]
    tails = [float(values[5:].sum() / values.sum()) for values in squares]
    assert max(tails) <= estimated_error(squares, (5, 5)) <= sum(tails)
    assert estimated_error(squares, shape.full_bonds) == 0


SHAPE = MPOShape.choose(16, 16, 3)
GOOD = [torch.ones(bond) for bond in SHAPE.full_bonds]


@pytest.mark.parametrize("limit", [True, 3.5, "many", None])
def test_refuses_what_is_no_number_of_parameters(limit):
    with pytest.raises(UsageError, match="limit"):
        bonds_for_params(GOOD, SHAPE, limit)
    with pytest.raises(UsageError, match="limit"):
        uniform_bond(SHAPE, limit)


def test_refuses_a_limit_below_bonds_of_one():
    least = SHAPE.n_params(1)
    assert bonds_for_params(GOOD, SHAPE, least) == (1, 1)
    with pytest.raises(UsageError, match=f"at least {least} parameters"):
        bonds_for_params(GOOD, SHAPE, least - 1)
    with pytest.raises(UsageError, match=f"at least {least} parameters"):
        uniform_bond(SHAPE, least - 1)


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf, True, "small"])
def test_refuses_what_is_no_tolerance(tolerance):
    with pytest.raises(UsageError, match="tolerance"):
        bonds_for_tolerance(GOOD, tolerance)


@pytest.mark.parametrize(
    ("spectra", "error", "says"),
    [
        (GOOD[:1], ShapeError, "2 bonds"),
        ([torch.ones(4, 1), GOOD[1]], ShapeError, "expected a vector"),
        ([torch.ones(0), GOOD[1]], ShapeError, "expected a vector"),
        ([torch.tensor([1.0, 2.0]), GOOD[1]], ShapeError, "spectrum 0 is not descending"),
        ([torch.tensor([1.0, -2.0]), GOOD[1]], ShapeError, "spectrum 0 is not descending"),
        ([GOOD[0], torch.tensor([math.nan])], NonFiniteError, "spectrum 1"),
        ([GOOD[0], torch.tensor([math.inf])], NonFiniteError, "spectrum 1"),
        ([torch.ones(999), GOOD[1]], ShapeError, "999 values"),
    ],
)
def test_refuses_what_are_no_spectra(spectra, error, says):
    with pytest.raises(error, match=says):
        bonds_for_params(spectra, SHAPE, 100)
    with pytest.raises(error, match=says):
        bonds_for_tolerance(spectra, 0.1, SHAPE)


def test_reachable_refuses_what_are_no_bonds():
    with pytest.raises(BondError):
        reachable_bonds(SHAPE, (1, 2, 3))
