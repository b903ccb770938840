"""The matrix product operator: cores and their factor shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.contraction import contract_matrix
from mpo_core.errors import ShapeError, UsageError
from mpo_core.gauge import Core, Gauge, Spectrum, canonical_cores, sequential_cores, slice_cores
from mpo_core.shapes import MPOShape

Truncation = Literal["slice", "sequential"]


class MPO:
    """A matrix as a chain of cores ``T_k`` of shape ``(d_{k-1}, i_k, j_k, d_k)`` (Gao et al. 2020, Eq. 1).

    The object holds the tensors it is given, without a copy, and never changes them: `canonicalize`,
    `truncate` and `to` return new ones.

    Attributes:
        cores: the ``n`` core tensors.
        shape: factors and true size of the matrix.

    Raises:
        ShapeError: The cores do not fit the shape or each other.

    Example:
        >>> mpo = decompose(torch.randn(768, 3072))  # doctest: +SKIP
        >>> mpo.truncate(64).to_matrix().shape  # doctest: +SKIP
        torch.Size([768, 3072])
    """

    def __init__(self, cores: Sequence[Core], shape: MPOShape) -> None:
        check_cores(cores, shape)
        self.cores: tuple[Tensor, ...] = tuple(cores)
        self.shape = shape

    def __repr__(self) -> str:
        return (
            f"MPO({self.shape.rows}x{self.shape.cols}, row_factors={self.shape.row_factors},"
            f" col_factors={self.shape.col_factors}, bonds={self.bonds}, dtype={self.dtype})"
        )

    @property
    def bonds(self) -> tuple[int, ...]:
        """The ``n - 1`` bond dimensions ``d_1 .. d_{n-1}``."""
        return tuple(core.shape[-1] for core in self.cores[:-1])

    @property
    def n_params(self) -> int:
        """Number of entries of all cores."""
        return sum(core.numel() for core in self.cores)

    @property
    def central(self) -> int:
        """Index of the central core, ``n // 2``."""
        return self.shape.central

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the cores."""
        return self.cores[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of the cores."""
        return self.cores[0].device

    def to(self, *args: Any, **kwargs: Any) -> MPO:
        """The operator on another device or in another dtype; arguments as of `torch.Tensor.to`."""
        return MPO([core.to(*args, **kwargs) for core in self.cores], self.shape)

    def to_matrix(self) -> Float[Tensor, "rows cols"]:
        """Multiply the cores to the matrix, in the cheapest order and without the padding; differentiable."""
        return contract_matrix(self.cores, self.shape)

    def bond_spectra(self) -> list[Spectrum]:
        """The Schmidt values of every bond: the singular values of unfolding k, descending, float64.

        Raises:
            NonFiniteError: a core holds NaN or infinity.
        """
        return canonical_cores(self.cores, "left")[1]

    def canonicalize(self, gauge: Gauge = "symmetric") -> MPO:
        """The same matrix with its cores in a canonical gauge (see `mpo_core.gauge`); records no gradient.

        Raises:
            UsageError: unknown gauge.
            NonFiniteError: a core holds NaN or infinity.
        """
        return MPO(canonical_cores(self.cores, gauge)[0], self.shape)

    def truncate(
        self, bonds: int | Sequence[int] | None, method: Truncation = "slice", gauge: Gauge = "symmetric"
    ) -> MPO:
        """Cut bonds down; always brings the cores into canonical form first, as trained cores are not.

        Either method obeys ``||W - W'||_F <= sqrt(sum_k eps_k^2)`` (Liu et al. 2021, Eq. 4) with
        `mpo_core.truncation_errors`. Cutting one bond alone costs exactly its ``eps_k``.

        Args:
            bonds: one cap for all, or one for each bond; bonds that are smaller already stay.
            method: ``slice`` cuts all bonds of the canonical form at once, as the papers do; ``sequential``
                (TT-SVD) cuts one after the other and is slightly better. It makes a bond smaller than asked
                for where the bonds beside it allow no higher rank.
            gauge: gauge of the result. Sliced cores in the symmetric gauge are left as cut, as in the papers,
                which is close to canonical but not exactly so.

        Raises:
            BondError: a cap is no positive integer, or there are not ``n - 1`` of them.
            UsageError: unknown method or gauge.
            NonFiniteError: a core holds NaN or infinity.
        """
        if method not in ("slice", "sequential"):
            raise UsageError(f"truncate: method is {method!r}; expected 'slice' or 'sequential'.")
        caps = self.shape.clip_bonds(bonds)
        limits = [min(cap, bond) for cap, bond in zip(caps, self.bonds, strict=True)]
        if method == "sequential":
            return MPO(canonical_cores(sequential_cores(self.cores, limits), gauge)[0], self.shape)
        cores = slice_cores(canonical_cores(self.cores, "symmetric")[0], limits)
        return MPO(cores if gauge == "symmetric" else canonical_cores(cores, gauge)[0], self.shape)


def check_cores(cores: Sequence[Tensor], shape: MPOShape) -> None:
    """Hold cores against a factor shape.

    Raises:
        ShapeError: another number of cores, other factors, bonds that do not meet, or mixed dtypes or
            devices.
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
