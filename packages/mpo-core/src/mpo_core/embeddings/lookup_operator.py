"""The lookup as one operator of PyTorch, for graphs: `torch.compile` and `torch.export`.

Which products are done depends on the values of the tokens, which a traced graph does not know. Inside the operator
``mpo_core::look_up`` they are known, so the graph stays whole. Its backward pass is a second operator; as nothing but
the inputs is kept for that, it computes the stems once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from mpo_core.embeddings.lookup import side_tables
from mpo_core.embeddings.lookup_join import Table, join, join_backward, on_device
from mpo_core.embeddings.lookup_plan import RowPlan, plan_rows
from mpo_core.embeddings.token_ids import distinct_ids, ordered_places, sum_by_place
from mpo_core.forward.backward import without_autocast
from mpo_core.forward.machine import machine_for
from mpo_core.shapes import MPOShape


def look_up(
    tokens: Int[Tensor, ...], cores: Sequence[Tensor], shape: MPOShape, padding_idx: int | None
) -> Float[Tensor, "... cols"]:
    """The rows that tokens stand for; traceable, and differentiable once.

    Args:
        tokens: int32 or int64, of any shape.
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``.
        shape: the factors.
        padding_idx: the row of this id passes no gradient on.

    Raises:
        ShapeError: an id is out of range.
    """
    sizes = [shape.rows, shape.cols, *shape.row_factors, *shape.col_factors]
    bonds = [core.shape[-1] for core in cores[:-1]]
    padding = -1 if padding_idx is None else padding_idx
    with without_autocast(cores[0]):
        return cast("Tensor", _look_up(tokens, *side_tables(cores), sizes, bonds, padding))


@torch.library.custom_op(
    "mpo_core::look_up",
    mutates_args=(),
    schema="(Tensor tokens, Tensor left, Tensor? pivot, Tensor right, int[] sizes, int[] bonds, int padding) -> Tensor",
)
def _look_up(
    tokens: Tensor,
    left: Table,
    pivot: Tensor | None,
    right: Table,
    sizes: Sequence[int],
    bonds: Sequence[int],
    padding: int,
) -> Tensor:
    found = _assign(tokens, left, sizes, bonds, padding)
    if found is None:
        return left.new_empty(*tokens.shape, sizes[1])
    plan, places, _ = found
    rows, _ = join(plan, (left, pivot, right), keep=False)
    return rows[:, : sizes[1]].index_select(0, places).view(*tokens.shape, sizes[1])


@torch.library.custom_op(
    "mpo_core::look_up_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor tokens, Tensor left, Tensor? pivot, Tensor right, int[] sizes, int[] bonds,"
    " int padding, bool[] needed) -> Tensor[]",
)
def _look_up_backward(
    grad: Tensor,
    tokens: Tensor,
    left: Table,
    pivot: Tensor | None,
    right: Table,
    sizes: Sequence[int],
    bonds: Sequence[int],
    padding: int,
    needed: Sequence[bool],
) -> list[Tensor]:
    """Gradients of those of tables and pivot that need one."""
    tables = left, pivot, right
    found = _assign(tokens, left, sizes, bonds, padding)
    if found is None:
        return [
            torch.zeros_like(table) for table, need in zip(tables, needed, strict=True) if need and table is not None
        ]
    plan, places, own_padding = found
    _, stems = join(plan, tables, keep=True)
    total = sum_by_place(grad.reshape(-1, sizes[1]), places, len(plan.order), own_padding)
    total = pad(total, (0, plan.layout.shape.padded_cols - sizes[1]))
    return [gradient for gradient in join_backward(plan, tables, stems, total, needed) if gradient is not None]


def _assign(
    tokens: Tensor, table: Table, sizes: Sequence[int], bonds: Sequence[int], padding: int
) -> tuple[RowPlan, Tensor, int | None] | None:
    """The plan for some tokens, the places of their rows, and that of the padding; None where there are no tokens."""
    n = len(bonds) + 1
    shape = MPOShape(sizes[0], sizes[1], tuple(sizes[2 : 2 + n]), tuple(sizes[2 + n :]))
    ids, places = distinct_ids(tokens, shape.rows, "MPOEmbedding")
    if len(ids) == 0:
        return None
    plan = plan_rows(ids, shape, tuple(bonds), machine_for(table.device.type, table.dtype), reduce=False)
    slots, own_padding = ordered_places(ids, places, plan.order, padding if padding >= 0 else None)
    return plan, on_device(slots, table), own_padding


def _needed(tables: Sequence[Tensor | None], needed: Sequence[bool]) -> list[Tensor]:
    return [table for table, need in zip(tables, needed, strict=True) if need and table is not None]


def _fake_rows(
    tokens: Tensor, left: Table, pivot: Tensor | None, right: Table, sizes: Sequence[int], *_: Any
) -> Tensor:
    return left.new_empty(*tokens.shape, sizes[1])


def _fake_gradients(grad: Tensor, tokens: Tensor, *rest: Any) -> list[Tensor]:
    return [torch.empty_like(table) for table in _needed(rest[:3], rest[-1])]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.rest = inputs[4:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    tokens, *tables = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[1:4])
    found = iter(cast("list[Tensor]", _look_up_backward(grad, tokens, *tables, *ctx.rest, needed)))
    return None, *(next(found) if need else None for need in needed), None, None, None


_look_up.register_fake(_fake_rows)  # pyright: ignore[reportUnknownMemberType]
_look_up_backward.register_fake(_fake_gradients)  # pyright: ignore[reportUnknownMemberType]
_look_up.register_autograd(_backward, setup_context=_keep)  # pyright: ignore[reportUnknownMemberType]
