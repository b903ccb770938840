"""Sums, products, norms and orthonormal forms of operators, computed on their cores and without the matrix.

Sums put cores side by side (bonds add), products multiply them site by site (bonds multiply). Numbers such as the inner
product are swept up from one end: what the cores so far leave open is one small tensor, the environment. Padding is
projected out wherever it would enter the result (see `mpo_core.operators.padding`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from mpo_core.linear_algebra import qr, vector_norm
from mpo_core.operators.gauge import Core
from mpo_core.operators.operands import check_finite
from mpo_core.operators.padding import mask_padding, mask_rows
from mpo_core.operators.scaling import assemble, doubles, normalize, shift_by
from mpo_core.shapes import MPOShape


def sum_cores(first: Sequence[Core], second: Sequence[Core]) -> list[Core]:
    """Cores of the sum of two operators: block rows, block diagonals, block columns; differentiable.

    Oseledets 2011, section 4.1. Bonds add, with a single core the entries do.
    """
    n = len(first)
    if n == 1:
        return [first[0] + second[0]]
    result = [torch.cat([first[0], second[0]], dim=3)]
    for a, b in zip(first[1:-1], second[1:-1], strict=True):
        upper = pad(a, (0, b.shape[3]))
        lower = pad(b, (a.shape[3], 0))
        result.append(torch.cat([upper, lower], dim=0))
    return [*result, torch.cat([first[-1], second[-1]], dim=0)]


def transpose_cores(cores: Sequence[Core]) -> list[Core]:
    """Cores of the transposed matrix: views with row and column digits exchanged."""
    return [core.transpose(1, 2) for core in cores]


def product_cores(first: Sequence[Core], second: Sequence[Core], shape: MPOShape) -> list[Core]:
    """Cores of the product of two matrices; differentiable.

    ``C_k[(a, c), i, j, (b, d)] = sum_m A_k[a, i, m, b] B_k[c, m, j, d]`` (Oseledets 2011, section 4.3), with the
    padding of the inner index projected out.

    Args:
        first: of shapes ``(a, i_k, m_k, b)``.
        second: of shapes ``(c, m_k, j_k, d)``.
        shape: factors of `first`, whose columns are the inner index.

    Returns:
        Of shapes ``(a c, i_k, j_k, b d)``; with padding, bonds are up to twice that.
    """
    masked = mask_rows(second, shape.col_factors, shape.cols)
    products = (torch.einsum("aimb,cmjd->acijbd", a, b) for a, b in zip(first, masked, strict=True))
    return [product.flatten(4).flatten(0, 1) for product in products]


def inner_product(
    first: Sequence[Core], second: Sequence[Core], shape: MPOShape, where: str = "inner"
) -> Float[Tensor, ""]:
    """The sum of the elementwise products of two matrices, ``tr(A^T B)``; differentiable.

    Computed in float64 with powers of two taken out on the way, so that only the result has to be in range. About
    ``sqrt(eps)`` of the norm is the least distance that ``<A - B, A - B>`` can see; `frobenius_norm` sees more.

    Returns:
        0-d, in the dtype of the cores.

    Raises:
        NonFiniteError: a core holds NaN or infinity, or the result leaves the range of the dtype.
    """
    value, exponent = _inner(doubles(first, where, "self"), doubles(second, where, "other"), shape)
    return assemble(value, exponent, first[0].dtype, where)


def frobenius_norm(cores: Sequence[Core], shape: MPOShape, where: str = "norm") -> Float[Tensor, ""]:
    """The Frobenius norm, to full precision also where terms of a sum cancel; differentiable to any order.

    The value is that of a QR sweep. The gradient comes from the inner product ``s = <W, W>``: the norm is
    ``v sqrt(1 + (s - s_0) / v^2)`` with ``v`` and ``s_0`` the values, as constants. At zero the gradient is zero.

    Returns:
        0-d, in the dtype of the cores.

    Raises:
        NonFiniteError: a core holds NaN or infinity, or the norm leaves the range of the dtype.
    """
    wide = doubles(cores, where, "self")
    swept, exponent, _ = orthonormal_sweep([core.detach() for core in mask_padding(wide, shape)], 0)
    value = vector_norm(swept[0])
    if torch.is_grad_enabled() and any(core.requires_grad for core in cores):
        square, square_exponent = _inner(wide, wide, shape)
        change = shift_by(square - square.detach(), square_exponent - 2 * exponent)
        value = value * (1 + change / torch.where(value > 0, value.square(), 1.0)).sqrt()
    return assemble(value, exponent, cores[0].dtype, where)


def trace_of_cores(cores: Sequence[Core], shape: MPOShape, where: str = "trace") -> Float[Tensor, ""]:
    """The sum of the diagonal of a square matrix with the same factors for rows and columns; differentiable.

    Returns:
        0-d, in the dtype of the cores.

    Raises:
        NonFiniteError: a core holds NaN or infinity, or the result leaves the range of the dtype.
    """
    wide = mask_rows(doubles(cores, where, "self"), shape.row_factors, shape.rows)
    environment, exponent = wide[0].new_ones(1, 1), wide[0].new_zeros(())
    for core in wide:
        transfer, power = normalize(core.diagonal(dim1=1, dim2=2).sum(-1))
        environment, other = normalize(environment @ transfer)
        exponent = exponent + power + other
    return assemble(environment.reshape(()), exponent, cores[0].dtype, where)


def orthonormal_cores(cores: Sequence[Core], site: int, where: str = "canonicalize") -> list[Core]:
    """The same matrix with all cores orthonormal towards one site, which holds the norm; records no gradient.

    By QR from both ends, in float64. Bonds become as small as their sides allow, ``d_k <= d_{k-1} i_k j_k``, so that
    every other core is orthonormal whatever the rank of the matrix.

    Raises:
        NonFiniteError: a core holds NaN or infinity, or the norm leaves the range of the dtype.
    """
    swept, exponent, _ = orthonormal_sweep(doubles([core.detach() for core in cores], where, "self"), site)
    swept[site] = shift_by(swept[site], exponent)
    result = [core.to(cores[0].dtype).contiguous() for core in swept]
    check_finite(result, where, self=cores)
    return result


@torch.no_grad()
def orthonormal_sweep(cores: Sequence[Core], site: int) -> tuple[list[Core], Float[Tensor, ""], Float[Tensor, ""]]:
    """What `orthonormal_cores` does, in range for any norm.

    Args:
        cores: in float64, finite.
        site: the core that takes the norm.

    Returns:
        The cores, the power of two that the one at `site` is to be multiplied with, and about how much of that core's
        norm may be rounding noise: terms of a sum cancel nowhere but there.
    """
    pairs = [normalize(core) for core in cores]
    result, exponent = [core for core, _ in pairs], torch.stack([power for _, power in pairs]).sum()
    joined = exponent.new_zeros(())
    for k in range(site):
        basis, triangle = qr(result[k].flatten(0, 2))
        triangle, power = normalize(triangle)
        result[k] = basis.unflatten(0, result[k].shape[:3])
        joined = vector_norm(triangle) * vector_norm(result[k + 1])
        result[k + 1] = (triangle @ result[k + 1].flatten(1)).unflatten(1, result[k + 1].shape[1:])
        exponent = exponent + power
    for k in range(len(result) - 1, site, -1):
        basis, triangle = qr(result[k].flatten(1).T)
        triangle, power = normalize(triangle)
        result[k] = basis.T.unflatten(1, result[k].shape[1:])
        joined = vector_norm(triangle) * vector_norm(result[k - 1])
        result[k - 1] = result[k - 1] @ triangle.T
        exponent = exponent + power
    result[site], power = normalize(result[site])
    noise = 4 * torch.finfo(joined.dtype).eps * shift_by(joined, -power)
    return result, exponent + power, noise


def _inner(first: list[Tensor], second: list[Tensor], shape: MPOShape) -> tuple[Tensor, Tensor]:
    """The inner product as a number and a power of two."""
    masked = mask_padding(first, shape)
    environment, exponent = first[0].new_ones(1, 1), first[0].new_zeros(())
    for a, b in zip(masked, second, strict=True):
        a, a_power = normalize(a)
        b, b_power = normalize(b)
        half = (environment.T @ a.flatten(1)).reshape(-1, a.shape[3])
        environment, power = normalize(half.T @ b.flatten(0, 2))
        exponent = exponent + a_power + b_power + power
    return environment.reshape(()), exponent
