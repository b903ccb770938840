from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpo_core import (
    BondError,
    NonFiniteError,
    ShapeError,
    UsageError,
    decompose,
    entanglement_entropy,
    error_bound,
    truncation_errors,
)

ONES = torch.ones(8)
spectra = st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=20)


def test_entropy_of_equal_values():
    assert entanglement_entropy(ONES) == pytest.approx(math.log(8))
    # The authors' normalisation: each value is 1/sqrt(8), the sum of their logarithms weighted with it.
    assert entanglement_entropy(ONES, "released") == pytest.approx(8 / math.sqrt(8) * math.log(math.sqrt(8)))


def test_entropy_of_a_product_state_and_of_nothing():
    assert entanglement_entropy(torch.tensor([3.0, 0.0, 0.0])) == 0.0
    assert entanglement_entropy(torch.zeros(4)) == 0.0
    assert entanglement_entropy(torch.zeros(4), "released") == 0.0


def test_entropy_of_two_values():
    p, q = 0.36, 0.64
    expected = -(p * math.log(p) + q * math.log(q))
    assert entanglement_entropy(torch.tensor([0.8, 0.6], dtype=torch.float64)) == pytest.approx(expected)


@given(spectra, st.floats(1e-3, 1e3))
def test_entropy_is_bounded_and_does_not_depend_on_the_scale(values, scale):
    spectrum = torch.tensor(values, dtype=torch.float64)
    entropy = entanglement_entropy(spectrum)
    assert 0 <= entropy <= math.log(len(values)) + 1e-9
    assert entanglement_entropy(spectrum * scale) == pytest.approx(entropy, abs=1e-9)


def test_entropy_of_values_whose_squares_are_no_numbers():
    for size in (1e-160, 1e-300, 1e160, 1e300):
        assert entanglement_entropy(torch.full((4,), size, dtype=torch.float64)) == pytest.approx(math.log(4))


def test_entropy_of_half_precision_is_that_of_its_values():
    values = torch.tensor([300.0, 200.0, 1.0])  # their squares overflow float16
    assert entanglement_entropy(values.half()) == pytest.approx(entanglement_entropy(values))


def test_truncation_errors_by_hand():
    values = [torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([5.0, 2.0])]
    assert truncation_errors(values, [2, 1]) == pytest.approx((math.sqrt(5), 2.0))
    assert truncation_errors(values, 2) == pytest.approx((math.sqrt(5), 0.0))
    assert truncation_errors(values, 9) == (0.0, 0.0)
    assert error_bound(values, [2, 1]) == pytest.approx(3.0)
    # Eq. 3 to the letter: from index d - d' on, a plain sum.
    assert truncation_errors(values, [3, 1], "printed") == pytest.approx((6.0, 2.0))
    assert error_bound(values, [3, 1], "printed") == pytest.approx(math.hypot(6.0, 2.0))
    assert error_bound([], 3) == 0.0


def test_arguments_that_make_no_sense():
    with pytest.raises(BondError, match="2 bonds for 1 spectra"):
        truncation_errors([ONES], [1, 2])
    for bond in (0, 1.5, True):
        with pytest.raises(BondError, match="positive integer"):
            truncation_errors([ONES], [bond])  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="variant"):
        truncation_errors([ONES], 1, "best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="normalization"):
        entanglement_entropy(ONES, "best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ShapeError, match="one dimension"):
        entanglement_entropy(torch.ones(2, 2))
    with pytest.raises(ShapeError, match="negative"):
        truncation_errors([-ONES], 1)
    with pytest.raises(NonFiniteError, match="spectrum 1"):
        truncation_errors([ONES, ONES / 0], 1)


def _matrix(seed: int) -> torch.Tensor:
    """Three kinds of spectrum in turn: flat, a power law, low rank plus noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(36, 48, generator=generator, dtype=torch.float64)
    u, values, vh = torch.linalg.svd(noise, full_matrices=False)
    if seed % 3 == 1:
        return u * torch.arange(1, 37, dtype=torch.float64).pow(-1.0) @ vh
    return noise if seed % 3 == 0 else u[:, :4] * values[:4] @ vh[:4] + 0.01 * noise


def test_the_bound_holds_and_the_printed_one_does_not():
    """Liu et al. 2021, Eq. 4 with the corrected and the printed Eq. 3: 60 matrices, two methods."""
    printed_violations = 0
    generator = torch.Generator().manual_seed(0)
    for seed in range(60):
        matrix = _matrix(seed)
        mpo = decompose(matrix, n=4)
        values = mpo.bond_spectra()
        bonds = [int(torch.randint(1, d + 1, (), generator=generator)) for d in mpo.bonds]
        for method in ("slice", "sequential"):
            error = float((matrix - mpo.truncate(bonds, method).to_matrix()).norm())
            eps = truncation_errors(values, bonds)
            assert error <= error_bound(values, bonds) + 1e-10 * float(matrix.norm())
            assert error >= max(eps) - 1e-10 * float(matrix.norm())
            printed_violations += error > error_bound(values, bonds, "printed") * (1 + 1e-9)
    assert printed_violations > 0


@pytest.mark.parametrize("bond", [0, 1, 2, 3])
@pytest.mark.parametrize("method", ["slice", "sequential"])
def test_one_bond_alone_costs_exactly_its_error(bond, method):
    matrix = _matrix(4)
    mpo = decompose(matrix, n=5)
    bonds = list(mpo.bonds)
    bonds[bond] = 2
    error = float((matrix - mpo.truncate(bonds, method).to_matrix()).norm())
    assert error == pytest.approx(truncation_errors(mpo.bond_spectra(), bonds)[bond], rel=1e-9)
