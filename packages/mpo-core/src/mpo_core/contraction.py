"""Multiply cores out, to stretches or to the whole matrix, in the cheapest order.

A stretch of neighbouring cores is kept as a tensor ``(d_left, P, d_right)``, where ``P`` runs over the digits
``i_a j_a .. i_b j_b``. Two stretches then meet in one matrix product of contiguous tensors, and only the
finished matrix is permuted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from jaxtyping import Float
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
    tensor = merge_cores(cores).reshape(digits)
    order = [*range(0, 2 * shape.n, 2), *range(1, 2 * shape.n, 2)]
    matrix = tensor.permute(order).reshape(shape.padded_rows, shape.padded_cols)
    return matrix[: shape.rows, : shape.cols]


def merge_cores(cores: Sequence[Tensor]) -> Float[Tensor, "left digits right"]:
    """Multiply neighbouring cores to one stretch, in the cheapest order; differentiable.

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
