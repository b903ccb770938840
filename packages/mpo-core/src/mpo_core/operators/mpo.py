"""The matrix product operator: cores and their factor shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.errors import UsageError
from mpo_core.operators.algebra import orthonormal_cores
from mpo_core.operators.arithmetic import OperatorArithmetic
from mpo_core.operators.contraction import contract_matrix
from mpo_core.operators.gauge import Core, Gauge, Spectrum, canonical_cores, sequential_cores, slice_cores
from mpo_core.operators.operands import check_cores, check_finite, check_number, check_site, floating_dtype
from mpo_core.operators.rounding import round_cores
from mpo_core.operators.spectra import Variant, entanglement_entropy, error_bound, truncation_errors
from mpo_core.shapes import MPOShape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Truncation = Literal["slice", "sequential"]
Normalization = Literal["probability", "released"]


class MPO(OperatorArithmetic):
    """A matrix as a chain of cores ``T_k`` of shape ``(d_{k-1}, i_k, j_k, d_k)`` (Gao et al. 2020, Eq. 1).

    The object holds the tensors it is given, without a copy, and never changes them: every method returns new
    operators. Sums and products grow the bonds (`round` cuts them again) and, like `to_matrix`, `inner` and `norm`, are
    differentiable; `canonicalize`, `truncate` and `round` record no gradient. Two operands have one dtype and device.

    Attributes:
        cores: the ``n`` core tensors.
        shape: factors and true size of the matrix.

    Raises:
        ShapeError: The cores do not fit the shape or each other.
        UsageError: The cores are of no real floating dtype.

    Example:
        >>> shape = MPOShape(6, 4, (2, 3), (2, 2))
        >>> a, b = MPO.random(shape, 2), MPO.random(shape, 1)
        >>> (a + 2 * b).bonds, (a @ b.T).bonds, (a - a).round(tolerance=1e-3).bonds
        ((3,), (2,), (1,))
    """

    def __init__(self, cores: Sequence[Core], shape: MPOShape) -> None:
        check_cores(cores, shape)
        self.cores: tuple[Tensor, ...] = tuple(cores)
        self.shape = shape

    @classmethod
    def from_matrix(
        cls,
        matrix: Float[Tensor, "rows cols"],
        shape: MPOShape | None = None,
        bonds: int | Sequence[int] | None = None,
        **options: Any,
    ) -> MPO:
        """Decompose a matrix: `mpo_core.decompose`, with its arguments and errors."""
        from mpo_core.decomposing.decomposition import decompose

        return decompose(matrix, shape, bonds, **options)

    @classmethod
    def random(
        cls,
        shape: MPOShape,
        bonds: int | Sequence[int] | None = None,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> MPO:
        """Normal random cores, scaled so that the entries of the matrix have mean 0 and variance 1.

        Args:
            shape: the factors.
            bonds: one cap for all, one each, or ``None`` for full bonds, above which they are clipped.
            generator: of the random numbers, on `device`.
            dtype: floating; like `device`, torch's default if left out.
            device: of the cores.

        Raises:
            BondError: a cap is no positive integer, or there are not ``n - 1`` of them.
        """
        dtype = floating_dtype(dtype, "MPO.random")
        sizes = shape.core_shapes(bonds)
        cores = [torch.randn(size, generator=generator, dtype=dtype, device=device) for size in sizes]
        return cls([core / math.sqrt(core.shape[3]) for core in cores], shape)

    @classmethod
    def identity(
        cls,
        row_factors: Sequence[int],
        rows: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> MPO:
        """The identity matrix, with all bonds 1.

        Args:
            row_factors: of rows and columns alike.
            rows: true size; the product of the factors if left out.
            dtype: as of `random`.
            device: as of `random`.

        Raises:
            ShapeError: factors and size make no shape.
        """
        dtype, factors = floating_dtype(dtype, "MPO.identity"), tuple(row_factors)
        size = math.prod(factors) if rows is None else rows
        shape = MPOShape(size, size, factors, factors)
        return cls([torch.eye(f, dtype=dtype, device=device).reshape(1, f, f, 1) for f in shape.row_factors], shape)

    @classmethod
    def zeros(
        cls,
        shape: MPOShape,
        bonds: int | Sequence[int] | None = 1,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> MPO:
        """The zero matrix; note that no gradient leaves it while all of its cores are zero.

        Raises:
            BondError: as `random`.
        """
        dtype = floating_dtype(dtype, "MPO.zeros")
        return cls([torch.zeros(size, dtype=dtype, device=device) for size in shape.core_shapes(bonds)], shape)

    @classmethod
    def from_quimb(cls, network: Any, rows: int | None = None, cols: int | None = None) -> MPO:
        """The operator of a quimb `MatrixProductOperator` (see `mpo_core.operators.conversion`).

        Args:
            network: the operator, or an open chain of tensors with the same index names.
            rows: true size, to cut off padding; the product of the factors if left out.
            cols: likewise.

        Raises:
            MissingPartError: quimb is not installed.
            MPOError: the network is no open chain of real tensors, or does not fit the size.
        """
        from mpo_core.operators.conversion import cores_from_quimb

        return _from_cores(cores_from_quimb(network), rows, cols)

    @classmethod
    def from_tensorly(cls, operator: Any, rows: int | None = None, cols: int | None = None) -> MPO:
        """The operator of a tensorly `TTMatrix`; arguments as of `from_quimb`.

        Raises:
            MissingPartError: tensorly is not installed.
            MPOError: it is no `TTMatrix` of real numbers, or does not fit the size.
        """
        from mpo_core.operators.conversion import cores_from_tensorly

        return _from_cores(cores_from_tensorly(operator), rows, cols)

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
        """The operator on another device or in another dtype; arguments as of `torch.Tensor.to`.

        Raises:
            MPOError: the dtype is no real floating one or too narrow, or a core holds NaN or infinity.
        """
        moved = MPO([core.to(*args, **kwargs) for core in self.cores], self.shape)
        check_finite(moved.cores, "to", self=self.cores)
        return moved

    def to_matrix(self) -> Float[Tensor, "rows cols"]:
        """Multiply the cores to the matrix, in the cheapest order and without the padding; differentiable.

        Raises:
            NonFiniteError: a core holds NaN or infinity, or the matrix leaves the range of the dtype.
        """
        matrix = contract_matrix(self.cores, self.shape)
        check_finite([matrix], "to_matrix", self=self.cores)
        return matrix

    def bond_spectra(self) -> list[Spectrum]:
        """The Schmidt values of every bond: the singular values of unfolding k, descending, float64.

        Raises:
            NonFiniteError: a core holds NaN or infinity.
        """
        # In float64: canonical cores may leave the range of the dtype where the spectra do not.
        return canonical_cores([core.double() for core in self.cores], "left")[1]

    def entropies(self, normalization: Normalization = "probability", base: float = math.e) -> tuple[float, ...]:
        """The entanglement entropy of every bond (`mpo_core.entanglement_entropy`), of the padded matrix.

        Args:
            normalization: of the Schmidt values.
            base: of the logarithm; e gives nats, 2 bits.

        Raises:
            UsageError: unknown normalisation, or a base that is no finite number above 1.
            NonFiniteError: a core holds NaN or infinity.
        """
        unit = math.log(check_number(base, "entropies", "base", above=1.0))
        return tuple(entanglement_entropy(spectrum, normalization) / unit for spectrum in self.bond_spectra())

    def truncation_errors(self, bonds: int | Sequence[int], variant: Variant = "frobenius") -> tuple[float, ...]:
        """What cutting every bond alone would cost: `mpo_core.truncation_errors` of the Schmidt values."""
        return truncation_errors(self.bond_spectra(), bonds, variant)

    def error_bound(self, bonds: int | Sequence[int], variant: Variant = "frobenius") -> float:
        """What `truncate` costs at most, as a Frobenius norm: `mpo_core.error_bound` of the Schmidt values."""
        return error_bound(self.bond_spectra(), bonds, variant)

    def canonicalize(self, gauge: Gauge | None = None, site: int | None = None) -> MPO:
        """The same matrix with its cores in a canonical form; records no gradient.

        Args:
            gauge: one of `mpo_core.operators.gauge`, in Schmidt bases, keeping the bonds; ``symmetric`` if both are
                left out.
            site: instead, all cores orthonormal towards this one (from 0), by QR alone; bonds wider than their sides
                allow shrink.

        Raises:
            UsageError: unknown gauge, no such site, or both given.
            NonFiniteError: a core holds NaN or infinity, or the result leaves the range of the dtype.
        """
        if site is None:
            return MPO(canonical_cores(self.cores, "symmetric" if gauge is None else gauge)[0], self.shape)
        if gauge is not None:
            raise UsageError(f"canonicalize: `gauge` is {gauge!r} and `site` is {site!r}; give one of them.")
        site = check_site(site, self.shape.n, "canonicalize")
        return MPO(orthonormal_cores(self.cores, site), self.shape)

    def round(
        self, bonds: int | Sequence[int] | None = None, tolerance: float | None = None, max_params: int | None = None
    ) -> MPO:
        """The smallest bonds within a limit, for operators whose bonds have grown (Oseledets 2011, Algorithm 2).

        Args:
            bonds: one cap for all bonds, or one each.
            tolerance: Frobenius error relative to the norm of the matrix, kept but for the rounding of the cores to
                their dtype. Together with `bonds`, the caps hold first, and the error is what they leave possible.
            max_params: largest number of entries of all cores; excludes the other two.

        Returns:
            Left orthonormal cores, the last holding the norm. Without any limit only bonds that carry nothing but
            rounding noise go.

        Raises:
            BondError: `bonds` or `max_params` is no positive integer, or too small.
            UsageError: `tolerance` is negative, or `max_params` stands beside another limit.
            NonFiniteError: `tolerance` or a core is NaN or infinite, or the result leaves the range of the dtype.
        """
        return MPO(round_cores(self.cores, self.shape, bonds, tolerance, max_params), self.shape)

    def truncate(
        self, bonds: int | Sequence[int] | None, method: Truncation = "slice", gauge: Gauge = "symmetric"
    ) -> MPO:
        """Cut bonds down; always brings the cores into canonical form first, as trained cores are not.

        Either method obeys ``||W - W'||_F <= sqrt(sum_k eps_k^2)`` (Liu et al. 2021, Eq. 4) with
        `mpo_core.truncation_errors`. Cutting one bond alone costs exactly its ``eps_k``.

        Args:
            bonds: one cap for all, or one for each bond; bonds that are smaller already stay.
            method: ``slice`` cuts all bonds of the canonical form at once, as the papers do; ``sequential`` (TT-SVD)
                cuts one after the other and is slightly better. It makes a bond smaller than asked for where the bonds
                beside it allow no higher rank.
            gauge: gauge of the result. Sliced cores in the symmetric gauge are left as cut, as in the papers, which is
                close to canonical but not exactly so.

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

    def to_quimb(self, backend: Literal["numpy", "torch"] = "numpy") -> Any:
        """A quimb `MatrixProductOperator` of the padded matrix: upper indices are rows, lower ones columns.

        Args:
            backend: ``numpy`` for copies, ``torch`` for the tensors themselves, with gradients.

        Raises:
            MissingPartError: quimb is not installed.
            UsageError: unknown backend, or a dtype that numpy lacks.
        """
        from mpo_core.operators.conversion import cores_to_quimb

        return cores_to_quimb(self.cores, backend)

    def to_tensorly(self) -> Any:
        """A tensorly `TTMatrix` of the padded matrix, in tensorly's active backend.

        Raises:
            MissingPartError: tensorly is not installed.
            UsageError: a dtype that numpy lacks.
        """
        from mpo_core.operators.conversion import cores_to_tensorly

        return cores_to_tensorly(self.cores)

    def plot_spectra(
        self,
        path: str | PathLike[str] | None = None,
        bonds: int | Sequence[int] | None = None,
        title: str | None = None,
    ) -> Figure:
        """Draw the Schmidt values of every bond and, with `bonds`, what that truncation keeps of them.

        Args:
            path: where to save the figure as well.
            bonds: caps as of `truncate`.
            title: above the axes.

        Raises:
            MissingPartError: matplotlib is not installed.
            ShapeError: a single core has no bonds.
            MPOError: as `truncate`.
        """
        from mpo_core.operators.picture import draw_spectra

        return draw_spectra(self.bond_spectra(), None if bonds is None else self.shape.clip_bonds(bonds), path, title)

    def _new(self, cores: Sequence[Tensor], shape: MPOShape) -> Self:
        return type(self)(cores, shape)


def _from_cores(cores: Sequence[Tensor], rows: int | None, cols: int | None) -> MPO:
    row_factors, col_factors = (tuple(core.shape[axis] for core in cores) for axis in (1, 2))
    rows = math.prod(row_factors) if rows is None else rows
    cols = math.prod(col_factors) if cols is None else cols
    return MPO(cores, MPOShape(rows, cols, row_factors, col_factors))
