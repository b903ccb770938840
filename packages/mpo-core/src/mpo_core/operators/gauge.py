"""Canonical forms of a chain of cores, and truncation of its bonds.

The matrix is ``W = T_1 T_2 .. T_n``; between two cores any invertible matrix and its inverse can be put in
without changing ``W``. The canonical gauges fix that freedom so that the basis of every bond is its Schmidt
basis, ordered by Schmidt value, and cutting a bond means cutting off trailing indices.

The papers (Gao et al. 2020, Algorithm 1) multiply with inverse square roots of the Schmidt values, which
turns a zero matrix into NaN. Here the symmetric core is made of orthonormal ones: with ``A_k`` the core in
the left canonical and ``B_k`` in the right canonical form, both in Schmidt bases, ``A_k L_k = L_{k-1} B_k``,
hence ``S_ab = A_ab sqrt(l_b / l_a) = B_ab sqrt(l_a / l_b)``. Neither ``A`` nor ``B`` has an entry above 1, so
``S_ab`` is at most ``sqrt(min(l_a, l_b) / max(l_a, l_b))``, and holding the computed value to that keeps
noise from growing.
"""

# What callers hand over is checked at run time, too.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from mpo_core.errors import NonFiniteError, ShapeError, UsageError
from mpo_core.linear_algebra import qr, svd

Gauge = Literal["symmetric", "left", "right", "central"]
Core = Float[Tensor, "left rows cols right"]
Spectrum = Float[Tensor, " bond"]

GAUGES: tuple[Gauge, ...] = ("symmetric", "left", "right", "central")

_RANGE = 1000
"""Powers of two that float64 surely holds."""
_SAFE_EXPONENT = 400
"""Cores whose largest entries multiply to less than 2^400, either way, need no scaling."""


@torch.no_grad()
def canonical_cores(cores: Sequence[Core], gauge: Gauge = "symmetric") -> tuple[list[Core], list[Spectrum]]:
    """Bring cores into a canonical gauge; the matrix they stand for stays the same.

    All gauges use the Schmidt bases of the bonds, ordered by descending Schmidt value:

    - ``symmetric`` (the papers'): at bond k the left part is ``Q L_k^{1/2}``, the right one ``L_k^{1/2} Q'``;
    - ``left``: all cores but the last are left orthonormal; ``right``: all but the first right orthonormal;
    - ``central``: orthonormal towards the core ``n // 2``, which holds the norm.

    Shapes are kept: a bond wider than the rank it can have is filled with zeros (there, and only there, a
    core is orthonormal on its support only). All-zero cores stay zero; note that in the symmetric gauge
    *every* core of a zero matrix is zero, so that no gradient leaves it.

    Args:
        cores: ``n`` tensors of shape ``(d_{k-1}, i_k, j_k, d_k)``, ``d_0 = d_n = 1``.
        gauge: which form.

    Returns:
        The new cores, in the dtype of the given ones, and the ``n - 1`` spectra (Schmidt values, descending,
        of length ``d_k``), in float64. The computation runs in float64 and records no gradient.

    Raises:
        UsageError: unknown gauge, or cores of no real floating dtype.
        ShapeError: there is no core, or the shapes do not make a chain.
        NonFiniteError: a core holds NaN or infinity, or the result does not fit its dtype.
    """
    if gauge not in GAUGES:
        raise UsageError(f"canonical_cores: gauge is {gauge!r}; expected one of {', '.join(GAUGES)}.")
    doubles, exponent = _as_double(cores)
    left, right, bases, spectra = _sweep(doubles)
    n = len(cores)
    holders = {"left": [n - 1], "right": [0], "central": [n // 2], "symmetric": [0, n - 1]}[gauge] if n > 1 else [0]
    if n == 1:
        result = left
    elif gauge == "left":
        last = spectra[-1].reshape(-1, 1, 1, 1) * _right_core(right, bases, n - 1)
        result = [*(_left_core(left, bases, k) for k in range(n - 1)), last]
    elif gauge == "right":
        first = _left_core(left, bases, 0) * spectra[0]
        result = [first, *(_right_core(right, bases, k) for k in range(1, n))]
    elif gauge == "central":
        centre = n // 2
        middle = spectra[centre - 1].reshape(-1, 1, 1, 1) * _right_core(right, bases, centre)
        before = [_left_core(left, bases, k) for k in range(centre)]
        result = [*before, middle, *(_right_core(right, bases, k) for k in range(centre + 1, n))]
    else:
        result = _symmetric(left, right, bases, spectra)
    for k in holders:
        result[k] = _shift(result[k], exponent // len(holders))
    spectra = [_shift(values, exponent) for values in spectra]
    if not all(bool(torch.isfinite(values).all()) for values in spectra):
        raise NonFiniteError("canonical_cores: the norm of the matrix leaves the range of float64; scale a core down.")
    bonds = [core.shape[-1] for core in cores[:-1]]
    spectra = [pad(values, (0, bond - len(values))) for values, bond in zip(spectra, bonds, strict=True)]
    return [_cast(_grow(new, old), old, k) for k, (new, old) in enumerate(zip(result, cores, strict=True))], spectra


@torch.no_grad()
def slice_cores(cores: Sequence[Core], bonds: Sequence[int]) -> list[Core]:
    """Keep the first ``d'_k`` indices of every bond; sensible in a canonical gauge only.

    Args:
        cores: in a canonical gauge.
        bonds: the ``n - 1`` bonds ``d'_k <= d_k``.
    """
    ends = (1, *bonds, 1)
    return [
        core.detach()[: ends[k], :, :, : ends[k + 1]].clone(memory_format=torch.contiguous_format)
        for k, core in enumerate(cores)
    ]


@torch.no_grad()
def sequential_cores(cores: Sequence[Core], bonds: Sequence[int]) -> list[Core]:
    """Truncate bond after bond from the left, each time optimally for what is left (TT-SVD).

    Oseledets 2011, Algorithm 1. The error is on average about one percent below that of slicing all bonds of
    the canonical form at once, and obeys the same bound (Liu et al. 2021, Eq. 4).

    Args:
        cores: any gauge.
        bonds: the ``n - 1`` bonds ``d'_k``.

    Returns:
        Left orthonormal cores; a bond is smaller than asked for where the rank before it allows no more.

    Raises:
        NonFiniteError: a core holds NaN or infinity.
    """
    doubles, exponent = _as_double(cores)
    first, right = _right_sweep(doubles)
    result: list[Tensor] = []
    theta = first
    for k, bond in enumerate(bonds):
        basis, triangle = qr(theta.flatten(0, 2))
        u, values, vh = svd(triangle)
        result.append((basis @ u[:, :bond]).reshape(*theta.shape[:3], -1))
        theta = _from_left(values[:bond, None] * vh[:bond], right[k + 1])
    result.append(_shift(theta, exponent))
    return [_cast(new, old, k) for k, (new, old) in enumerate(zip(result, cores, strict=True))]


def _sweep(
    cores: list[Tensor],
) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]], list[Tensor]]:
    """Left orthonormal cores (the last holds the norm), right orthonormal ones, and their Schmidt data.

    Returns:
        ``left``, ``right`` (index 0 is not used), the Schmidt basis of each bond 0 .. n in terms of the left
        and of the right cores, and the Schmidt values of the bonds 1 .. n - 1.
    """
    theta, right = _right_sweep(cores)
    left: list[Tensor] = []
    # Bond 0 and bond n have dimension 1: their basis is the number 1.
    one = theta.new_ones(1, 1)
    bases = [(one, one)]
    spectra: list[Tensor] = []
    for k in range(len(cores) - 1):
        basis, triangle = qr(theta.flatten(0, 2))
        left.append(basis.reshape(*theta.shape[:3], -1))
        u, values, vh = svd(triangle)
        bases.append((u, vh.T))
        spectra.append(values)
        theta = _from_left(triangle, right[k + 1])
    left.append(theta)
    return left, right, [*bases, (one, one)], spectra


def _right_sweep(cores: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The first core with the norm, and all others right orthonormal (index 0 of the list is not used)."""
    right = list(cores)
    theta = cores[-1]
    for k in range(len(cores) - 1, 0, -1):
        basis, triangle = qr(theta.flatten(1).T)
        right[k] = basis.T.reshape(-1, *theta.shape[1:])
        theta = cores[k - 1] @ triangle.T
    return theta, right


def _left_core(left: list[Tensor], bases: list[tuple[Tensor, Tensor]], k: int) -> Tensor:
    """Core k < n - 1 of the left canonical form in Schmidt bases."""
    return _from_left(bases[k][0].T, left[k]) @ bases[k + 1][0]


def _right_core(right: list[Tensor], bases: list[tuple[Tensor, Tensor]], k: int) -> Tensor:
    """Core k > 0 of the right canonical form in Schmidt bases."""
    return _from_left(bases[k][1].T, right[k]) @ bases[k + 1][1]


def _from_left(matrix: Tensor, core: Tensor) -> Tensor:
    return (matrix @ core.flatten(1)).reshape(-1, *core.shape[1:])


def _symmetric(
    left: list[Tensor], right: list[Tensor], bases: list[tuple[Tensor, Tensor]], spectra: list[Tensor]
) -> list[Tensor]:
    n = len(left)
    roots = [values.sqrt() for values in spectra]
    result = [_left_core(left, bases, 0) * roots[0]]
    for k in range(1, n - 1):
        before, after = roots[k - 1].reshape(-1, 1, 1, 1), roots[k]
        larger, smaller = torch.maximum(before, after), torch.minimum(before, after)
        limit = torch.where(larger > 0, smaller / larger, 0.0)
        quotient = torch.where(before > 0, after / before, 0.0)
        result.append((_left_core(left, bases, k) * quotient).clamp(-limit, limit))
    return [*result, roots[-1].reshape(-1, 1, 1, 1) * _right_core(right, bases, n - 1)]


def _as_double(cores: Sequence[Tensor]) -> tuple[list[Tensor], int]:
    """The checked cores in float64, and the even power of two that was taken out of them to keep products in range."""
    if not cores:
        raise ShapeError("canonical_cores: `cores` is empty; expected at least one core.")
    left = 1
    for k, core in enumerate(cores):
        if not isinstance(core, Tensor) or not core.is_floating_point() or core.dtype != cores[0].dtype:
            what = core.dtype if isinstance(core, Tensor) else type(core).__name__
            raise UsageError(f"canonical_cores: core {k} is {what}; expected tensors of one real floating dtype.")
        last = k == len(cores) - 1
        if core.dim() != 4 or core.shape[0] != left or (last and core.shape[3] != 1) or core.numel() == 0:
            wanted = f"({left}, any, any, {1 if last else 'any'})"
            raise ShapeError(f"canonical_cores: core {k} has the shape {tuple(core.shape)}; expected {wanted}.")
        left = core.shape[3]
        if not torch.isfinite(core).all():
            raise NonFiniteError(
                f"core {k} of {len(cores)} holds NaN or infinity; expected finite numbers, as"
                " there is no gauge without."
            )
    doubles = [core.detach().to(torch.float64) for core in cores]
    powers = [math.frexp(float(core.abs().max()))[1] for core in doubles]
    if sum(abs(power) for power in powers) < _SAFE_EXPONENT:
        return doubles, 0
    powers = [2 * (max(-_RANGE, min(_RANGE, power)) // 2) for power in powers]
    return [core * 2.0**-power for core, power in zip(doubles, powers, strict=True)], sum(powers)


def _shift(tensor: Tensor, exponent: int) -> Tensor:
    """Multiply with a power of two, in parts that float64 holds; zeros stay zeros."""
    while exponent:
        step = max(-_RANGE, min(_RANGE, exponent))
        tensor, exponent = tensor * 2.0**step, exponent - step
    return tensor


def _grow(core: Tensor, like: Tensor) -> Tensor:
    """Fill both bonds with zeros up to those of `like`."""
    return pad(core, (0, like.shape[3] - core.shape[3], 0, 0, 0, 0, 0, like.shape[0] - core.shape[0]))


def _cast(core: Tensor, like: Tensor, k: int) -> Tensor:
    result = core.to(like.dtype).contiguous()
    if not torch.isfinite(result).all():
        raise NonFiniteError(
            f"core {k} in this gauge has entries up to {float(core.abs().max()):.3g}, which"
            f" {like.dtype} cannot hold; convert the cores to float32 first."
        )
    return result
