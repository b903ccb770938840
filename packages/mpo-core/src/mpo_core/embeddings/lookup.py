"""Single rows of the matrix, from the digits of their numbers, without the matrix.

The cores on either side of the central one, the pivot, are multiplied out for all their digits: two tables about as
large as the square root of the matrix. What is then multiplied for chosen rows, and in which order, is planned on the
host (`mpo_core.embeddings.lookup_plan`) and done by `mpo_core.embeddings.lookup_join`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mpo_core.embeddings.lookup_join import Table, Tables, join, join_backward, on_device
from mpo_core.embeddings.lookup_plan import Ints, RowPlan, one_by_one, plan_rows
from mpo_core.forward.backward import gradients_with_graph, without_autocast
from mpo_core.forward.machine import machine_for
from mpo_core.operators.contraction import merge_stretch
from mpo_core.shapes import MPOShape


def contract_rows(cores: Sequence[Tensor], shape: MPOShape, ids: Int[Tensor, " ids"]) -> Float[Tensor, "ids cols"]:
    """Some rows of the matrix, from the digits of their numbers; differentiable.

    Neither the matrix nor one slice of the pivot per row is ever held. For training, one stem is kept for every
    distinct pair (near digits, pivot digit) of the rows, see `mpo_core.embeddings.lookup_plan`.

    Args:
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``.
        shape: the factors.
        ids: distinct row numbers in ascending order, within ``rows``.
    """
    if len(ids) == 0:
        return no_rows(cores, shape)
    bonds = tuple(core.shape[-1] for core in cores[:-1])
    numbers = ids.cpu().numpy().astype(np.int64, copy=False)
    if one_by_one(len(numbers), shape, bonds):
        return single_rows(cores, shape, numbers)
    plan = plan_rows(numbers, shape, bonds, machine_for(cores[0].device.type, cores[0].dtype))
    return planned_rows(cores, plan).index_select(0, on_device(np.argsort(plan.order), cores[0]))


def no_rows(cores: Sequence[Tensor], shape: MPOShape) -> Float[Tensor, "0 cols"]:
    """Rows for no id; connected to the cores, so that an empty batch can be trained on."""
    return torch.cat([core.reshape(-1)[:0] for core in cores]).reshape(0, shape.cols)


def single_rows(cores: Sequence[Tensor], shape: MPOShape, ids: Ints) -> Float[Tensor, "ids cols"]:
    """A few rows, one after the other, from both ends to the pivot; differentiable. Autocast is left out of account.

    Args:
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``.
        shape: the factors.
        ids: row numbers.
    """
    with without_autocast(cores[0]):
        rows = [_single_row(cores, digits) for digits in zip(*np.unravel_index(ids, shape.row_factors), strict=True)]
        return (rows[0] if len(rows) == 1 else torch.cat(rows))[:, : shape.cols]


def _single_row(cores: Sequence[Tensor], digits: Sequence[np.int64]) -> Float[Tensor, "1 cols"]:
    slices = [core.select(1, int(digit)) for core, digit in zip(cores, digits, strict=True)]
    pivot = len(cores) // 2
    left = slices[0].flatten(0, 1)
    for matrix in slices[1 : pivot + 1]:
        left = (left @ matrix.flatten(1)).view(-1, matrix.shape[2])
    if pivot + 1 < len(cores):
        right = slices[-1].flatten(1)
        for matrix in slices[-2:pivot:-1]:
            right = (matrix @ right).flatten(1)
        left = left @ right
    return left.reshape(1, -1)


def planned_rows(cores: Sequence[Tensor], plan: RowPlan) -> Float[Tensor, "ids cols"]:
    """Rows of the matrix, in the order of a plan; differentiable. Autocast is left out of account.

    Args:
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``.
        plan: from `mpo_core.embeddings.lookup_plan.plan_rows` for these cores.
    """
    with without_autocast(cores[0]):
        chosen = [
            core if used is None else core.index_select(1, on_device(used, core))
            for core, used in zip(cores, plan.used, strict=True)
        ]
        tables = side_tables(chosen)
        if torch.is_grad_enabled() and any(core.requires_grad for core in cores):
            rows = cast("Tensor", _Join.apply(plan, *tables))
        else:
            rows, _ = join(plan, tables, keep=False)
    return rows[:, : plan.layout.shape.cols]


def side_tables(cores: Sequence[Tensor]) -> Tables:
    """The cores of either side multiplied out, differentiably, and the pivot; two cores or one have none."""
    centre = len(cores) // 2
    if len(cores) < 3:
        pivot = None
        first, last = cores[0], cores[1] if len(cores) == 2 else cores[0].new_ones(1, 1, 1, 1)
    else:
        pivot = cores[centre]
        first, last = merge_stretch(cores[:centre]), merge_stretch(cores[centre + 1 :])
    return first.squeeze(0), pivot, last.squeeze(3).permute(1, 2, 0).contiguous()


class _Join(torch.autograd.Function):
    """Tables and pivot to the rows of a plan; keeps the stems of all blocks for the way back."""

    @staticmethod
    def forward(ctx: Any, plan: RowPlan, left: Table, pivot: Tensor | None, right: Table) -> Tensor:
        """The rows."""
        rows, stems = join(plan, (left, pivot, right), keep=True)
        ctx.plan = plan
        ctx.save_for_backward(left, pivot, right, *stems)
        return rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of tables and pivot."""
        left, pivot, right, *stems = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            given = [left, right] if pivot is None else [left, pivot, right]
            wanted = [needed[0], needed[2]] if pivot is None else needed

            def rows(*own: Tensor) -> Tensor:
                return _differentiable_join(ctx.plan, (own[0], None if pivot is None else own[1], own[-1]))

            found = gradients_with_graph(rows, given, wanted, grads[0])
            return None, found[0], None if pivot is None else found[1], found[-1]
        with without_autocast(left):
            return None, *join_backward(ctx.plan, (left, pivot, right), stems, grads[0], needed)


def _differentiable_join(plan: RowPlan, tables: Tables) -> Tensor:
    """As `join`, by way of all rows and in operations that can be differentiated again."""
    left, pivot, right = tables
    if pivot is None:
        every = torch.einsum("pae,sbe->psab", left, right)
    else:
        every = torch.einsum("pad,dgoe,sbe->pgsaob", left, pivot, right)
    return every.reshape(-1, plan.layout.shape.padded_cols).index_select(0, on_device(plan.ids, left))
