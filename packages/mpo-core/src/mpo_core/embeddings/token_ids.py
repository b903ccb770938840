"""From tokens to the distinct ids among them, and from the rows of those ids back to tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mpo_core.embeddings.lookup_join import add_rows
from mpo_core.embeddings.lookup_plan import Ints
from mpo_core.errors import ShapeError

_SMALL_TABLE = 2**16
_ROWS_PER_TOKEN = 32


def distinct_ids(tokens: Int[Tensor, ...], rows: int, where: str) -> tuple[Ints, Ints]:
    """The distinct ids, ascending, and the place of every token among them.

    The tokens are brought to the host, once, as what follows is planned there.

    Args:
        tokens: of any shape.
        rows: ids are below this number.
        where: begins the error message.

    Raises:
        ShapeError: an id is out of range.
    """
    flat = tokens.reshape(-1).cpu().numpy()
    if flat.size == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    low, high = int(flat.min()), int(flat.max())
    if low < 0 or high >= rows:
        raise out_of_range(low, high, rows, where)
    if rows > max(_SMALL_TABLE, _ROWS_PER_TOKEN * flat.size):
        ids, places = np.unique(flat, return_inverse=True)
        return ids.astype(np.int64, copy=False), places
    # No sorting: mark what occurs, then number it.
    seen = np.zeros(rows, np.bool_)
    seen[flat] = True
    ids = np.flatnonzero(seen)
    numbers = np.empty(rows, np.int64)
    numbers[ids] = np.arange(len(ids))
    return ids, numbers[flat]


def out_of_range(low: int, high: int, rows: int, where: str) -> ShapeError:
    """The error for ids that no row belongs to."""
    return ShapeError(f"{where}: ids from {low} to {high}; expected 0 to {rows - 1}.")


def ordered_places(ids: Ints, places: Ints, order: Ints, padding_idx: int | None) -> tuple[Ints, int | None]:
    """The place of every token, and that of the padding, among rows in another order.

    Args:
        ids: distinct and ascending.
        places: of every token in `ids`.
        order: place in `ids` of every row.
        padding_idx: the id of the padding.

    Returns:
        The places of the tokens; the place of the padding, None where no token is padding.
    """
    slots = np.empty(len(ids), np.int64)
    slots[order] = np.arange(len(ids))
    padding = None
    if padding_idx is not None:
        place = int(np.searchsorted(ids, padding_idx))
        if place < len(ids) and ids[place] == padding_idx:
            padding = int(slots[place])
    return slots[places], padding


class PickRows(torch.autograd.Function):
    """Rows by their places; see `sum_by_place` for the way back.

    Arguments: rows (ids, cols), places (tokens), and the place whose row gets no gradient, or None.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Float[Tensor, "ids cols"], places: Int[Tensor, " tokens"], padding: int | None
    ) -> Float[Tensor, "tokens cols"]:
        """One row for each token."""
        ctx.save_for_backward(places)
        ctx.rows, ctx.padding = rows.shape[0], padding
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradient of the rows; itself differentiable."""
        (places,) = ctx.saved_tensors
        return sum_by_place(grads[0], places, ctx.rows, ctx.padding), None, None


def sum_by_place(
    grad: Float[Tensor, "tokens cols"], places: Int[Tensor, " tokens"], rows: int, padding: int | None
) -> Float[Tensor, "rows cols"]:
    """Add up what tokens give to their rows, in a fixed order, and in float32 for the half types.

    Args:
        grad: gradient of every token.
        places: its row.
        rows: number of rows.
        padding: the row that gets nothing.
    """
    dtype = torch.float32 if grad.dtype.itemsize == 2 else grad.dtype
    total = grad.new_zeros(rows, grad.shape[1], dtype=dtype)
    add_rows(total, places, grad.to(dtype))
    if padding is not None:
        total[padding] = 0
    return total.to(grad.dtype)
