"""Orthonormal bases of one side of an unfolding: all bonds of the side from one Gram matrix.

The Gram matrix of the innermost bond of a side holds those of the bonds further out as partial traces. So the matrix
is multiplied over once; then, from the outside in, each bond's Gram matrix is diagonalised, the leading eigenvectors
become its core, and what is left of the Gram matrix is projected with them, which is small work.

Squaring costs accuracy where singular values differ much: squares below about ``eps`` times the largest are noise.
`side_basis` sees that in the spectrum and does the side again, first in float64, then from a triangle (QR) instead
of a Gram matrix, and says so in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.decomposing.sides import SideLayout
from mpo_core.decomposing.unfolding import Side, Unfolding, split_axis
from mpo_core.linear_algebra import eigh, eigvalsh, qr, svd, svdvals

_LOG = logging.getLogger("mpo_core")
NotConvergedError: type[RuntimeError] = torch.linalg.LinAlgError  # pyright: ignore

_NOISY = "squares of singular values reach down to rounding noise"
_LOSSLESS = 2e-3
"""Ratio of the least to the largest square down to which a complete Schmidt basis may come from a Gram matrix."""
_MIXING = 1e5
"""Over ``bond (eps largest)^2``: the least product of the smallest kept square and the dropped energy, in a cut."""


@dataclass(frozen=True)
class SideBasis:
    """The isometry of one side as a chain of cores.

    Attributes:
        layout: what it is the basis of.
        cores: from the outside in, ``(batch, d_out, I_g J_g, d_in)``, orthonormal columns ``(d_out I_g J_g, d_in)``.
        values: all singular values of each bond, descending, ``(batch, count)``.
    """

    layout: SideLayout
    cores: list[Float[Tensor, "batch outer s inner"]]
    values: list[Float[Tensor, "batch values"]]

    def chain_cores(self) -> list[Float[Tensor, "batch left rows cols right"]]:
        """The cores as they stand in the operator, from left to right."""
        cores = [split_axis(core, 2, sizes) for core, sizes in zip(self.cores, self.layout.groups, strict=True)]
        if self.layout.side == "left":
            return cores
        return [core.permute(0, 4, 2, 3, 1) for core in reversed(cores)]


def side_basis(unfolding: Unfolding, layout: SideLayout, double_data: bool) -> SideBasis:
    """The leading singular vectors of each bond of a side, cut from the outside in.

    Args:
        unfolding: the tensor, and the dtype to try first.
        layout: groups and bonds of the side.
        double_data: the matrix is float64, so that the noise of a Gram matrix in float64 can matter.

    Returns:
        In the dtype that was enough: that of the unfolding or float64.
    """
    try:
        basis = _gram_basis(unfolding, layout, double_data)
        reason = _NOISY
        if not (_is_trusted(unfolding, double_data) or _is_clean_basis(basis)):
            basis = None
    except NotConvergedError:
        basis, reason = None, "eigh did not converge"
    if basis is not None:
        return basis
    batch = unfolding.view.shape[0]
    if batch > 1:
        return _joined([side_basis(unfolding.element(index), layout, double_data) for index in range(batch)])
    _log_repeat(layout, reason, unfolding.dtype)
    if unfolding.dtype != torch.float64:
        return side_basis(replace(unfolding, dtype=torch.float64), layout, double_data)
    return _triangle_basis(unfolding, layout)


def isometry(layout: SideLayout, cores: Sequence[Float[Tensor, "batch left rows cols right"]]) -> Tensor:
    """The orthonormal columns that the cores of a side multiply to, with rows in the order of the unfolding.

    Args:
        layout: of the side.
        cores: as they stand in the operator, from left to right.

    Returns:
        ``(batch, size, bond)``.
    """
    if layout.side == "right":
        cores = [core.permute(0, 4, 2, 3, 1) for core in reversed(cores)]
    product = cores[0].flatten(1, 3)
    for core in cores[1:]:
        product = (product @ core.flatten(2)).reshape(product.shape[0], -1, core.shape[-1])
    return layout.unsorted_digits(product, 1)


def side_values(unfolding: Unfolding, layout: SideLayout, double_data: bool) -> list[Float[Tensor, "batch values"]]:
    """All singular values of each bond of a side, without vectors: descending, float64.

    Args:
        unfolding: as in `side_basis`.
        layout: the groups, each bond full.
        double_data: as in `side_basis`.
    """
    gram = layout.sorted_digits(layout.sorted_digits(unfolding.gram(layout.side), 2), 1)
    try:
        squares = [eigvalsh(_partial_trace(gram, keep).double()).flip(-1) for keep in layout.widths]
        reason = _NOISY
        clean = _is_trusted(unfolding, double_data) or all(
            is_clean(values, values.shape[-1], unfolding.dtype) for values in squares
        )
    except NotConvergedError:
        squares, clean, reason = [], False, "eigh did not converge"
    if clean:
        return [values.clamp_min(0).sqrt() for values in squares]
    _log_repeat(layout, reason, unfolding.dtype)
    if unfolding.dtype != torch.float64:
        return side_values(replace(unfolding, dtype=torch.float64), layout, double_data)
    root = layout.sorted_digits(unfolding.triangle(layout.side).mT, 1)
    return [svdvals(root.reshape(root.shape[0], keep, -1)) for keep in layout.widths]


def is_clean(squares: Float[Tensor, "batch count"], bond: int, dtype: torch.dtype) -> bool:
    """Whether the rounding of a Gram matrix does not show in what is made of its eigenvectors.

    Rounding moves the matrix by about ``eps`` times its largest eigenvalue ``t``. An eigenvalue ``a`` that is kept and
    one that is dropped are mixed by an angle of about ``eps t / a``, which adds ``(eps t)^2 / a`` to the dropped
    energy. Where nothing is dropped, it is the smallest singular value itself that has to be right.

    Args:
        squares: all eigenvalues, descending.
        bond: how many are kept.
        dtype: of the Gram matrix.
    """
    eps, count = torch.finfo(dtype).eps, squares.shape[-1]
    largest, least = squares[:, 0], squares[:, min(bond, count) - 1]
    if bond >= count:
        return bool((least >= _LOSSLESS * largest).all())
    dropped = squares[:, bond:].sum(-1) - 4 * eps * count * largest
    return bool((least * dropped >= _MIXING * bond * (eps * largest).square()).all())


def _is_trusted(unfolding: Unfolding, double_data: bool) -> bool:
    """Whether a Gram matrix is exact beyond what the data can show."""
    return unfolding.dtype == torch.float64 and not double_data


def _is_clean_basis(basis: SideBasis) -> bool:
    """Whether every bond of a basis from Gram matrices is clean."""
    cores = zip(basis.cores, basis.values, strict=True)
    return all(is_clean(values.square(), core.shape[-1], core.dtype) for core, values in cores)


def _log_repeat(layout: SideLayout, reason: str, dtype: torch.dtype) -> None:
    """Say that a side is done again, and why."""
    how = "with QR and SVD" if dtype == torch.float64 else "in float64"
    _LOG.info("%s side, bond of %d: %s in %s; done again %s", layout.side, layout.bonds[-1], reason, dtype, how)


def _gram_basis(unfolding: Unfolding, layout: SideLayout, double_data: bool) -> SideBasis:
    """The basis from the Gram matrix of the side, or of the other side where that is smaller."""
    other: Side = "right" if layout.side == "left" else "left"
    if len(layout.groups) == 1 and unfolding.size(other) < unfolding.size(layout.side):
        squares, vectors = _cut_eigenvectors(unfolding.gram(other), layout.bonds[0], double_data)
        return _through_other_side(unfolding, layout, squares.clamp_min(0).sqrt(), vectors)
    gram = layout.sorted_digits(layout.sorted_digits(unfolding.gram(layout.side), 2), 1)
    cores: list[Tensor] = []
    values: list[Tensor] = []
    outer = layout.outer
    for (rows, cols), bond in zip(layout.groups, layout.bonds, strict=True):
        wide = outer * rows * cols
        squares, vectors = _cut_eigenvectors(_partial_trace(gram, wide), bond, double_data)
        cores.append(split_axis(vectors, 1, (outer, rows * cols)))
        values.append(squares.clamp_min(0).sqrt())
        if len(cores) < len(layout.groups):
            gram = _project_gram(gram, vectors)
        outer = vectors.shape[-1]
    return SideBasis(layout, cores, values)


def _triangle_basis(unfolding: Unfolding, layout: SideLayout) -> SideBasis:
    """The basis without any Gram matrix: from singular value decompositions of a triangle."""
    other: Side = "right" if layout.side == "left" else "left"
    if len(layout.groups) == 1 and unfolding.size(other) < unfolding.size(layout.side):
        _, singular, vh = svd(unfolding.triangle(other))
        return _through_other_side(unfolding, layout, singular, vh[:, : layout.bonds[0]].mT)
    root = layout.sorted_digits(unfolding.triangle(layout.side).mT, 1)
    cores: list[Tensor] = []
    values: list[Tensor] = []
    outer = layout.outer
    for (rows, cols), bond in zip(layout.groups, layout.bonds, strict=True):
        wide = outer * rows * cols
        matrix = root.reshape(root.shape[0], wide, -1)
        vectors, singular, _ = svd(matrix)
        vectors = vectors[..., :bond]
        cores.append(split_axis(vectors, 1, (outer, rows * cols)))
        values.append(singular)
        root = vectors.mT @ matrix
        outer = vectors.shape[-1]
    return SideBasis(layout, cores, values)


def _through_other_side(unfolding: Unfolding, layout: SideLayout, values: Tensor, vectors: Tensor) -> SideBasis:
    """The basis of a side from that of the other, smaller one: what the unfolding maps it to, made orthonormal."""
    other: Side = "right" if layout.side == "left" else "left"
    image = unfolding.project(other, vectors)
    columns = image.flatten(1, 3) if other == "right" else image.flatten(2).mT
    basis = layout.sorted_digits(qr(columns)[0], 1)
    rows, cols = layout.groups[0]
    return SideBasis(layout, [split_axis(basis, 1, (layout.outer, rows * cols))], [values])


def leading_eigenvectors(gram: Float[Tensor, "batch size size"], bond: int) -> tuple[Tensor, Tensor]:
    """All eigenvalues, descending, and the eigenvectors of the `bond` largest as columns."""
    squares, vectors = eigh(gram)
    return squares.flip(-1), vectors[..., -bond:].flip(-1)


def _cut_eigenvectors(gram: Tensor, bond: int, double_data: bool) -> tuple[Tensor, Tensor]:
    """The same for a cut; of a float64 Gram matrix of other data, in half the time where nothing of it can be seen.

    Eigenvectors in float32 that are made orthonormal in float64 are an isometry as good as any. That they span the
    leading subspace to seven digits instead of fifteen adds about the square of that to the dropped energy.
    """
    if gram.dtype == torch.float64 and not double_data and bond < gram.shape[-1]:
        try:
            squares, vectors = leading_eigenvectors(gram.float(), bond)
            if is_clean(squares, bond, torch.float32):
                return squares.double(), qr(vectors.double())[0]
        except NotConvergedError:
            pass
    return leading_eigenvectors(gram, bond)


def _partial_trace(gram: Tensor, keep: int) -> Tensor:
    """The Gram matrix of the first digits, `keep` indices, from that of all digits."""
    size = gram.shape[-1]
    if keep == size:
        return gram
    split = gram.reshape(-1, keep, size // keep, keep, size // keep)
    return split.diagonal(dim1=2, dim2=4).sum(-1)


def _project_gram(gram: Tensor, vectors: Tensor) -> Tensor:
    """``(U x 1)^T G (U x 1)``, where ``U`` acts on the first digits."""
    size, (keep, bond) = gram.shape[-1], vectors.shape[-2:]
    half = vectors.mT @ gram.reshape(-1, keep, size // keep * size)
    half = half.reshape(-1, bond * (size // keep), size).mT  # the Gram matrix is symmetric
    whole = vectors.mT @ half.reshape(-1, keep, size // keep * half.shape[-1])
    return whole.reshape(-1, half.shape[-1], half.shape[-1])


def _joined(bases: Sequence[SideBasis]) -> SideBasis:
    """One batch from several; all in float64 if they differ."""
    dtype = max((basis.cores[0].dtype for basis in bases), key=lambda dtype: dtype.itemsize)
    cores = [torch.cat(parts).to(dtype) for parts in zip(*(basis.cores for basis in bases), strict=True)]
    values = [torch.cat(parts).to(dtype) for parts in zip(*(basis.values for basis in bases), strict=True)]
    return SideBasis(bases[0].layout, cores, values)
