"""Dimension squeezing as pure functions: which bond is cut next, and what a cut does to cores and to optimizer moments.

Liu et al. 2021, section 4.3 and Algorithm 2. The estimated reconstruction error of the whole model is
``sqrt(sum_l sum_k eps_k^2)`` over its matrices and bonds, and a cut of bond ``k`` by one adds the square of the
smallest Schmidt value that the bond still keeps. So the algorithm's search for the cheapest next cut is a merge of
sorted lists.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core import BondError, MPOShape, NonFiniteError, UsageError

Order = Literal["error", "relative-error", "error-per-parameter"]
Which = Literal["all", "central"]
Core = Float[Tensor, "left rows cols right"]


@dataclass(frozen=True)
class Squeezable:
    """What the order of cuts needs to know of one matrix.

    Attributes:
        shape: its factors.
        spectra: the Schmidt values of its present bonds, descending; as many as the bond is wide.
    """

    shape: MPOShape
    spectra: Sequence[Float[Tensor, " bond"]]

    @property
    def bonds(self) -> tuple[int, ...]:
        """The present bonds."""
        return tuple(len(values) for values in self.spectra)


class Cut(NamedTuple):
    """One bond made smaller by one.

    Attributes:
        name: of the matrix.
        bond: which of its n - 1 bonds, from 0.
        kept: the bond afterwards.
        loss: what it adds to the squared estimated error, in units of the order.
    """

    name: str
    bond: int
    kept: int
    loss: float


def cuts(matrices: Mapping[str, Squeezable], order: Order = "error", which: Which = "all") -> Iterator[Cut]:
    """All cuts there are, the cheapest next one first, until every bond is 1 (Algorithm 2, line 5).

    Args:
        matrices: name -> factors and spectra.
        order: what is kept small. ``error``: the sum of the squared errors of all matrices, as the paper prints it;
            ``relative-error``: the same with every matrix over its own norm; ``error-per-parameter``: the relative
            one over the parameters that the cut saves.
        which: ``central`` cuts only the two bonds of the central tensor, whose dimension the paper squeezes; ``all``
            every bond, without which small sizes cannot be reached.

    Raises:
        UsageError: unknown order or bonds.
        NonFiniteError: a Schmidt value is NaN or infinite.
    """
    if order not in ("error", "relative-error", "error-per-parameter"):
        raise UsageError(f"order is {order!r}; expected error, relative-error or error-per-parameter.")
    if which not in ("all", "central"):
        raise UsageError(f"bonds is {which!r}; expected all or central.")
    squares = {name: [values.double().square() for values in own.spectra] for name, own in matrices.items()}
    for name, own in squares.items():
        if not all(bool(values.isfinite().all()) for values in own):
            raise NonFiniteError(f"a Schmidt value of {name} is NaN or infinite; the weights have diverged.")
    bonds = {name: list(own.bonds) for name, own in matrices.items()}
    energies = {name: float(own[0].sum()) if own else 0.0 for name, own in squares.items()}

    def loss(name: str, bond: int) -> float:
        value = float(squares[name][bond][bonds[name][bond] - 1])
        if order == "error":
            return value
        return value / energies[name] if energies[name] else 0.0

    def price(name: str, bond: int) -> float:
        saved = _saved(matrices[name].shape, bonds[name], bond) if order == "error-per-parameter" else 1
        return loss(name, bond) / saved

    queue = [
        (price(name, bond), name, bond)
        for name, own in matrices.items()
        for bond in squeezed_bonds(own.shape, which)
        if bonds[name][bond] > 1
    ]
    heapq.heapify(queue)
    while queue:
        listed, name, bond = heapq.heappop(queue)
        now = price(name, bond)
        if now > listed:  # a neighbour was cut in the meantime, so this saves less than it did
            heapq.heappush(queue, (now, name, bond))
            continue
        cost = loss(name, bond)
        bonds[name][bond] -= 1
        yield Cut(name, bond, bonds[name][bond], cost)
        if bonds[name][bond] > 1:
            heapq.heappush(queue, (price(name, bond), name, bond))


def squeezed_bonds(shape: MPOShape, which: Which) -> range:
    """The bonds that may be cut: all n - 1 of them, or those of the central tensor."""
    last = shape.n - 1
    return range(last) if which == "all" else range(max(shape.central - 1, 0), min(shape.central + 1, last))


def cut_until(
    matrices: Mapping[str, Squeezable],
    enough: Callable[[Mapping[str, Sequence[int]]], bool],
    order: Order = "error",
    which: Which = "all",
) -> tuple[dict[str, tuple[int, ...]], list[Cut]]:
    """Cut one bond at a time until it is enough; the new bonds of the matrices that were cut, and the cuts.

    Args:
        matrices: as for `cuts`.
        enough: asked before every cut, with the bonds of all matrices.
        order: as for `cuts`.
        which: likewise.

    Raises:
        UsageError: every bond is 1 and it is not enough.
    """
    bonds = {name: list(own.bonds) for name, own in matrices.items()}
    done: list[Cut] = []
    source = cuts(matrices, order, which)
    while not enough(bonds):
        cut = next(source, None)
        if cut is None:
            raise UsageError(
                f"every bond that may be cut ({which}) is 1 and the size wanted is not reached; "
                "take a larger one, or cut all bonds."
            )
        bonds[cut.name][cut.bond] = cut.kept
        done.append(cut)
    return {name: tuple(bonds[name]) for name in dict.fromkeys(cut.name for cut in done)}, done


class BondMap(NamedTuple):
    """How the two cores beside a bond become narrower.

    ``T_k <- T_k inner`` and ``T_{k+1} <- outer^T T_{k+1}`` with ``outer^T inner = 1``: what is kept of the bond is the
    projector ``inner outer^T``.

    Attributes:
        inner: of shape (bond, kept).
        outer: likewise.
    """

    inner: Float[Tensor, "bond kept"]
    outer: Float[Tensor, "bond kept"]


class BondFactors(NamedTuple):
    """The triangles of the cores left and right of a bond, whose product has the bond's Schmidt values; float64.

    Attributes:
        left: of shape (r, bond).
        right: (bond, r').
    """

    left: Float[Tensor, "r bond"]
    right: Float[Tensor, "bond s"]


def bond_maps(
    cores: Sequence[Core], bonds: Sequence[int], factors: Sequence[BondFactors] | None = None
) -> list[BondMap | None]:
    """The maps that cut bonds best, each for what the cores are now and whatever their gauge; None where none is cut.

    With QR factors ``L`` of the cores left of a bond and ``R`` of those right of it, the Schmidt values are the
    singular values of ``L R = U S V^T``; keeping the largest of them, ``inner = R V S^{-1/2}`` and ``outer = L^T U
    S^{-1/2}``. All bonds are cut at once, so the squared error is at most the sum of the squares that are dropped (Eq.
    4).

    Args:
        cores: n cores.
        bonds: the n - 1 bonds wanted; none may be larger than it is.
        factors: `bond_factors` of these cores, where they are known already.

    Raises:
        BondError: a bond that would grow, or is no positive number.
    """
    present = [core.shape[-1] for core in cores[:-1]]
    if len(bonds) != len(present) or any(not 1 <= new <= old for new, old in zip(bonds, present, strict=True)):
        raise BondError(f"bonds {tuple(bonds)} do not cut {tuple(present)}; give as many, each from 1 to what it is.")
    maps: list[BondMap | None] = []
    for (left, right), new, old in zip(factors or bond_factors(cores), bonds, present, strict=True):
        if new == old:
            maps.append(None)
            continue
        u, values, vh = torch.linalg.svd(left @ right, full_matrices=False)
        kept = values[:new].sqrt()
        # A bond of a matrix of lower rank keeps directions of no weight.
        scale = torch.where(kept > kept[0] * 1e-8, 1 / kept, torch.zeros_like(kept)) if kept[0] > 0 else kept
        inner, outer = right @ vh[:new].T * scale, left.T @ u[:, :new] * scale
        maps.append(BondMap(_wide(inner, new), _wide(outer, new)))
    return maps


def leading_maps(cores: Sequence[Core], bonds: Sequence[int]) -> list[BondMap | None]:
    """The maps that keep the first entries of a bond: the papers' cut, right in the symmetric gauge."""
    maps: list[BondMap | None] = []
    for core, new in zip(cores[:-1], bonds, strict=True):
        old = core.shape[-1]
        part = torch.eye(old, new, dtype=torch.float64, device=core.device)
        maps.append(None if new == old else BondMap(part, part))
    return maps


def bond_spectra(cores: Sequence[Core], factors: Sequence[BondFactors] | None = None) -> list[Float[Tensor, " bond"]]:
    """The Schmidt values of all bonds of the cores as they are, each as many as the bond is wide; float64.

    Args:
        cores: n cores.
        factors: `bond_factors` of these cores, where they are known already.
    """
    return [
        _wide(torch.linalg.svdvals(left @ right)[None], left.shape[1])[0]
        for left, right in factors or bond_factors(cores)
    ]


@torch.no_grad()
def bond_factors(cores: Sequence[Core]) -> list[BondFactors]:
    """The factors of each of the n - 1 bonds: what `bond_spectra` and `bond_maps` of the same cores share."""
    doubles = [core.detach().double() for core in cores]
    left: list[Tensor] = []
    carry = doubles[0].new_ones(1, 1)
    for core in doubles[:-1]:
        carry = torch.linalg.qr(torch.tensordot(carry, core, 1).flatten(0, 2), mode="r")[1]
        left.append(carry)
    right: list[Tensor] = []
    carry = doubles[0].new_ones(1, 1)
    for core in reversed(doubles[1:]):
        carry = torch.linalg.qr(torch.tensordot(core, carry, 1).flatten(1).T, mode="r")[1].T
        right.append(carry)
    return [BondFactors(*both) for both in zip(left, reversed(right), strict=True)]


@torch.no_grad()
def mapped_core(core: Core, before: BondMap | None, after: BondMap | None) -> Core:
    """A core between two bonds that were cut, in its own dtype."""
    return _between(core, None if before is None else before.outer, None if after is None else after.inner)


@torch.no_grad()
def mapped_moment(moment: Core, before: BondMap | None, after: BondMap | None, squared: bool) -> Core:
    """What an optimizer remembers of a core, carried to the core that took its place.

    As ``T = inner T' outer^T`` on the part that is kept, gradients of ``T'`` are ``inner^T g outer``: so are their
    means. Means of their squares are those of the squared maps, if the entries of the gradient are uncorrelated.

    Args:
        moment: of the shape of the old core.
        before: the map of the bond before the core.
        after: that of the bond after it.
        squared: whether it is a mean of squares.
    """
    first, last = (None if before is None else before.inner), (None if after is None else after.outer)
    if squared:
        first, last = (None if each is None else each.square() for each in (first, last))
    return _between(moment, first, last)


def _between(core: Core, first: Tensor | None, last: Tensor | None) -> Core:
    result = core.double()
    if first is not None:
        result = torch.tensordot(first.T, result, 1)
    if last is not None:
        result = torch.tensordot(result, last, 1)
    return result.to(core.dtype)


def _wide(matrix: Tensor, size: int) -> Tensor:
    """With columns of zeros up to a size."""
    return torch.nn.functional.pad(matrix, (0, size - matrix.shape[1]))


def _saved(shape: MPOShape, bonds: Sequence[int], bond: int) -> int:
    """How many parameters a cut by one saves."""
    ends = (1, *bonds, 1)
    sizes = [i * j for i, j in zip(shape.row_factors, shape.col_factors, strict=True)]
    return ends[bond] * sizes[bond] + sizes[bond + 1] * ends[bond + 2]
