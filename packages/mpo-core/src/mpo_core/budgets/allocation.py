"""Bonds for all layers of a model within one budget of parameters.

Layers differ: one loses little by a cut that ruins the next. So the budget is not shared out evenly. Of every layer the
error is looked at as a function of its parameters, and the next parameters go to the layer where they save most error;
where that ends, every layer has the same exchange rate between error and parameters (the Lagrange multiplier of the
budget). The alternative is the order of Liu et al. 2021: drop the smallest Schmidt values first, whatever it saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mpo_core.budgets.activation import Covariance, damped_covariance
from mpo_core.budgets.budget import bonds_for_params, checked_squares, estimated_error, reachable_bonds
from mpo_core.budgets.kronecker import roots
from mpo_core.decomposing.decomposition import schmidt_values
from mpo_core.errors import NonFiniteError, UsageError
from mpo_core.models.targets import Target, WeightGroup, weight_groups
from mpo_core.operators.gauge import Spectrum
from mpo_core.shapes import MPOShape, is_whole

Importance = Literal["none", "norm", "activation"]
Order = Literal["error-per-parameter", "error"]

_CURVE_POINTS = 20


def allocate_bonds(
    spectra: Mapping[str, Sequence[Spectrum]],
    shapes: Mapping[str, MPOShape],
    limit: int,
    *,
    weights: Mapping[str, float] | None = None,
    order: Order = "error-per-parameter",
    floor: float = 0.25,
) -> dict[str, tuple[int, ...]]:
    """Share a number of parameters out among layers so that their weighted squared error becomes small.

    ``error-per-parameter`` minimises ``sum_l w_l ||W_l - W_l'||^2``, as estimated from the spectra
    (`mpo_core.budgets.budget.estimated_error`), and uses the limit up to a fraction of a percent. ``error`` is the
    order of Liu et al. 2021, Algorithm 2, in one pass: of all Schmidt values of all bonds of all layers the smallest
    ``w_l lambda^2`` is cut first, until the limit is met. Each cut adds just that to ``sum_k eps_k^2``, so the
    algorithm's search for the cheapest next cut is a merge of sorted lists. What the cut saves in parameters plays no
    part.

    Args:
        spectra: layer -> Schmidt values of the ``n - 1`` bonds of the untruncated matrix, descending.
        shapes: layer -> factors, for the same layers.
        limit: largest number of entries of all cores of all layers together.
        weights: layer -> factor of its squared values; 1 for all if left out, that is, absolute errors.
        order: which of the two.
        floor: with ``error-per-parameter``, what every layer gets at least, as a part of what it would have if all
            layers had the same share. Losing a layer altogether costs a model more than the squared error says.

    Returns:
        Layer -> its ``n - 1`` bonds, none above the rank that its neighbours allow.

    Raises:
        UsageError: unknown order, a limit that is no integer or below what bonds of 1 need, other layers in the
            mappings, a weight that is negative or not finite, or a floor that is not between 0 and 1.
        ShapeError: a spectrum is no vector of descending values, or does not fit its shape.
        NonFiniteError: a spectrum holds NaN or infinity, or a weighted norm is infinite.

    Example:
        >>> import torch
        >>> steep = [torch.tensor([1.0, 0.0, 0.0, 0.0])]
        >>> flat = [torch.tensor([1.0, 1.0, 1.0, 1.0])]
        >>> allocate_bonds({"a": steep, "b": flat}, dict.fromkeys("ab", MPOShape(4, 4, (2, 2), (2, 2))), 40)
        {'a': (1,), 'b': (4,)}
    """
    if order not in get_args(Order):
        raise UsageError(f"allocate_bonds: order is {order!r}; expected one of {', '.join(get_args(Order))}.")
    for what, names in (("shapes", set(shapes)), ("weights", set(spectra if weights is None else weights))):
        if names != set(spectra):
            odd = sorted(names ^ set(spectra))[0]
            raise UsageError(
                f"allocate_bonds: `spectra` and `{what}` name different layers, for instance {odd!r}; give one entry"
                " for every layer in both."
            )
    layers = [_layer(name, spectra[name], shapes[name], 1.0 if weights is None else weights[name]) for name in spectra]
    limit = _checked_limit(limit, layers)
    if order == "error":
        bonds = _smallest_values_first(layers, limit)
    else:
        bonds = _most_error_saved_first(layers, limit, _least_params(layers, limit, floor))
    return {layer.name: chosen for layer, chosen in zip(layers, bonds, strict=True)}


def plan_bonds(
    model: nn.Module,
    targets: Sequence[Target],
    *,
    ratio: float,
    shapes: Mapping[str, MPOShape] | Callable[[int, int], MPOShape] | None = None,
    n: int = 5,
    importance: Importance = "norm",
    covariances: Mapping[str, Covariance] | None = None,
    order: Order = "error-per-parameter",
    floor: float = 0.25,
) -> dict[str, tuple[int, ...]]:
    """Choose the bonds of all layers of a model for `mpo_core.replace_modules`.

    `importance` says what the errors of different layers are worth:

    - ``none``: the squared errors of the weights are summed as they are, as in Liu et al. 2021.
    - ``norm``: each is divided by ``||W||^2``, so relative errors are summed.
    - ``activation``: the errors of the outputs. The inputs x of a layer have the second moment ``C = E[x x^T]``, and
      ``E||(W - W') x||^2 = ||(W - W') C^{1/2}||^2``. The spectra are those of ``W C^{1/2}``, with the symmetric root
      of C (damped as in `mpo_core.decompose_for_outputs`), and each layer's squared error is divided by
      ``||W C^{1/2}||^2``. Cutting the bonds of W is not cutting those of ``W C^{1/2}``, so this is no bound, but of
      what was compared it told best how the errors of `mpo_core.decompose_for_outputs` differ between layers.
      Embedding tables, which have no inputs, count as with ``norm``.

    A relative error of an embedding table, which everything passes through, is worth more to a model than that of one
    of many layers. Plan a table by itself: among them, it gets too little (``benchmarks/allocation.py``).

    Args:
        model: the model; it is not changed.
        targets: from `mpo_core.find_targets`.
        ratio: share of the parameters of the targets' own dense weights that all their cores may hold; a weight that
            several layers share counts once.
        shapes: mapping from layer name to factors, or a function of (rows, cols); otherwise `MPOShape.choose`.
        n: number of cores where `shapes` does not say.
        importance: see above.
        covariances: layer -> C, from `mpo_core.collect_covariances`; for ``activation``.
        order: as in `allocate_bonds`.
        floor: as in `allocate_bonds`.

    Returns:
        For each distinct weight, the name of its first layer -> bonds.

    Raises:
        UsageError: there are no targets, the ratio is not positive or too small for bonds of 1, an unknown
            importance or order, or covariances that are missing or not asked for.
        MPOError: as `mpo_core.decompose` for a weight that cannot be decomposed.
    """
    if importance not in get_args(Importance):
        raise UsageError(
            f"plan_bonds: importance is {importance!r}; expected one of {', '.join(get_args(Importance))}."
        )
    if (importance == "activation") != (covariances is not None):
        raise UsageError(
            f"plan_bonds: importance is {importance!r} and covariances are"
            f" {'missing' if covariances is None else 'given'}; 'activation', and only that, needs the result of"
            " collect_covariances."
        )
    groups = weight_groups(model, targets)
    limit = _limit_of(ratio, groups)
    spectra: dict[str, list[Spectrum]] = {}
    chosen: dict[str, MPOShape] = {}
    for group in groups:
        first = group.members[0]
        shape = chosen[first.name] = _shape_of(group, shapes, n)
        matrix = first.matrix.detach()
        if covariances is not None and first.kind != "embedding":
            weight = damped_covariance(_covariance_of(group, covariances), shape.cols).to(matrix.device)
            matrix = matrix.double() @ roots(weight)[0]
        spectra[first.name] = schmidt_values(matrix, shape)
    weights = None if importance == "none" else {name: _over_energy(values) for name, values in spectra.items()}
    return allocate_bonds(spectra, chosen, limit, weights=weights, order=order, floor=floor)


@dataclass(frozen=True)
class _Layer:
    """One layer: its spectra, and what its whole squared norm is worth."""

    name: str
    spectra: Sequence[Spectrum]
    squares: list[NDArray[np.float64]]
    shape: MPOShape
    worth: float

    def error(self, bonds: tuple[int, ...]) -> float:
        return self.worth * estimated_error(self.squares, bonds)


@dataclass(frozen=True)
class _Point:
    bonds: tuple[int, ...]
    params: int
    error: float


def _layer(name: str, spectra: Sequence[Spectrum], shape: MPOShape, weight: float) -> _Layer:
    if not 0 <= weight < math.inf:
        raise UsageError(
            f"allocate_bonds: the weight of {name!r} is {weight!r}; expected a finite number of at least 0."
        )
    squares = checked_squares(spectra, shape, f"allocate_bonds: layer {name!r}")
    worth = weight * _energy(spectra)
    if not math.isfinite(worth):
        raise NonFiniteError(
            f"allocate_bonds: the weighted squared norm of {name!r} is {worth}; scale the weights down, for instance"
            " to 1 / ||W||^2."
        )
    return _Layer(name, spectra, squares, shape, worth)


def _least_params(layers: Sequence[_Layer], limit: int, floor: Any) -> list[int]:
    """What every layer gets at least: a part of its equal share, if that leaves anything to choose."""
    if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor <= 1:
        raise UsageError(f"allocate_bonds: `floor` is {floor!r}; expected a number between 0 and 1.")
    least = [layer.shape.n_params(1) for layer in layers]
    dense = [layer.shape.rows * layer.shape.cols for layer in layers]
    part = floor * limit / max(1, sum(dense))
    floors = [
        max(one, min(layer.shape.n_params(), int(part * size)))
        for one, size, layer in zip(least, dense, layers, strict=True)
    ]
    return floors if sum(floors) <= limit else least


def _most_error_saved_first(layers: Sequence[_Layer], limit: int, floors: Sequence[int]) -> list[tuple[int, ...]]:
    """Walk down the convex curves of all layers, steepest piece first; the last piece of a layer may be a part."""
    curves = [_convex(_curve(layer, least)) for layer, least in zip(layers, floors, strict=True)]
    current = [curve[0] for curve in curves]
    pieces = [
        ((after.error - before.error) / (after.params - before.params), which, k)
        for which, curve in enumerate(curves)
        for k, (before, after) in enumerate(pairwise(curve))
    ]
    spare = limit - sum(point.params for point in current)
    closed: set[int] = set()
    for _, which, k in sorted(pieces):
        if which in closed:
            continue
        before, after = current[which], curves[which][k + 1]
        if after.params - before.params > spare:
            closed.add(which)
            after = _point(layers[which], before.params + spare)
        if after.error < before.error:
            current[which] = after
            spare -= after.params - before.params
    return [point.bonds for point in current]


def _curve(layer: _Layer, least: int) -> list[_Point]:
    """Error over parameters, from the floor to full bonds."""
    most = layer.shape.n_params()
    grid = np.concatenate([np.geomspace(least, most, _CURVE_POINTS), np.linspace(least, most, _CURVE_POINTS)])
    return [_point(layer, limit) for limit in sorted({min(most, max(least, round(limit))) for limit in grid})]


def _point(layer: _Layer, limit: int) -> _Point:
    bonds = bonds_for_params(layer.spectra, layer.shape, limit)
    return _Point(bonds, layer.shape.n_params(bonds), layer.error(bonds))


def _convex(points: Sequence[_Point]) -> list[_Point]:
    """The lower left convex border of the points."""
    border: list[_Point] = []
    for point in sorted(points, key=lambda point: (point.params, point.error)):
        if border and point.error >= border[-1].error:
            continue
        while len(border) > 1 and _above(border[-2], border[-1], point):
            border.pop()
        border.append(point)
    return border


def _above(left: _Point, middle: _Point, right: _Point) -> bool:
    """Whether the middle point lies on or above the line between the others."""
    rise = (right.error - left.error) * (middle.params - left.params)
    return (middle.error - left.error) * (right.params - left.params) >= rise


def _smallest_values_first(layers: Sequence[_Layer], limit: int) -> list[tuple[int, ...]]:
    """Cut the smallest weighted squares of all bonds, as few as the limit allows; the largest of a bond stays."""
    places = [(which, k) for which, layer in enumerate(layers) for k in range(len(layer.squares))]
    # Squares are scaled per layer, so they are brought to their worth.
    values = [layer.worth * (squares[1:] / (squares.sum() or 1.0)) for layer in layers for squares in layer.squares]
    owners = np.repeat(np.arange(len(places)), [len(value) for value in values])
    # Of equal values that of the first layer and bond goes first.
    order = owners[np.lexsort((owners, np.concatenate(values)))] if values else owners

    def kept(cuts: int) -> list[tuple[int, ...]]:
        counts = np.bincount(order[:cuts], minlength=len(places))
        bonds: list[list[int]] = [[] for _ in layers]
        for (which, k), count in zip(places, counts, strict=True):
            bonds[which].append(len(layers[which].squares[k]) - int(count))
        return [reachable_bonds(layer.shape, chosen) for layer, chosen in zip(layers, bonds, strict=True)]

    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        params = sum(layer.shape.n_params(bonds) for layer, bonds in zip(layers, kept(middle), strict=True))
        low, high = (low, middle) if params <= limit else (middle + 1, high)
    return kept(low)


def _checked_limit(limit: Any, layers: Sequence[_Layer]) -> int:
    if not is_whole(limit):
        raise UsageError(f"allocate_bonds: `limit` is {limit!r}; expected a whole number of parameters.")
    least = sum(layer.shape.n_params(1) for layer in layers)
    if index(limit) < least:
        raise UsageError(
            f"allocate_bonds: `limit` is {index(limit)}, but the {len(layers)} layers need at least {least} parameters"
            " (all bonds 1); allow more or leave layers out."
        )
    return index(limit)


def _limit_of(ratio: Any, groups: Sequence[WeightGroup]) -> int:
    if not groups:
        raise UsageError("plan_bonds: found no targets; expected at least one, from find_targets(model).")
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < math.inf:
        raise UsageError(f"plan_bonds: `ratio` is {ratio!r}; expected a positive number, such as 0.5.")
    return math.floor(ratio * sum(group.members[0].rows * group.members[0].cols for group in groups))


def _shape_of(
    group: WeightGroup, shapes: Mapping[str, MPOShape] | Callable[[int, int], MPOShape] | None, n: int
) -> MPOShape:
    rows, cols = group.members[0].rows, group.members[0].cols
    if callable(shapes):
        return shapes(rows, cols)
    given = [] if shapes is None else [shapes[name] for name in group.names if name in shapes]
    return given[0] if given else MPOShape.choose(rows, cols, n)


def _covariance_of(group: WeightGroup, covariances: Mapping[str, Covariance]) -> Covariance:
    """The sum over the layers of a group: the squared errors of their outputs add up."""
    found = [covariances[name] for name in group.names if name in covariances]
    if not found:
        raise UsageError(
            f"plan_bonds: `covariances` has no entry for the layer {group.names[0]!r}; give all targets to"
            " collect_covariances, or use importance='norm'."
        )
    return sum(found[1:], found[0])


def _energy(spectra: Sequence[Spectrum]) -> float:
    """The squared Frobenius norm; 0 for a single core, which has no bond to choose."""
    return float(spectra[0].double().square().sum()) if spectra else 0.0


def _over_energy(spectra: Sequence[Spectrum]) -> float:
    energy = _energy(spectra)
    return 1.0 / energy if energy > 0 else 0.0
