"""What may stand beside an operator: numbers, tensors and other operators, checked before anything is computed."""

# What callers hand over is checked at run time, too.
# pyright: reportUnnecessaryIsInstance=false

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Number, Real
from operator import index
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpo_core.errors import BondError, NonFiniteError, ShapeError, UsageError
from mpo_core.shapes import MPOShape, is_whole


class Scalar(NamedTuple):
    """The number ``mantissa * 2 ** exponent``; in two, so that its inverse is in range as well."""

    mantissa: float | Tensor
    exponent: int

    def inverse(self, where: str) -> Scalar:
        """One over the number.

        Raises:
            NonFiniteError: the number is 0.
        """
        mantissa = self.mantissa.detach() if isinstance(self.mantissa, Tensor) else self.mantissa
        if not (isinstance(mantissa, Tensor) and mantissa.is_meta) and float(mantissa) == 0:
            raise NonFiniteError(f"{where}: the divisor is 0, which has no finite inverse; divide by another number.")
        return Scalar(1.0 / self.mantissa, -self.exponent)


def as_scalar(value: Any, where: str) -> Scalar:
    """A real, finite number, or a 0-d tensor of one, through which gradients flow.

    Raises:
        UsageError: a bool, a complex number, or no number.
        ShapeError: a tensor with axes.
        NonFiniteError: NaN, infinity, or an integer beyond float64.
    """
    if isinstance(value, Tensor):
        return _tensor_scalar(value, where)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(
            f"{where}: the factor is {value!r} ({type(value).__name__}); expected a real number or a 0-d tensor."
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return Scalar(*math.frexp(_finite(number, where)))


def _tensor_scalar(value: Tensor, where: str) -> Scalar:
    if value.dim() != 0:
        raise ShapeError(
            f"{where}: the factor is a tensor of shape {tuple(value.shape)}; expected a number or a 0-d tensor, as"
            " nothing is broadcast."
        )
    if value.is_complex() or value.dtype == torch.bool:
        raise UsageError(f"{where}: the factor is a tensor of {value.dtype}; expected a real number.")
    exponent = 0 if value.is_meta else math.frexp(_finite(float(value.detach()), where))[1]
    # Two steps, as 2 ** -exponent alone may leave the range.
    half = exponent // 2
    return Scalar(value.to(torch.float64) * 2.0**-half * 2.0 ** (half - exponent), exponent)


def _finite(number: float, where: str) -> float:
    if not math.isfinite(number):
        raise NonFiniteError(f"{where}: the factor is {number}; expected a finite number within the range of float64.")
    return number


def is_number(value: object) -> bool:
    """Whether a value claims to be a number, so that an error about it should be ours."""
    return isinstance(value, Number | Tensor)


def check_cores(cores: Sequence[Tensor], shape: MPOShape) -> None:
    """Hold cores against a factor shape.

    Raises:
        ShapeError: another number of cores, other factors, bonds that do not meet, or mixed dtypes or devices.
        UsageError: no real floating dtype.
    """
    if len(cores) != shape.n:
        raise ShapeError(f"MPO: found {len(cores)} cores; the shape has factors for {shape.n}.")
    left = 1
    for k, core in enumerate(cores):
        rows, cols = shape.row_factors[k], shape.col_factors[k]
        right = core.shape[-1] if core.dim() == 4 and k < shape.n - 1 else 1
        if tuple(core.shape) != (left, rows, cols, right) or right == 0:
            wanted = f"({left}, {rows}, {cols}, {'any bond' if k < shape.n - 1 else 1})"
            raise ShapeError(f"MPO: core {k} has the shape {tuple(core.shape)}; expected {wanted}.")
        if core.dtype != cores[0].dtype or core.device != cores[0].device:
            raise ShapeError(
                f"MPO: core {k} is {core.dtype} on {core.device}, core 0 is {cores[0].dtype} on"
                f" {cores[0].device}; expected one dtype and device."
            )
        left = right
    if not cores[0].is_floating_point():
        raise UsageError(f"MPO: the cores are {cores[0].dtype}; expected a real floating dtype.")


def check_same_kind(first: Sequence[Tensor], second: Sequence[Tensor], where: str) -> None:
    """Hold dtype and device of two operators' cores against each other.

    Raises:
        UsageError: they differ.
    """
    a, b = first[0], second[0]
    if a.dtype != b.dtype or a.device != b.device:
        raise UsageError(
            f"{where}: `self` is {a.dtype} on {a.device}, `other` is {b.dtype} on {b.device}; expected one dtype and"
            " device, convert one of them with .to(...)."
        )


def check_same_shape(first: MPOShape, second: MPOShape, where: str) -> None:
    """Hold the sizes and factors of two operators against each other.

    Raises:
        ShapeError: they differ.
    """
    if first != second:
        raise ShapeError(
            f"{where}: `self` is {_described(first)}, `other` is {_described(second)}; expected the same size and the"
            " same factors."
        )


def check_chained(first: MPOShape, second: MPOShape, where: str) -> None:
    """Hold the columns of an operator against the rows of the next.

    Raises:
        ShapeError: sizes or factors differ.
    """
    if (first.cols, first.col_factors) != (second.rows, second.row_factors):
        raise ShapeError(
            f"{where}: `self` has {first.cols} columns in the factors {first.col_factors}, `other` has {second.rows}"
            f" rows in the factors {second.row_factors}; expected the same size and the same factors."
        )


def check_vectors(tensor: Any, core: Tensor, size: int, axis: int, where: str, name: str = "x") -> None:
    """Hold a dense operand against an operator: one axis of a given size, same dtype and device.

    Raises:
        UsageError: no tensor, or another dtype or device.
        ShapeError: no such axis, or one of another size.
    """
    if not isinstance(tensor, Tensor):
        raise UsageError(f"{where}: `{name}` is a {type(tensor).__name__}; expected a torch.Tensor.")
    if tensor.dim() == 0 or tensor.shape[axis] != size:
        raise ShapeError(
            f"{where}: `{name}` has the shape {tuple(tensor.shape)}; expected {size} entries along its"
            f" {'first' if axis == 0 else 'last'} axis."
        )
    if tensor.dtype != core.dtype or tensor.device != core.device:
        raise UsageError(
            f"{where}: `{name}` is {tensor.dtype} on {tensor.device}, the cores are {core.dtype} on {core.device};"
            " expected one dtype and device, convert one of them with .to(...)."
        )


def check_finite(results: Sequence[Tensor], where: str, **operands: Sequence[Tensor]) -> None:
    """Refuse a result that is not finite, and say which operand is to blame; skipped on the meta device.

    Args:
        results: the tensors computed.
        where: the operation.
        **operands: name -> tensors it was computed from.

    Raises:
        NonFiniteError: NaN or infinity in the results, for which operands or range are named.
    """
    if results[0].is_meta or all_finite(results):
        return
    for name, tensors in operands.items():
        for k, tensor in enumerate(tensors):
            if not all_finite([tensor]):
                place = f"core {k} of `{name}`" if len(tensors) > 1 else f"`{name}`"
                raise NonFiniteError(f"{where}: {place} holds NaN or infinity; expected finite numbers.")
    raise NonFiniteError(
        f"{where}: the result leaves the range of {results[0].dtype}; convert the operands with .to(...) to a dtype of"
        " wider range first, or scale them down."
    )


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity; one wait for the device."""
    return bool(torch.stack([torch.isfinite(tensor.detach()).all() for tensor in tensors]).all())


def check_site(site: Any, n: int, where: str) -> int:
    """A site of a chain of `n` cores, counted from 0.

    Raises:
        UsageError: no integer from 0 to ``n - 1``.
    """
    if not is_whole(site) or not 0 <= index(site) < n:
        raise UsageError(f"{where}: `site` is {site!r}; expected an integer from 0 to {n - 1}.")
    return index(site)


def check_number(value: Any, where: str, name: str, least: float = -math.inf, above: float = -math.inf) -> float:
    """A finite real number of at least `least` and greater than `above`.

    Raises:
        UsageError: out of range, a bool, or no number.
        NonFiniteError: NaN or infinity.
    """
    wanted = f"a finite number above {above}" if above > -math.inf else f"a finite number of at least {least}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{where}: `{name}` is {value!r}; expected {wanted}.")
    number = float(value)
    if not math.isfinite(number):
        raise NonFiniteError(f"{where}: `{name}` is {number}; expected {wanted}.")
    if number < least or number <= above:
        raise UsageError(f"{where}: `{name}` is {number}; expected {wanted}.")
    return number


def floating_dtype(dtype: torch.dtype | None, where: str) -> torch.dtype:
    """The dtype given, or torch's default.

    Raises:
        UsageError: it is no real floating one.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise UsageError(f"{where}: `dtype` is {dtype}; expected a real floating one.")
    return dtype or torch.get_default_dtype()


def check_max_params(limit: Any, shape: MPOShape, where: str) -> int:
    """A number of entries that all cores together may have.

    Raises:
        BondError: no integer, or below what bonds of 1 need.
    """
    least = shape.n_params(1)
    if not is_whole(limit) or index(limit) < least:
        raise BondError(
            f"{where}: `max_params` is {limit!r}; expected an integer of at least {least}, which bonds of 1 need."
        )
    return index(limit)


def _described(shape: MPOShape) -> str:
    return f"{shape.rows}x{shape.cols} in {shape.row_factors} x {shape.col_factors}"
