from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mpo_core.budgets.activation import collect_covariances
from mpo_core.budgets.allocation import Order, allocate_bonds, plan_bonds
from mpo_core.budgets.budget import bonds_for_params, reachable_bonds
from mpo_core.decomposing.decomposition import decompose, schmidt_values
from mpo_core.errors import NonFiniteError, ShapeError, UsageError
from mpo_core.models.surgery import replace_modules
from mpo_core.models.targets import find_targets
from mpo_core.operators.spectra import truncation_errors
from mpo_core.shapes import MPOShape

ORDERS: list[Order] = ["error-per-parameter", "error"]


def matrix_of(rows: int, cols: int, decay: float = 0.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, cols, generator=generator, dtype=torch.float64)
    left, values, right = torch.linalg.svd(noise, full_matrices=False)
    return (left * (values * torch.arange(1, len(values) + 1).double() ** -decay)) @ right


def layers_of(*matrices: torch.Tensor, n: int = 3):
    names = [f"layer{k}" for k in range(len(matrices))]
    sizes = [tuple(matrix.shape) for matrix in matrices]
    shapes = {name: MPOShape.choose(rows, cols, n) for name, (rows, cols) in zip(names, sizes, strict=True)}
    spectra = {name: schmidt_values(matrix, shapes[name]) for name, matrix in zip(names, matrices, strict=True)}
    return spectra, shapes


def params(bonds, shapes) -> int:
    return sum(shapes[name].n_params(bonds[name]) for name in shapes)


def squared_error(matrices, bonds, shapes, weights=None) -> float:
    total = 0.0
    for name, matrix in zip(shapes, matrices, strict=True):
        rebuilt = decompose(matrix, shapes[name], bonds[name]).to_matrix()
        total += (1.0 if weights is None else weights[name]) * float((matrix - rebuilt).square().sum())
    return total


MATRICES = (
    matrix_of(64, 64, 1.5),
    matrix_of(64, 64, 0.0, 1),
    0.1 * matrix_of(96, 48, 0.5, 2),
    matrix_of(32, 90, 1.0, 3),
)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8])
def test_the_limit_is_used_and_never_exceeded(share):
    matrices = (matrix_of(192, 192, 1.0), matrix_of(256, 128, 0.0, 1), matrix_of(128, 250, 0.5, 2))
    spectra, shapes = layers_of(*matrices, n=5)
    limit = int(share * sum(matrix.numel() for matrix in matrices))
    for order, least in zip(ORDERS, (0.995, 0.96), strict=True):  # the latter fills nothing up
        bonds = allocate_bonds(spectra, shapes, limit, order=order)
        assert list(bonds) == list(spectra)
        assert least * limit <= params(bonds, shapes) <= limit
        assert all(reachable_bonds(shapes[name], chosen) == chosen for name, chosen in bonds.items())


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("share", [0.15, 0.3, 0.5])
def test_less_error_than_equal_shares_and_than_the_smallest_values_first(relative, share):
    spectra, shapes = layers_of(*MATRICES)
    weights = {name: 1 / float(values[0].square().sum()) for name, values in spectra.items()} if relative else None
    limit = int(share * sum(matrix.numel() for matrix in MATRICES))
    equal = {
        name: bonds_for_params(spectra[name], shapes[name], int(share * matrix.numel()))
        for name, matrix in zip(shapes, MATRICES, strict=True)
    }
    ours = allocate_bonds(spectra, shapes, limit, weights=weights, floor=0)
    theirs = allocate_bonds(spectra, shapes, limit, weights=weights, order="error")
    error = squared_error(MATRICES, ours, shapes, weights)
    assert error < (0.985 if relative else 0.7) * squared_error(MATRICES, equal, shapes, weights)
    assert error <= 1.01 * squared_error(MATRICES, theirs, shapes, weights)


def test_is_near_the_best_of_all_choices():
    # With one bond each, the error of a cut is the tail of its spectrum, to the digit.
    matrices = (matrix_of(8, 8, 1.0), matrix_of(8, 8, 0.2, 1), matrix_of(8, 8, 0.5, 2))
    shapes = {name: MPOShape(8, 8, (2, 4), (4, 2)) for name in "abc"}
    spectra = {name: schmidt_values(matrix, shapes[name]) for name, matrix in zip("abc", matrices, strict=True)}

    def tails(bonds) -> float:
        return sum(float(spectra[name][0][bond:].square().sum()) for name, (bond,) in bonds.items())

    for limit in (60, 100, 200, 300):
        choices = [
            dict(zip("abc", ((x,), (y,), (z,)), strict=True)) for x, y, z in itertools.product(range(1, 9), repeat=3)
        ]
        best = min(tails(bonds) for bonds in choices if params(bonds, shapes) <= limit)
        assert tails(allocate_bonds(spectra, shapes, limit, floor=0)) <= 1.05 * best + 1e-12


@pytest.mark.parametrize("floor", [0.0, 0.25, 0.6, 1.0])
def test_no_layer_falls_below_its_floor(floor):
    spectra, shapes = layers_of(*MATRICES)
    limit = int(0.3 * sum(matrix.numel() for matrix in MATRICES))
    bonds = allocate_bonds(spectra, shapes, limit, floor=floor)
    shares = [
        shapes[name].n_params(bonds[name]) / matrix.numel() for name, matrix in zip(shapes, MATRICES, strict=True)
    ]
    # Whole bonds come as near to the floor as they can.
    assert min(shares) >= 0.85 * floor * 0.3
    if floor == 0:
        assert min(shares) < 0.05
    assert params(bonds, shapes) <= limit


def step_by_step(spectra, shapes, limit, weights):
    """Algorithm 2, literally: shrink the bond whose shrinking adds least to the squared errors, one after the other."""
    bonds = {name: list(shapes[name].full_bonds) for name in shapes}
    while params({n: reachable_bonds(shapes[n], b) for n, b in bonds.items()}, shapes) > limit:
        costs = {}
        for name, current in bonds.items():
            for k, bond in enumerate(current):
                if bond > 1:
                    costs[name, k] = weights[name] * float(spectra[name][k][bond - 1]) ** 2
        name, k = min(costs, key=lambda key: costs[key])
        bonds[name][k] -= 1
    return {name: reachable_bonds(shapes[name], chosen) for name, chosen in bonds.items()}


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_merge_of_sorted_lists_is_the_stepwise_algorithm(share):
    matrices = (matrix_of(16, 16, 1.0), matrix_of(24, 12, 0.3, 1))
    spectra, shapes = layers_of(*matrices)
    limit = int(share * sum(matrix.numel() for matrix in matrices))
    weights = {"layer0": 0.5, "layer1": 2.0}
    expected = step_by_step(spectra, shapes, limit, weights)
    assert allocate_bonds(spectra, shapes, limit, weights=weights, order="error") == expected
    # and no value that was kept is below one that was cut
    kept = min(
        weights[name] * float(spectra[name][k][bond - 1]) ** 2
        for name, chosen in expected.items()
        for k, bond in enumerate(chosen)
        if bond > 1
    )
    assert kept > 0
    assert all(error >= 0 for name in shapes for error in truncation_errors(spectra[name], expected[name]))


@pytest.mark.parametrize("order", ORDERS)
def test_ties_are_settled_the_same_way_every_time(order):
    shapes = {name: MPOShape.choose(64, 64, 3) for name in "abc"}
    spectra = {name: [torch.ones(bond) for bond in shape.full_bonds] for name, shape in shapes.items()}
    first = allocate_bonds(spectra, shapes, 6000, order=order)
    assert first == allocate_bonds(spectra, shapes, 6000, order=order)
    assert params(first, shapes) <= 6000


@given(st.integers(0, 2**31), st.floats(0, 1), st.sampled_from(ORDERS), st.floats(-60, 60))
@settings(max_examples=15, deadline=None)
def test_any_layers(seed, share, order, exponent):
    generator = torch.Generator().manual_seed(seed)
    shapes, spectra = {}, {}
    for k in range(3):
        n = int(torch.randint(1, 5, (), generator=generator))
        rows, cols = (int(size) for size in torch.randint(1, 40, (2,), generator=generator))
        shape = shapes[str(k)] = MPOShape.choose(rows, cols, n)
        values = [torch.rand(bond, generator=generator, dtype=torch.float64) for bond in shape.full_bonds]
        spectra[str(k)] = [(v.sort(descending=True).values / v.norm()) * 10.0**exponent for v in values]
    least, most = (sum(shape.n_params(bonds) for shape in shapes.values()) for bonds in (1, None))
    limit = least + int(share * (most - least))
    bonds = allocate_bonds(spectra, shapes, limit, order=order)
    assert params(bonds, shapes) <= limit
    assert all(len(bonds[name]) == shape.n - 1 and min((1, *bonds[name])) >= 1 for name, shape in shapes.items())


@pytest.mark.parametrize("order", ORDERS)
def test_no_layers_and_ample_limits(order):
    assert allocate_bonds({}, {}, 0, order=order) == {}
    spectra, shapes = layers_of(matrix_of(16, 16))
    assert allocate_bonds(spectra, shapes, 10**9, order=order) == {"layer0": shapes["layer0"].full_bonds}


def test_refuses_bad_arguments():
    spectra, shapes = layers_of(matrix_of(16, 16), matrix_of(8, 8))
    least = sum(shape.n_params(1) for shape in shapes.values())
    with pytest.raises(UsageError, match=f"at least {least} parameters"):
        allocate_bonds(spectra, shapes, least - 1)
    wrong: Any
    for wrong in (True, 3.5):
        with pytest.raises(UsageError, match="limit"):
            allocate_bonds(spectra, shapes, wrong)
    wrong = "random"
    with pytest.raises(UsageError, match="order"):
        allocate_bonds(spectra, shapes, 1000, order=wrong)
    with pytest.raises(UsageError, match="layer1"):
        allocate_bonds(spectra, {"layer0": shapes["layer0"]}, 1000)
    with pytest.raises(UsageError, match="weights"):
        allocate_bonds(spectra, shapes, 1000, weights={"layer0": 1.0})
    for wrong in (-0.1, 1.5, math.nan, True, "low"):
        with pytest.raises(UsageError, match="floor"):
            allocate_bonds(spectra, shapes, 1000, floor=wrong)
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="weight of 'layer0'"):
            allocate_bonds(spectra, shapes, 1000, weights={"layer0": weight, "layer1": 1.0})
    with pytest.raises(NonFiniteError, match="layer 'layer0'"):
        allocate_bonds({**spectra, "layer0": [torch.tensor([math.nan])] * 2}, shapes, 1000)
    with pytest.raises(NonFiniteError, match="weighted squared norm of 'layer0'"):
        allocate_bonds(spectra, shapes, 1000, weights={"layer0": 1e308, "layer1": 1.0})
    with pytest.raises(ShapeError, match="layer 'layer1'"):
        allocate_bonds({**spectra, "layer1": spectra["layer1"][:1]}, shapes, 1000)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 24)
        self.body = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.head = nn.Linear(24, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.body(self.embed(ids)))


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tied()


@pytest.mark.parametrize("importance", ["none", "norm", "activation"])
@pytest.mark.parametrize("order", ORDERS)
def test_the_plan_fits_the_model_and_its_ratio(model, importance, order):
    targets = find_targets(model)
    ids = torch.arange(50).reshape(5, 10)
    covariances = collect_covariances(model, targets, [ids]) if importance == "activation" else None
    bonds = plan_bonds(model, targets, ratio=0.5, n=3, importance=importance, covariances=covariances, order=order)
    assert list(bonds) == ["embed", "body.0", "body.2"]  # the tied weight once
    dense = 50 * 24 + 2 * 24 * 48
    replaced = replace_modules(model, targets, bonds=bonds, n=3)
    cores = sum(core.numel() for replacement in replaced for core in replacement.cores)
    assert 0.93 * 0.5 * dense < cores <= 0.5 * dense
    assert model(ids).isfinite().all()


def test_the_norm_counts_only_where_it_is_asked_to(model):
    targets = find_targets(model, include=["body.*"])
    before = {how: plan_bonds(model, targets, ratio=0.3, n=3, importance=how) for how in ("norm", "none")}
    model.body[2].weight.data *= 100
    after = {how: plan_bonds(model, targets, ratio=0.3, n=3, importance=how) for how in ("norm", "none")}
    assert after["norm"] == before["norm"]
    second = MPOShape.choose(24, 48, 3)
    assert second.n_params(after["none"]["body.2"]) > 1.5 * second.n_params(before["none"]["body.2"])


def test_inputs_decide_with_importance_activation(model):
    targets = find_targets(model, include=["body.*"])
    flat = {"body.0": torch.eye(24), "body.2": torch.eye(48)}
    narrow = {"body.0": torch.eye(24), "body.2": torch.diag(torch.tensor([1.0] * 2 + [0.0] * 46))}
    second = MPOShape.choose(24, 48, 3)
    counts = [
        second.n_params(plan_bonds(model, targets, ratio=0.4, n=3, importance="activation", covariances=c)["body.2"])
        for c in (flat, narrow)
    ]
    # Only two inputs of it are ever used, so few parameters make its outputs right.
    assert counts[1] < 0.75 * counts[0]


def test_shapes_by_name_and_by_function(model):
    targets = find_targets(model, include=["body.0"])
    shape = MPOShape(48, 24, (6, 8), (4, 6))
    assert len(plan_bonds(model, targets, ratio=0.5, shapes={"body.0": shape})["body.0"]) == 1
    assert len(plan_bonds(model, targets, ratio=0.5, shapes=lambda rows, cols: shape)["body.0"]) == 1
    assert len(plan_bonds(model, targets, ratio=0.5, shapes={}, n=4)["body.0"]) == 3


def test_plan_refuses_bad_arguments(model):
    targets = find_targets(model, include=["body.*"])
    wrong: Any
    for wrong in (0.0, -1.0, math.nan, math.inf, True, "half"):
        with pytest.raises(UsageError, match="ratio"):
            plan_bonds(model, targets, ratio=wrong)
    with pytest.raises(UsageError, match="at least"):
        plan_bonds(model, targets, ratio=1e-4)
    with pytest.raises(UsageError, match="no targets"):
        plan_bonds(model, [], ratio=0.5)
    with pytest.raises(UsageError, match="importance"):
        plan_bonds(model, targets, ratio=0.5, importance=wrong)
    with pytest.raises(UsageError, match="missing"):
        plan_bonds(model, targets, ratio=0.5, importance="activation")
    with pytest.raises(UsageError, match="given"):
        plan_bonds(model, targets, ratio=0.5, covariances={})
    with pytest.raises(UsageError, match=r"no entry for the layer 'body\.0'"):
        plan_bonds(model, targets, ratio=0.5, importance="activation", covariances={"body.2": torch.eye(48)})
    with pytest.raises(UsageError, match="order"):
        plan_bonds(model, targets, ratio=0.5, order=wrong)
