"""Operators as operands: ``+ - * / @`` and the numbers that belong to them, for `mpo_core.MPO`."""

# What callers hand over is checked at run time, too.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor

from mpo_core.errors import ShapeError, UsageError
from mpo_core.forward.applying import apply_mpo
from mpo_core.operators import algebra
from mpo_core.operators.operands import (
    as_scalar,
    check_chained,
    check_finite,
    check_same_kind,
    check_same_shape,
    check_vectors,
    is_number,
)
from mpo_core.operators.scaling import scale_cores
from mpo_core.shapes import MPOShape

_OPERANDS = {
    "a + b": "another MPO",
    "a - b": "another MPO",
    "a * number": "a number (for the product of matrices use @)",
    "a / number": "a number",
    "a @ x": "another MPO or a tensor",
    "x @ a": "another MPO or a tensor",
}


class OperatorArithmetic:
    """What `mpo_core.MPO` can be computed with; everything returns something new.

    Operands have one dtype and device. Input that is not finite, or a result beyond the range of the dtype, is a
    `NonFiniteError`; other sizes or factors are a `ShapeError`, other kinds of operands a `UsageError`.
    """

    # numpy leaves ``array @ operator`` and ``number * operator`` to this class.
    __array_ufunc__ = None

    cores: tuple[Tensor, ...]
    shape: MPOShape

    def __add__(self, other: object) -> Self:
        """The sum; bonds add."""
        return self._sum(other, "a + b")

    def __radd__(self, other: object) -> Self:
        """``0 + a`` is ``a``, which lets Python's ``sum`` begin."""
        return self if type(other) is int and other == 0 else self._refuse(other, "a + b")

    def __neg__(self) -> Self:
        """All entries with the other sign."""
        return self._scaled(-1.0, "-a")

    def __sub__(self, other: object) -> Self:
        """The difference; bonds add."""
        return self._sum(other, "a - b")

    def __mul__(self, other: object) -> Self:
        """A multiple; one core takes the number, or several where it would leave the range of the dtype."""
        return self._scaled(other, "a * number") if is_number(other) else self._refuse(other, "a * number")

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> Self:
        """The multiple with one over a number."""
        if not is_number(other):
            return self._refuse(other, "a / number")
        return self._scaled(other, "a / number", inverse=True)

    def __matmul__(self, other: Any) -> Any:
        """``a @ b`` is an operator whose bonds are the products; ``a @ x`` a tensor, for x of (cols,) or (cols, m).

        Tensors with more axes are refused: `torch.matmul` would multiply the last two; see `apply`.
        """
        if isinstance(other, OperatorArithmetic):
            check_chained(self.shape, other.shape, "a @ b")
            check_same_kind(self.cores, other.cores, "a @ b")
            cores = algebra.product_cores(self.cores, other.cores, self.shape)
            check_finite(cores, "a @ b", self=self.cores, other=other.cores)
            shape = MPOShape(self.shape.rows, other.shape.cols, self.shape.row_factors, other.shape.col_factors)
            return self._new(cores, shape)
        if not isinstance(other, Tensor):
            return self._refuse(other, "a @ x")
        check_vectors(other, self.cores[0], self.shape.cols, 0, "a @ x")
        if other.dim() > 2:
            raise ShapeError(
                f"a @ x: `x` has the shape {tuple(other.shape)}; expected one or two axes, for more use apply, which"
                " takes the last axis."
            )
        return self._applied(other.T, "a @ x").T if other.dim() == 2 else self._applied(other, "a @ x")

    def __rmatmul__(self, other: Any) -> Any:
        """``x @ a`` for a tensor x of shape (..., rows)."""
        if not isinstance(other, Tensor):
            return self._refuse(other, "x @ a")
        check_vectors(other, self.cores[0], self.shape.rows, -1, "x @ a")
        return self.T._applied(other, "x @ a")

    def apply(self, x: Float[Tensor, "*batch cols"]) -> Float[Tensor, "*batch rows"]:
        """Multiply the last axis of a tensor with the matrix, ``y = x W^T``; differentiable.

        Args:
            x: of shape (..., cols), of the dtype and on the device of the cores.

        Raises:
            ShapeError: the last axis is of another size.
            UsageError: no tensor, or of another dtype or device.
            NonFiniteError: `x` or a core holds NaN or infinity, or the result leaves the range of the dtype.
        """
        check_vectors(x, self.cores[0], self.shape.cols, -1, "apply")
        return self._applied(x, "apply")

    @property
    def T(self) -> Self:  # noqa: N802 - the name is torch's
        """The transposed matrix; its cores are views."""
        shape = MPOShape(self.shape.cols, self.shape.rows, self.shape.col_factors, self.shape.row_factors)
        return self._new(algebra.transpose_cores(self.cores), shape)

    def inner(self, other: OperatorArithmetic) -> Float[Tensor, ""]:
        """The sum of the elementwise products, ``tr(A^T B)``, without the matrices; differentiable, 0-d.

        Raises:
            ShapeError: other sizes or factors.
            UsageError: no operator, or of another dtype or device.
            NonFiniteError: a core holds NaN or infinity, or the result leaves the range of the dtype.
        """
        if not isinstance(other, OperatorArithmetic):
            raise UsageError(f"inner: `other` is a {type(other).__name__}; expected an MPO.")
        check_same_shape(self.shape, other.shape, "inner")
        check_same_kind(self.cores, other.cores, "inner")
        return algebra.inner_product(self.cores, other.cores, self.shape)

    def norm(self) -> Float[Tensor, ""]:
        """The Frobenius norm, without the matrix, to full precision also of small differences; differentiable, 0-d.

        Raises:
            NonFiniteError: as `inner`.
        """
        return algebra.frobenius_norm(self.cores, self.shape)

    def trace(self) -> Float[Tensor, ""]:
        """The sum of the diagonal, without the matrix; differentiable, 0-d.

        Raises:
            ShapeError: the matrix is not square, or rows and columns have other factors.
            NonFiniteError: as `inner`.
        """
        shape = self.shape
        if (shape.rows, shape.row_factors) != (shape.cols, shape.col_factors):
            raise ShapeError(
                f"trace: found {shape.rows}x{shape.cols} in {shape.row_factors} x {shape.col_factors}; expected a"
                " square matrix with the same factors for rows and columns."
            )
        return algebra.trace_of_cores(self.cores, shape)

    def _new(self, cores: Sequence[Tensor], shape: MPOShape) -> Self:
        raise NotImplementedError

    def _sum(self, other: object, where: str) -> Self:
        if not isinstance(other, OperatorArithmetic):
            return self._refuse(other, where)
        check_same_shape(self.shape, other.shape, where)
        check_same_kind(self.cores, other.cores, where)
        added = scale_cores(other.cores, as_scalar(-1, where), where) if where == "a - b" else other.cores
        cores = algebra.sum_cores(self.cores, added)
        check_finite(cores, where, self=self.cores, other=other.cores)
        return self._new(cores, self.shape)

    def _scaled(self, number: Any, where: str, inverse: bool = False) -> Self:
        scalar = as_scalar(number, where)
        return self._new(scale_cores(self.cores, scalar.inverse(where) if inverse else scalar, where), self.shape)

    def _applied(self, x: Tensor, where: str) -> Tensor:
        y = apply_mpo(x, self.cores, self.shape)
        if y.numel() > 0:
            check_finite([y], where, self=self.cores, x=[x])
        return y

    def _refuse(self, other: object, where: str) -> Any:
        """Numbers, tensors and operators in a wrong place are ours to explain, anything else may know what to do."""
        if isinstance(other, OperatorArithmetic) or is_number(other):
            raise UsageError(f"{where}: found {type(other).__name__} beside an MPO; expected {_OPERANDS[where]}.")
        return NotImplemented
