"""Single rows of the matrix, from the digits of their numbers, without the matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mpo_core.contraction import merge_cores
from mpo_core.shapes import MPOShape


def contract_rows(cores: Sequence[Tensor], shape: MPOShape, ids: Int[Tensor, " ids"]) -> Float[Tensor, "ids cols"]:
    """Some rows of the matrix, from the digits of their numbers; differentiable.

    A row number splits into the digits before the central core (prefix), its own and those after (suffix).
    The cores on either side of the centre are multiplied out for all prefixes and suffixes, two tables about
    as large as the square root of the matrix. The centre is multiplied on once for every distinct pair
    (prefix, central digit), one digit at a time, and with the suffixes of its rows. Neither the matrix nor
    one slice of the central core per row is ever held.

    Args:
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``.
        shape: the factors.
        ids: distinct row numbers in ascending order, within ``rows``.
    """
    if len(ids) == 0:  # connected to the cores, so that an empty batch can be trained on
        return torch.cat([core.reshape(-1)[:0] for core in cores]).reshape(0, shape.cols)
    centre = shape.central
    digits = shape.row_factors[centre]
    central = cores[centre]
    prefixes = _table(cores[:centre], shape, 0, central)
    suffixes = _table(cores[centre + 1 :], shape, centre + 1, central).permute(1, 2, 0)
    n_suffixes, suffix_columns, right = suffixes.shape

    heads, counts = torch.unique_consecutive(ids // n_suffixes, return_counts=True)
    parts: list[Tensor] = []
    order: list[Tensor] = []
    for digit in range(digits):
        chosen = (heads % digits == digit).nonzero().squeeze(1)
        if len(chosen) == 0:
            continue
        before = prefixes[0].index_select(0, heads[chosen] // digits)
        part = before @ central[:, digit].reshape(central.shape[0], -1)
        parts.append(part.reshape(len(chosen), -1, right))
        order.append(chosen)
    stems = torch.cat(parts).index_select(0, torch.cat(order).argsort())
    tails = suffixes.index_select(0, ids % n_suffixes).split(counts.tolist())
    rows = torch.cat(
        [
            (tail.flatten(0, 1) @ stem.T).reshape(len(tail), suffix_columns, -1)
            for tail, stem in zip(tails, stems.unbind(0), strict=True)
        ]
    )
    return rows.transpose(1, 2).reshape(len(ids), shape.padded_cols)[:, : shape.cols]


def _table(cores: Sequence[Tensor], shape: MPOShape, start: int, like: Tensor) -> Float[Tensor, ...]:
    """Cores of one side, multiplied out.

    Left of the centre the result is ``(1, prefixes, columns, d)``, right of it ``(d, suffixes, columns)``.
    """
    left = start == 0
    if not cores:
        return like.new_ones(1, 1, 1, 1) if left else like.new_ones(1, 1, 1)
    stretch = merge_cores(cores)
    stop = start + len(cores)
    rows, cols = shape.row_factors[start:stop], shape.col_factors[start:stop]
    sizes = [size for pair in zip(rows, cols, strict=True) for size in pair]
    tensor = stretch.reshape(stretch.shape[0], *sizes, stretch.shape[-1])
    axes = range(1, 2 * len(cores) + 1)
    tensor = tensor.permute(0, *axes[::2], *axes[1::2], 2 * len(cores) + 1)
    n_rows = torch.Size(rows).numel()
    tensor = tensor.reshape(stretch.shape[0], n_rows, -1, stretch.shape[-1])
    return tensor if left else tensor.squeeze(-1)
