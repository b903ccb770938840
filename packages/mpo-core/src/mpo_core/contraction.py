"""Multiply cores out: to the whole matrix in the cheapest order, or to single rows without the matrix.

A stretch of neighbouring cores is kept as a tensor ``(d_left, P, d_right)``, where ``P`` runs over the digits
``i_a j_a .. i_b j_b``. Two stretches then meet in one matrix product of contiguous tensors, and only the
finished matrix is permuted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mpo_core.shapes import MPOShape

Tree = int | tuple["Tree", "Tree"]


def contract_matrix(cores: Sequence[Tensor], shape: MPOShape) -> Float[Tensor, "rows cols"]:
    """Multiply all cores to the matrix they stand for, without the padding; differentiable.

    Gao et al. 2020, Eq. 1: ``W_{i_1..i_n, j_1..j_n} = T_1[i_1, j_1] .. T_n[i_n, j_n]``.

    Args:
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``.
        shape: the factors.
    """
    digits = [size for pair in zip(shape.row_factors, shape.col_factors, strict=True) for size in pair]
    tensor = _stretch(cores).reshape(digits)
    order = [*range(0, 2 * shape.n, 2), *range(1, 2 * shape.n, 2)]
    matrix = tensor.permute(order).reshape(shape.padded_rows, shape.padded_cols)
    return matrix[: shape.rows, : shape.cols]


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
    stretch = _stretch(cores)
    stop = start + len(cores)
    rows, cols = shape.row_factors[start:stop], shape.col_factors[start:stop]
    sizes = [size for pair in zip(rows, cols, strict=True) for size in pair]
    tensor = stretch.reshape(stretch.shape[0], *sizes, stretch.shape[-1])
    axes = range(1, 2 * len(cores) + 1)
    tensor = tensor.permute(0, *axes[::2], *axes[1::2], 2 * len(cores) + 1)
    n_rows = torch.Size(rows).numel()
    tensor = tensor.reshape(stretch.shape[0], n_rows, -1, stretch.shape[-1])
    return tensor if left else tensor.squeeze(-1)


def _stretch(cores: Sequence[Tensor]) -> Float[Tensor, "left digits right"]:
    sizes = tuple(core.shape[1] * core.shape[2] for core in cores)
    bonds = (cores[0].shape[0], *(core.shape[-1] for core in cores))
    return _contract([core.flatten(1, 2) for core in cores], contraction_tree(sizes, bonds)[1])


def _contract(stretches: Sequence[Tensor], tree: Tree) -> Tensor:
    if isinstance(tree, int):
        return stretches[tree]
    first, second = (_contract(stretches, branch) for branch in tree)
    product = first.flatten(0, 1) @ second.flatten(1)
    return product.reshape(first.shape[0], first.shape[1] * second.shape[1], second.shape[2])


@lru_cache(maxsize=4096)
def contraction_tree(sizes: tuple[int, ...], bonds: tuple[int, ...]) -> tuple[int, Tree]:
    """The order of pairwise products with the fewest multiplications, by dynamic programming over stretches.

    Args:
        sizes: ``i_k j_k`` of each core.
        bonds: ``d_0 .. d_n``.

    Returns:
        The number of multiplications, and the order as nested pairs of core indices.

    Example:
        >>> contraction_tree((4, 4, 2), (1, 4, 2, 1))
        (192, (0, (1, 2)))
    """
    n = len(sizes)
    best: dict[tuple[int, int], tuple[int, int, Tree]] = {(k, k + 1): (0, size, k) for k, size in enumerate(sizes)}
    for length in range(2, n + 1):
        for start in range(n - length + 1):
            stop = start + length
            options: list[tuple[int, int, Tree]] = []
            for middle in range(start + 1, stop):
                first_cost, first_size, first = best[start, middle]
                second_cost, second_size, second = best[middle, stop]
                product = first_size * second_size
                cost = first_cost + second_cost + product * bonds[start] * bonds[middle] * bonds[stop]
                options.append((cost, product, (first, second)))
            best[start, stop] = min(options, key=lambda option: option[0])
    cost, _, tree = best[0, n]
    return cost, tree
