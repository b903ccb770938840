"""Matrices on their way into a decomposition and back: checked, padded, in range, and cores in their dtype again.

Sums of squares of float32 numbers around 1e25 overflow, around 1e-25 they vanish. Such matrices are multiplied with a
power of two first, which is exact, and the cores with its inverse in the end. All others are not copied at all, unless
they have to be padded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from mpo_core.errors import NonFiniteError, ShapeError, UsageError
from mpo_core.shapes import MPOShape

_SAFE_EXPONENT = 30
"""Largest entries between 2^-30 and 2^30 need no scaling: their squares are far from both ends of float32."""


@dataclass(frozen=True)
class Batch:
    """Matrices of one shape, ready for the sweeps.

    Attributes:
        tensor: ``(batch, 1, padded rows, padded cols, 1)``; float64 stays, all other dtypes are as given or float32.
        shape: the factors, with rows and columns exchanged where `transposed`.
        exponents: of the power of two that each matrix still has to be multiplied with; even.
        transposed: the matrices came column by column in memory, so their transposes are decomposed.
        dtype: of the given matrices.
    """

    tensor: Float[Tensor, "batch one rows cols one"]
    shape: MPOShape
    exponents: tuple[int, ...]
    transposed: bool
    dtype: torch.dtype

    @property
    def storage_dtype(self) -> torch.dtype:
        """What cores are computed and kept in before they get the dtype of the matrix: at least float32."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def finish(self, cores: Sequence[Tensor], element: int, scaled: Sequence[int]) -> list[Tensor]:
        """Cores of one of the batch in the dtype of the matrix, contiguous, with memory of their own.

        Args:
            cores: those of the one matrix, without batch.
            element: which matrix it is.
            scaled: the cores which share the power of two, one or two.

        Raises:
            NonFiniteError: a core does not fit the dtype.
        """
        exponent = self.exponents[element] // len(scaled)
        result: list[Tensor] = []
        for k, core in enumerate(cores):
            core = core.transpose(1, 2) if self.transposed else core
            if exponent and k in scaled:
                core = core * 2.0**exponent
            cast = core.to(self.dtype).contiguous()
            storage = cast.untyped_storage()
            if storage.nbytes() > cast.nbytes or storage.data_ptr() == self.tensor.untyped_storage().data_ptr():
                cast = cast.clone()
            if exponent or self.dtype.itemsize < 4:
                _check_range(cast, core, k)
            result.append(cast)
        return result


def checked_matrix(matrix: Any, where: str) -> tuple[Float[Tensor, "rows cols"], float]:
    """The matrix without its gradient, and its largest magnitude.

    Raises:
        ShapeError: it is no matrix, or empty.
        UsageError: it is no tensor, or has no real floating dtype.
        NonFiniteError: it holds NaN or infinity.
    """
    if not isinstance(matrix, Tensor):
        raise UsageError(f"{where}: `matrix` is {type(matrix).__name__}; expected a torch tensor.")
    if matrix.dim() != 2 or matrix.numel() == 0:
        raise ShapeError(
            f"{where}: `matrix` has the shape {tuple(matrix.shape)}; expected two dimensions, none of them 0."
        )
    if not matrix.is_floating_point():
        raise UsageError(f"{where}: `matrix` is {matrix.dtype}; expected a real floating dtype.")
    low, high = torch.aminmax(matrix.detach())
    largest = max(-float(low), float(high))
    if not math.isfinite(largest) or math.isnan(float(low)):
        bad = int((~torch.isfinite(matrix)).sum())
        raise NonFiniteError(
            f"{where}: `matrix` holds NaN or infinity in {bad} of {matrix.numel()} entries; expected finite numbers."
        )
    return matrix.detach(), largest


def checked_shape(matrix: Tensor, shape: MPOShape | None, n: int, where: str) -> MPOShape:
    """The factors given, or chosen.

    Raises:
        ShapeError: they are for another size, or `n` is no positive integer.
    """
    shape = shape or MPOShape.choose(matrix.shape[0], matrix.shape[1], n)
    if (shape.rows, shape.cols) != tuple(matrix.shape):
        raise ShapeError(
            f"{where}: `matrix` is {matrix.shape[0]}x{matrix.shape[1]}, but `shape` is for"
            f" {shape.rows}x{shape.cols}; give factors for this matrix or leave shape out."
        )
    return shape


def prepare(matrices: Sequence[Float[Tensor, "rows cols"]], largest: Sequence[float], shape: MPOShape) -> Batch:
    """Stack, transpose, pad and scale checked matrices, each only where it has to be.

    Args:
        matrices: of one shape, dtype and device.
        largest: the largest magnitude of each.
        shape: their factors.
    """
    first = matrices[0]
    transposed = first.stride(0) < first.stride(1)
    if transposed:
        matrices = [matrix.T for matrix in matrices]
        shape = MPOShape(shape.cols, shape.rows, shape.col_factors, shape.row_factors)
    exponents = tuple(_exponent(value, first.dtype) for value in largest)
    if any(exponents):
        wide = torch.float64 if first.dtype == torch.float64 else torch.float32
        matrices = [matrix.to(wide) * 2.0**-power for matrix, power in zip(matrices, exponents, strict=True)]
    tensor = matrices[0][None] if len(matrices) == 1 else torch.stack(list(matrices))
    surplus = (0, shape.padded_cols - shape.cols, 0, shape.padded_rows - shape.rows)
    if any(surplus):
        tensor = pad(tensor, surplus)
    return Batch(tensor[:, None, :, :, None], shape, exponents, transposed, first.dtype)


def _exponent(largest: float, dtype: torch.dtype) -> int:
    power = math.frexp(largest)[1]
    if largest == 0 or abs(power) <= _SAFE_EXPONENT:
        return 0
    limit = 1000 if dtype == torch.float64 else 120
    return 2 * round(max(-limit, min(limit, power)) / 2)


def _check_range(cast: Tensor, core: Tensor, k: int) -> None:
    low, high = torch.aminmax(cast)
    if not math.isfinite(float(low)) or not math.isfinite(float(high)):
        raise NonFiniteError(
            f"decompose: core {k} in this gauge has entries up to {float(core.abs().max()):.3g}, which {cast.dtype}"
            " cannot hold; convert the matrix to float32 first, or scale it down."
        )
