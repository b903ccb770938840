"""Bonds for one matrix within a budget: an error that must be kept, or a number of parameters that must fit.

Cutting bond k costs the tail of its spectrum, and the parameters are ``sum_k d_{k-1} s_k d_k`` with ``s_k = i_k j_k``:
linear in every bond while the others stay. So two bonds are moved at a time, all others fixed: for every value of the
one, the best value of the other that the budget allows is known in closed form, and the best of these pairs is taken.
Pair after pair is exchanged until none improves, from several starts. No step leaves the budget.

For a number of parameters, the error to be minimised is not known from the spectra; only bounds are. The sum of the
tails (Liu et al. 2021, Eq. 4) counts twice what two bonds drop both, which misleads where spectra are flat. The kept
energy is nearly the product of what each bond keeps, which ``sum_k -log(kept_k)`` measures; unequal cuts then look a
little better than they are. ``sum_k 2 (kept_k^{-1/2} - 1)`` judged best of what was tried on random, power-law and
low-rank matrices, and for small errors is the sum of the tails again. What remains of its misjudgement, a few tenths of
a percent, could still make the result worse than one cap for all bonds. So bonds that are nowhere below that cap are
found as well, and left only for a clear gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from operator import index
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpo_core.errors import NonFiniteError, ShapeError, UsageError
from mpo_core.operators.spectra import Spectra
from mpo_core.shapes import MPOShape, is_whole

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]
_SWEEPS = 40
_CLEAR_GAIN = 0.005
"""By how much the estimated squared error must fall before a bond is made smaller than the single cap."""
_FULL_ENOUGH = 0.98
"""Share of the limit that has to be used."""


def bonds_for_tolerance(spectra: Spectra, tolerance: float, shape: MPOShape | None = None) -> tuple[int, ...]:
    """Bonds with few parameters whose error bound keeps to a tolerance (Liu et al. 2021, Eq. 4).

    ``sqrt(sum_k eps_k^2) <= tolerance * ||W||``, hence ``||W - W'|| <= tolerance * ||W||``. The bonds need not share
    the error equally.

    Args:
        spectra: Schmidt values of the ``n - 1`` bonds of the untruncated matrix, descending.
        tolerance: relative Frobenius error, at least 0.
        shape: the factors, which say what a bond costs. Without them they are inferred from the full bonds, which
            leaves the size of the innermost core open; it is then taken to be that of the largest other core.

    Returns:
        The ``n - 1`` bonds, each at least 1.

    Raises:
        UsageError: the tolerance is negative or no number.
        ShapeError: a spectrum is no vector of descending values, or does not fit the shape.
        NonFiniteError: a spectrum holds NaN or infinity.

    Example:
        >>> spectrum = torch.tensor([4.0, 3.0, 0.1], dtype=torch.float64)
        >>> bonds_for_tolerance([spectrum, spectrum], 0.1)
        (2, 2)
    """
    _check_tolerance(tolerance)
    squares = checked_squares(spectra, shape, "bonds_for_tolerance")
    if not squares:
        return ()
    tails = [_tails(values) for values in squares]
    budget = tolerance**2 * min(float(tail[0]) for tail in tails)
    search = _search(tails, shape, None, budget)
    count = len(tails)
    shares = [[budget / count] * count, *([budget * (j == k) for j in range(count)] for k in range(count))]
    starts = [start for share in shares if search.loss(start := search.losing(share)) <= budget]
    return search.solve([*starts, tuple(search.caps)])


def bonds_for_params(spectra: Spectra, shape: MPOShape, limit: int) -> tuple[int, ...]:
    """Bonds with a small error among all whose cores hold at most `limit` numbers.

    Never more than the limit; more than 2 % less only where more would keep nothing new, or where no whole bonds
    come nearer.

    Args:
        spectra: Schmidt values of the ``n - 1`` bonds of the untruncated matrix, descending.
        shape: the factors.
        limit: largest number of entries of all cores together.

    Raises:
        UsageError: the limit is below what bonds of 1 need, or no integer.
        ShapeError: a spectrum is no vector of descending values, or does not fit the shape.
        NonFiniteError: a spectrum holds NaN or infinity.

    Example:
        >>> shape = MPOShape(8, 8, (2, 2, 2), (2, 2, 2))
        >>> bonds_for_params([torch.ones(4), torch.ones(4)], shape, 64)
        (3, 3)
    """
    limit = checked_limit(limit, shape, "bonds_for_params")
    squares = checked_squares(spectra, shape, "bonds_for_params")
    if not squares:
        return ()
    search = _search([kept_losses(values) for values in squares], shape, limit, math.inf)
    caps = search.caps[1:-1]
    uniform = search.fitting(lambda t: [t * max(caps)] * len(caps))
    above = replace(search, floors=uniform).solve([uniform])
    shares = search.fitting(lambda t: [t * cap for cap in caps])
    powers = search.fitting(lambda t: [cap**t for cap in caps])
    free = search.solve([uniform, shares, powers])
    gains = estimated_error(squares, free) < (1 - _CLEAR_GAIN) * estimated_error(squares, above)
    return free if gains or shape.n_params(above) < _FULL_ENOUGH * limit else above


def uniform_bond(shape: MPOShape, limit: int) -> int:
    """The largest single cap of all bonds whose cores hold at most `limit` numbers.

    Args:
        shape: the factors.
        limit: largest number of entries of all cores together.

    Raises:
        UsageError: the limit is below what bonds of 1 need, or no integer.

    Example:
        >>> shape = MPOShape.choose(768, 768)
        >>> uniform_bond(shape, 100_000), shape.n_params(uniform_bond(shape, 100_000))
        (67, 97840)
    """
    limit = checked_limit(limit, shape, "uniform_bond")
    low, high = 1, max((1, *shape.full_bonds))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if shape.n_params(middle) <= limit else (low, middle - 1)
    return low


def reachable_bonds(shape: MPOShape, bonds: int | Sequence[int] | None) -> tuple[int, ...]:
    """The bonds cut to the rank that their neighbours allow: ``d_k <= d_{k-1} s_k`` and ``d_k <= s_{k+1} d_{k+1}``.

    A bond above that holds nothing that the smaller one could not.

    Raises:
        BondError: as `MPOShape.clip_bonds`.

    Example:
        >>> reachable_bonds(MPOShape.choose(768, 768), (2, 192, 192, 12))
        (2, 32, 192, 12)
    """
    return _within_reach(_factor_sizes(shape), shape.clip_bonds(bonds))


def checked_limit(limit: Any, shape: MPOShape, where: str) -> int:
    """The limit as an integer.

    Raises:
        UsageError: it is no integer, or below what bonds of 1 need.
    """
    if not is_whole(limit):
        raise UsageError(f"{where}: `limit` is {limit!r}; expected a whole number of parameters.")
    if index(limit) < shape.n_params(1):
        raise UsageError(
            f"{where}: `limit` is {index(limit)}, but a {shape.rows}x{shape.cols} matrix in {shape.n} cores needs at"
            f" least {shape.n_params(1)} parameters (all bonds 1); allow more or choose other factors."
        )
    return min(index(limit), shape.n_params())  # beyond the full bonds nothing counts, nor need it fit an int64


def _check_tolerance(tolerance: Any) -> None:
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
        raise UsageError(f"bonds_for_tolerance: `tolerance` is {tolerance!r}; expected a finite number of at least 0.")


def checked_squares(spectra: Spectra, shape: MPOShape | None, where: str) -> list[_Floats]:
    """The squared Schmidt values of every bond.

    Raises:
        ShapeError: another number of spectra than bonds, or a spectrum that is no vector of descending, non-negative
            values or longer than the full bond.
        NonFiniteError: a spectrum holds NaN or infinity.
    """
    if shape is not None and len(spectra) != shape.n - 1:
        raise ShapeError(f"{where}: found {len(spectra)} spectra; {shape.n} cores have {shape.n - 1} bonds.")
    vectors: list[_Floats] = []
    for k, spectrum in enumerate(spectra):
        if spectrum.dim() != 1 or len(spectrum) == 0:
            raise ShapeError(f"{where}: spectrum {k} has the shape {tuple(spectrum.shape)}; expected a vector.")
        if spectrum.is_complex():
            raise UsageError(f"{where}: spectrum {k} is {spectrum.dtype}; expected real numbers.")
        values: _Floats = spectrum.detach().to("cpu", torch.float64).numpy()
        if not np.isfinite(values).all():
            raise NonFiniteError(f"{where}: spectrum {k} holds NaN or infinity; expected Schmidt values.")
        if values[-1] < 0 or (np.diff(values) > 0).any():
            raise ShapeError(f"{where}: spectrum {k} is not descending and non-negative; expected Schmidt values.")
        if shape is not None and len(values) > shape.full_bonds[k]:
            raise ShapeError(
                f"{where}: spectrum {k} has {len(values)} values, but the full bond is {shape.full_bonds[k]}; give"
                " the spectra and the shape of the same operator."
            )
        vectors.append(values)
    # Scaled, so that no square leaves the range of float64; by the same power of two for all bonds.
    power = -math.frexp(max((float(values[0]) for values in vectors), default=0.0))[1]
    return [np.square(np.ldexp(values, power)) for values in vectors]


def estimated_error(squares: Sequence[_Floats], bonds: Sequence[int]) -> float:
    """The relative squared error to be expected: one minus the product of the shares that the bonds keep.

    Between the largest tail, which is a lower bound, and the sum of the tails, which is an upper one.

    Args:
        squares: squared Schmidt values of every bond, descending.
        bonds: the kept bonds.
    """
    lost = [_lost(values)[bond] for values, bond in zip(squares, bonds, strict=True)]
    return -math.expm1(sum(math.log1p(-share) for share in lost))


def kept_losses(squares: _Floats) -> _Floats:
    """``2 (kept^{-1/2} - 1)`` of the share of energy that the first d values keep, for d = 0 .. D; infinite at 0.

    Args:
        squares: squared Schmidt values, descending.
    """
    return np.concatenate([[math.inf], 2 * np.expm1(-0.5 * np.log1p(-_lost(squares)[1:]))])


def _lost(squares: _Floats) -> _Floats:
    """The share of energy beyond the first d = 0 .. D values."""
    tails = _tails(squares)
    # Squares below the rounding of their sum say nothing, and no parameter should be spent on them.
    return np.where(tails > 1e-14 * tails[0], tails, 0.0) / (tails[0] or 1.0)


@dataclass(frozen=True)
class _Search:
    """Exchange of pairs among the bonds ``d_0 .. d_n``, where ``d_0 = d_n = 1`` stay.

    Attributes:
        sizes: ``s_1 .. s_n``; core k stands between the bonds k - 1 and k.
        losses: for each bond what it costs to keep d = 0, 1, .. values; non-increasing.
        floors: the smallest value of each bond.
        caps: the largest sensible value of each bond.
        limit: the most numbers that the cores may hold; the loss is then made small.
        budget: if `limit` is None, the most loss; the numbers are then made few.
    """

    sizes: list[int]
    losses: list[_Floats]
    floors: Sequence[int]
    caps: Sequence[int]
    limit: int | None = None
    budget: float = math.inf

    def params(self, ends: Sequence[int]) -> int:
        return sum(left * size * right for left, size, right in zip(ends[:-1], self.sizes, ends[1:], strict=True))

    def loss(self, ends: Sequence[int]) -> float:
        return float(sum(loss[end] for loss, end in zip(self.losses, ends, strict=True)))

    def rank(self, ends: tuple[int, ...]) -> tuple[float, float, tuple[int, ...]]:
        """What is made small first, then what else; the bonds themselves make ties deterministic."""
        params, loss = self.params(ends), self.loss(ends)
        return (params, loss, ends) if self.limit is None else (loss, params, ends)

    def solve(self, starts: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
        """The best bonds that exchanging pairs finds from any of the starts."""
        n = len(self.sizes)
        # Bond 0 stands in as the fixed partner where there is one bond only.
        pairs = list(combinations(range(1, n), 2)) or [(0, 1)]
        found: list[tuple[int, ...]] = []
        for ends in dict.fromkeys(starts):
            for _ in range(_SWEEPS):
                before = ends
                for i, j in pairs:
                    ends = min(ends, self._exchanged(ends, i, j), key=self.rank)
                if ends == before:
                    break
            found.append(ends)
        return min(found, key=self.rank)[1:-1]

    def reachable(self, bonds: Sequence[float]) -> tuple[int, ...]:
        """All bonds, within their caps and the rank that their neighbours allow."""
        kept = [max(1, min(math.floor(bond), cap)) for bond, cap in zip(bonds, self.caps[1:-1], strict=True)]
        return (1, *_within_reach(self.sizes, kept), 1)

    def fitting(self, family: Callable[[float], list[float]]) -> tuple[int, ...]:
        """The largest member of a growing family, over 0 <= t <= 1, within the limit."""
        # The end itself first: halving would only come near it, and one bond less may be the whole difference.
        low, high, middle = 0.0, 1.0, 1.0
        for _ in range(41):
            within = self.limit is None or self.params(self.reachable(family(middle))) <= self.limit
            low, high = (middle, high) if within else (low, middle)
            if low == high:
                break
            middle = (low + high) / 2
        return self.reachable(family(low))

    def losing(self, shares: Sequence[float]) -> tuple[int, ...]:
        """The least bonds that lose at most their share each, made as large as their neighbours need."""
        least = [_least(loss, np.array([share])) for loss, share in zip(self.losses[1:-1], shares, strict=True)]
        ends = [1, *(int(bond[0]) for bond in least), 1]
        for k in range(1, len(self.sizes)):
            ends[k] = min(self.caps[k], max(ends[k], -(-ends[k - 1] // self.sizes[k - 1])))
        for k in reversed(range(1, len(self.sizes))):
            ends[k] = min(self.caps[k], max(ends[k], -(-ends[k + 1] // self.sizes[k])))
        return tuple(ends)

    def _exchanged(self, ends: tuple[int, ...], i: int, j: int) -> tuple[int, ...]:
        """The best values of two bonds i < j while the others stay."""
        first = np.arange(*self._range(ends, i, j), dtype=np.int64)
        low, stop = self._range(ends, j, i)
        lows, highs = np.full_like(first, low), np.full_like(first, stop - 1)
        if j == i + 1:
            lows = np.maximum(lows, -(-first // self.sizes[i]))
            highs = np.minimum(highs, first * self.sizes[i])
        # The number of parameters is bilinear in the two.
        corner, along, up, both = (self.params(_with(ends, i, j, x, y)) for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)))
        fixed = corner + (along - corner) * first
        step = up - corner + (both - along - up + corner) * first
        if self.limit is not None:
            second = np.minimum(highs, (self.limit - fixed) // step)
            fits = second >= lows
        else:
            spent = self.loss(_with(ends, i, j, self.caps[i], self.caps[j])) + self.losses[i][first]
            second = np.maximum(lows, _least(self.losses[j], self.budget - spent))
            fits = second <= highs
        first, second, fixed, step = first[fits], second[fits], fixed[fits], step[fits]
        if len(first) == 0:
            return ends
        params, loss = (fixed + step * second).astype(np.float64), self.losses[i][first] + self.losses[j][second]
        order = (loss, params) if self.limit is None else (params, loss)
        best = np.lexsort(order)[0]
        return _with(ends, i, j, int(first[best]), int(second[best]))

    def _range(self, ends: tuple[int, ...], k: int, other: int) -> tuple[int, int]:
        """From where to where (exclusive) bond k may go beside its neighbours, except `other`, which moves too."""
        low, high = self.floors[k], self.caps[k]
        for neighbour, size in ((k - 1, self.sizes[k - 1]), (k + 1, self.sizes[min(k, len(self.sizes) - 1)])):
            if neighbour >= 0 and neighbour != other:
                low = max(low, -(-ends[neighbour] // size))
                high = min(high, ends[neighbour] * size)
        return low, high + 1


def _search(losses: list[_Floats], shape: MPOShape | None, limit: int | None, budget: float) -> _Search:
    fixed = np.array([math.inf, 0.0])
    if shape is None:
        full = [1, *(len(loss) - 1 for loss in losses), 1]
        ratios = [max(a // b, b // a) for a, b in pairwise(full)]
        home = max(range(len(ratios)), key=lambda k: full[k] * full[k + 1])
        sizes = [max(ratios) if k == home else ratio for k, ratio in enumerate(ratios)]
    else:
        sizes = _factor_sizes(shape)
    caps = [1, *(max(1, int(np.argmax(loss <= 0))) for loss in losses), 1]
    return _Search(sizes, [fixed, *losses, fixed], [1] * len(caps), caps, limit, budget)


def _factor_sizes(shape: MPOShape) -> list[int]:
    return [rows * cols for rows, cols in zip(shape.row_factors, shape.col_factors, strict=True)]


def _within_reach(sizes: Sequence[int], bonds: Sequence[int]) -> tuple[int, ...]:
    ends = [1, *bonds, 1]
    for k in range(1, len(sizes)):
        ends[k] = min(ends[k], ends[k - 1] * sizes[k - 1])
    for k in reversed(range(1, len(sizes))):
        ends[k] = min(ends[k], sizes[k] * ends[k + 1])
    return tuple(ends[1:-1])


def _with(ends: tuple[int, ...], i: int, j: int, first: int, second: int) -> tuple[int, ...]:
    return (*ends[:i], first, *ends[i + 1 : j], second, *ends[j + 1 :])


def _tails(squares: _Floats) -> _Floats:
    """What is lost by keeping the first d = 0 .. D values."""
    return np.concatenate([np.cumsum(squares[::-1])[::-1], [0.0]])


def _least(loss: _Floats, budgets: _Floats) -> _Ints:
    """The least d >= 1 that loses at most each budget; beyond the end where none does."""
    return np.maximum(1, np.searchsorted(-loss, -budgets))
