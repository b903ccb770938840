"""Multiply cores out, to stretches or to the whole matrix, in the cheapest order.

Neighbouring cores multiply to a *stretch*, itself a core: ``(d_left, I, J, d_right)``, whose row index runs over the
row digits of its cores and whose column index over their column digits. The matrix is rebuilt from two stretches,
the halves: their product ``(a b) x (c d)``, with the digits of the left half (rows a, columns b) and of the right one
(rows c, columns d), is almost all of the work, and only needs its two middle axes swapped to be the matrix
``(a c) x (b d)``. On a CPU that is done block by block, so that what is swapped is still in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.operators.permuting import permuted
from mpo_core.shapes import MPOShape

Tree = int | tuple["Tree", "Tree"]

BLOCK_BYTES = 2**20
"""A block of the product of the halves that is still in the cache when it is swapped (measured: 0.5 to 2 MiB)."""


def contract_matrix(cores: Sequence[Tensor], shape: MPOShape) -> Float[Tensor, "rows cols"]:
    """Multiply all cores to the matrix they stand for, without the padding; differentiable.

    Gao et al. 2020, Eq. 1: ``W_{i_1..i_n, j_1..j_n} = T_1[i_1, j_1] .. T_n[i_n, j_n]``.

    Args:
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``.
        shape: the factors.
    """
    if shape.n == 1:
        matrix = cores[0][0, :, :, 0]
    else:
        split = best_split(shape, tuple(core.shape[-1] for core in cores[:-1]))
        left, right = merge_stretch(cores[:split]), merge_stretch(cores[split:])
        if torch.is_grad_enabled() and (left.requires_grad or right.requires_grad):
            matrix = join_halves(left, right)
        else:
            matrix = join_halves_blockwise(left, right)
    return matrix[: shape.rows, : shape.cols]


def best_split(shape: MPOShape, bonds: tuple[int, ...]) -> int:
    """Where to cut the cores into the two halves with the fewest multiplications: cores before it are the left one."""
    tree = contraction_tree(core_sizes(shape), (1, *bonds, 1))[1]
    return _first_leaf(tree[1]) if isinstance(tree, tuple) else 0


def core_sizes(shape: MPOShape) -> tuple[int, ...]:
    """The products ``i_k j_k``."""
    return tuple(i * j for i, j in zip(shape.row_factors, shape.col_factors, strict=True))


def merge_stretch(cores: Sequence[Tensor]) -> Float[Tensor, "left rows cols right"]:
    """Multiply neighbouring cores to one, in the cheapest order; differentiable, no copy of a single core.

    Args:
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``, neighbours.
    """
    n = len(cores)
    if n == 1:
        return cores[0]
    digits = [size for core in cores for size in core.shape[1:3]]
    tensor = merge_cores(cores).reshape(cores[0].shape[0], *digits, cores[-1].shape[-1])
    tensor = permuted(tensor, (0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1))
    return tensor.reshape(tensor.shape[0], math.prod(digits[::2]), math.prod(digits[1::2]), tensor.shape[-1])


def join_halves(left: Float[Tensor, "1 a b r"], right: Float[Tensor, "r c d 1"]) -> Float[Tensor, "rows cols"]:
    """The matrix of two halves, rows ``(a c)`` and columns ``(b d)``; differentiable."""
    _, a, b, bond = left.shape
    _, c, d, _ = right.shape
    product = left.reshape(a * b, bond) @ right.reshape(bond, c * d)
    return product.reshape(a, b, c, d).transpose(1, 2).reshape(a * c, b * d)


def join_halves_blockwise(
    left: Float[Tensor, "1 a b r"], right: Float[Tensor, "r c d 1"]
) -> Float[Tensor, "rows cols"]:
    """As `join_halves`, without a gradient, and faster on a CPU."""
    _, a, b, _ = left.shape
    _, c, d, _ = right.shape
    if block_rows(left, right) == a:
        return join_halves(left, right)
    matrix = left.new_empty(a * c, b * d)
    for _ in joined_blocks(left, right, matrix):
        pass
    return matrix


def joined_blocks(
    left: Float[Tensor, "1 a b r"], right: Float[Tensor, "r c d 1"], into: Tensor | None = None
) -> Iterator[tuple[int, Float[Tensor, "some cols"]]]:
    """The matrix of two halves, some rows at a time, without a gradient.

    Args:
        left: the left half.
        right: the right half.
        into: the matrix to write the rows to; if left out, each block overwrites the one before.

    Yields:
        The number of the first row of a block, and the block.
    """
    _, a, b, bond = left.shape
    _, c, d, _ = right.shape
    step = block_rows(left, right)
    product = left.new_empty(step * b, c * d)
    rows = left.new_empty(step * c, b * d) if into is None else into
    columns = right.reshape(bond, c * d)
    for start, stop in blocks(a, step):
        part = product[: (stop - start) * b]
        torch.mm(left[0, start:stop].reshape(-1, bond), columns, out=part)
        block = rows[: (stop - start) * c] if into is None else rows[start * c : stop * c]
        block.view(-1, c, b, d).copy_(part.view(-1, b, c, d).transpose(1, 2))
        yield start * c, block


def block_rows(left: Tensor, right: Tensor) -> int:
    """How many rows of the left half make one block; all of them where blocks do not pay."""
    rows = left.shape[1]
    if left.device.type != "cpu" or torch.compiler.is_compiling():
        return rows
    row_bytes = left.shape[2] * right.shape[1] * right.shape[2] * left.element_size()
    return min(rows, max(1, BLOCK_BYTES // row_bytes))


def blocks(size: int, step: int) -> Iterator[tuple[int, int]]:
    """Start and stop of consecutive blocks; one empty block where there is nothing.

    Example:
        >>> list(blocks(5, 2))
        [(0, 2), (2, 4), (4, 5)]
    """
    for start in range(0, max(size, 1), step):
        yield start, min(start + step, size)


def merge_cores(cores: Sequence[Tensor]) -> Float[Tensor, "left digits right"]:
    """Multiply neighbouring cores to one stretch, digits as they come; in the cheapest order; differentiable.

    Args:
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``, neighbours.

    Returns:
        Of shape ``(d_left, i_a j_a .. i_b j_b, d_right)``.
    """
    sizes = tuple(core.shape[1] * core.shape[2] for core in cores)
    bonds = (cores[0].shape[0], *(core.shape[-1] for core in cores))
    return _contract([core.flatten(1, 2) for core in cores], contraction_tree(sizes, bonds)[1])


def _contract(stretches: Sequence[Tensor], tree: Tree) -> Tensor:
    if isinstance(tree, int):
        return stretches[tree]
    first, second = (_contract(stretches, branch) for branch in tree)
    product = first.flatten(0, 1) @ second.flatten(1)
    return product.reshape(first.shape[0], first.shape[1] * second.shape[1], second.shape[2])


def _first_leaf(tree: Tree) -> int:
    return tree if isinstance(tree, int) else _first_leaf(tree[0])


# Under torch.compile the answer is a constant of the graph, instead of the search being traced.
@torch.compiler.assume_constant_result  # pyright: ignore[reportUnknownMemberType]
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
    return _search_tree(sizes, bonds)


@lru_cache(maxsize=4096)
def _search_tree(sizes: tuple[int, ...], bonds: tuple[int, ...]) -> tuple[int, Tree]:
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
