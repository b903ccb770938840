"""Rows of a plan (`mpo_core.lookup_plan`) from the two tables and the pivot, forward and backward.

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

from mpo_core.lookup_plan import Block, Ints, RowPlan, Side

Table = Float[Tensor, "rows columns bond"]
"""One side of the operator; the bond is that towards the pivot."""
Tables = tuple[Table, Tensor | None, Table]
"""Left table, pivot ``(d_left, digits, columns, d_right)`` if there is one, and right table."""


class _Indices(NamedTuple):
    """Index arrays of a plan, on the device of the cores."""

    near: Tensor
    far: Tensor
    stem_order: Tensor | None

    @classmethod
    def of(cls, plan: RowPlan, like: Tensor) -> _Indices:
        order = None if plan.stem_order is None else on_device(plan.stem_order, like)
        return cls(on_device(plan.near, like), on_device(plan.far, like), order)


def join(plan: RowPlan, tables: Tables, *, keep: bool) -> tuple[Float[Tensor, "ids padded"], list[Tensor]]:
    """The rows of a plan, with the columns of the padding, from tables and pivot; not differentiable.

    Args:
        plan: for the operator that the tables belong to.
        tables: from `side_tables`.
        keep: the stems are wanted, for `join_backward`.

    Returns:
        The rows in the order of the plan, and the stems of every block, or none.
    """
    f = plan.factors
    near, pivot, far = _seen_from(f.side, tables)
    pivot, indices = _laid_out(pivot, plan), _Indices.of(plan, near)
    columns = f.near[1], f.own[1], f.far[1]
    rows = near.new_empty(len(plan.far), *(columns if f.side == "left" else columns[::-1]))
    kept: list[Tensor] = []
    for block in plan.blocks:
        stems = _stems(plan, indices, block, near, pivot)
        for group in block.groups:
            ids, chosen = slice(*group.ids), stems[slice(*group.heads)]
            others = far.index_select(0, indices.far[ids]).view(chosen.shape[0], -1, f.outer)
            target = _as_products(rows[ids], plan)
            if target.is_contiguous():
                torch.bmm(others, chosen.transpose(1, 2), out=target.view(chosen.shape[0], -1, chosen.shape[1]))
            else:
                target.copy_(torch.bmm(others, chosen.transpose(1, 2)).view(target.shape))
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
    f = plan.factors
    near, pivot, far = _seen_from(f.side, tables)
    needs_near, needs_pivot, needs_far = needed if f.side == "left" else needed[::-1]
    indices = _Indices.of(plan, near)
    columns = f.near[1], f.own[1], f.far[1]
    grad = grad.view(len(plan.far), *(columns if f.side == "left" else columns[::-1]))
    d_near, d_far = _Sum(near) if needs_near else None, _Sum(far) if needs_far else None
    d_pivot = None
    pivot = _laid_out(pivot, plan)
    if pivot is not None and needs_pivot:
        complete = sum(len(block.digits) for block in plan.blocks) == pivot.shape[1]
        d_pivot = torch.empty_like(pivot) if complete else torch.zeros_like(pivot)
    for block, kept in zip(plan.blocks, stems, strict=True):
        d_stems = torch.empty_like(kept) if needs_near or needs_pivot else None
        for group in block.groups:
            ids, heads = slice(*group.ids), slice(*group.heads)
            chosen = kept[heads]
            given = _as_products(grad[ids], plan).reshape(chosen.shape[0], -1, chosen.shape[1])
            if d_stems is not None:
                others = far.index_select(0, indices.far[ids]).view(chosen.shape[0], -1, f.outer)
                torch.bmm(given.transpose(1, 2), others, out=d_stems[heads])
            if d_far is not None:
                d_far.add(indices.far[ids], torch.bmm(given, chosen))
        if d_stems is not None:
            _stems_backward(plan, indices, block, near, pivot, d_stems, d_near, d_pivot)
    seen = None if d_near is None else d_near.total(), d_pivot, None if d_far is None else d_far.total()
    if f.side == "left":
        return seen
    return seen[2], None if d_pivot is None else d_pivot.permute(3, 1, 2, 0), seen[0]


def _as_products(rows: Tensor, plan: RowPlan) -> Tensor:
    """Rows ``(ids, left, own, right)`` as products of far rows and stems, ``(ids, far, columns of the stem)``."""
    if plan.factors.side == "left":
        return rows.permute(0, 3, 1, 2)
    return rows.permute(0, 1, 3, 2) if plan.stem_order is None else rows


def _laid_out(pivot: Tensor | None, plan: RowPlan) -> Tensor | None:
    """The pivot as it enters the products: as it lies, or in the order of its axes where the plan is for small ones."""
    return pivot if pivot is None or plan.stem_order is None else pivot.contiguous()


def _matrices(tensor: Tensor, pivot: Tensor) -> Sequence[Tensor]:
    """``(rows, own, outer)`` as matrices: one if the pivot lies in the order of its axes, else one per own column."""
    return (tensor.flatten(1),) if pivot.is_contiguous() else tensor.unbind(1)


def _stems(plan: RowPlan, indices: _Indices, block: Block, near: Table, pivot: Tensor | None) -> Tensor:
    """The stems of a block, ``(heads, columns, outer)``, in the order of its groups."""
    f = plan.factors
    rows = near.index_select(0, indices.near[slice(*block.heads)])
    if pivot is None:
        return rows
    stems = near.new_empty(rows.shape[0], f.near[1], f.own[1], f.outer)
    for digit, start, stop in block.digits:
        left, products = rows[start:stop].flatten(0, 1), stems[start:stop].flatten(0, 1)
        for matrix, product in zip(_matrices(pivot[:, digit], pivot), _matrices(products, pivot), strict=True):
            torch.mm(left, matrix, out=product)
    order = indices.stem_order
    if order is not None:
        stems = stems.view(order.shape[0], -1).index_select(0, order)
    return stems.view(rows.shape[0], -1, f.outer)


def _stems_backward(
    plan: RowPlan,
    indices: _Indices,
    block: Block,
    near: Table,
    pivot: Tensor | None,
    d_stems: Tensor,
    d_near: _Sum | None,
    d_pivot: Tensor | None,
) -> None:
    """Add what a block contributes to the gradients of near table and pivot."""
    f = plan.factors
    index = indices.near[slice(*block.heads)]
    if pivot is None:
        if d_near is not None:
            d_near.add(index, d_stems)
        return
    order = indices.stem_order
    if order is not None:
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0], device=order.device)
        d_stems = d_stems.view(order.shape[0], -1).index_select(0, back)
    d_stems = d_stems.view(-1, f.near[1], f.own[1], f.outer)
    rows = near.index_select(0, index)
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


def _seen_from(side: Side, tables: Tables) -> Tables:
    """Near table, pivot ``(inner, digits, own, outer)`` and far table; or back again from those."""
    left, pivot, right = tables
    if side == "left":
        return tables
    return right, None if pivot is None else pivot.permute(3, 1, 2, 0), left


def on_device(index: Ints, like: Tensor) -> Tensor:
    """An index array as a tensor where another one is."""
    return torch.as_tensor(index, device=like.device)
