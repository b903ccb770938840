"""The identity gauge at full bonds: the weight itself as a chain of cores, by moving entries and nothing else.

One core, the *home* core, is the matrix with its entries in another order, and all others are reshaped identities. The
layout is fixed here, and does not depend on how the weight lies in memory: a saved adapter leaves such cores out and
counts on getting the very same ones again.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from mpo_core.decomposing.chain import home_site
from mpo_core.decomposing.matrices import checked_matrix
from mpo_core.operators.gauge import Core
from mpo_core.shapes import MPOShape


def identity_cores(matrix: Float[Tensor, "rows cols"], shape: MPOShape) -> list[Core]:
    """All cores of a matrix in the identity gauge; their product is the matrix to the bit.

    Raises:
        NonFiniteError: the matrix holds NaN or infinity.
        MPOError: it is no matrix of real floating dtype.

    Example:
        >>> [tuple(core.shape) for core in identity_cores(torch.eye(4), MPOShape(4, 4, (2, 2), (2, 2)))]
        [(1, 2, 2, 4), (4, 2, 2, 1)]
    """
    matrix, _ = checked_matrix(matrix, "decompose")
    home = home_site(shape)
    return [home_core(matrix, shape) if k == home else identity_core(shape, k, matrix) for k in range(shape.n)]


def home_core(matrix: Float[Tensor, "rows cols"], shape: MPOShape) -> Core:
    """The home core of a matrix: its entries in another order, padded with zeros, in memory of its own.

    Args:
        matrix: of any strides.
        shape: the factors.
    """
    n = shape.n
    padded = pad(matrix.detach(), (0, shape.padded_cols - shape.cols, 0, shape.padded_rows - shape.rows))
    digits = padded.reshape(*shape.row_factors, *shape.col_factors)
    digits = digits.permute([axis for k in range(n) for axis in (k, n + k)])
    return digits.reshape(shape.core_shapes()[home_site(shape)]).clone(memory_format=torch.contiguous_format)


def identity_core(shape: MPOShape, index: int, like: Tensor) -> Core:
    """Any core but the home core, in the dtype and on the device of `like`."""
    left, rows, cols, right = shape.core_shapes()[index]
    side = right if index < home_site(shape) else left
    return torch.eye(side, dtype=like.dtype, device=like.device).reshape(left, rows, cols, right)


def matrix_from_home(core: Core, shape: MPOShape) -> Float[Tensor, "rows cols"]:
    """The matrix whose `home_core` this is, contiguous; what stands in the padding is left out."""
    digits = [size for pair in zip(shape.row_factors, shape.col_factors, strict=True) for size in pair]
    axes = [*range(0, 2 * shape.n, 2), *range(1, 2 * shape.n, 2)]
    padded = core.detach().reshape(digits).permute(axes).reshape(shape.padded_rows, shape.padded_cols)
    return padded[: shape.rows, : shape.cols].contiguous()
