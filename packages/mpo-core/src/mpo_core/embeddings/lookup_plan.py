"""Which products give chosen rows of an operator: row numbers grouped on the host, without tensors.

A row number splits into the digits before the central core, the *pivot* (prefix), the pivot's own digit, and those
after (suffix). The cores on either side are multiplied out to two tables. One side, the *near* one, meets the pivot
first: every distinct pair (near digits, pivot digit) is a *head*, and the product of its near row with the pivot's
slice is its *stem*. Each id then is one product of its head's stem with the row of its *far* digits. Heads are sorted
so that those with equally many ids lie together and go into one batched product. Nothing is padded.

With ``J_n, J_f, j`` columns of near table, far table and pivot, and ``d_n, d_f`` the bonds on either side, a stem
takes ``J_n d_n j d_f`` multiplications and an id ``J_n j d_f J_f``. Which side is near depends on the ids: it is the
one whose digits occur in fewer combinations, in proportion to its columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpo_core.forward.machine import Machine
from mpo_core.forward.operations import Layout
from mpo_core.shapes import MPOShape

Side = Literal["left", "right"]
Ints = NDArray[np.int64]

_VERY_FEW_IDS = 4
"""Up to so many ids, each row is multiplied by itself, if the cores are small; a single one always is."""
_SMALL_CORES = 2**20
"""Numbers in all cores up to which that pays: in training, each row gives every core a gradient of its size."""
_FEW_IDS = 16
"""Up to so many ids, the tables are made for their digits only, if they are large."""
_LARGE_TABLES = 2**16
"""Numbers in both tables from which on that saves time."""
_LONGEST_GATHER = 2**18
"""Rows of the far table that are gathered at once have about so many numbers; 1 MiB in float32 stays in the cache."""


@dataclass(frozen=True)
class Factors:
    """Sizes of the near table, the pivot and the far table, which a lookup multiplies in this order.

    Attributes:
        side: which side of the operator is near.
        near: rows and columns of the near table.
        own: digits and columns of the pivot; (1, 1) without a pivot.
        far: rows and columns of the far table.
        inner: bond between near table and pivot; 0 without a pivot, where stems cost nothing.
        outer: bond to the far table.
    """

    side: Side
    near: tuple[int, int]
    own: tuple[int, int]
    far: tuple[int, int]
    inner: int
    outer: int

    @classmethod
    def of(cls, layout: Layout, side: Side) -> Factors:
        """The sizes of an operator; one or two cores have no pivot, the first of them is the left table."""
        shape, n, pivot = layout.shape, layout.shape.n, layout.shape.central

        def table(start: int, stop: int) -> tuple[int, int]:
            return layout.rows(start, stop), layout.cols(start, stop)

        if n < 3:
            near, far = (table(0, 1), table(1, n)) if side == "left" else (table(1, n), table(0, 1))
            return cls(side, near, (1, 1), far, 0, layout.ends[1])
        own = shape.row_factors[pivot], shape.col_factors[pivot]
        left, right = table(0, pivot), table(pivot + 1, n)
        before, after = layout.ends[pivot], layout.ends[pivot + 1]
        if side == "left":
            return cls(side, left, own, right, before, after)
        return cls(side, right, own, left, after, before)

    @property
    def stem_size(self) -> int:
        """Numbers in one stem."""
        return self.near[1] * self.own[1] * self.outer

    @property
    def far_size(self) -> int:
        """Numbers in one row of the far table."""
        return self.far[1] * self.outer

    @property
    def table_size(self) -> int:
        """Numbers in the near table."""
        return math.prod(self.near) * (self.inner or self.outer)

    @property
    def pivot_size(self) -> int:
        """Numbers in the pivot."""
        return math.prod(self.own) * self.inner * self.outer

    def flops(self, stems: int, ids: int) -> int:
        """Of so many stems and ids: two per multiplication."""
        return 2 * self.stem_size * (stems * self.inner + ids * self.far[1])


@dataclass(frozen=True)
class Group:
    """Neighbouring heads with the same number of ids: one batched product.

    Attributes:
        heads: from, to, counted within the block.
        ids: from, to, counted over all ids of the plan.
    """

    heads: tuple[int, int]
    ids: tuple[int, int]


@dataclass(frozen=True)
class Block:
    """Heads whose stems are held at the same time.

    Attributes:
        digits: (pivot digit, from, to) of the runs of heads with the same pivot digit, counted within the block.
        heads: from, to, counted over all heads of the plan.
        groups: in the order of the ids.
    """

    digits: tuple[tuple[int, int, int], ...]
    heads: tuple[int, int]
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class RowPlan:
    """How chosen rows are computed.

    Attributes:
        layout: sizes of the cores, reduced to the digits that are used.
        used: for every core the digits that are used, or None for all.
        factors: the sizes, with the side that meets the pivot first.
        order: place, in the ascending ids, of the plan's k-th id.
        ids: row number of the plan's k-th id, in the digits of the layout.
        far: row of the far table, likewise.
        near: row of the near table, for every head, ascending by pivot digit.
        blocks: one for each pivot digit, within which heads are sorted by their number of ids; or one for all.
        stem_order: None in the former case. In the latter, which takes fewer products and one more copy of pivot and
            stems and so is for small bonds, it sorts the stems after they are computed: the heads by their number
            of ids, and, where the right side is near, the columns within each stem, the pivot's first.
        flops: of the forward pass, without those that make the two tables.
    """

    layout: Layout
    used: tuple[Ints | None, ...]
    factors: Factors
    order: Ints
    ids: Ints
    far: Ints
    near: Ints
    blocks: tuple[Block, ...]
    stem_order: Ints | None
    flops: int


def one_by_one(number: int, shape: MPOShape, bonds: tuple[int, ...]) -> bool:
    """Whether so many rows are best multiplied one by one, core after core, without tables and plan."""
    return number == 1 or (number <= _VERY_FEW_IDS and shape.n_params(bonds) <= _SMALL_CORES)


def plan_rows(ids: Ints, shape: MPOShape, bonds: tuple[int, ...], machine: Machine, *, reduce: bool = True) -> RowPlan:
    """The cheapest plan for some rows: from the side with fewer multiplications.

    Args:
        ids: distinct row numbers, ascending, at least one.
        shape: the factors.
        bonds: the ``n - 1`` bonds.
        machine: the constants of the estimates.
        reduce: leave out digits that do not occur, where that pays.
    """
    used: tuple[Ints | None, ...] = (None,) * shape.n
    layout = Layout(shape, bonds)
    left, right = Factors.of(layout, "left"), Factors.of(layout, "right")
    if reduce and len(ids) <= _FEW_IDS and left.table_size + right.table_size > _LARGE_TABLES:
        used, ids, shape = _reduced(ids, shape)
        layout = Layout(shape, bonds)
        left, right = Factors.of(layout, "left"), Factors.of(layout, "right")
    prefix, rest = np.divmod(ids, right.near[0] * right.own[0])
    digit, suffix = np.divmod(rest, right.near[0])
    views = _View.of(left, digit * left.near[0] + prefix, suffix), _View.of(right, rest, prefix)
    return _arrange(layout, used, ids, min(views, key=lambda view: view.flops), machine)


def _reduced(ids: Ints, shape: MPOShape) -> tuple[tuple[Ints | None, ...], Ints, MPOShape]:
    """Leave out the digits that do not occur, except those of the pivot, where that costs a copy and saves nothing.

    Returns:
        The digits that are left of every core (None for all), the ids counted in those, and the factors.
    """
    digits = list(np.unravel_index(ids, shape.row_factors))
    used: list[Ints | None] = [None] * shape.n
    factors = list(shape.row_factors)
    for k in range(shape.n):
        if k != shape.central or shape.n < 3:
            used[k], digits[k] = np.unique(digits[k], return_inverse=True)
            factors[k] = int(digits[k].max()) + 1
    left = MPOShape(math.prod(factors), shape.cols, tuple(factors), shape.col_factors)
    return tuple(used), np.ravel_multi_index(digits, factors), left


class _View(NamedTuple):
    """The ids as one side sees them.

    Attributes:
        factors: the sizes.
        keys: head of every id, as the number ``pivot digit * near rows + near row``.
        far: far row of every id.
        counts: ids of every possible head.
        flops: of the lookup.
    """

    factors: Factors
    keys: Ints
    far: Ints
    counts: Ints
    flops: int

    @classmethod
    def of(cls, factors: Factors, keys: Ints, far: Ints) -> _View:
        """Count the ids of every head."""
        counts = np.bincount(keys, minlength=factors.own[0] * factors.near[0])
        return cls(factors, keys, far, counts, factors.flops(int(np.count_nonzero(counts)), len(keys)))


def _arrange(layout: Layout, used: tuple[Ints | None, ...], ids: Ints, view: _View, machine: Machine) -> RowPlan:
    """Sort heads and ids, and group them."""
    factors, keys, counts = view.factors, view.keys, view.counts
    heads = np.flatnonzero(counts)
    members = counts[heads]
    digits, near = np.divmod(heads, factors.near[0])
    per_digit = np.bincount(digits, minlength=factors.own[0]).tolist()
    by_digit = digits * (len(keys) + 1) + members

    products = sum(number > 0 for number in per_digit)
    right = factors.side == "right"
    copies = factors.stem_size * len(heads) + factors.pivot_size * right
    call = 1.5 * machine.call  # with the views that each of them needs
    apart = (products * (factors.own[1] if right else 1) + 3 * len(np.unique(by_digit))) * call
    together = (products + 3 * len(np.unique(members))) * call + 4 * machine.itemsize * copies / machine.bandwidth

    blocks: list[Block] = []
    stem_order = None
    start = 0
    if factors.inner and together < apart:
        head_order = np.argsort(members, kind="stable")
        stem_order = head_order if factors.side == "left" else _own_first(head_order, factors)
        runs: list[tuple[int, int, int]] = []
        for digit, number in enumerate(per_digit):
            if number:
                runs.append((digit, start, start + number))
                start += number
        blocks.append(_block(runs, 0, 0, members[head_order], factors))
    else:
        head_order = np.argsort(by_digit, kind="stable")
        members, near = members[head_order], near[head_order]
        for digit, number in enumerate(per_digit):
            if number:
                offset = blocks[-1].groups[-1].ids[1] if blocks else 0
                blocks.append(_block([(digit, 0, number)], start, offset, members[start : start + number], factors))
                start += number
    place = np.empty(len(counts), np.int64)
    place[heads[head_order]] = np.arange(len(heads))
    order = np.argsort(place[keys], kind="stable")
    return RowPlan(
        layout, used, factors, order, ids[order], view.far[order], near, tuple(blocks), stem_order, view.flops
    )


def _own_first(heads: Ints, factors: Factors) -> Ints:
    """Places of the rows of stems ``(head, near, own)``, as ``(head, own, near)`` with the heads in another order."""
    near, own = factors.near[1], factors.own[1]
    within = np.arange(near * own).reshape(near, own).T.reshape(-1)
    return (heads[:, None] * (near * own) + within).reshape(-1)


def _block(digits: Sequence[tuple[int, int, int]], first: int, offset: int, members: Ints, factors: Factors) -> Block:
    """The block of the heads from `first` on, whose ids start at `offset`; `members` are their numbers of ids."""
    groups: list[Group] = []
    start = 0
    for end in [*(np.flatnonzero(np.diff(members)) + 1).tolist(), len(members)]:
        number = int(members[start])
        step = max(1, _LONGEST_GATHER // (number * factors.far_size))
        for begin in range(start, end, step):
            stop = min(begin + step, end)
            groups.append(Group((begin, stop), (offset, offset + number * (stop - begin))))
            offset += number * (stop - begin)
        start = end
    return Block(tuple(digits), (first, first + len(members)), tuple(groups))
