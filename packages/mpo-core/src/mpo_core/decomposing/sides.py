"""The two sides of a chain: which groups they have, and in which order an unfolding holds their digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.decomposing.chain import Chain
from mpo_core.decomposing.unfolding import Side, Unfolding, split_axis


@dataclass(frozen=True)
class SideLayout:
    """The groups of one side, from the outside in.

    Attributes:
        side: left or right.
        groups: ``(I_g, J_g)`` of each group.
        bonds: the bond inside of each group.
        outer: the bond outside of the first group.
    """

    side: Side
    groups: tuple[tuple[int, int], ...]
    bonds: tuple[int, ...]
    outer: int

    @property
    def rows(self) -> int:
        """Product of the row factors."""
        return math.prod(rows for rows, _ in self.groups)

    @property
    def cols(self) -> int:
        """Product of the column factors."""
        return math.prod(cols for _, cols in self.groups)

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of indices from the outside up to each bond, if none is cut."""
        sizes = accumulate((rows * cols for rows, cols in self.groups), mul)
        return tuple(self.outer * size for size in sizes)

    @property
    def size(self) -> int:
        """Number of indices of the side."""
        return self.outer * self.rows * self.cols

    def sorted_digits(self, tensor: Tensor, axis: int) -> Tensor:
        """Bring an axis from the order of an unfolding to ``(outer, I_1, J_1, I_2, J_2, ..)``."""
        if len(self.groups) == 1 and self.side == "left":
            return tensor
        split = split_axis(tensor, axis, self._extents())
        return split.permute(self._around(tensor, axis, self._order())).flatten(axis, axis + 2 * len(self.groups))

    def unsorted_digits(self, tensor: Tensor, axis: int) -> Tensor:
        """The inverse of `sorted_digits`."""
        if len(self.groups) == 1 and self.side == "left":
            return tensor
        extents, order = self._extents(), self._order()
        inverse = sorted(range(len(order)), key=lambda k: order[k])
        split = split_axis(tensor, axis, [extents[k] for k in order])
        return split.permute(self._around(tensor, axis, inverse)).flatten(axis, axis + 2 * len(self.groups))

    def _extents(self) -> list[int]:
        """Sizes of the digits as the unfolding has them: ``(outer, I_1 .. J_1 ..)``, mirrored on the right side."""
        rows, cols = [rows for rows, _ in self.groups], [cols for _, cols in self.groups]
        if self.side == "left":
            return [self.outer, *rows, *cols]
        return [*reversed(rows), *reversed(cols), self.outer]

    def _order(self) -> list[int]:
        count = len(self.groups)
        if self.side == "left":
            return [0, *(axis for k in range(count) for axis in (1 + k, 1 + count + k))]
        return [2 * count, *(axis for k in range(count) for axis in (count - 1 - k, 2 * count - 1 - k))]

    @staticmethod
    def _around(tensor: Tensor, axis: int, order: Sequence[int]) -> list[int]:
        after = range(axis + len(order), tensor.dim() + len(order) - 1)
        return [*range(axis), *(axis + k for k in order), *after]


def unfold(tensor: Float[Tensor, "batch dl i j dr"], layout: SideLayout, dtype: torch.dtype) -> Unfolding:
    """Split a tensor between a side and the rest."""
    if layout.side == "left":
        return Unfolding.split(tensor, layout.rows, layout.cols, dtype)
    return Unfolding.split(tensor, tensor.shape[2] // layout.rows, tensor.shape[3] // layout.cols, dtype)


def side_layout(chain: Chain, side: Side, first: int, last: int) -> SideLayout:
    """The groups number `first` to `last` of one side, counted from its end, and their bonds."""
    rows, cols, bonds = chain.rows, chain.cols, chain.bonds
    if side == "right":
        rows, cols, bonds = rows[::-1], cols[::-1], bonds[::-1]
    groups = tuple(zip(rows[first:last], cols[first:last], strict=True))
    return SideLayout(side, groups, bonds[first:last], bonds[first - 1] if first else 1)
