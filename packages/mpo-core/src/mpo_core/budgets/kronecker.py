"""A weight of the columns that passes through the cores: a Kronecker product over the column digits.

Multiplying a matrix by any other weight makes an operator with other bonds. A product ``C_1 (x) .. (x) C_n`` acts on
the column index of each core by itself, so a decomposition of the weighted matrix keeps its bonds when the weight is
taken off again, core by core; what was cut is then what counted least in that weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from mpo_core.linear_algebra import eigh
from mpo_core.operators.gauge import Core
from mpo_core.shapes import MPOShape

_ROUNDS = 3


def column_weights(weight: Float[Tensor, "cols cols"], shape: MPOShape) -> list[Float[Tensor, "digit digit"]]:
    """Positive definite ``C_1 .. C_n`` whose Kronecker product is near to a weight, by alternating partial traces.

    Each is the least-squares solution for the others fixed: ``tr_{others}(C . (x)_{l != k} C_l) / prod ||C_l||^2``.

    Args:
        weight: C, positive definite.
        shape: the factors; padded columns get the mean of C's diagonal, as they are cut off but need an inverse.
    """
    n, factors = shape.n, shape.col_factors
    surplus = shape.padded_cols - shape.cols
    padded = pad(weight, (0, surplus, 0, surplus))
    padded.diagonal()[shape.cols :] = weight.diagonal().mean()
    tensor = padded.reshape(*factors, *factors)
    found = [torch.eye(factor, dtype=weight.dtype, device=weight.device) for factor in factors]
    for _ in range(_ROUNDS):
        for k in range(n):
            others = [other for other in range(n) if other != k]
            operands = [part for other in others for part in (found[other], [other, n + other])]
            traced = torch.einsum(tensor, list(range(2 * n)), *operands, [k, n + k])
            found[k] = traced / math.prod(float(found[other].square().sum()) for other in others)
    return found


def weighted_columns(
    matrix: Float[Tensor, "rows cols"], factors: Sequence[Float[Tensor, "digit digit"]], shape: MPOShape
) -> tuple[Float[Tensor, "rows padded"], MPOShape]:
    """The matrix times the Kronecker product of some factors, with all padded columns, and its shape."""
    weighted = pad(matrix, (0, shape.padded_cols - shape.cols))
    after = shape.padded_cols
    for root in factors:
        after //= len(root)
        weighted = torch.einsum("bjc,jl->blc", weighted.reshape(-1, len(root), after), root)
    padded = MPOShape(shape.rows, shape.padded_cols, shape.row_factors, shape.col_factors)
    return weighted.reshape(len(matrix), -1), padded


def unweighted_cores(cores: Sequence[Core], inverses: Sequence[Float[Tensor, "digit digit"]]) -> list[Core]:
    """Take the roots off again, core by core, by their inverses."""
    return [torch.einsum("aijb,jl->ailb", core, inverse) for core, inverse in zip(cores, inverses, strict=True)]


def roots(weight: Float[Tensor, "m m"]) -> tuple[Float[Tensor, "m m"], Float[Tensor, "m m"]]:
    """The symmetric root of a positive definite matrix and its inverse; eigenvalues below noise are raised to it."""
    values, vectors = eigh(weight)
    values = values.clamp_min(1e-14 * float(values[-1])).sqrt()
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T
