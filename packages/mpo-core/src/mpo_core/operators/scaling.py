"""Numbers and powers of two: multiply an operator with a number, and keep sweeps over cores in range.

The largest entry of a product of many cores may lie far outside the range of the dtype while all cores and the matrix
lie within. Sweeps therefore run in float64 and take the largest power of two out of every intermediate, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.errors import NonFiniteError
from mpo_core.operators.gauge import Core
from mpo_core.operators.operands import Scalar, all_finite, check_finite

_RANGE = 1000
"""Powers of two that float64 surely holds, so that larger ones are applied in parts."""


def scale_cores(cores: Sequence[Core], number: Scalar, where: str) -> list[Core]:
    """Multiply the operator with a number; differentiable in the cores and in a number that is a tensor.

    One core takes the number: the smallest that can hold the result without overflow and without loss of small entries.
    Where none can alone, powers of two go to several.

    Raises:
        NonFiniteError: a core holds NaN or infinity, or all cores together cannot hold the result in their dtype.
    """
    mantissa, exponent = number
    shares = _shares(cores, exponent)
    carrier = min(shares)
    result = list(cores)
    for k, share in shares.items():
        scaled = cores[k].to(torch.float64)
        if k == carrier:
            scaled = scaled * (mantissa.to(scaled.device) if isinstance(mantissa, Tensor) else mantissa)
        result[k] = _shift(scaled, share).to(cores[k].dtype)
    check_finite(result, where, self=cores)
    return result


def _shares(cores: Sequence[Tensor], exponent: int) -> dict[int, int]:
    """Which cores take how many powers of two; at least one core, which takes the mantissa, of at most 2, as well."""
    info = torch.finfo(cores[0].dtype)
    top = math.frexp(info.max)[1]
    # Entries down to eps times the largest of a core stay normal numbers.
    bottom = math.frexp(info.tiny)[1] - math.frexp(info.eps)[1]
    order = sorted(range(len(cores)), key=lambda k: cores[k].numel())
    limits: dict[int, tuple[int, int]] = {}
    for k in order:
        size = _exponent(cores[k])
        if size is None:  # zero times anything: the share does not matter for the values
            return {k: max(-_RANGE, min(_RANGE, exponent))}
        limits[k] = (min(0, bottom - size), max(0, top - size - 1))
        if limits[k][0] <= exponent <= limits[k][1]:
            return {k: exponent}
    shares: dict[int, int] = {}
    for k in order:
        shares[k] = max(limits[k][0], min(limits[k][1], exponent))
        exponent -= shares[k]
    # What no core can hold goes to one: it may fit still, underflows, or is found out by its infinity.
    shares[order[0]] += exponent
    return shares


def doubles(cores: Sequence[Core], where: str, name: str) -> list[Core]:
    """The cores in float64; differentiable.

    Raises:
        NonFiniteError: one holds NaN or infinity.
    """
    if not cores[0].is_meta:
        for k, core in enumerate(cores):
            if not all_finite([core]):
                raise NonFiniteError(
                    f"{where}: core {k} of {len(cores)} of `{name}` holds NaN or infinity; expected finite numbers."
                )
    return [core.to(torch.float64) for core in cores]


def normalize(tensor: Tensor) -> tuple[Tensor, Float[Tensor, ""]]:
    """Take out a power of two, so that the largest entry is between 1 and 2.

    Returns:
        The tensor, and the exponent of the power, without gradient; 0 for a tensor of zeros.
    """
    largest = tensor.detach().abs().amax()
    mantissa, exponent = torch.frexp(largest)
    # largest / (2 mantissa) is that power exactly.
    scale = torch.where(mantissa > 0, largest / (2 * mantissa), 1.0)
    return tensor / scale, torch.where(mantissa > 0, exponent - 1, 0).to(tensor.dtype)


def _exponent(core: Tensor) -> int | None:
    """Exponent of the largest entry, ``None`` for zeros, 0 on the meta device."""
    if core.is_meta:
        return 0
    largest = float(core.detach().abs().amax())
    return math.frexp(largest)[1] if largest > 0 else None


def _shift(tensor: Tensor, exponent: int) -> Tensor:
    """Multiply with a power of two, in parts that float64 holds."""
    while abs(exponent) > _RANGE:
        step = int(math.copysign(_RANGE, exponent))
        tensor, exponent = tensor * 2.0**step, exponent - step
    return tensor * 2.0**exponent


def shift_by(tensor: Tensor, exponent: Tensor) -> Tensor:
    """Multiply with a power of two that is a tensor; infinite where that leaves the range of float64."""
    exponent = exponent.clamp(-2 * _RANGE - 46, 2 * _RANGE + 46)
    half = (exponent / 2).floor()
    return tensor * torch.exp2(half) * torch.exp2(exponent - half)


def assemble(value: Tensor, exponent: Tensor, dtype: torch.dtype, where: str) -> Tensor:
    """The number ``value * 2 ** exponent`` in a dtype.

    Raises:
        NonFiniteError: it does not fit.
    """
    result = shift_by(value, exponent).to(dtype)
    if not result.is_meta and not all_finite([result]):
        size = float(value.detach().abs().log2() + exponent)
        raise NonFiniteError(
            f"{where}: the result is about 2^{size:.0f}, which {dtype} cannot hold; convert the operators with .to(...)"
            " to a dtype of wider range first, or scale them down."
        )
    return result
