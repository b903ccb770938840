"""Tokens that meet stretches of cores one after the other.

Nothing is permuted on the way. Coming from the right, the state before cores a to b is a batch of matrices
``(j_a .. j_b d_b, i_{b+1} .. i_n)``, one for every token and every digit of ``j_1 .. j_{a-1}``; the stretch is the
matrix ``(d_{a-1} i_a .. i_b, j_a .. j_b d_b)``, and their product, read as it lies in memory, is the batch that the
next stretch takes. From the left, states are ``(d_{a-1} j_a .. j_b, j_{b+1} .. j_n)`` for every digit of
``i_1 .. i_{a-1}``, and the stretch is ``(i_a .. i_b d_b, d_{a-1} j_a .. j_b)``. Tokens go through all stretches in
chunks, so that the states stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.backward import GradientSum, gradients_with_graph, without_autocast
from mpo_core.contraction import blocks
from mpo_core.cost import Plan
from mpo_core.operations import Recipe, Step


def stretch_matrix(cores: Sequence[Tensor], recipe: Recipe) -> Float[Tensor, "rows inner"]:
    """The matrix of one stretch of cores; a view where it is a single core as it is; differentiable."""
    parts = list(cores)
    for first, second, rows, inner, cols in recipe.products:
        parts.append(parts[first].reshape(rows, inner).mm(parts[second].reshape(inner, cols)))
    tensor = parts[-1]
    if recipe.digits:
        tensor = tensor.view(recipe.digits)
    if recipe.order:
        tensor = tensor.permute(recipe.order)
    matrix = tensor.contiguous().view(recipe.size)
    return matrix.t() if recipe.transposed else matrix


def meet_differentiably(x: Tensor, matrices: Sequence[Tensor], steps: Sequence[Step]) -> Tensor:
    """The product with all stretches, by operations that autograd, `torch.func` and `torch.compile` know."""
    tokens, state = x.shape[0], x
    for matrix, step in zip(matrices, steps, strict=True):
        if step.cols == 1:
            state = state.reshape(-1, step.inner) @ matrix
            continue
        product = matrix @ _side_by_side(state.reshape(-1, step.inner, step.cols))
        state = product.reshape(step.rows, tokens * step.batch, step.cols).transpose(0, 1)
    return state.reshape(tokens, _width(steps))


def meet(
    x: Float[Tensor, "tokens cols"], matrices: Sequence[Tensor], plan: Plan, bias: Tensor | None
) -> tuple[Float[Tensor, "tokens rows"], list[Tensor]]:
    """The product with all stretches, without a gradient.

    Args:
        x: with padded columns, contiguous.
        matrices: of the plan's stretches.
        plan: steps and chunks.
        bias: with padded rows.

    Returns:
        The product with padded rows, and of each chunk the states between the stretches, if the plan keeps them.
    """
    tokens, steps, final = x.shape[0], plan.steps, plan.steps[-1]
    width = _width(steps)
    kept: list[Tensor] = []
    if tokens <= plan.chunk:
        states = _states(x, matrices, steps)
        output = _multiply(matrices[-1], states[-1], final, tokens).view(tokens, width)
        if bias is not None:
            output.add_(bias)
        return output, states[1:] if plan.keep else kept
    output = x.new_empty(tokens, width)
    for start, stop in blocks(tokens, plan.chunk):
        states = _states(x[start:stop], matrices, steps)
        part = output[start:stop]
        _multiply(matrices[-1], states[-1], final, stop - start, part)
        if bias is not None:
            part.add_(bias)
        if plan.keep:
            kept += states[1:]
    return output, kept


def _width(steps: Sequence[Step]) -> int:
    """Numbers per token behind the last step: the padded rows."""
    return steps[-1].batch * steps[-1].rows * steps[-1].cols


def _states(x: Tensor, matrices: Sequence[Tensor], steps: Sequence[Step]) -> list[Tensor]:
    """The state before each of the steps."""
    states, tokens = [x], x.shape[0]
    for k in range(len(steps) - 1):
        states.append(_multiply(matrices[k], states[k], steps[k], tokens))
    return states


def _multiply(matrix: Tensor, state: Tensor, step: Step, tokens: int, out: Tensor | None = None) -> Tensor:
    """One step; the result is contiguous, and written to `out` if that is given."""
    _, _, rows, inner, batch, cols, swap, _ = step
    batch *= tokens
    if cols == 1:
        return torch.mm(state.view(batch, inner), matrix, out=None if out is None else out.view(batch, rows))
    if batch == 1:
        return torch.mm(matrix, state.view(inner, cols), out=None if out is None else out.view(rows, cols))
    state = state.view(batch, inner, cols)
    target = None if out is None else out.view(batch, rows, cols)
    if not swap:
        return torch.bmm(matrix.expand(batch, rows, inner), state, out=target)
    product = torch.mm(matrix, _side_by_side(state)).view(rows, batch, cols).transpose(0, 1)
    return product.contiguous() if target is None else target.copy_(product)


def _side_by_side(state: Float[Tensor, "batch inner cols"]) -> Float[Tensor, "inner all"]:
    return state.transpose(0, 1).reshape(state.shape[1], -1)


class StretchedLinear(torch.autograd.Function):
    """The product with all stretches; keeps x, the stretches and, if the plan says so, the states.

    Arguments: the plan, x (tokens, padded cols), bias (padded rows) or None, and the matrices of the stretches.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, x: Tensor, bias: Tensor | None, *matrices: Tensor) -> Tensor:
        """The product."""
        output, kept = meet(x, matrices, plan, bias)
        ctx.plan = plan
        ctx.save_for_backward(x, *matrices, *kept)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of x, bias and matrices."""
        plan: Plan = ctx.plan
        steps, grad = plan.steps, grads[0]
        x, *saved = ctx.saved_tensors
        matrices, kept = saved[: len(steps)], saved[len(steps) :]
        _, needs_x, needs_bias, *needs_matrices = ctx.needs_input_grad
        grad_bias = grad.sum(0) if needs_bias else None
        if torch.is_grad_enabled():

            def product(x: Tensor, *matrices: Tensor) -> Tensor:
                return meet_differentiably(x, matrices, steps)

            found = gradients_with_graph(product, (x, *matrices), (needs_x, *needs_matrices), grad)
            return None, found[0], grad_bias, *found[1:]
        with without_autocast(x):
            grad_x, grad_matrices = _backward(plan, grad, x, matrices, kept, needs_x, needs_matrices)
        return None, grad_x, grad_bias, *grad_matrices


def _backward(
    plan: Plan,
    grad: Tensor,
    x: Tensor,
    matrices: Sequence[Tensor],
    kept: Sequence[Tensor],
    needs_x: bool,
    needs_matrices: Sequence[bool],
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients of x and the matrices, chunk by chunk, and no further down than to the first that is wanted."""
    steps, between = plan.steps, len(plan.steps) - 1
    sums = [GradientSum(matrix.dtype) if need else None for matrix, need in zip(matrices, needs_matrices, strict=True)]
    lowest = 0 if needs_x else needs_matrices.index(True) if True in needs_matrices else len(steps)
    grad_x = torch.empty_like(x) if needs_x else None
    for index, (start, stop) in enumerate(blocks(len(x), plan.chunk)):
        part, states, through = x[start:stop], [x], grad[start:stop]
        if plan.keep:
            states = [part, *kept[index * between : (index + 1) * between]]
        elif any(needs_matrices):
            states = _states(part, matrices, steps)
        for k in range(between, lowest - 1, -1):
            state = states[k] if sums[k] is not None else None
            through = _step_back(matrices[k], state, through, steps[k], sums[k], k > lowest or needs_x)
        if grad_x is not None:
            grad_x[start:stop] = through.reshape(part.shape)
    return grad_x, [_matrix_gradient(total, step) for total, step in zip(sums, steps, strict=True)]


def _matrix_gradient(total: GradientSum | None, step: Step) -> Tensor | None:
    """The gradient of a step's matrix as it is multiplied, from the sum over chunks, which is (rows, inner)."""
    gradient = None if total is None else total.total()
    return gradient if gradient is None or step.cols > 1 else gradient.T


def _step_back(
    matrix: Tensor, state: Tensor | None, grad: Tensor, step: Step, total: GradientSum | None, wanted: bool
) -> Tensor:
    """Add a step's share of the gradient of its matrix, and return the gradient of its state, if wanted."""
    cols = step.cols
    if cols == 1:
        grad = grad.reshape(-1, step.rows)
        if total is not None and state is not None:
            total.add(grad.T, state.view(-1, step.inner))
        return grad @ matrix.T if wanted else grad
    grad = grad.reshape(-1, step.rows, cols)
    side = _side_by_side(grad) if total is not None or step.swap_back else grad
    if total is not None and state is not None:
        total.add(side, _side_by_side(state.view(-1, step.inner, cols)).T)
    if not wanted:
        return grad
    if step.swap_back:
        return (matrix.T @ side).view(step.inner, -1, cols).transpose(0, 1)
    return torch.bmm(matrix.T.expand(len(grad), -1, -1), grad)
