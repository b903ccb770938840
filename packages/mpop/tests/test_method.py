import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_core import MPOShape, UsageError, decompose
from mpop.method import PAPER_FACTORS, bond_for_parameters, bonds_for_tolerance, paper_shape, value_for


@pytest.mark.parametrize("size", PAPER_FACTORS)
def test_the_papers_factors_are_used_at_five_cores_only(size):
    rows, cols = size
    assert (paper_shape(rows, cols, 5).row_factors, paper_shape(rows, cols, 5).col_factors) == PAPER_FACTORS[size]
    assert paper_shape(rows, cols, 3) == MPOShape.choose(rows, cols, n=3)


def test_bert_embedding_is_padded_to_30720_rows():
    assert paper_shape(30522, 768, 5).padded_rows == 30720


def test_auxiliary_share_of_768_square_is_the_appendix_count():
    shape = paper_shape(768, 768, 5)
    assert shape.n_params(shape.full_bonds) - 589_824 == 74_016


@given(st.integers(200, 60_000))
@settings(max_examples=50, deadline=None)
def test_the_cap_is_the_largest_that_meets_the_limit(limit):
    shapes = [MPOShape.choose(96, 64, n=5), MPOShape.choose(50, 70, n=3)]

    def size(cap):
        return sum(shape.n_params(shape.clip_bonds(cap)) for shape in shapes)

    if size(1) > limit:
        with pytest.raises(UsageError, match="raise the budget"):
            bond_for_parameters(shapes, limit)
        return
    cap = bond_for_parameters(shapes, limit)
    assert size(cap) <= limit
    assert size(cap + 1) > limit or size(cap + 1) == size(cap)


@pytest.mark.parametrize("tolerance", [0.01, 0.1, 0.5])
def test_tolerance_is_kept_and_is_not_wasteful(tolerance):
    matrix = torch.randn(48, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mpo = decompose(matrix, n=4)
    bonds = bonds_for_tolerance(mpo.bond_spectra(), tolerance)
    error = float((matrix - mpo.truncate(bonds).to_matrix()).norm() / matrix.norm())
    assert error <= tolerance
    for index, bond in enumerate(bonds):
        smaller = list(bonds)
        smaller[index] = bond - 1
        spectrum = mpo.bond_spectra()[index]
        assert bond == 1 or spectrum[bond - 1 :].norm() / matrix.norm() > tolerance / len(bonds) ** 0.5


def test_tolerance_of_a_zero_matrix_keeps_one():
    assert bonds_for_tolerance([torch.zeros(4), torch.zeros(4)], 0.1) == (1, 1)


def test_the_first_pattern_that_fits_gives_the_cap():
    bonds = {"*attention*": 7, "*query": 3}
    assert value_for("layer.attention.query", bonds, 9) == 7
    assert value_for("layer.ffn", bonds, 9) == 9
    assert value_for("layer.ffn", bonds, None) is None
