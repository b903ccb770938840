"""The few functions of `torch.linalg` that the tensor floor calls, with types.

torch gives its linear algebra no type annotations. They are written down here once, so that every other module of the
tensor floor passes a strict type checker without exceptions.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def vector_norm(tensor: Tensor) -> Float[Tensor, ""]:
    """The root of the sum of squares of all entries; on CPU accumulated in the dtype of the tensor."""
    return torch.linalg.vector_norm(tensor)


def qr(matrix: Float[Tensor, "*batch rows cols"]) -> tuple[Tensor, Tensor]:
    """Reduced QR: ``Q`` of shape (rows, k) with orthonormal columns, ``R`` of shape (k, cols), k the smaller side."""
    basis, triangle = torch.linalg.qr(matrix)
    return basis, triangle


def svd(matrix: Float[Tensor, "*batch rows cols"]) -> tuple[Tensor, Tensor, Tensor]:
    """Reduced singular value decomposition ``U, s, V^T``, values descending.

    Raises:
        torch.linalg.LinAlgError: the iteration did not converge.
    """
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u, values, vh


def svdvals(matrix: Float[Tensor, "*batch rows cols"]) -> Float[Tensor, "*batch k"]:
    """Singular values, descending."""
    return torch.linalg.svdvals(matrix)


def eigh(matrix: Float[Tensor, "*batch m m"]) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and orthonormal eigenvectors as columns, of a symmetric matrix (lower triangle read).

    Raises:
        torch.linalg.LinAlgError: the iteration did not converge, as in float32 for exactly degenerate spectra.
    """
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors


def eigvalsh(matrix: Float[Tensor, "*batch m m"]) -> Float[Tensor, "*batch m"]:
    """Eigenvalues, ascending, of a symmetric matrix (lower triangle read)."""
    return torch.linalg.eigvalsh(matrix)
