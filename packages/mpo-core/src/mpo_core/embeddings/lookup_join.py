"""Rows of a plan (`mpo_core.embeddings.lookup_plan`) from the two tables and the pivot, forward and backward.

The stems of a block are a few matrix products, written to their places without copies of the pivot; the rows of all
heads with equally many ids are one batched product. On the way back each of these has its two counterparts, and what
several rows give to one place is added up in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.embeddings.lookup_plan import Block, Group, Ints, RowPlan

Table = Float[Tensor, "rows columns bond"]
"""One side of the operator; the bond is that towards the pivot."""
Tables = tuple[Table, Tensor | None, Table]
"""Left table, pivot ``(d_left, digits, columns, d_right)`` if there is one, and right table."""


class _Operands(NamedTuple):
    """What is multiplied, seen from the near side, and the index arrays of the plan beside it.

    Attributes:
        plan: the plan.
        near: near table.
        pivot: ``(inner, digits, own, outer)``; in the order of its axes where the plan is for small ones, else as it
            lies, in view of its size.
        far: far table.
        near_index: row of `near`, for every head.
        far_index: row of `far`, for every id.
        stem_order: of the plan.
    """

    plan: RowPlan
    near: Table
    pivot: Tensor | None
    far: Table
    near_index: Tensor
    far_index: Tensor
    stem_order: Tensor | None

    @classmethod
    def of(cls, plan: RowPlan, tables: Tables) -> _Operands:
        near, pivot, far = tables
        if plan.factors.side == "right":
            near, pivot, far = far, None if pivot is None else pivot.permute(3, 1, 2, 0), near
        order = None
        if plan.stem_order is not None and pivot is not None:
            order, pivot = on_device(plan.stem_order, near), pivot.contiguous()
        return cls(plan, near, pivot, far, on_device(plan.near, near), on_device(plan.far, near), order)

    def others(self, group: Group) -> Tensor:
        """Far rows of a group, ``(heads, members * far columns, outer)``."""
        rows = self.far.index_select(0, self.far_index[slice(*group.ids)])
        return rows.view(group.heads[1] - group.heads[0], -1, self.far.shape[2])

    def as_products(self, rows: Tensor) -> Tensor:
        """Rows ``(ids, left, own, right)`` as products of far rows and stems, ``(ids, far, columns of the stem)``."""
        if self.plan.factors.side == "left":
            return rows.permute(0, 3, 1, 2)
        return rows.permute(0, 1, 3, 2) if self.stem_order is None else rows

    def columns(self) -> tuple[int, int, int]:
        """Column sizes from left to right."""
        f = self.plan.factors
        left, right = (f.near, f.far) if f.side == "left" else (f.far, f.near)
        return left[1], f.own[1], right[1]


def join(plan: RowPlan, tables: Tables, *, keep: bool) -> tuple[Float[Tensor, "ids padded"], list[Tensor]]:
    """The rows of a plan, with the columns of the padding, from tables and pivot; not differentiable.

    Args:
        plan: for the operator that the tables belong to.
        tables: left table, pivot and right table.
        keep: the stems are wanted, for `join_backward`.

    Returns:
        The rows in the order of the plan, and the stems of every block, or none.
    """
    operands = _Operands.of(plan, tables)
    rows = operands.near.new_empty(len(plan.far), *operands.columns())
    kept: list[Tensor] = []
    for block in plan.blocks:
        stems = _stems(operands, block)
        for group in block.groups:
            others, chosen = operands.others(group), stems[slice(*group.heads)].transpose(1, 2)
            target = operands.as_products(rows[slice(*group.ids)])
            if target.is_contiguous():
                torch.bmm(others, chosen, out=target.view(*others.shape[:2], -1))
            else:
                target.copy_(torch.bmm(others, chosen).view(target.shape))
        if keep:
            kept.append(stems)
    return rows.flatten(1), kept


def join_backward(
    plan: RowPlan, tables: Tables, stems: Sequence[Tensor], grad: Float[Tensor, "ids padded"], needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of tables and pivot, None where none is needed; everything is added up in a fixed order.

    Args:
        plan: as in `join`.
        tables: as in `join`.
        stems: from `join`.
        grad: of the rows.
        needed: for which of tables and pivot a gradient is wanted.
    """
    operands = _Operands.of(plan, tables)
    on_left = plan.factors.side == "left"
    needs_near, needs_pivot, needs_far = needed if on_left else needed[::-1]
    pivot = operands.pivot
    grad = grad.reshape(-1, *operands.columns())
    d_near, d_far = _Sum(operands.near) if needs_near else None, _Sum(operands.far) if needs_far else None
    d_pivot = None
    if pivot is not None and needs_pivot:
        complete = sum(len(block.digits) for block in plan.blocks) == pivot.shape[1]
        d_pivot = torch.empty_like(pivot) if complete else torch.zeros_like(pivot)
    for block, kept in zip(plan.blocks, stems, strict=True):
        d_stems = torch.empty_like(kept) if needs_near or needs_pivot else None
        for group in block.groups:
            chosen = kept[slice(*group.heads)]
            given = operands.as_products(grad[slice(*group.ids)]).reshape(chosen.shape[0], -1, chosen.shape[1])
            if d_stems is not None:
                torch.bmm(given.transpose(1, 2), operands.others(group), out=d_stems[slice(*group.heads)])
            if d_far is not None:
                d_far.add(operands.far_index[slice(*group.ids)], torch.bmm(given, chosen))
        if d_stems is not None:
            _stems_backward(operands, block, d_stems, d_near, d_pivot)
    near, far = None if d_near is None else d_near.total(), None if d_far is None else d_far.total()
    if on_left:
        return near, d_pivot, far
    return far, None if d_pivot is None else d_pivot.permute(3, 1, 2, 0), near


def _stems(operands: _Operands, block: Block) -> Tensor:
    """The stems of a block, ``(heads, columns, outer)``, in the order of its groups."""
    pivot, order, outer = operands.pivot, operands.stem_order, operands.far.shape[2]
    rows = operands.near.index_select(0, operands.near_index[slice(*block.heads)])
    if pivot is None:
        return rows
    stems = rows.new_empty(*rows.shape[:2], pivot.shape[2], outer)
    for digit, start, stop in block.digits:
        left, products = rows[start:stop].flatten(0, 1), stems[start:stop].flatten(0, 1)
        for matrix, product in zip(_matrices(pivot[:, digit], pivot), _matrices(products, pivot), strict=True):
            torch.mm(left, matrix, out=product)
    if order is not None:
        stems = stems.view(order.shape[0], -1).index_select(0, order)
    return stems.view(rows.shape[0], -1, outer)


def _stems_backward(
    operands: _Operands, block: Block, d_stems: Tensor, d_near: _Sum | None, d_pivot: Tensor | None
) -> None:
    """Add what a block contributes to the gradients of near table and pivot."""
    pivot, order = operands.pivot, operands.stem_order
    index = operands.near_index[slice(*block.heads)]
    if pivot is None:
        if d_near is not None:
            d_near.add(index, d_stems)
        return
    if order is not None:
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0], device=order.device)
        d_stems = d_stems.view(order.shape[0], -1).index_select(0, back)
    rows = operands.near.index_select(0, index)
    d_stems = d_stems.view(*rows.shape[:2], pivot.shape[2], -1)
    d_rows = torch.empty_like(rows)
    for digit, start, stop in block.digits:
        left, d_left = rows[start:stop].flatten(0, 1), d_rows[start:stop].flatten(0, 1)
        d_products = _matrices(d_stems[start:stop].flatten(0, 1), pivot)
        if d_pivot is not None:
            for d_matrix, d_product in zip(_matrices(d_pivot[:, digit], pivot), d_products, strict=True):
                torch.mm(left.t(), d_product, out=d_matrix)
        if d_near is not None:
            for k, (matrix, d_product) in enumerate(zip(_matrices(pivot[:, digit], pivot), d_products, strict=True)):
                torch.addmm(d_left, d_product, matrix.t(), beta=min(k, 1), out=d_left)
    if d_near is not None:
        d_near.add(index, d_rows)


def _matrices(tensor: Tensor, pivot: Tensor) -> Sequence[Tensor]:
    """``(rows, own, outer)`` as matrices: one if the pivot lies in the order of its axes, else one per own column."""
    return (tensor.flatten(1),) if pivot.is_contiguous() else tensor.unbind(1)


class _Sum:
    """The gradient of a table, added up from rows; in float32 for the half types, and in a fixed order."""

    def __init__(self, table: Table) -> None:
        self._table = table
        dtype = torch.float32 if table.dtype.itemsize == 2 else table.dtype
        self._total = table.new_zeros(table.shape[0], table[0].numel(), dtype=dtype)

    def add(self, index: Tensor, rows: Tensor) -> None:
        """Add rows to those that `index` names."""
        add_rows(self._total, index, rows.view(index.shape[0], -1).to(self._total.dtype))

    def total(self) -> Table:
        """The sum, in shape and dtype of the table."""
        return self._total.to(self._table.dtype).view(self._table.shape)


def add_rows(total: Tensor, index: Tensor, rows: Tensor) -> None:
    """Add rows to those of `total` that `index` names, some of them repeatedly; with the same bits every time."""
    if total.device.type == "cpu":
        total.index_add_(0, index, rows)
    else:  # index_add_ adds in any order there; this sorts
        total.index_put_((index,), rows, accumulate=True)


def on_device(index: Ints, like: Tensor) -> Tensor:
    """An index array as a tensor where another one is."""
    return torch.as_tensor(index, device=like.device)
