"""Lossless operators in the Schmidt bases of all bonds, and the Schmidt values alone.

With ``U`` the eigenvectors of the Gram matrix left of home and ``V`` those of the one right of it, the home core is
``C = U^T X V``, and the cores of ``U`` and ``V`` are left and right orthonormal. This is the mixed Schmidt form. With
``l`` the Schmidt values, the other canonical gauges follow from it entry by entry: the symmetric core is
``A_ab sqrt(l_b / l_a)`` left of home, ``C_ab / sqrt(l_a l_b)`` at home, ``B_ab sqrt(l_a / l_b)`` right of home.
No entry can exceed ``sqrt(min(l_a, l_b) / max(l_a, l_b))`` (see `mpo_core.operators.gauge`); holding the computed
values to that keeps noise from growing, and zeros zero. Both Gram matrices are taken from the matrix itself, not from a
rotated one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.decomposing.chain import Chain, separate_sites
from mpo_core.decomposing.isometry import (
    is_clean,
    isometry,
    leading_eigenvectors,
    side_basis,
    side_values,
)
from mpo_core.decomposing.sides import SideLayout, side_layout, unfold
from mpo_core.decomposing.unfolding import Side, Unfolding, block_bytes
from mpo_core.operators.gauge import Gauge, canonical_cores
from mpo_core.shapes import MPOShape

Cores = list[Float[Tensor, "batch left rows cols right"]]

_HEALTHY = 1 / 16
"""Least ratio of Schmidt values up to which an orthonormal core may be found by dividing by them."""


@dataclass(frozen=True)
class SchmidtForm:
    """The mixed Schmidt form of a batch of matrices.

    Attributes:
        chain: every site by itself.
        cores: left orthonormal before home, right orthonormal after it.
        values: Schmidt values of the ``n - 1`` bonds, ``(batch, d_k)``, float64.
    """

    chain: Chain
    cores: Cores
    values: list[Float[Tensor, "batch bond"]]

    def in_gauge(self, gauge: Gauge) -> Cores:
        """The cores in a canonical gauge; they are consumed, that is, changed in place where it saves memory."""
        n, home = self.chain.shape.n, self.chain.site
        if n == 1 or (gauge == "central" and home == n // 2):
            return self.cores
        if gauge == "symmetric":
            return self._symmetric()
        if gauge != "central" and self._healthy():
            return self._one_sided(gauge)
        batch = [canonical_cores([core[b] for core in self.cores], gauge)[0] for b in range(self.cores[0].shape[0])]
        return [torch.stack(parts) for parts in zip(*batch, strict=True)]

    def _ends(self) -> list[Tensor]:
        """Schmidt values of the bonds 0 .. n; the outermost are the number 1."""
        one = self.values[0].new_ones(self.values[0].shape[0], 1)
        return [one, *self.values, one]

    def _healthy(self) -> bool:
        """Whether no Schmidt value is too small to divide by."""
        return all(bool((values[:, -1] > _HEALTHY * values[:, 0]).all()) for values in self.values)

    def _symmetric(self) -> Cores:
        """Every bond's Schmidt values shared evenly between both sides."""
        ends, n = self._ends(), len(self.cores)
        result: Cores = []
        for k, core in enumerate(self.cores):
            before, after = ends[k].sqrt()[:, :, None, None, None], ends[k + 1].sqrt()[:, None, None, None, :]
            if k < self.chain.site:
                factor = _quotient(after, before, core.dtype)
            elif k > self.chain.site:
                factor = _quotient(before, after, core.dtype)
            else:
                factor = _quotient(torch.ones_like(after), before * after, core.dtype)
            core = core.mul_(factor)
            if 0 < k < n - 1:
                limit = _quotient(torch.minimum(before, after), torch.maximum(before, after), core.dtype)
                core = core.clamp_(-limit, limit)
            result.append(core)
        return result

    def _one_sided(self, gauge: Gauge) -> Cores:
        """All cores but the last left orthonormal, or all but the first right orthonormal.

        With ``A_k L_k = L_{k-1} B_k``; no Schmidt value is small.
        """
        ends, home = self._ends(), self.chain.site
        result: Cores = []
        for k, core in enumerate(self.cores):
            before = ends[k].to(core.dtype)[:, :, None, None, None]
            after = ends[k + 1].to(core.dtype)[:, None, None, None, :]
            last, first = k == len(self.cores) - 1, k == 0
            if gauge == "left":
                numerator = before if k > home else torch.ones_like(before)
                denominator = torch.ones_like(after) if last or k < home else after
                core = core if k < home else core.mul_(numerator).div_(denominator)
            else:
                numerator = after if k < home else torch.ones_like(after)
                denominator = torch.ones_like(before) if first or k > home else before
                core = core if k > home else core.mul_(numerator).div_(denominator)
            result.append(core)
        return result


@torch.no_grad()
def schmidt_form(
    tensor: Float[Tensor, "batch one rows cols one"], shape: MPOShape, dtype: torch.dtype, out_dtype: torch.dtype
) -> SchmidtForm:
    """The mixed Schmidt form at full bonds.

    Args:
        tensor: padded matrices, scaled so that their squares neither over- nor underflow.
        shape: the factors.
        dtype: what is computed in, if its rounding does not show.
        out_dtype: what the cores are stored in.
    """
    chain = separate_sites(shape)
    double_data = tensor.dtype == torch.float64
    before: Cores = []
    after: Cores = []
    values_before: list[Tensor] = []
    values_after: list[Tensor] = []
    turns: dict[Side, Tensor] = {}
    for layout in _layouts(chain):
        basis = side_basis(unfold(tensor, layout, dtype), layout, double_data)
        cores = basis.chain_cores()
        turns[layout.side] = isometry(layout, cores).to(dtype)
        stored = [core.to(out_dtype).contiguous() for core in cores]
        values = [value.double() for value in basis.values]
        if layout.side == "left":
            before, values_before = stored, values
        else:
            after, values_after = stored, values[::-1]
    home = _turned_home(tensor, chain, turns.get("left"), turns.get("right"), dtype, out_dtype)
    return SchmidtForm(chain, [*before, home, *after], [*values_before, *values_after])


@torch.no_grad()
def turned_to_schmidt(
    cores: Sequence[Float[Tensor, "batch left rows cols right"]], shape: MPOShape, dtype: torch.dtype
) -> SchmidtForm | None:
    """The mixed Schmidt form of cores that are orthonormal towards home already, of any bonds.

    The Gram matrices of all bonds are that of the home core, carried outwards through the orthonormal cores.

    Args:
        cores: one for each site.
        shape: the factors.
        dtype: what is computed in.

    Returns:
        The form, or None if the spectrum of a bond reaches down to the noise of a Gram matrix.
    """
    chain = separate_sites(shape)
    home, result = chain.site, list(cores)
    exact = dtype == torch.float64 and cores[home].dtype != torch.float64
    values: dict[int, Tensor] = {}
    sides: list[tuple[Side, range]] = [("left", range(home - 1, -1, -1)), ("right", range(home + 1, shape.n))]
    for side, places in sides:
        if not places:
            continue
        store = result[home].dtype
        view = result[home][:, :, None, None] if side == "left" else result[home][..., None, None, :]
        unfolding = Unfolding(view, dtype)
        outward = [result[k].to(dtype) if side == "left" else result[k].to(dtype).transpose(1, 4) for k in places]
        bases: list[Tensor] = []
        for k, gram in zip(places, _carried(unfolding.gram(side), outward), strict=True):
            squares, vectors = leading_eigenvectors(gram, gram.shape[-1])
            if not exact and not is_clean(squares, squares.shape[-1], dtype):
                return None
            bases.append(vectors)
            values[k if side == "left" else k - 1] = squares.clamp_min(0).sqrt().double()
        for k, core, inner, outer in zip(places, outward, bases, [*bases[1:], None], strict=True):
            turned = core @ inner[:, None, None]
            if outer is not None:
                turned = (outer.mT @ turned.flatten(2)).reshape(turned.shape)
            result[k] = (turned if side == "left" else turned.transpose(1, 4)).to(store).contiguous()
        result[home] = unfolding.project(side, bases[0], store)
    return SchmidtForm(chain, result, [values[k] for k in range(shape.n - 1)])


def _carried(gram: Tensor, outward: Sequence[Tensor]) -> Iterator[Tensor]:
    """The Gram matrices of the bonds of a side, from home outwards."""
    yield gram
    for core in outward[:-1]:
        gram = (core @ gram[:, None, None]).flatten(2) @ core.flatten(2).mT
        yield gram


@torch.no_grad()
def bond_schmidt_values(
    tensor: Float[Tensor, "batch one rows cols one"], shape: MPOShape, dtype: torch.dtype
) -> list[Float[Tensor, "batch bond"]]:
    """The Schmidt values of all bonds, descending, float64, without bases; arguments as of `schmidt_form`."""
    double_data = tensor.dtype == torch.float64
    before: list[Tensor] = []
    after: list[Tensor] = []
    for layout in _layouts(separate_sites(shape)):
        values = side_values(unfold(tensor, layout, dtype), layout, double_data)
        if layout.side == "left":
            before = values
        else:
            after = values[::-1]
    return [*before, *after]


def _layouts(chain: Chain) -> list[SideLayout]:
    """Both sides, where they have bonds."""
    sides = (side_layout(chain, "left", 0, chain.home), side_layout(chain, "right", 0, len(chain.bonds) - chain.home))
    return [layout for layout in sides if layout.groups]


def _quotient(numerator: Tensor, denominator: Tensor, dtype: torch.dtype) -> Tensor:
    """The quotient, 0 where the denominator is, and never infinite."""
    quotient = torch.where(denominator > 0, numerator / denominator, 0.0)
    return quotient.clamp_max(torch.finfo(dtype).max).to(dtype)


def _turned_home(
    tensor: Tensor,
    chain: Chain,
    left: Tensor | None,
    right: Tensor | None,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
) -> Float[Tensor, "batch left rows cols right"]:
    """``U^T X V`` as the home core, computed over blocks of its digits, so that no intermediate is held."""
    rows, cols = chain.shape.row_factors, chain.shape.col_factors
    home = chain.site
    split = [tensor.shape[0]]
    for factors in (rows, cols):
        split += [math.prod(factors[:home]), factors[home], math.prod(factors[home + 1 :])]
    digits = tensor.reshape(split).permute(0, 1, 4, 2, 5, 3, 6)
    batch, _, _, i, j, _, _ = digits.shape
    outer, inner = digits.shape[1] * digits.shape[2], digits.shape[5] * digits.shape[6]
    result = torch.empty(batch, outer, i, j, inner, dtype=out_dtype, device=tensor.device)
    axis = 3 if i >= j else 4
    bytes_each = dtype.itemsize * batch * outer * inner * (j if axis == 3 else i)
    step = max(1, block_bytes(tensor.device) // bytes_each)
    for start in range(0, digits.shape[axis], step):
        size = min(step, digits.shape[axis] - start)
        part = result.narrow(axis - 1, start, size)
        block = digits.narrow(axis, start, size).to(dtype).reshape(batch, outer, -1)
        if left is not None:
            block = left.mT @ block
        block = block.reshape(batch, -1, inner)
        if right is not None:
            block = block @ right
        part.copy_(block.reshape(part.shape))
    return result
