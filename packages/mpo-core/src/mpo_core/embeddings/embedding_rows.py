"""The rows that tokens stand for, from the cores: looked up, or picked from the rebuilt table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from mpo_core.embeddings.lookup import no_rows, planned_rows, single_rows
from mpo_core.embeddings.lookup_cost import EmbeddingStrategy, lookup_way, rebuild_way, singles_way
from mpo_core.embeddings.lookup_join import on_device
from mpo_core.embeddings.lookup_operator import look_up
from mpo_core.embeddings.lookup_plan import one_by_one, plan_rows
from mpo_core.embeddings.token_ids import PickRows, distinct_ids, ordered_places
from mpo_core.errors import ShapeError
from mpo_core.forward.applying import any_requires_grad
from mpo_core.forward.backward import without_autocast
from mpo_core.forward.machine import machine_for
from mpo_core.operators.contraction import contract_matrix
from mpo_core.operators.tracing import transforms_active
from mpo_core.shapes import MPOShape


def embed_tokens(
    tokens: Int[Tensor, ...],
    cores: Sequence[Tensor],
    shape: MPOShape,
    *,
    strategy: EmbeddingStrategy = "auto",
    padding_idx: int | None = None,
) -> Float[Tensor, "... cols"]:
    """Rows of a matrix in MPO form, as `torch.nn.functional.embedding` gives those of a table; differentiable.

    The output has the dtype of the cores, with or without autocast.

    Args:
        tokens: int32 or int64, of any shape.
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``.
        shape: the factors.
        strategy: ``lookup`` computes every distinct row once, without the table; ``rebuild`` makes the table; ``auto``
            takes what is estimated to be faster (`mpo_core.embeddings.lookup_cost`); a compiled graph, which does not
            know the ids, looks them up unless rebuilding is faster for any. Where the values of the tokens are out of
            reach, on the meta device and inside `torch.func`, the table is rebuilt.
        padding_idx: rows of this id pass no gradient on.

    Raises:
        ShapeError: an id is out of range. A rebuilt table on a GPU gives the error of `nn.Embedding` instead.
    """
    if strategy == "rebuild" or tokens.is_meta or transforms_active():
        return pick_from_table(tokens, table_of(cores, shape), padding_idx)
    bonds = tuple([core.shape[-1] for core in cores[:-1]])
    training = torch.is_grad_enabled() and any_requires_grad(cores)
    device, dtype = cores[0].device.type, cores[0].dtype
    if strategy == "auto" and _rebuilding_is_fastest(shape, bonds, device, dtype, training):
        return pick_from_table(tokens, table_of(cores, shape), padding_idx)
    if torch.compiler.is_compiling() or type(tokens) is not Tensor:  # traced, or fake
        return look_up(tokens, cores, shape, padding_idx)
    ids, places = distinct_ids(tokens, shape.rows, "MPOEmbedding")
    if len(ids) == 0:
        return no_rows(cores, shape).reshape(*tokens.shape, shape.cols)
    machine = machine_for(device, dtype)
    plan, order = None, np.arange(len(ids))
    if one_by_one(len(ids), shape, bonds):
        way = singles_way(len(ids), shape, bonds, machine, training)
    else:
        plan = plan_rows(ids, shape, bonds, machine)
        way, order = lookup_way(plan, machine, training), plan.order
    if strategy == "auto" and rebuild_way(shape, bonds, machine, training).seconds < way.seconds:
        return pick_from_table(tokens, table_of(cores, shape), padding_idx)
    rows = single_rows(cores, shape, ids) if plan is None else planned_rows(cores, plan)
    slots, padding = ordered_places(ids, places, order, padding_idx)
    picked = cast("Tensor", PickRows.apply(rows, on_device(slots, rows), padding))
    return picked.view(*tokens.shape, shape.cols)


@torch.compiler.assume_constant_result  # pyright: ignore[reportUnknownMemberType]
def _rebuilding_is_fastest(
    shape: MPOShape, bonds: tuple[int, ...], device: str, dtype: torch.dtype, training: bool
) -> bool:
    """Whether rebuilding is, whatever the ids: they need not be brought to the host, and a graph knows it."""
    machine = machine_for(device, dtype)
    rebuild = rebuild_way(shape, bonds, machine, training)
    return rebuild.seconds <= singles_way(1, shape, bonds, machine, training).seconds


def table_of(cores: Sequence[Tensor], shape: MPOShape) -> Float[Tensor, "rows cols"]:
    """The whole matrix, in the dtype of the cores even under autocast."""
    with without_autocast(cores[0]):
        return contract_matrix(cores, shape)


def pick_from_table(
    tokens: Int[Tensor, ...], table: Float[Tensor, "rows cols"], padding_idx: int | None
) -> Float[Tensor, "... cols"]:
    """As `torch.nn.functional.embedding`, with our error where that checks the ids.

    Raises:
        ShapeError: an id is out of range, on the CPU.
    """
    if torch.compiler.is_compiling():
        return functional.embedding(tokens, table, padding_idx)
    try:
        return functional.embedding(tokens, table, padding_idx)
    except IndexError:
        low, high = (int(end) for end in torch.aminmax(tokens))
        raise ShapeError(f"MPOEmbedding: ids from {low} to {high}; expected 0 to {table.shape[0] - 1}.") from None
