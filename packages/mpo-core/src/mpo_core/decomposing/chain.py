"""A factor shape as the decomposition sees it: only the bonds that cost something, and where the sweeps meet.

A bond that keeps all the values it can have needs no arithmetic: its core is a reshaped identity. The sites on both
sides of such a bond are one site to the sweeps, a *group*, and only bonds between groups are worked on. The *home*
group is where the products of the factors from both ends meet; the cores before it become left orthonormal, those
after it right orthonormal. `expand` turns one core for each group into one core for each site.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.shapes import MPOShape


@dataclass(frozen=True)
class Chain:
    """Groups of neighbouring sites and the bonds between them.

    Attributes:
        shape: the factors of the sites.
        bounds: group ``g`` holds the sites ``bounds[g] .. bounds[g + 1] - 1``.
        bonds: the bond between group ``g`` and ``g + 1``.
        home: index of the home group.
        site: index of the home core among the sites.
    """

    shape: MPOShape
    bounds: tuple[int, ...]
    bonds: tuple[int, ...]
    home: int
    site: int

    @property
    def rows(self) -> tuple[int, ...]:
        """Row factor of each group."""
        return tuple(math.prod(self.shape.row_factors[a:b]) for a, b in self.spans)

    @property
    def cols(self) -> tuple[int, ...]:
        """Column factor of each group."""
        return tuple(math.prod(self.shape.col_factors[a:b]) for a, b in self.spans)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Digits of each group, ``I_g J_g``."""
        return tuple(rows * cols for rows, cols in zip(self.rows, self.cols, strict=True))

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First site and site after the last of each group."""
        return list(zip(self.bounds[:-1], self.bounds[1:], strict=True))


def site_sizes(shape: MPOShape) -> list[int]:
    """The digits of each site, ``s_k = i_k j_k``."""
    return [i * j for i, j in zip(shape.row_factors, shape.col_factors, strict=True)]


def home_site(shape: MPOShape) -> int:
    """Index of the core where the products of the factors from both ends meet.

    The full bond is the product from the left up to this core, and the one from the right after it. For unbalanced
    factors it need not be the central core.

    Example:
        >>> home_site(MPOShape.choose(768, 3072))
        2
    """
    sizes = site_sizes(shape)
    home = 0
    while home < shape.n - 1 and math.prod(sizes[: home + 1]) <= math.prod(sizes[home + 1 :]):
        home += 1
    return home


def separate_sites(shape: MPOShape) -> Chain:
    """Every site a group of its own, at full bonds."""
    home = home_site(shape)
    return Chain(shape, tuple(range(shape.n + 1)), shape.full_bonds, home, home)


def merge_sites(shape: MPOShape, bonds: Sequence[int]) -> Chain:
    """Group the sites that are joined by a bond which keeps all it can have.

    Args:
        shape: the factors.
        bonds: the ``n - 1`` bonds asked for; from each end up to home, they are made no wider than the bond before
            lets through.
    """
    sizes, home = site_sizes(shape), home_site(shape)
    ends = [1, *bonds, 1]
    cuts: list[int] = []
    for k in range(1, home + 1):
        full = ends[k - 1] * sizes[k - 1]
        if ends[k] < full:
            cuts.append(k)
        ends[k] = min(ends[k], full)
    home_group = len(cuts)
    after: list[int] = []
    for k in range(shape.n - 1, home, -1):
        full = sizes[k] * ends[k + 1]
        if ends[k] < full:
            after.append(k)
        ends[k] = min(ends[k], full)
    cuts += reversed(after)
    return Chain(shape, (0, *cuts, shape.n), tuple(ends[k] for k in cuts), home_group, home)


def expand(cores: Sequence[Float[Tensor, "left rows cols right"]], chain: Chain) -> list[Tensor]:
    """One core for each site from one core for each group.

    Within a group all cores but one are reshaped identities; the one that holds the numbers is the innermost, that
    is, the last before home, the first after it, and in the home group the home core.

    Args:
        cores: of shapes ``(d_{g-1}, I_g, J_g, d_g)``.
        chain: the groups.

    Returns:
        Contiguous cores of shapes ``(d_{k-1}, i_k, j_k, d_k)``; those that need no permutation share memory with the
        given ones.
    """
    result: list[Tensor] = []
    for group, (core, (start, stop)) in enumerate(zip(cores, chain.spans, strict=True)):
        inner = chain.site if group == chain.home else stop - 1 if group < chain.home else start
        result += _expand_group(core, chain.shape, start, stop, inner)
    return result


def _expand_group(core: Tensor, shape: MPOShape, start: int, stop: int, inner: int) -> list[Tensor]:
    rows, cols = shape.row_factors[start:stop], shape.col_factors[start:stop]
    sizes = [i * j for i, j in zip(rows, cols, strict=True)]
    before, after = core.shape[0], core.shape[-1] * math.prod(sizes[inner - start + 1 :])
    result: list[Tensor] = []
    for k in range(inner - start):
        before *= sizes[k]
        result.append(_identity(before, core).reshape(-1, rows[k], cols[k], before))
    full = _paired_digits(core, rows, cols, inner - start)
    result.append(full.reshape(before, rows[inner - start], cols[inner - start], after).contiguous())
    for k in range(inner - start + 1, stop - start):
        result.append(_identity(after, core).reshape(after, rows[k], cols[k], -1))
        after //= sizes[k]
    return result


def _paired_digits(core: Tensor, rows: Sequence[int], cols: Sequence[int], inner: int) -> Tensor:
    """``(left, i_1 .. i_m, j_1 .. j_m, right)`` in the order ``(left, i_1, j_1, .., i_m, j_m, right)``.

    The last digits are the shortest runs of neighbouring entries. So what stands after `inner` is first moved as whole
    runs, and sorted in a second pass, which is several times faster than permuting once.
    """
    head, count = inner + 1, len(rows)
    row_tail, col_tail = math.prod(rows[head:]), math.prod(cols[head:])
    split = core.reshape(core.shape[0], *rows[:head], row_tail, *cols[:head], col_tail, core.shape[-1])
    order = [axis for k in range(head) for axis in (1 + k, head + 2 + k)]
    moved = split.permute(0, *order, head + 1, 2 * head + 2, 2 * head + 3)
    if count - head < 2:
        return moved
    places = torch.arange(row_tail * col_tail, device=core.device).reshape(*rows[head:], *cols[head:])
    pairs = [axis for k in range(count - head) for axis in (k, count - head + k)]
    return moved.reshape(-1, row_tail * col_tail, core.shape[-1]).index_select(1, places.permute(pairs).flatten())


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
