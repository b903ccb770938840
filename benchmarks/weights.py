"""Matrices of the sizes of weights, their factors, and the error of TT-SVD in float64 to hold others against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from peers import paired_digits
from torch import Tensor

from mpo_core import MPOShape

FACTORS = {
    48: (4, 4, 3),
    64: (4, 4, 4),
    768: (4, 4, 4, 4, 3),
    3072: (4, 4, 8, 6, 4),
    4096: (4, 4, 8, 8, 4),
    11008: (4, 4, 43, 4, 4),
    30720: (8, 8, 10, 8, 6),
}
"""The factors of the published comparisons, for all decomposers the same."""


def shape_of(rows: int, cols: int) -> MPOShape:
    """The factors of both sides."""
    return MPOShape(rows, cols, FACTORS[rows], FACTORS[cols])


def make_matrix(rows: int, cols: int, kind: str = "mixed", seed: int = 0) -> Tensor:
    """A float32 matrix of the size of a weight.

    Args:
        rows: number of rows.
        cols: number of columns.
        kind: ``gaussian``; ``power law``, 256 directions that fall as k^-0.7; ``low rank``, 16 directions and noise;
            ``mixed``, the sum of the first two.
        seed: of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    count = min(rows, cols, 256)
    u = torch.randn(rows, count, generator=generator) / math.sqrt(rows)
    v = torch.randn(count, cols, generator=generator) / math.sqrt(cols)
    noise = torch.randn(rows, cols, generator=generator)
    power = (u * torch.arange(1, count + 1) ** -0.7) @ v
    return {
        "gaussian": lambda: 0.02 * noise,
        "power law": lambda: power,
        "low rank": lambda: u[:, :16] @ v[:16] + noise * (1e-3 / math.sqrt(rows)),
        "mixed": lambda: power + 0.02 * noise,
    }[kind]()


def relative_error(matrix: Tensor, rebuilt: Tensor) -> float:
    """``||W - W'|| / ||W||``, in float64."""
    exact = matrix.double()
    return float((rebuilt.double() - exact).norm() / exact.norm())


def tt_svd_error(matrix: Tensor, shape: MPOShape, bonds: Sequence[int]) -> float:
    """The error of TT-SVD in float64, from eigenvalues of the smaller Gram matrix of every unfolding.

    These spectra are flat, so that squaring loses nothing; `tests` hold it against singular value decompositions.
    """
    rest, left = paired_digits(matrix.double(), shape), 1
    norm = float(rest.square().sum())
    for rows, cols, bond in zip(shape.row_factors, shape.col_factors, bonds, strict=False):
        wide = rest.reshape(left * rows * cols, -1)
        kept = min(bond, *wide.shape)
        if kept < min(wide.shape):
            if wide.shape[0] <= wide.shape[1]:
                rest = torch.linalg.eigh(wide @ wide.T)[1][:, -kept:].T @ wide
            else:
                rest = torch.linalg.qr(wide @ torch.linalg.eigh(wide.T @ wide)[1][:, -kept:])[0].T @ wide
        elif wide.shape[0] > wide.shape[1]:
            rest = torch.linalg.qr(wide, mode="r")[1]
        left = kept
    return math.sqrt(max(0.0, 1 - float(rest.square().sum()) / norm))
