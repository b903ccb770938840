"""What the Schmidt values of the bonds say: entanglement entropy, and how much a truncation costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from mpo_core.errors import BondError, NonFiniteError, ShapeError, UsageError
from mpo_core.linear_algebra import vector_norm
from mpo_core.shapes import is_whole

Spectra = Sequence[Float[Tensor, " bond"]]
Variant = Literal["frobenius", "printed"]


def entanglement_entropy(
    spectrum: Float[Tensor, " bond"], normalization: Literal["probability", "released"] = "probability"
) -> float:
    """Entanglement entropy of one bond, ``S = -sum_j v_j ln v_j`` (Liu et al. 2021, Eq. 6), in nats.

    The paper does not say how the values are normalised.

    Args:
        spectrum: Schmidt values of the bond, any order.
        normalization: ``probability`` is the one of physics, ``v_j = l_j^2 / sum l^2``, so that
            ``0 <= S <= ln d``; ``released`` that of the authors' code, ``v_j = l_j / ||l||_2``.

    Returns:
        The entropy; 0 for a spectrum of zeros.

    Raises:
        UsageError: unknown normalisation, or complex values.
        ShapeError: the spectrum is not one-dimensional, or a value is negative.
        NonFiniteError: it holds NaN or infinity.
    """
    values = _checked(spectrum, "entanglement_entropy: `spectrum`")
    largest = values.max() if len(values) else 0
    if normalization not in ("probability", "released"):
        raise UsageError(
            f"entanglement_entropy: normalization is {normalization!r}; expected 'probability' or 'released'."
        )
    if largest == 0:
        return 0.0
    values = values / largest  # or the squares of small ones vanish
    weights = values / vector_norm(values)
    if normalization == "probability":
        weights = weights.square()
    # xlogy-free: zeros contribute nothing, as x ln x -> 0.
    weights = weights[weights > 0]
    return abs(float(-(weights * weights.log()).sum()))


def truncation_errors(
    spectra: Spectra, bonds: int | Sequence[int], variant: Variant = "frobenius"
) -> tuple[float, ...]:
    """The truncation error ``eps_k`` of every bond.

    With ``frobenius``, ``eps_k = sqrt(sum_{j > d'_k} l_j^2)``: the exact error of cutting bond k alone, and
    what makes the bound of Liu et al. 2021, Eq. 4, true. Their Eq. 3 as printed, ``eps_k = sum_{j = d_k -
    d'_k}^{d_k} l_j``, starts at another index and sums values instead of squares; it is offered as
    ``printed``, for comparison (``docs/errata.md``), with the index counted from 0, and bounds nothing.

    Args:
        spectra: Schmidt values of the ``n - 1`` bonds of the *untruncated* matrix, descending.
        bonds: the kept bonds ``d'_k``, or one cap for all; a cap above ``d_k`` cuts nothing.
        variant: which formula.

    Raises:
        BondError: a cap is no positive integer, or there is not one for each spectrum.
        UsageError: unknown variant, or complex values.
        ShapeError: a spectrum is not one-dimensional, or a value is negative.
        NonFiniteError: a spectrum holds NaN or infinity.
    """
    if variant not in ("frobenius", "printed"):
        raise UsageError(f"truncation_errors: variant is {variant!r}; expected 'frobenius' or 'printed'.")
    caps = list(bonds) if isinstance(bonds, Sequence) else [bonds] * len(spectra)
    if len(caps) != len(spectra):
        raise BondError(f"truncation_errors: {len(caps)} bonds for {len(spectra)} spectra; expected one each.")
    # A single cap is checked even where there is no bond to cut.
    for k, cap in enumerate(caps or ([] if isinstance(bonds, Sequence) else [bonds])):
        if not is_whole(cap) or index(cap) < 1:
            raise BondError(f"truncation_errors: bond {k} is {cap!r}; expected a positive integer.")
    errors: list[float] = []
    for k, (spectrum, cap) in enumerate(zip(spectra, caps, strict=True)):
        values = _checked(spectrum, f"truncation_errors: spectrum {k}")
        kept = min(index(cap), len(values))
        if variant == "frobenius":
            errors.append(float(vector_norm(values[kept:])))
        else:
            errors.append(float(values[len(values) - kept :].sum()))
    return tuple(errors)


def error_bound(spectra: Spectra, bonds: int | Sequence[int], variant: Variant = "frobenius") -> float:
    """Upper bound of the Frobenius error of a truncation, ``sqrt(sum_k eps_k^2)`` (Liu et al. 2021, Eq. 4).

    Args:
        spectra: as in `truncation_errors`.
        bonds: as in `truncation_errors`.
        variant: as in `truncation_errors`; with ``printed`` the result is no bound.

    Raises:
        MPOError: as `truncation_errors`.
    """
    return math.hypot(*truncation_errors(spectra, bonds, variant))


def _checked(spectrum: Tensor, what: str) -> Tensor:
    if spectrum.dim() != 1:
        raise ShapeError(f"{what} has the shape {tuple(spectrum.shape)}; expected one dimension.")
    if spectrum.is_complex():
        raise UsageError(f"{what} is {spectrum.dtype}; expected real numbers.")
    values = spectrum.detach().double()
    if not values.isfinite().all():
        raise NonFiniteError(f"{what} holds NaN or infinity; expected Schmidt values.")
    if (values < 0).any():
        raise ShapeError(f"{what} holds negative values; expected Schmidt values.")
    return values
