"""Orthonormal forms by QR, and rounding: the smallest bonds within a limit (Oseledets 2011, Algorithm 2).

Sums and products have larger bonds than their matrices need. A QR sweep from the right makes all cores but the first
orthonormal, without a look at the matrix; a sweep from the left then meets the Schmidt values of one bond after the
other as singular values of small matrices, and cuts them. The errors of the cuts are orthogonal to each other, so their
squares add to that of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.budgets.budget import bonds_for_params, bonds_for_tolerance
from mpo_core.errors import UsageError
from mpo_core.linear_algebra import qr, svd, svdvals, vector_norm
from mpo_core.operators.algebra import frobenius_norm, orthonormal_sweep
from mpo_core.operators.gauge import Core
from mpo_core.operators.operands import check_finite, check_max_params, check_number
from mpo_core.operators.scaling import doubles, shift_by
from mpo_core.shapes import MPOShape


@torch.no_grad()
def round_cores(
    cores: Sequence[Core],
    shape: MPOShape,
    bonds: int | Sequence[int] | None = None,
    tolerance: float | None = None,
    max_params: int | None = None,
) -> list[Core]:
    """Cores with bonds cut to a limit, left orthonormal but for the last; records no gradient.

    Args:
        cores: in any gauge, of any bonds.
        shape: the factors.
        bonds: one cap for all bonds, or one each.
        tolerance: relative Frobenius error. It is kept in float64; rounding the cores to their dtype comes on top. With
            `bonds` as well, the caps go first, and the tolerance says where even less is enough.
        max_params: largest number of entries of all cores; excludes the other two.

    Returns:
        The cores. Without any limit only bonds that carry nothing but rounding noise of the dtype are cut.

    Raises:
        BondError: `bonds` or `max_params` is no positive integer, or too small.
        UsageError: `tolerance` is negative, `max_params` is given beside another limit, or the cores are on the meta
            device and the limit is not `bonds`.
        NonFiniteError: `tolerance` or a core is NaN or infinite, or the result leaves the range of the dtype.
    """
    if max_params is not None and (bonds is not None or tolerance is not None):
        raise UsageError(
            "round: `max_params` is given beside another limit; give it alone, or `bonds` and `tolerance`."
        )
    if cores[0].is_meta and (bonds is None or tolerance is not None):
        raise UsageError("round: the cores are on the meta device and hold no values to judge; give `bonds` alone.")
    caps = shape.clip_bonds(bonds)
    limit = None if max_params is None else check_max_params(max_params, shape, "round")
    if bonds is None and tolerance is None and limit is None:
        allowed = max(shape.n * torch.finfo(cores[0].dtype).eps, 64 * torch.finfo(torch.float64).eps)
    else:
        allowed = None if tolerance is None else check_number(tolerance, "round", "tolerance", least=0.0)
    swept, exponent, noise = orthonormal_sweep(doubles([core.detach() for core in cores], "round", "self"), 0)
    if shape.n > 1 and limit is None and allowed is None:
        swept = _cut(swept, caps)
    elif shape.n > 1:
        spectra = _spectra(swept)
        budget = 0.0
        if limit is not None:
            caps = bonds_for_params(spectra, shape, limit)
        elif allowed is not None:
            # Of the norm without the padding. What may be noise need not be kept, whatever the tolerance.
            norm = float(vector_norm(swept[0]))
            padded = (shape.padded_rows, shape.padded_cols) != (shape.rows, shape.cols)
            budget = max(allowed * (float(frobenius_norm(swept, shape)) if padded else norm), float(noise))
            enough = bonds_for_tolerance(spectra, budget / norm if norm > 0 else 0.0, shape)
            caps = tuple(min(pair) for pair in zip(caps, enough, strict=True))
        tails = [float(values[cap:].square().sum()) for values, cap in zip(spectra, caps, strict=True)]
        swept = _cut(swept, caps, budget, tails)
    swept[-1] = shift_by(swept[-1], exponent)
    result = [core.to(cores[0].dtype).contiguous() for core in swept]
    check_finite(result, "round", self=cores)
    return result


def _spectra(cores: Sequence[Core]) -> list[Float[Tensor, " bond"]]:
    """The Schmidt values of every bond of a right orthonormal chain."""
    spectra: list[Tensor] = []
    theta = cores[0]
    for core in cores[1:]:
        triangle = qr(theta.flatten(0, 2))[1]
        spectra.append(svdvals(triangle))
        theta = (triangle @ core.flatten(1)).reshape(-1, *core.shape[1:])
    return spectra


def _cut(
    cores: Sequence[Core], bonds: Sequence[int], budget: float = 0.0, planned: Sequence[float] | None = None
) -> list[Core]:
    """Cut a right orthonormal chain from the left, each bond optimally for what is left.

    Cuts on the left make the tails of the bonds on the right smaller than the spectra said. What that leaves of the
    budget goes to the next bond, which may then be cut below what was planned.

    Args:
        cores: right orthonormal but for the first.
        bonds: what every bond is cut to at least.
        budget: absolute Frobenius error.
        planned: its square's share of every bond; no bond is cut more than `bonds` says if left out.
    """
    result: list[Tensor] = []
    theta, spent = cores[0], 0.0
    for k, bond in enumerate(bonds):
        basis, triangle = qr(theta.flatten(0, 2))
        u, values, vh = svd(triangle)
        if planned is not None:
            tails = values.square().flip(0).cumsum(0).flip(0)
            free = budget**2 - spent - sum(planned[k + 1 :])
            bond = max(1, min(bond, int((tails > free).sum())))
            spent += float(values[bond:].square().sum())
        result.append((basis @ u[:, :bond]).reshape(*theta.shape[:3], -1))
        carried = values[:bond, None] * vh[:bond]
        theta = (carried @ cores[k + 1].flatten(1)).reshape(-1, *cores[k + 1].shape[1:])
    return [*result, theta]
