"""Decompose a matrix into a matrix product operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from mpo_core.errors import NonFiniteError, ShapeError, UsageError
from mpo_core.gauge import GAUGES, Gauge
from mpo_core.mpo import MPO, Truncation
from mpo_core.shapes import MPOShape


@torch.no_grad()
def decompose(
    matrix: Float[Tensor, "rows cols"],
    shape: MPOShape | None = None,
    bonds: int | Sequence[int] | None = None,
    *,
    n: int = 5,
    gauge: Gauge | Literal["identity"] = "symmetric",
    method: Truncation = "slice",
) -> MPO:
    """Decompose a matrix, losslessly or with bonds cut (Gao et al. 2020, Algorithm 1).

    The lossless operator costs nothing: every core but one can be a reshaped identity, and the remaining one,
    where the products of the factors from both ends meet, is the permuted matrix. A sweep of QR and one of
    small SVDs, in float64, then bring it into the gauge asked for.

    Args:
        matrix: any floating dtype, any strides; values are not changed and no gradient is recorded.
        shape: the factors; ``MPOShape.choose(rows, cols, n)`` if left out.
        bonds: cap of all bonds, one for each, or ``None`` for full bonds. Bonds above the full ones are
            clipped.
        n: number of cores where `shape` is left out.
        gauge: see `mpo_core.gauge.canonical_cores`; ``identity`` returns the lossless operator as described
            above, whose product is the matrix to the bit. A zero matrix has only zero cores in the symmetric
            gauge and can then not be trained; ``left`` or ``identity`` can.
        method: how bonds are cut, see `MPO.truncate`.

    Returns:
        The operator, in the dtype and on the device of the matrix.

    Raises:
        ShapeError: `matrix` is not two-dimensional, is empty, or does not fit `shape`.
        NonFiniteError: `matrix` holds NaN or infinity.
        BondError: a cap is no positive integer, or there are not ``n - 1`` of them.
        UsageError: no floating dtype, unknown gauge or method, or ``identity`` with bonds below the full
            ones.

    Example:
        >>> decompose(torch.eye(6), n=3).bonds
        (2, 2)
    """
    _check_matrix(matrix)
    if gauge not in (*GAUGES, "identity"):
        raise UsageError(f"decompose: gauge is {gauge!r}; expected one of {', '.join(GAUGES)}, identity.")
    if method not in ("slice", "sequential"):
        raise UsageError(f"decompose: method is {method!r}; expected 'slice' or 'sequential'.")
    shape = shape or MPOShape.choose(matrix.shape[0], matrix.shape[1], n)
    if (shape.rows, shape.cols) != tuple(matrix.shape):
        raise ShapeError(
            f"decompose: `matrix` is {matrix.shape[0]}x{matrix.shape[1]}, but `shape` is for"
            f" {shape.rows}x{shape.cols}; give factors for this matrix or leave shape out."
        )
    kept = shape.clip_bonds(bonds)
    exact = _identity_gauge(matrix.detach(), shape)
    if gauge == "identity":
        if kept != shape.full_bonds:
            raise UsageError(
                f"decompose: gauge 'identity' is lossless, but bonds {kept} are below the full"
                f" {shape.full_bonds}; choose another gauge or leave bonds out."
            )
        return exact
    if kept == shape.full_bonds:
        return exact.canonicalize(gauge)
    return exact.truncate(kept, method, gauge)


def _check_matrix(matrix: Tensor) -> None:
    if matrix.dim() != 2 or matrix.numel() == 0:
        raise ShapeError(
            f"decompose: `matrix` has the shape {tuple(matrix.shape)}; expected two dimensions, none of them 0."
        )
    if not matrix.is_floating_point():
        raise UsageError(f"decompose: `matrix` is {matrix.dtype}; expected a real floating dtype.")
    if not torch.isfinite(matrix).all():
        bad = int((~torch.isfinite(matrix)).sum())
        raise NonFiniteError(
            f"decompose: `matrix` holds NaN or infinity in {bad} of {matrix.numel()} entries; expected finite numbers."
        )


def _identity_gauge(matrix: Tensor, shape: MPOShape) -> MPO:
    """The lossless operator without any arithmetic."""
    n = shape.n
    padded = pad(matrix, (0, shape.padded_cols - shape.cols, 0, shape.padded_rows - shape.rows))
    digits = padded.reshape(*shape.row_factors, *shape.col_factors)
    digits = digits.permute([axis for k in range(n) for axis in (k, n + k)])
    sizes = [i * j for i, j in zip(shape.row_factors, shape.col_factors, strict=True)]
    # The full side of bond k is the left one while the product from the left is the smaller; the core where
    # that changes holds the matrix. For unbalanced factors it need not be the central one.
    home = 0
    while home < n - 1 and math.prod(sizes[: home + 1]) <= math.prod(sizes[home + 1 :]):
        home += 1
    cores: list[Tensor] = []
    for k, core_shape in enumerate(shape.core_shapes()):
        if k == home:
            cores.append(digits.reshape(core_shape).clone(memory_format=torch.contiguous_format))
        else:
            side = core_shape[-1] if k < home else core_shape[0]
            cores.append(torch.eye(side, dtype=matrix.dtype, device=matrix.device).reshape(core_shape))
    return MPO(cores, shape)
