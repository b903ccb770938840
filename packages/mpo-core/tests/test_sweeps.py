from __future__ import annotations

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpo_core import MPOShape, decompose, error_bound
from mpo_core.decomposing.chain import expand, home_site, merge_sites, separate_sites
from mpo_core.decomposing.decomposition import decompose_with_spectra, schmidt_values
from mpo_core.decomposing.isometry import NotConvergedError, is_clean, isometry, side_basis, side_values
from mpo_core.decomposing.sides import SideLayout, side_layout, unfold
from mpo_core.decomposing.sweeps import plan_stages, refit_step
from mpo_core.decomposing.unfolding import Side, Unfolding

FACTORS = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=5)
GEOMETRIC = MPOShape(144, 144, (3, 4, 4, 3), (3, 4, 4, 3))


def _random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _shape(factors: list[tuple[int, int]]) -> MPOShape:
    rows, cols = zip(*factors, strict=True)
    return MPOShape(math.prod(rows), math.prod(cols), rows, cols)


def _geometric(decades: float) -> torch.Tensor:
    """A matrix of shape `GEOMETRIC` whose middle unfolding has singular values from 1 down to 10^-decades."""
    u, v = (torch.linalg.qr(_random(144, 144, seed=seed))[0] for seed in (0, 1))
    unfolding = u * torch.logspace(0, -decades, 144, dtype=torch.float64) @ v
    return unfolding.reshape(3, 3, 4, 4, 4, 4, 3, 3).permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(144, 144)


def _error(matrix: torch.Tensor, **options) -> float:
    mpo = decompose(matrix, GEOMETRIC, **options)
    return float((mpo.to_matrix().double() - matrix.double()).norm() / matrix.double().norm())


@settings(deadline=None, max_examples=60)
@given(FACTORS, st.lists(st.integers(1, 20), min_size=4, max_size=4))
def test_groups_are_the_sites_between_bonds_that_are_cut(factors, bonds):
    shape = _shape(factors)
    chain = merge_sites(shape, bonds[: shape.n - 1])
    assert chain.spans[chain.home][0] <= chain.site < chain.spans[chain.home][1]
    assert chain.site == home_site(shape)
    assert math.prod(chain.rows) == shape.rows
    assert math.prod(chain.cols) == shape.cols
    ends = (1, *chain.bonds, 1)
    for group, size in enumerate(chain.sizes):
        if group < chain.home:
            assert ends[group + 1] < ends[group] * size
        elif group > chain.home:
            assert ends[group] < size * ends[group + 1]


@settings(deadline=None, max_examples=60)
@given(FACTORS, st.integers(0, 99))
def test_expanding_one_group_permutes_the_matrix(factors, seed):
    """Whatever the order in which the digits are moved."""
    shape = _shape(factors)
    matrix = _random(shape.rows, shape.cols, seed=seed)
    chain = merge_sites(shape, shape.full_bonds)
    cores = expand([matrix[None, :, :, None]], chain)
    digits = matrix.reshape(*shape.row_factors, *shape.col_factors)
    digits = digits.permute([axis for k in range(shape.n) for axis in (k, shape.n + k)])
    assert torch.equal(cores[chain.site].flatten(), digits.flatten())
    assert [tuple(core.shape) for core in cores] == list(shape.core_shapes())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_products_with_an_unfolding_are_those_of_the_matrix_it_is(factors, last, transposed, dtype):
    """Gram matrices, triangles and projections of both sides, from strided views in other dtypes."""
    shape = _shape(factors)
    rows, cols = math.prod(shape.row_factors[:last]), math.prod(shape.col_factors[:last])
    size = (2, 2, shape.rows, shape.cols, 3)
    tensor = _random(*size).to(dtype)
    if transposed:
        tensor = tensor.transpose(2, 3).contiguous().transpose(2, 3)
    unfolding = Unfolding.split(tensor, rows, cols, torch.float64)
    dense = tensor.double().reshape(2, 2, rows, shape.rows // rows, cols, shape.cols // cols, 3)
    dense = dense.permute(0, 1, 2, 4, 3, 5, 6).reshape(2, 2 * rows * cols, -1)
    sides: list[tuple[Side, torch.Tensor]] = [("left", dense), ("right", dense.mT)]
    for side, wide in sides:
        gram = wide @ wide.mT
        torch.testing.assert_close(unfolding.gram(side), gram)
        triangle = unfolding.triangle(side)
        torch.testing.assert_close(triangle.mT @ triangle, gram)
        basis = _random(2, wide.shape[1], 2, seed=1)
        projected = unfolding.project(side, basis, torch.float64)
        expected = basis.mT @ wide if side == "left" else (basis.mT @ wide).mT
        torch.testing.assert_close(projected.reshape(expected.shape), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", ["left", "right"])
def test_many_blocks_are_one(side, dtype):
    """A matrix that is larger than what is held, and larger than a block."""
    tensor = _random(1, 1, 600, 2000, 1).float()
    unfolding = Unfolding.split(tensor, 6, 5, dtype)
    dense = tensor.double().reshape(6, 100, 5, 400).permute(0, 2, 1, 3).reshape(30, -1)
    if side == "right":
        unfolding = Unfolding.split(tensor, 100, 400, dtype)
        dense = tensor.double().reshape(100, 6, 400, 5).permute(0, 2, 1, 3).reshape(-1, 30).T
    assert unfolding.view.numel() * dtype.itemsize > 1 << 22
    assert len(list(unfolding.blocks(side))) > 1
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    gram = dense @ dense.T
    torch.testing.assert_close(unfolding.gram(side)[0].double(), gram, rtol=1e-5, atol=tolerance * float(gram.max()))
    basis = torch.linalg.qr(_random(30, 4))[0].to(dtype)[None]
    projected = unfolding.project(side, basis)
    expected = basis[0].double().T @ dense
    projected = projected[0].flatten(1) if side == "left" else projected[0].flatten(0, 2).T
    torch.testing.assert_close(projected.double(), expected, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(FACTORS, st.integers(0, 99), st.booleans())
def test_a_side_has_orthonormal_cores_and_all_singular_values(factors, seed, wide):
    """Of all its bonds, from one Gram matrix, or from the other side's where that is smaller."""
    shape = _shape([*factors, (2, 3)])
    tensor = _random(2, 1, shape.rows, shape.cols, 1, seed=seed)
    chain = separate_sites(shape)
    last = shape.n - 1 if wide else max(1, chain.home)
    groups = tuple(zip(shape.row_factors[:last], shape.col_factors[:last], strict=True))
    if wide:
        groups = ((math.prod(i for i, _ in groups), math.prod(j for _, j in groups)),)
    bonds = [min(4, math.prod(i * j for i, j in groups[:k])) for k in range(1, len(groups) + 1)]
    other = shape.rows * shape.cols // math.prod(i * j for i, j in groups)
    bonds[-1] = min(bonds[-1], other)
    layout = SideLayout("left", groups, tuple(bonds), 1)
    basis = side_basis(unfold(tensor, layout, torch.float64), layout, True)
    columns = isometry(layout, basis.chain_cores())
    torch.testing.assert_close(columns.mT @ columns, torch.eye(columns.shape[-1]).double().expand(2, -1, -1))
    digits = tensor.reshape(2, layout.rows, -1, layout.cols, shape.cols // layout.cols).transpose(2, 3)
    unfolding = digits.reshape(2, layout.size, -1)
    values = torch.linalg.svdvals(unfolding)
    if len(groups) == 1:
        torch.testing.assert_close(basis.values[0][:, : values.shape[1]], values)
        kept = (columns.mT @ unfolding).flatten(1).norm(dim=1)
        torch.testing.assert_close(kept, values[:, : columns.shape[-1]].norm(dim=1))


def test_both_sides_of_a_layout_sort_digits_and_back():
    for side in ("left", "right"):
        layout = SideLayout(side, ((2, 3), (1, 2), (3, 1)), (4, 4, 4), 5)
        tensor = _random(2, layout.size, 3)
        assert torch.equal(layout.unsorted_digits(layout.sorted_digits(tensor, 1), 1), tensor)
    right = SideLayout("right", ((2, 1), (3, 1)), (2, 2), 1)
    # As the unfolding has it, the inner group's digit is the more significant one.
    assert right.sorted_digits(torch.arange(6)[None], 1).tolist() == [[0, 2, 4, 1, 3, 5]]


def test_the_plan_takes_the_cheaper_side_first_and_shares_gram_matrices():
    shape = MPOShape(30720, 768, (8, 8, 10, 8, 6), (4, 4, 4, 4, 3))
    chain = merge_sites(shape, shape.clip_bonds(64))
    assert [stage.side for stage in plan_stages(chain)] == ["right", "left"]
    assert refit_step(chain) == (1, "right")
    shape = MPOShape(768, 3072, (4, 4, 4, 4, 3), (4, 4, 8, 6, 4))
    assert refit_step(merge_sites(shape, shape.clip_bonds(64))) is None
    assert plan_stages(merge_sites(shape, shape.full_bonds)) == ()
    assert len(plan_stages(merge_sites(shape, (2, 2, 2, 2)))) == 4
    # Cutting a wide outer bond by one only is no reason to project twice.
    wide = MPOShape(16384, 16384, (8, 4, 16, 4, 8), (8, 4, 16, 4, 8))
    shared = plan_stages(merge_sites(wide, (63, 200, 200, 63)))
    assert [(stage.first, stage.last) for stage in shared] == [(0, 2), (0, 2)]


@settings(deadline=None, max_examples=40)
@given(FACTORS, st.lists(st.integers(1, 8), min_size=4, max_size=4), st.integers(0, 99))
def test_what_home_keeps_is_what_the_operator_keeps(factors, bonds, seed):
    """``||W||^2 = ||W'||^2 + ||W - W'||^2``: the cores are an orthogonal projection of the matrix."""
    shape = _shape(factors)
    matrix = _random(shape.rows, shape.cols, seed=seed)
    mpo = decompose(matrix, shape, bonds[: shape.n - 1])
    error = float((mpo.to_matrix() - matrix).norm())
    home = float(mpo.cores[home_site(shape)].norm())
    assert home**2 + error**2 == pytest.approx(float(matrix.norm()) ** 2, rel=1e-12)
    sequential = decompose(matrix, shape, bonds[: shape.n - 1], method="sequential")
    assert error <= 1.5 * float((sequential.to_matrix() - matrix).norm()) + 1e-12


def test_no_worse_than_tt_svd_where_it_matters():
    """Weights of a transformer, small: Gaussian, power law, low rank and noise, three shapes."""
    for rows, cols in ((96, 96), (96, 384), (384, 96)):
        u, v = _random(rows, 64, seed=1), _random(64, cols, seed=2)
        power = u * torch.arange(1, 65).double() ** -0.7 @ v
        for matrix in (_random(rows, cols), power, u[:, :8] @ v[:8] + 0.3 * _random(rows, cols)):
            for bonds in (8, 20):
                sweep = decompose(matrix, bonds=bonds)
                refined = decompose(matrix, bonds=bonds, refine=1)
                reference = decompose(matrix, bonds=bonds, method="sequential")
                errors = [float((mpo.to_matrix() - matrix).norm()) for mpo in (sweep, refined, reference)]
                assert errors[0] <= 1.01 * errors[2]
                assert errors[1] <= 1.0005 * errors[2]


@pytest.mark.parametrize("decades", [1, 4, 8, 10, 12, 14])
@pytest.mark.parametrize("bond", [4, 16, 72, 110])
def test_steep_spectra_are_cut_as_by_svd(decades, bond):
    """Down to errors of 1e-14 in float64, and as far as the data go in float32."""
    matrix = _geometric(decades)
    truth = float(torch.logspace(0, -decades, 144, dtype=torch.float64)[bond:].norm()) / float(matrix.norm())
    bonds = (9, bond, 9)
    assert _error(matrix, bonds=bonds) == pytest.approx(truth, rel=1e-4, abs=3e-15)
    for precision in ("accurate", "fast"):
        assert _error(matrix.float(), bonds=bonds, precision=precision) == pytest.approx(truth, rel=5e-4, abs=4e-7)


def test_what_rounding_would_spoil_is_done_again_and_logged(caplog):
    def log(matrix: torch.Tensor, call=decompose, **options) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="mpo_core"):
            call(matrix, GEOMETRIC, **options)
        return [record.message for record in caplog.records]

    steep, flat = _geometric(14), _geometric(0.3)
    bonds = (9, 72, 9)
    again = log(steep.float(), bonds=bonds, precision="fast")
    assert len(again) == 1
    assert "rounding noise in torch.float32; done again in float64" in again[0]
    again = log(steep, bonds=bonds)
    assert len(again) == 1
    assert "rounding noise in torch.float64; done again with QR and SVD" in again[0]
    # For the complete Schmidt bases and for the values alone.
    for call in (decompose_with_spectra, schmidt_values):
        assert ["QR and SVD" in line for line in log(steep, call)] == [True]
        assert ["in float64" in line for line in log(steep.float(), call, precision="fast")] == [True]
        assert log(steep.float(), call) == log(flat, call) == []
    assert log(flat.float(), bonds=bonds, precision="fast") == log(flat, bonds=bonds) == []
    assert log(steep.float(), bonds=bonds) == []


def test_an_eigensolver_that_fails_is_not_the_end(caplog):
    """NaN makes every solver fail, so all ways are tried, one after the other, before the error comes through."""
    tensor = torch.full((1, 1, 12, 12, 1), math.nan)
    layout = SideLayout("left", ((2, 2),), (2,), 1)
    with caplog.at_level(logging.INFO, logger="mpo_core"), pytest.raises(NotConvergedError):
        side_basis(unfold(tensor, layout, torch.float32), layout, False)
    assert ["eigh did not converge" in record.message for record in caplog.records] == [True, True]
    assert ["in float64" in caplog.messages[0], "with QR and SVD" in caplog.messages[1]] == [True, True]
    with pytest.raises(NotConvergedError):
        side_values(unfold(tensor, layout, torch.float32), layout, False)


def test_noise_is_told_from_values():
    flat = torch.ones(1, 8, dtype=torch.float64)
    assert is_clean(flat, 4, torch.float32)
    assert is_clean(0 * flat, 4, torch.float32)
    assert is_clean(0 * flat, 8, torch.float32)
    steep = torch.tensor([[1.0, 1e-3, 1e-9, 1e-18]])
    assert not is_clean(steep, 2, torch.float32)
    assert is_clean(steep.double(), 2, torch.float64)
    assert not is_clean(steep.double(), 3, torch.float64)
    assert not is_clean(steep.double(), 4, torch.float64)
    # One of a batch is enough.
    assert not is_clean(torch.cat([torch.ones(1, 4), steep]), 2, torch.float32)


def test_a_basis_is_done_again_for_the_matrix_that_needs_it_only(caplog):
    tensor = torch.stack([_geometric(0.3), _geometric(14), _geometric(0.3)])[:, None, :, :, None]
    chain = merge_sites(GEOMETRIC, (9, 72, 9))
    layout = side_layout(chain, "left", 0, 1)
    with caplog.at_level(logging.INFO, logger="mpo_core"):
        basis = side_basis(unfold(tensor, layout, torch.float64), layout, True)
    assert len(caplog.records) == 1
    for element in range(3):
        alone = side_basis(unfold(tensor[element : element + 1], layout, torch.float64), layout, True)
        torch.testing.assert_close(basis.values[0][element], alone.values[0][0])


def test_steep_schmidt_values_keep_their_digits():
    """Relative to the largest, 1e-12 in float64; a Gram matrix alone would end at 1e-8."""
    matrix = _geometric(14)
    truth = torch.logspace(0, -14, 144, dtype=torch.float64)
    values = schmidt_values(matrix, GEOMETRIC)[1]
    assert float((values - truth).abs().max()) < 1e-14
    for gauge in ("mixed", "symmetric", "left", "right", "central"):
        mpo, spectra = decompose_with_spectra(matrix, GEOMETRIC, gauge=gauge)
        assert float((spectra[1] - truth).abs().max()) < 1e-14
        assert float((mpo.to_matrix() - matrix).norm()) < 1e-14 * float(matrix.norm())


def test_bonds_that_only_the_other_side_narrows_cost_nothing():
    """Cutting bond 1 to 1 leaves bond 2 a rank of s_2; it must not be cut to that before."""
    shape = MPOShape(32, 32, (4, 2, 2, 2), (4, 2, 2, 2))
    matrix = _random(32, 32)
    mpo = decompose(matrix, shape, (1, 16, 4))
    assert mpo.bonds == (1, 4, 4)
    spectra = schmidt_values(matrix, shape)
    assert float((mpo.to_matrix() - matrix).norm()) <= error_bound(spectra, (1, 16, 4)) * (1 + 1e-12)
