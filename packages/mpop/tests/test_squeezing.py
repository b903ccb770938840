"""Which bond is cut next, and what a cut does: against Algorithm 2 as it is printed, dense matrices and autograd."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_core import MPO, BondError, MPOShape, NonFiniteError, UsageError, decompose, truncation_errors
from mpop.squeezing import (
    Squeezable,
    bond_maps,
    bond_spectra,
    cut_until,
    cuts,
    leading_maps,
    mapped_core,
    mapped_moment,
    squeezed_bonds,
)

SHAPE = MPOShape(36, 36, (3, 2, 2, 3), (3, 2, 2, 3))  # full bonds 9, 36, 9


def matrix_of(rows=36, cols=36, seed=0):
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scrambled(mpo: MPO, seed=1) -> list[torch.Tensor]:
    """The same operator in a gauge that nothing is orthonormal in."""
    generator = torch.Generator().manual_seed(seed)
    cores = [core.clone() for core in mpo.cores]
    for k, bond in enumerate(mpo.bonds):
        gauge = torch.randn(bond, bond, generator=generator, dtype=torch.float64) + 3 * torch.eye(bond)
        cores[k] = torch.tensordot(cores[k], gauge, 1)
        cores[k + 1] = torch.tensordot(torch.linalg.inv(gauge), cores[k + 1], 1)
    return cores


def cut_cores(cores, maps):
    ends = [None, *maps, None]
    return [mapped_core(core, *pair) for core, pair in zip(cores, itertools.pairwise(ends), strict=True)]


def squeezable(seed=0, scale=1.0, shape=None) -> Squeezable:
    shape = shape or MPOShape.choose(24, 30, 4)
    mpo = decompose(scale * matrix_of(shape.rows, shape.cols, seed), shape)
    return Squeezable(shape, mpo.bond_spectra())


def test_spectra_are_those_of_the_matrix_in_any_gauge():
    mpo = decompose(matrix_of(), SHAPE, gauge="symmetric")
    for found, wanted in zip(bond_spectra(scrambled(mpo)), mpo.bond_spectra(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


def test_one_cut_loses_the_smallest_values_and_nothing_else():
    matrix = matrix_of()
    mpo = decompose(matrix, SHAPE, gauge="symmetric")
    spectra, cores = mpo.bond_spectra(), scrambled(mpo)
    for k in range(3):
        bonds = [bond - 3 if j == k else bond for j, bond in enumerate(mpo.bonds)]
        new = MPO(cut_cores(cores, bond_maps(cores, bonds)), mpo.shape)
        assert new.bonds == tuple(bonds)
        error = float((new.to_matrix() - matrix).norm())
        assert error == pytest.approx(float(spectra[k][-3:].norm()), rel=1e-8)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.lists(st.floats(0.05, 1), min_size=3, max_size=3))
def test_cuts_at_once_keep_to_the_bound(seed, shares):
    matrix = matrix_of(seed=seed)
    mpo = decompose(matrix, SHAPE, gauge="symmetric")
    bonds = [max(1, int(share * bond)) for share, bond in zip(shares, mpo.bonds, strict=True)]
    cores = scrambled(mpo, seed)
    error = float((MPO(cut_cores(cores, bond_maps(cores, bonds)), mpo.shape).to_matrix() - matrix).norm())
    assert error <= math.hypot(*truncation_errors(mpo.bond_spectra(), bonds)) * (1 + 1e-8) + 1e-9


def test_in_the_symmetric_gauge_the_leading_entries_are_the_best_ones():
    mpo = decompose(matrix_of(), SHAPE, gauge="symmetric")
    cores, bonds = list(mpo.cores), [bond - 2 for bond in mpo.bonds]
    best, first = (MPO(cut_cores(cores, make(cores, bonds)), mpo.shape) for make in (bond_maps, leading_maps))
    torch.testing.assert_close(best.to_matrix(), first.to_matrix(), rtol=0, atol=1e-9)
    torch.testing.assert_close(first.to_matrix(), mpo.truncate(tuple(bonds)).to_matrix(), rtol=0, atol=1e-12)


def test_moments_follow_the_gradient():
    mpo = decompose(matrix_of(), SHAPE, gauge="symmetric")
    cores, bonds = scrambled(mpo), [bond - 2 for bond in mpo.bonds]
    maps = bond_maps(cores, bonds)
    new = [core.requires_grad_() for core in cut_cores(cores, maps)]
    ends = list(itertools.pairwise([None, *maps, None]))
    # What the new cores stand for, as large cores: the gradient of those is what the optimizer remembers.
    wide = []
    for core, (before, after) in zip(new, ends, strict=True):
        grown = core if before is None else torch.tensordot(before.inner, core, 1)
        wide.append(grown if after is None else torch.tensordot(grown, after.outer.T, 1))
    probe = matrix_of(seed=5)
    total = (MPO(wide, mpo.shape).to_matrix() * probe).sum()
    large = torch.autograd.grad(total, wide, retain_graph=True)
    small = torch.autograd.grad(total, new)
    for grad, wanted, pair in zip(large, small, ends, strict=True):
        torch.testing.assert_close(mapped_moment(grad, *pair, squared=False), wanted)
        second = mapped_moment(grad.square(), *pair, squared=True)
        assert second.shape == wanted.shape
        assert (second >= 0).all()


@pytest.mark.parametrize("kind", ["zero", "product"])
def test_what_needs_no_bonds_is_cut_without_loss(kind):
    matrix = torch.zeros(36, 36, dtype=torch.float64)
    if kind == "product":
        large, small = matrix_of(9, 9), matrix_of(2, 2)
        matrix = torch.kron(torch.kron(large[:3, :3], small), torch.kron(small, large[3:6, 3:6]))
    mpo = decompose(matrix, SHAPE)
    cores, bonds = list(mpo.cores), [max(1, bond // 2) for bond in mpo.bonds]
    new = MPO(cut_cores(cores, bond_maps(cores, bonds)), mpo.shape)
    assert new.bonds == tuple(bonds)
    torch.testing.assert_close(new.to_matrix(), matrix, rtol=0, atol=1e-9)


@pytest.mark.parametrize("bonds", [(5, 100, 5), (0, 5, 5), (3, 3)])
def test_refuses_what_is_no_cut(bonds):
    with pytest.raises(BondError, match="do not cut"):
        bond_maps(list(decompose(matrix_of(), SHAPE).cores), bonds)


def printed_algorithm(matrices, steps, weights):
    """Algorithm 2: at each step, try every cut by one and take the least estimated error of the whole model."""
    bonds = {name: list(own.bonds) for name, own in matrices.items()}
    for _ in range(steps):

        def estimate(name, k):
            trial = {other: list(own) for other, own in bonds.items()}
            trial[name][k] -= 1
            return sum(
                weights[other] * sum(error**2 for error in truncation_errors(matrices[other].spectra, own))
                for other, own in trial.items()
            )

        options = [(name, k) for name, own in bonds.items() for k in range(len(own)) if own[k] > 1]
        name, k = min(options, key=lambda option: estimate(*option))
        bonds[name][k] -= 1
    return {name: tuple(own) for name, own in bonds.items()}


@pytest.mark.parametrize("order", ["error", "relative-error"])
def test_the_order_is_that_of_algorithm_2(order):
    matrices = {"small": squeezable(1, 0.3), "large": squeezable(2, 2.0), "other": squeezable(3, 1.0)}
    norms = {name: float(own.spectra[0].square().sum()) for name, own in matrices.items()}
    weights = {name: 1.0 if order == "error" else 1 / norms[name] for name in matrices}
    bonds = {name: list(own.bonds) for name, own in matrices.items()}
    for steps, cut in enumerate(itertools.islice(cuts(matrices, order), 25), start=1):
        bonds[cut.name][cut.bond] = cut.kept
        if steps % 5 == 0:
            printed = printed_algorithm(matrices, steps, weights)
            assert {name: tuple(own) for name, own in bonds.items()} == printed


def test_error_per_parameter_saves_most_for_what_it_loses():
    matrices = {"a": squeezable(1), "b": squeezable(2)}
    saved_goal = 400

    def saves(bonds):
        return sum(
            own.shape.n_params(own.bonds) - own.shape.n_params(tuple(bonds[name])) for name, own in matrices.items()
        )

    def loss(done):
        return sum(cut.loss for cut in done)

    plain = cut_until(matrices, lambda bonds: saves(bonds) >= saved_goal, "relative-error")[1]
    dear = cut_until(matrices, lambda bonds: saves(bonds) >= saved_goal, "error-per-parameter")[1]
    assert loss(dear) <= loss(plain) * 1.02


def test_every_bond_can_be_cut_to_one_and_no_further():
    matrices = {"a": squeezable(1), "b": squeezable(2)}
    all_cuts = list(cuts(matrices, "error-per-parameter"))
    assert len(all_cuts) == sum(bond - 1 for own in matrices.values() for bond in own.bonds)
    assert all(cut.kept >= 1 for cut in all_cuts)
    with pytest.raises(UsageError, match="is 1 and the size wanted is not reached"):
        cut_until(matrices, lambda _: False)


def test_the_central_tensor_has_two_bonds():
    shape = MPOShape.choose(768, 768, 5)
    assert list(squeezed_bonds(shape, "central")) == [1, 2]
    assert list(squeezed_bonds(shape, "all")) == [0, 1, 2, 3]
    assert list(squeezed_bonds(MPOShape.choose(16, 16, 2), "central")) == [0]
    assert list(squeezed_bonds(MPOShape.choose(16, 16, 1), "central")) == []
    own = {"a": squeezable(1, shape=MPOShape.choose(64, 64, 5))}
    assert {cut.bond for cut in cuts(own, which="central")} == {1, 2}


def test_bad_input_is_named():
    with pytest.raises(UsageError, match="order is 'best'"):
        next(cuts({"a": squeezable()}, cast("Any", "best")))
    with pytest.raises(UsageError, match="bonds is 'some'"):
        next(cuts({"a": squeezable()}, which=cast("Any", "some")))
    broken = Squeezable(MPOShape.choose(4, 4, 2), [torch.tensor([1.0, float("nan")])])
    with pytest.raises(NonFiniteError, match="of q is NaN"):
        next(cuts({"q": broken}))
