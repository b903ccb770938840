"""Zero out the rows and columns of an operator that its true size cuts off.

Where the factors of a side multiply to more than its size, the surplus digits stand for rows or columns that
`to_matrix` leaves out. Cutting bonds leaves numbers there. They must not enter a product, a norm or a trace, so the
chain is first multiplied with the projector on the true indices. An index is below the size if and only if its digits,
read from the left, first follow those of the largest index and then fall below them or end there; so the projector is
an operator itself, with bonds of at most two: "equal so far" and "already below".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.operators.gauge import Core
from mpo_core.shapes import MPOShape


def mask_rows(cores: Sequence[Core], factors: Sequence[int], size: int) -> list[Core]:
    """The operator with zeros in all rows from `size` on; the cores themselves if there is no padding.

    Args:
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``.
        factors: the ``i_k``.
        size: true number of rows.
    """
    if math.prod(factors) == size:
        return list(cores)
    masks = digit_masks(factors, size)
    products = (torch.einsum("sit,aijb->saijtb", mask.to(core), core) for mask, core in zip(masks, cores, strict=True))
    return [product.flatten(4).flatten(0, 1) for product in products]


def mask_padding(cores: Sequence[Core], shape: MPOShape) -> list[Core]:
    """The operator with zeros in the padding of rows and columns; differentiable."""
    turned = [core.transpose(1, 2) for core in mask_rows(cores, shape.row_factors, shape.rows)]
    return [core.transpose(1, 2) for core in mask_rows(turned, shape.col_factors, shape.cols)]


def digit_masks(factors: Sequence[int], size: int) -> list[Float[Tensor, "before digits after"]]:
    """The diagonal of the projector on indices below `size`, as a chain of 0/1 tensors with bonds of at most 2.

    Args:
        factors: of the digits, most significant first; their product is at least `size`.
        size: how many indices to keep.

    Returns:
        Tensors ``M_k`` with ``M_1[digit_1] .. M_n[digit_n] = 1`` for the kept indices and 0 for all others.
    """
    last: list[int] = []
    rest = size - 1
    for factor in reversed(factors):
        rest, digit = divmod(rest, factor)
        last.insert(0, digit)
    n = len(factors)
    # "Equal so far" is needed at a bond while later digits can still exceed those of the last index; "already below"
    # can be reached once one digit before was not 0, and takes over where the former is not needed any more.
    tight = [any(d < f - 1 for d, f in zip(last[k:], factors[k:], strict=True)) for k in range(n + 1)]
    states = [[True] * tight[k] + [False] * (not tight[k] or any(last[:k])) for k in range(n + 1)]
    masks: list[Tensor] = []
    for k, (digit, factor) in enumerate(zip(last, factors, strict=True)):
        mask = torch.zeros(len(states[k]), factor, len(states[k + 1]))
        below = states[k + 1].index(False) if False in states[k + 1] else None
        for s, equal in enumerate(states[k]):
            if below is not None:
                mask[s, : digit if equal else factor, below] = 1
            if equal:
                mask[s, digit, 0] = 1
        masks.append(mask)
    return masks
