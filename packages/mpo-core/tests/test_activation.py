from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from mpo_core.budgets.activation import collect_covariances, damped_covariance, decompose_for_outputs
from mpo_core.decomposing.decomposition import decompose
from mpo_core.errors import BondError, NonFiniteError, ShapeError, UsageError
from mpo_core.models.targets import find_targets
from mpo_core.operators.mpo import MPO
from mpo_core.shapes import MPOShape


def inputs_of(cols: int, count: int = 400, seed: int = 0) -> torch.Tensor:
    """Correlated inputs with one large feature and a mean, as in language models."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, cols, generator=generator, dtype=torch.float64)
    mixing = torch.randn(cols, cols, generator=generator, dtype=torch.float64) / math.sqrt(cols)
    inputs = inputs * torch.arange(1, cols + 1).double() ** -0.5 @ mixing + 0.3
    inputs[:, cols // 3] *= 20
    return inputs


def matrix_of(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.T @ inputs / len(inputs)


def output_error(matrix: torch.Tensor, mpo, covariance: torch.Tensor) -> float:
    difference = matrix.double() - mpo.to_matrix().double()
    return math.sqrt(float((difference @ covariance * difference).sum()))


@pytest.mark.parametrize(("rows", "cols", "n"), [(48, 32, 5), (32, 48, 3), (30, 23, 4), (17, 40, 2), (64, 64, 6)])
def test_outputs_are_closer_than_with_the_plain_decomposition(rows, cols, n):
    matrix, covariance = matrix_of(rows, cols), moment(inputs_of(cols))
    shape = MPOShape.choose(rows, cols, n)
    bonds = [max(1, bond // 2) for bond in shape.full_bonds]
    plain = output_error(matrix, decompose(matrix, shape, bonds), covariance)
    mpo = decompose_for_outputs(matrix, covariance, shape, bonds)
    assert all(bond <= cap for bond, cap in zip(mpo.bonds, bonds, strict=True))
    assert output_error(matrix, mpo, covariance) < 0.7 * plain


def test_the_error_never_rises_from_sweep_to_sweep():
    matrix, covariance = matrix_of(48, 36), moment(inputs_of(36))
    weight = damped_covariance(covariance, 36)  # what is minimised, up to a factor
    errors = [
        output_error(matrix, decompose_for_outputs(matrix, covariance, bonds=7, sweeps=sweeps), weight)
        for sweeps in range(6)
    ]
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(errors))
    assert errors[-1] < 0.8 * errors[0]


def test_one_cut_bond_is_the_best_weighted_approximation():
    # Rows (6, 1) and columns (1, 8): the bond is the rank, and the optimum is the weighted truncated SVD.
    matrix, covariance = matrix_of(6, 8), moment(inputs_of(8))
    shape = MPOShape(6, 8, (6, 1), (1, 8))
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.sqrt()) @ vectors.T
    for rank in (1, 3, 5):
        best = float(torch.linalg.svdvals(matrix @ root)[rank:].norm())
        found = decompose_for_outputs(matrix, covariance, shape, rank, sweeps=8, damping=0.0)
        assert output_error(matrix, found, covariance) == pytest.approx(best, rel=1e-4)


def test_a_kronecker_weight_is_met_by_the_start_alone():
    shape = MPOShape(27, 24, (3, 3, 3), (2, 3, 4))
    factors = [moment(inputs_of(size, seed=size)) for size in shape.col_factors]
    covariance = torch.kron(torch.kron(factors[0], factors[1]), factors[2])
    matrix = matrix_of(27, 24)
    start = output_error(matrix, decompose_for_outputs(matrix, covariance, shape, 4, sweeps=0), covariance)
    assert start < 0.7 * output_error(matrix, decompose(matrix, shape, 4), covariance)
    # One weighted bond is the truncated SVD of that unfolding, so its error is that spectrum's tail.
    roots = [torch.linalg.cholesky(factor) for factor in factors]
    weighted = matrix @ torch.kron(torch.kron(roots[0], roots[1]), roots[2])
    one = (shape.full_bonds[0], 4)
    unfolding = weighted.reshape(3, 3, 3, 2, 3, 4).permute(0, 3, 1, 4, 2, 5).reshape(54, 12)
    exact = float(torch.linalg.svdvals(unfolding)[4:].norm())
    mpo = decompose_for_outputs(matrix, covariance, shape, one, sweeps=0, damping=0.0)
    assert output_error(matrix, mpo, covariance) == pytest.approx(exact, rel=1e-6)


def test_white_inputs_give_no_more_error_than_the_plain_decomposition():
    matrix = matrix_of(40, 36)
    mpo = decompose_for_outputs(matrix, torch.eye(36), bonds=6)
    plain = decompose(matrix, bonds=6)
    assert (mpo.to_matrix() - matrix).norm() <= (plain.to_matrix() - matrix).norm() * (1 + 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gauge", ["symmetric", "left", "right", "central"])
def test_gauge_dtype_and_full_bonds(dtype, gauge):
    matrix = matrix_of(20, 12).to(dtype)
    mpo = decompose_for_outputs(matrix, moment(inputs_of(12)), n=3, gauge=gauge)
    assert mpo.dtype == dtype
    assert mpo.bonds == mpo.shape.full_bonds
    difference = (mpo.to_matrix() - matrix).norm() / matrix.norm()
    assert difference < {torch.float64: 1e-13, torch.float32: 1e-6}.get(dtype, 3e-2)


@pytest.mark.parametrize("power", [-600, -100, 100, 600])
def test_the_scale_plays_no_part(power):
    matrix, covariance = matrix_of(20, 18), moment(inputs_of(18))
    expected = decompose_for_outputs(matrix, covariance, bonds=4).to_matrix()
    found = decompose_for_outputs(matrix * 2.0**power, covariance * 2.0**-power, bonds=4, gauge="left").to_matrix()
    assert (found * 2.0**-power - expected).norm() < 1e-10 * matrix.norm()


def test_degenerate_matrices_and_weights():
    covariance = moment(inputs_of(12))
    assert decompose_for_outputs(torch.zeros(10, 12), covariance, bonds=2).to_matrix().abs().max() == 0
    matrix = matrix_of(10, 12)
    unseen = decompose_for_outputs(matrix, torch.zeros(12, 12), bonds=3)
    assert torch.allclose(unseen.to_matrix(), decompose_for_outputs(matrix, torch.eye(12), bonds=3).to_matrix())
    direction = matrix_of(12, 1, seed=1)
    once = decompose_for_outputs(matrix, direction @ direction.T, bonds=4, n=3, damping=0.0)
    assert once.to_matrix().isfinite().all()
    assert (once.to_matrix().double() @ direction - matrix.double() @ direction).norm() < 1e-3 * direction.norm()


def test_what_stands_in_the_padding_is_nobodys_error():
    # Bonds of 3 can hold the matrix, but only if its padding need not be zero.
    shape = MPOShape(29, 23, (5, 6), (6, 4))
    cores = [matrix_of(30 * 3, 1).reshape(1, 5, 6, 3), matrix_of(3 * 24, 1, seed=1).reshape(3, 6, 4, 1)]
    matrix, white = MPO(cores, shape).to_matrix(), torch.eye(23, dtype=torch.float64)
    plain = output_error(matrix, decompose(matrix, shape, 3), white)  # the best for a padding of zeros
    found = output_error(matrix, decompose_for_outputs(matrix, white, shape, 3, sweeps=20), white)
    assert found < 0.1 * plain


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"covariance": torch.eye(3)}, ShapeError, "covariance"),
        ({"covariance": torch.full((4, 4), math.nan)}, NonFiniteError, "covariance"),
        ({"covariance": torch.triu(torch.ones(4, 4))}, UsageError, "not symmetric"),
        ({"covariance": -torch.eye(4)}, UsageError, "non-negative diagonal"),
        ({"damping": -1.0}, UsageError, "damping"),
        ({"damping": math.nan}, UsageError, "damping"),
        ({"sweeps": -1}, UsageError, "sweeps"),
        ({"bonds": 0}, BondError, "bonds"),
        ({"gauge": "upright"}, UsageError, "gauge"),
        ({"matrix": torch.ones(5)}, ShapeError, "matrix"),
        ({"matrix": torch.ones(5, 4, dtype=torch.int64)}, UsageError, "floating"),
        ({"matrix": torch.full((5, 4), math.inf)}, NonFiniteError, "matrix"),
        ({"shape": MPOShape.choose(4, 5)}, ShapeError, "shape"),
    ],
)
def test_refuses_bad_arguments(arguments, error, says):
    given = {"matrix": torch.randn(5, 4), "covariance": torch.eye(4), "bonds": 1, **arguments}
    with pytest.raises(error, match=says):
        decompose_for_outputs(given.pop("matrix"), given.pop("covariance"), **given)


class Toy(nn.Module):
    """Embedding, a layer used twice, and a head on the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.inner = nn.Linear(6, 6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 2)
        self.unused = nn.Linear(6, 2)

    def forward(self, input_ids, attention_mask=None):
        hidden = self.drop(self.inner(self.inner(self.embed(input_ids))))
        return self.head(hidden[:, 0])


def test_covariances_are_those_of_the_unmasked_inputs():
    model = Toy().train()
    model.drop.eval()
    ids = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
    mask = (ids > 0).long()
    targets = [target for target in find_targets(model) if target.name != "unused"]
    found = collect_covariances(model, targets, [{"input_ids": ids, "attention_mask": mask}])
    assert set(found) == {"inner", "head"}
    with torch.no_grad():
        first = model.embed(ids)
        second = model.inner(first)
        last = model.inner(second)[:, 0].double()
        seen = torch.cat([first[mask.bool()], second[mask.bool()]]).double()
    assert torch.allclose(found["inner"], seen.T @ seen / 10)
    assert torch.allclose(found["head"], last.T @ last / 2)
    assert found["inner"].dtype == torch.float64
    assert model.training
    assert not model.drop.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_reading_stops_after_enough_tokens():
    model = nn.Sequential(nn.Linear(3, 3))
    batches = iter([torch.ones(2, 5, 3)] * 4)
    collect_covariances(model, find_targets(model), batches, max_tokens=11)
    assert len(list(batches)) == 2
    split = collect_covariances(model, find_targets(model), [torch.eye(3)[:1], torch.eye(3)[1:]])
    assert torch.allclose(split["0"], torch.eye(3, dtype=torch.float64) / 3)


def test_collecting_says_what_is_missing():
    model = Toy()
    targets = find_targets(model)
    with pytest.raises(UsageError, match="'unused' received no token"):
        collect_covariances(model, targets, [{"input_ids": torch.tensor([[1]])}])
    with pytest.raises(UsageError, match="received no token"):
        collect_covariances(model, targets, [])
    with pytest.raises(UsageError, match="max_tokens"):
        collect_covariances(model, targets, [], max_tokens=0)
    linear = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(NonFiniteError, match="'0' hold NaN"):
        collect_covariances(linear, find_targets(linear), [torch.tensor([[1.0, math.nan]])])
    assert not linear[0]._forward_pre_hooks


def test_collecting_leaves_the_model_as_it_was_after_an_error():
    model = Toy().train()
    with pytest.raises(IndexError):
        collect_covariances(model, find_targets(model), [{"input_ids": torch.tensor([[99]])}])
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
