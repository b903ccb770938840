"""Copies with the digits of an axis in another order, which on a CPU are slow where only few numbers stay together.

`Tensor.permute` and a copy take several nanoseconds for each run of numbers that stay neighbours, and the last digits
of a core are such short runs. One look-up of whole words in a table of places takes a fifth of that time.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpo_core.operators.tracing import plain_operations_only

WORD = 4
"""Bytes of a word: torch has a vectorized look-up of float32."""
SHORT_RUN = 64
"""Bytes from which on a run is copied as fast as it is looked up (measured)."""
FEW = 4096
"""Numbers of a tensor that is copied sooner than a table is found."""
LONGEST_TABLE = 2**15
"""Places; a longer table is no longer in the cache."""


class Places(NamedTuple):
    """Where each word of a row comes from."""

    rows: int
    dtype: torch.dtype
    table: Tensor


def permuted(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """`tensor.permute(order).contiguous()`, faster on a CPU where short runs move; differentiable.

    Args:
        tensor: of any shape.
        order: the axes of the tensor as they are wanted.

    Example:
        >>> permuted(torch.arange(8).view(2, 2, 2), (0, 2, 1)).flatten().tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
    """
    places = _places_for(tensor, order)
    return tensor.permute(order).contiguous() if places is None else _LookedUp.apply(tensor, order, places)


class _LookedUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, order: tuple[int, ...], places: Places) -> Tensor:
        ctx.order = order
        words = tensor.view(-1).view(places.dtype).view(places.rows, len(places.table))
        if places.dtype == torch.float32:
            found = words.index_select(1, places.table)
        else:  # the look-up of other types along an axis is slow
            found = words.gather(1, places.table.expand_as(words))
        return found.view(tensor.dtype).view([tensor.shape[axis] for axis in order])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inverse = sorted(range(len(ctx.order)), key=ctx.order.__getitem__)
        return permuted(grads[0], tuple(inverse)), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return permuted(tangents[0], ctx.order)


def _places_for(tensor: Tensor, order: tuple[int, ...]) -> Places | None:
    """The table for a permutation; None where a plain copy is as good, or the only thing that works."""
    if tensor.numel() < FEW or tensor.device.type != "cpu" or plain_operations_only():
        return None
    if not tensor.is_contiguous() or tensor.storage_offset() * tensor.element_size() % WORD:
        return None
    return _places(tuple(tensor.shape), order, tensor.element_size())


@lru_cache(maxsize=512)
def _places(sizes: tuple[int, ...], order: tuple[int, ...], item: int) -> Places | None:
    axes, front, back = len(sizes), 0, 0
    while front < axes and order[front] == front:
        front += 1
    while back < axes - front and order[axes - 1 - back] == axes - 1 - back:
        back += 1
    rows, run = math.prod(sizes[:front]), math.prod(sizes[axes - back :]) * item
    middle = sizes[front : axes - back]
    word = WORD if run % WORD == 0 else 2
    length = math.prod(middle) * run // word
    if run >= SHORT_RUN or run % word or not 0 < length <= LONGEST_TABLE:
        return None
    moved = [order[axis] - front for axis in range(front, axes - back)]
    table = torch.arange(length).view(*middle, run // word).permute(*moved, len(middle)).flatten()
    return Places(rows, torch.float32 if word == WORD else torch.int16, table)
