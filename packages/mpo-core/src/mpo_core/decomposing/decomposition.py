"""Decompose a matrix into a matrix product operator.

A bond that keeps all it can have needs no arithmetic, so the lossless operator is the permuted matrix between reshaped
identities. Cut bonds are found by sweeps from both ends (`mpo_core.decomposing.sweeps`), the lossless canonical gauges
from the Schmidt bases of both ends (`mpo_core.decomposing.schmidt`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.budgets.budget import bonds_for_params, bonds_for_tolerance, uniform_bond
from mpo_core.decomposing.choices import AnyGauge, Choices, DecomposeOptions, Limit, Method, Precision, one_limit
from mpo_core.decomposing.construction import identity_operators, lossless_operators, matrix_schmidt_values, operators
from mpo_core.decomposing.matrices import checked_matrix, checked_shape
from mpo_core.errors import ShapeError, UsageError
from mpo_core.operators.gauge import Spectrum
from mpo_core.operators.mpo import MPO
from mpo_core.shapes import MPOShape

__all__ = [
    "AnyGauge",
    "DecomposeOptions",
    "Method",
    "Precision",
    "decompose",
    "decompose_batch",
    "decompose_with_spectra",
    "schmidt_values",
]

_BATCH_ENTRIES = {"cpu": 1 << 18, "other": 1 << 27}
"""Small matrices are decomposed together up to this many entries; on a CPU larger batches only leave the cache."""


@torch.no_grad()
def decompose(
    matrix: Float[Tensor, "rows cols"],
    shape: MPOShape | None = None,
    bonds: int | Sequence[int] | None = None,
    *,
    n: int = 5,
    gauge: AnyGauge = "mixed",
    method: Method = "sweep",
    precision: Precision = "accurate",
    refine: int = 0,
    tolerance: float | None = None,
    ratio: float | None = None,
    max_params: int | None = None,
    max_bytes: int | None = None,
) -> MPO:
    """Decompose a matrix, losslessly or with bonds cut (Gao et al. 2020, Algorithm 1).

    At most one of `bonds`, `tolerance`, `ratio`, `max_params` and `max_bytes` says how far bonds are cut.

    Args:
        matrix: any floating dtype, any strides; values are not changed and no gradient is recorded.
        shape: the factors; ``MPOShape.choose(rows, cols, n)`` if left out.
        bonds: cap of all bonds, one for each, or ``None`` for full bonds. Bonds above the full ones are
            clipped.
        n: number of cores where `shape` is left out.
        gauge: ``mixed``, the cheapest: all cores orthonormal towards the one where the products of the factors from
            both ends meet; at full bonds nothing is computed and the product is the matrix to the bit. ``identity``:
            the same, but refuses to cut bonds. All others: see `mpo_core.canonical_cores`. A zero matrix has only
            zero cores in the symmetric gauge and can then not be trained; in the others it can.
        method: how bonds are cut. ``sweep``: one after the other from both ends, each optimally for what is left;
            the best and fastest. ``slice``: all at once in the symmetric gauge, as the papers do. ``sequential``:
            from the left by QR and SVD (TT-SVD, Oseledets 2011), the slow reference. ``randomized``: as ``sweep``
            with random range finders, for large matrices with small bonds where a percent of error is no matter.
            All but ``slice`` make a bond smaller than asked for where the bonds beside it allow no higher rank.
        precision: ``accurate`` computes in float64, converted block by block; ``fast`` in float32 where the matrix
            is not float64 and the spectrum allows it.
        refine: number of alternating least-squares sweeps after ``sweep`` or ``randomized``; the error never rises.
        tolerance: relative Frobenius error that the truncation keeps to.
        ratio: share of ``rows * cols`` that the cores may have.
        max_params: largest number of entries of all cores.
        max_bytes: the same in bytes, at the dtype of the matrix.

    Returns:
        The operator, in the dtype and on the device of the matrix.

    Raises:
        ShapeError: `matrix` is not two-dimensional, is empty, or does not fit `shape`.
        NonFiniteError: `matrix` holds NaN or infinity, or a core does not fit its dtype.
        BondError: a cap is no positive integer, or there are not ``n - 1`` of them.
        UsageError: no floating dtype, unknown option, two limits, a limit out of range, or ``identity`` with bonds
            below the full ones.

    Example:
        >>> decompose(torch.eye(6), n=3).bonds
        (2, 2)
        >>> decompose(torch.randn(64, 64), ratio=0.25).n_params <= 1024
        True
    """
    choices = Choices(gauge, method, precision, refine)
    values, largest = checked_matrix(matrix, "decompose")
    shape = checked_shape(values, shape, n, "decompose")
    limit = one_limit(bonds, tolerance, ratio, max_params, max_bytes)
    if limit is not None:
        return _decompose_within(values, largest, shape, limit, choices)
    return operators([values], [largest], shape, shape.clip_bonds(bonds), choices)[0][0]


@torch.no_grad()
def decompose_batch(
    matrices: Float[Tensor, "batch rows cols"] | Sequence[Float[Tensor, "rows cols"]],
    shape: MPOShape | None = None,
    bonds: int | Sequence[int] | None = None,
    *,
    n: int = 5,
    gauge: AnyGauge = "mixed",
    method: Method = "sweep",
    precision: Precision = "accurate",
    refine: int = 0,
    tolerance: float | None = None,
    ratio: float | None = None,
    max_params: int | None = None,
    max_bytes: int | None = None,
) -> list[MPO]:
    """Decompose matrices of one shape; small ones, or those on an accelerator, in common batches.

    With a limit other than `bonds` each matrix gets bonds of its own.

    Args:
        matrices: of one size, dtype and device.
        shape: the factors of all.
        bonds: as in `decompose`, like all other arguments.
        n: see there.
        gauge: see there.
        method: see there.
        precision: see there.
        refine: see there.
        tolerance: see there.
        ratio: see there.
        max_params: see there.
        max_bytes: see there.

    Returns:
        One operator for each matrix.

    Raises:
        ShapeError: the matrices differ in size.
        UsageError: they differ in dtype or device.
        MPOError: as `decompose`.

    Example:
        >>> [mpo.bonds for mpo in decompose_batch(torch.randn(2, 16, 16), bonds=3, n=3)]
        [(3, 3), (3, 3)]
    """
    choices = Choices(gauge, method, precision, refine)
    checked = [checked_matrix(matrix, f"decompose_batch, matrix {k}") for k, matrix in enumerate(matrices)]
    if not checked:
        return []
    _check_alike([matrix for matrix, _ in checked])
    shape = checked_shape(checked[0][0], shape, n, "decompose_batch")
    limit = one_limit(bonds, tolerance, ratio, max_params, max_bytes)
    if limit is not None:
        return [_decompose_within(matrix, largest, shape, limit, choices) for matrix, largest in checked]
    kept = shape.clip_bonds(bonds)
    entries = _BATCH_ENTRIES["cpu" if checked[0][0].device.type == "cpu" else "other"]
    size = max(1, entries // checked[0][0].numel())
    result: list[MPO] = []
    for start in range(0, len(checked), size):
        part = checked[start : start + size]
        found = operators([matrix for matrix, _ in part], [largest for _, largest in part], shape, kept, choices)
        result += [mpo for mpo, _ in found]
    return result


@torch.no_grad()
def decompose_with_spectra(
    matrix: Float[Tensor, "rows cols"],
    shape: MPOShape | None = None,
    *,
    n: int = 5,
    gauge: AnyGauge = "symmetric",
    precision: Precision = "accurate",
) -> tuple[MPO, list[Spectrum]]:
    """Decompose a matrix losslessly, and its Schmidt values (Gao et al. 2020, Algorithm 1, without truncation).

    Args:
        matrix: as in `decompose`.
        shape: the factors; balanced ones for `n` cores if left out.
        n: number of cores where `shape` is left out.
        gauge: ``mixed`` gives the Schmidt bases of all bonds, all cores orthonormal towards the home core;
            ``identity`` the operator of `decompose` that is exact to the bit, beside the values; all others as there.
        precision: as in `decompose`.

    Returns:
        The operator at full bonds, and its ``n - 1`` spectra: the singular values of unfolding k, descending, float64.

    Raises:
        MPOError: as `decompose`.

    Example:
        >>> decompose_with_spectra(3.0 * torch.eye(4), MPOShape(4, 4, (2, 2), (2, 2)))[1]
        [tensor([6., 0., 0., 0.], dtype=torch.float64)]
    """
    choices = Choices(gauge, precision=precision)
    values, largest = checked_matrix(matrix, "decompose_with_spectra")
    shape = checked_shape(values, shape, n, "decompose_with_spectra")
    if gauge == "identity" or shape.n == 1:
        return identity_operators([values], shape)[0], matrix_schmidt_values(values, largest, shape, choices)
    mpos, spectra = lossless_operators([values], [largest], shape, choices)
    return mpos[0], [spectrum[0] for spectrum in spectra]


@torch.no_grad()
def schmidt_values(
    matrix: Float[Tensor, "rows cols"],
    shape: MPOShape | None = None,
    *,
    n: int = 5,
    precision: Precision = "accurate",
) -> list[Spectrum]:
    """The Schmidt values of all bonds of a matrix: the singular values of its ``n - 1`` unfoldings.

    From Gram matrices, without the operator and without singular vectors.

    Args:
        matrix: as in `decompose`.
        shape: the factors; balanced ones for `n` cores if left out.
        n: number of cores where `shape` is left out.
        precision: as in `decompose`.

    Returns:
        Descending, float64, of the length of the full bonds.

    Raises:
        MPOError: as `decompose`.

    Example:
        >>> schmidt_values(torch.eye(4), MPOShape(4, 4, (2, 2), (2, 2)))
        [tensor([2., 0., 0., 0.], dtype=torch.float64)]
    """
    choices = Choices(precision=precision)
    values, largest = checked_matrix(matrix, "schmidt_values")
    return matrix_schmidt_values(values, largest, checked_shape(values, shape, n, "schmidt_values"), choices)


def _check_alike(matrices: Sequence[Tensor]) -> None:
    first = matrices[0]
    for k, matrix in enumerate(matrices):
        if matrix.shape != first.shape:
            raise ShapeError(
                f"decompose_batch: matrix {k} has the shape {tuple(matrix.shape)}, matrix 0 {tuple(first.shape)};"
                " expected one shape in a call."
            )
        if matrix.dtype != first.dtype or matrix.device != first.device:
            raise UsageError(
                f"decompose_batch: matrix {k} is {matrix.dtype} on {matrix.device}, matrix 0 {first.dtype} on"
                f" {first.device}; expected one dtype and device in a call."
            )


def _decompose_within(matrix: Tensor, largest: float, shape: MPOShape, limit: Limit, choices: Choices) -> MPO:
    """The best operator that keeps to a limit."""
    plans = _plan_bonds(matrix, largest, shape, limit, choices)
    found = [operators([matrix], [largest], shape, plan, choices)[0] for plan in plans]
    return max(found, key=lambda result: result[1])[0]


def _plan_bonds(
    matrix: Tensor, largest: float, shape: MPOShape, limit: Limit, choices: Choices
) -> list[tuple[int, ...]]:
    """Bonds that keep to a limit; for a number of parameters also the same cap for all bonds, if that might be better.

    The spectra only bound the error, so the two are told apart by decomposing twice.
    """
    spectra = matrix_schmidt_values(matrix, largest, shape, choices)
    if limit.name == "tolerance":
        return [bonds_for_tolerance(spectra, limit.value, shape)]
    allowed = limit.max_params(matrix.numel(), matrix.element_size())
    planned = bonds_for_params(spectra, shape, allowed)
    uniform = shape.clip_bonds(uniform_bond(shape, allowed))
    above = all(bond >= cap for bond, cap in zip(planned, uniform, strict=True))
    return [planned] if above or choices.method not in ("sweep", "randomized") else [planned, uniform]
