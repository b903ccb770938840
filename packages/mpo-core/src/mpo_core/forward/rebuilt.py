"""The product of tokens with the rebuilt matrix, for training: what is kept, and how gradients reach the halves.

The matrix is the product of two halves of the cores (`mpo_core.operators.contraction`). Its gradient ``g^T x`` is
needed only to be multiplied with either half, block by block of its rows; so it never exists as a whole unless tokens
are many.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mpo_core.forward.backward import GradientSum, gradients_with_graph, without_autocast
from mpo_core.forward.operations import MANY_TOKENS
from mpo_core.operators.contraction import block_rows, blocks, join_halves, join_halves_blockwise, joined_blocks

_BACKWARD_BLOCKS = 2
"""Blocks are so many times larger on the way back, where each is also a factor of products (measured)."""


def apply_halves(
    x: Float[Tensor, "... cols"],
    bias: Float[Tensor, " rows"] | None,
    left: Float[Tensor, "1 a b r"],
    right: Float[Tensor, "r c d 1"],
    sizes: tuple[int, int],
) -> Float[Tensor, "... rows"]:
    """``x W^T + b`` without a gradient; unless tokens are many, ``W`` never exists as a whole.

    Args:
        x: the input.
        bias: added to the product.
        left: the left half.
        right: the right half.
        sizes: rows and columns of ``W`` without padding.
    """
    rows, cols = sizes
    tokens = x.numel() // cols
    if tokens >= MANY_TOKENS or block_rows(left, right) == left.shape[1]:
        return functional.linear(x, join_halves_blockwise(left, right)[:rows, :cols], bias)
    flat = x.reshape(-1, cols)
    output = x.new_empty(tokens, rows)
    for first, block in joined_blocks(left, right):
        target = output[:, first : first + len(block)]
        weight = block[: target.shape[1], :cols].T
        if bias is None:
            torch.mm(flat, weight, out=target)
        else:
            torch.addmm(bias[first : first + len(block)], flat, weight, out=target)
    return output.view(*x.shape[:-1], rows)


class RebuiltLinear(torch.autograd.Function):
    """``x W^T + b`` with ``W`` from its halves; keeps x, the halves and, if asked to, ``W``.

    Arguments: ``(rows, cols)`` of ``W``, whether to keep it, x (.., cols), bias or None, left half (1, a, b, r), right
    half (r, c, d, 1).
    """

    @staticmethod
    def forward(
        ctx: Any, sizes: tuple[int, int], keep: bool, x: Tensor, bias: Tensor | None, left: Tensor, right: Tensor
    ) -> Tensor:
        """The product; the matrix is made without its padding."""
        rows, cols = ctx.sizes = sizes
        weight = join_halves_blockwise(left, right)[:rows, :cols]
        ctx.save_for_backward(x, left, right, weight if keep else None)
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of x, bias and halves."""
        x, left, right, weight = ctx.saved_tensors
        rows, cols = ctx.sizes
        _, _, needs_x, needs_bias, needs_left, needs_right = ctx.needs_input_grad
        grad = grads[0]
        flat = grad.reshape(-1, rows)
        grad_bias = flat.sum(0) if needs_bias else None
        if torch.is_grad_enabled():

            def product(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
                return functional.linear(x, join_halves(left, right)[:rows, :cols])

            found = gradients_with_graph(product, (x, left, right), (needs_x, needs_left, needs_right), grad)
            return None, None, found[0], grad_bias, *found[1:]
        with without_autocast(x):
            grad_x = None
            if needs_x:
                if weight is None:
                    weight = join_halves_blockwise(left, right)[:rows, :cols]
                grad_x = (flat @ weight).reshape(x.shape)
                del weight  # the gradients of the halves need the room
            halves = halves_gradient(flat, x.reshape(-1, cols), left, right, needs_left, needs_right)
        return None, None, grad_x, grad_bias, *halves


def halves_gradient(
    grad: Float[Tensor, "tokens rows"],
    x: Float[Tensor, "tokens cols"],
    left: Float[Tensor, "1 a b r"],
    right: Float[Tensor, "r c d 1"],
    needs_left: bool = True,
    needs_right: bool = True,
) -> tuple[Float[Tensor, "1 a b r"] | None, Float[Tensor, "r c d 1"] | None]:
    """Gradients of the two halves of ``W`` from those of ``x W^T``.

    Args:
        grad: gradient of the output.
        x: the input.
        left: the left half.
        right: the right half.
        needs_left: whether its gradient is wanted.
        needs_right: likewise.
    """
    if not (needs_left or needs_right):
        return None, None
    _, a, b, bond = left.shape
    _, c, d, _ = right.shape
    step = min(a, _BACKWARD_BLOCKS * block_rows(left, right))
    left_rows, right_cols = left.reshape(a * b, bond), right.reshape(bond, c * d)
    whole = _padded_product(grad, x, a * c, b * d) if len(x) >= MANY_TOKENS else None
    grad_left = torch.empty_like(left_rows) if needs_left else None
    grad_right = GradientSum(right.dtype)
    for start, stop in blocks(a, step):
        part = slice(start * c, stop * c)
        block = _padded_product(grad[:, part], x, (stop - start) * c, b * d) if whole is None else whole[part]
        block = block.view(stop - start, c, b, d).transpose(1, 2).reshape(-1, c * d)
        own = slice(start * b, stop * b)
        if grad_left is not None:
            torch.mm(block, right_cols.T, out=grad_left[own])
        if needs_right:
            grad_right.add(left_rows[own].T, block)
    total = grad_right.total()
    return (
        None if grad_left is None else grad_left.view(left.shape),
        None if total is None else total.view(right.shape),
    )


def _padded_product(grad: Tensor, x: Tensor, rows: int, cols: int) -> Tensor:
    """``grad^T x``, with zeros up to so many rows and columns."""
    if grad.shape[1] == rows and x.shape[1] == cols:
        return grad.T @ x
    product = grad.new_zeros(rows, cols)
    if grad.shape[1]:
        product[: grad.shape[1], : x.shape[1]] = grad.T @ x
    return product
