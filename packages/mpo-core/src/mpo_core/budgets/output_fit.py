"""Weighted least squares over single cores: ``||(W - W') C^{1/2}||^2`` with C itself.

With all cores but one fixed and orthonormal, the error is quadratic in that core. Its normal equations couple all its
entries, so they are not set up but applied: the core is multiplied out to the matrix, that by C, and the result is
projected back. Conjugate gradients start from the core as it is, so no step can raise the error; the dominant
directions of C, which matter most, are settled first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from mpo_core.linear_algebra import qr
from mpo_core.operators.gauge import Core
from mpo_core.shapes import MPOShape

_STEPS = 24
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class OutputFit:
    """The problem of one matrix.

    Attributes:
        matrix: W, float64.
        weight: C, positive definite, float64.
        shape: the factors.
    """

    matrix: Float[Tensor, "rows cols"]
    weight: Float[Tensor, "cols cols"]
    shape: MPOShape

    def error(self, matrix: Float[Tensor, "rows cols"]) -> float:
        """``||(W - W') C^{1/2}||^2``."""
        difference = self.matrix - matrix
        return float((difference @ self.weight * difference).sum())

    def improve(self, cores: Sequence[Core], sweeps: int) -> list[Core]:
        """Pass over all cores some times, from left to right and from right to left in turn.

        Args:
            cores: right orthonormal but for the first, float64.
            sweeps: number of passes.

        Returns:
            The cores; all but the last (odd `sweeps`) or the first (even) are orthonormal towards it.
        """
        result = list(cores)
        goal = self._digits(self.matrix @ self.weight)
        for sweep in range(sweeps):
            (self._rightwards if sweep % 2 == 0 else self._leftwards)(result, goal)
        return result

    def _rightwards(self, cores: list[Core], goal: Tensor) -> None:
        rights = [cores[-1].new_ones(1, 1)]
        for core in reversed(cores[1:]):
            rights.insert(0, (core.flatten(0, 2) @ rights[0]).reshape(core.shape[0], -1))
        left = cores[0].new_ones(1, 1)
        for k, right in enumerate(rights):
            cores[k] = self._improved(cores[k], left, right, goal)
            if k + 1 < len(cores):
                basis, triangle = qr(cores[k].flatten(0, 2))
                cores[k] = basis.reshape(*cores[k].shape[:3], -1)
                cores[k + 1] = (triangle @ cores[k + 1].flatten(1)).reshape(-1, *cores[k + 1].shape[1:])
                left = (left @ cores[k].flatten(1)).reshape(-1, cores[k].shape[-1])

    def _leftwards(self, cores: list[Core], goal: Tensor) -> None:
        lefts = [cores[0].new_ones(1, 1)]
        for core in cores[:-1]:
            lefts.append((lefts[-1] @ core.flatten(1)).reshape(-1, core.shape[-1]))
        right = cores[-1].new_ones(1, 1)
        for k, left in reversed(list(enumerate(lefts))):
            cores[k] = self._improved(cores[k], left, right, goal)
            if k > 0:
                basis, triangle = qr(cores[k].flatten(1).T)
                cores[k] = basis.T.reshape(-1, *cores[k].shape[1:])
                cores[k - 1] = (cores[k - 1].flatten(0, 2) @ triangle.T).reshape(*cores[k - 1].shape[:3], -1)
                right = (cores[k].flatten(0, 2) @ right).reshape(cores[k].shape[0], -1)

    def _improved(self, core: Core, left: Tensor, right: Tensor, goal: Tensor) -> Core:
        """Conjugate gradients on the normal equations of one core, started from the core itself.

        Args:
            core: between two bonds.
            left: product of the cores before it, (digits, bond), orthonormal columns.
            right: product of the cores after it, (bond, digits), orthonormal rows.
            goal: ``W C`` in digits.
        """
        inner = core.shape[1] * core.shape[2]
        if len(left) * inner == core.shape[-1] or inner * right.shape[1] == core.shape[0]:
            return core  # a complete basis up to here: the next core can do all that this one could
        single = left.float(), right.float(), self.weight.float()
        projected = _project(goal, left, right).reshape(core.shape)
        start = projected - self._applied(core, left, right, self.weight)
        step, residual, direction = torch.zeros_like(core), start, start
        square = float(residual.square().sum())
        stop = _TOLERANCE**2 * float(projected.square().sum())
        for _ in range(_STEPS):
            if square <= stop:
                break
            # Float32 is enough to find a step; whether it is one is judged in float64.
            image = self._applied(direction.float(), *single).double()
            curvature = float((direction * image).sum())
            if curvature <= 0:
                break
            step = step + square / curvature * direction
            residual = residual - square / curvature * image
            before, square = square, float(residual.square().sum())
            direction = residual + square / before * direction
        # With N the normal operator, the error changes by <step, N step> - 2 <step, start>.
        change = step * (self._applied(step, left, right, self.weight) - 2 * start)
        return core + step if float(change.sum()) < 0 else core

    def _applied(self, core: Core, left: Tensor, right: Tensor, weight: Tensor) -> Core:
        """The normal operator of a core."""
        digits = (left @ core.flatten(1)).reshape(-1, len(right)) @ right
        return _project(self._digits(self._matrix(digits) @ weight), left, right).reshape(core.shape)

    def _digits(self, matrix: Tensor) -> Tensor:
        """The padded matrix with its digits in the order (i_1, j_1, .., i_n, j_n)."""
        shape, n = self.shape, self.shape.n
        padded = pad(matrix, (0, shape.padded_cols - shape.cols, 0, shape.padded_rows - shape.rows))
        order = [axis for k in range(n) for axis in (k, n + k)]
        return padded.reshape(*shape.row_factors, *shape.col_factors).permute(order)

    def _matrix(self, digits: Tensor) -> Tensor:
        """Back from the digits, without the padding."""
        shape, n = self.shape, self.shape.n
        sizes = [size for pair in zip(shape.row_factors, shape.col_factors, strict=True) for size in pair]
        order = [*range(0, 2 * n, 2), *range(1, 2 * n, 2)]
        padded = digits.reshape(sizes).permute(order).reshape(shape.padded_rows, shape.padded_cols)
        return padded[: shape.rows, : shape.cols]


def _project(digits: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return (left.T @ digits.reshape(len(left), -1)).reshape(-1, right.shape[1]) @ right.T
