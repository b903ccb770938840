"""Tokens that meet stretches of cores one after the other.

Nothing is permuted on the way. Coming from the right, the state before cores a to b is a batch of matrices
``(j_a .. j_b d_b, i_{b+1} .. i_n)``, one for every token and every digit of ``j_1 .. j_{a-1}``; the stretch is the
matrix ``(d_{a-1} i_a .. i_b, j_a .. j_b d_b)``, and their product, read as it lies in memory, is the batch that the
next stretch takes. From the left, states are ``(d_{a-1} j_a .. j_b, j_{b+1} .. j_n)`` for every digit of
``i_1 .. i_{a-1}``, and the stretch is ``(i_a .. i_b d_b, d_{a-1} j_a .. j_b)``. With tokens last, the matrices of a
state have the columns of all tokens, and there is one for every digit only: better for products, but ``x`` and the
result are transposed. Tokens go through all stretches in chunks, so that the states stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mpo_core.forward.backward import GradientSum, gradients_with_graph, without_autocast
from mpo_core.forward.operations import Recipe, Step
from mpo_core.forward.plan_search import Plan
from mpo_core.operators.contraction import blocks
from mpo_core.operators.permuting import permuted


def stretch_matrix(cores: Sequence[Tensor], recipe: Recipe) -> Float[Tensor, "rows inner"]:
    """The matrix of one stretch of cores; a view where it is a single core as it is; differentiable."""
    parts = list(cores)
    for first, second, rows, inner, cols in recipe.products:
        parts.append(parts[first].reshape(rows, inner).mm(parts[second].reshape(inner, cols)))
    tensor = parts[-1]
    if recipe.digits:
        tensor = tensor.view(recipe.digits)
    if recipe.order:
        tensor = permuted(tensor, recipe.order)
    matrix = tensor.contiguous().view(recipe.size)
    return matrix.t() if recipe.transposed else matrix


def meet_differentiably(x: Tensor, matrices: Sequence[Tensor], steps: Sequence[Step]) -> Tensor:
    """The product with all stretches, by operations that autograd, `torch.func` and `torch.compile` know."""
    tokens, state = x.shape[0], x
    for matrix, step in zip(matrices, steps, strict=True):
        if step.matrix_right:
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
    if tokens <= plan.chunk and not final.tokens_last:
        states = _states(x, matrices, steps, tokens)
        output = _multiply(matrices[-1], states[-1], final, tokens).view(tokens, width)
        if bias is not None:
            output.add_(bias)
        return output, states[1:] if plan.keep else kept
    output = x.new_empty(tokens, width)
    buffers = None if plan.keep else _buffers(x, plan)
    for start, stop in blocks(tokens, plan.chunk):
        part, count = output[start:stop], stop - start
        states = _states(_entering(x[start:stop], steps), matrices, steps, count, buffers)
        if final.tokens_last:
            result = _multiply(matrices[-1], states[-1], final, count).view(width, count).t()
            if bias is None:
                part.copy_(result)
            else:
                torch.add(result, bias, out=part)
        else:
            _multiply(matrices[-1], states[-1], final, count, part)
            if bias is not None:
                part.add_(bias)
        if plan.keep:
            kept += states[1:]
    return output, kept


def _width(steps: Sequence[Step]) -> int:
    """Numbers per token behind the last step: the padded rows."""
    return steps[-1].batch * steps[-1].rows * steps[-1].cols


def _entering(chunk: Tensor, steps: Sequence[Step]) -> Tensor:
    """Tokens as the first step takes them, or their gradient as the last one does."""
    return chunk.t().contiguous() if steps[0].tokens_last else chunk


def _buffers(like: Tensor, plan: Plan) -> list[Tensor]:
    """Room for the states between the stretches of one chunk: memory that is new for each costs more than products."""
    return [like.new_empty(plan.chunk * step.batch * step.rows * step.cols) for step in plan.steps[:-1]]


def _states(
    x: Tensor,
    matrices: Sequence[Tensor],
    steps: Sequence[Step],
    tokens: int,
    buffers: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """The state before each of the steps; in buffers, if they are given."""
    states = [x]
    for k in range(len(steps) - 1):
        step = steps[k]
        out = None if buffers is None else buffers[k][: tokens * step.batch * step.rows * step.cols]
        states.append(_multiply(matrices[k], states[k], step, tokens, out))
    return states


def _multiply(matrix: Tensor, state: Tensor, step: Step, tokens: int, out: Tensor | None = None) -> Tensor:
    """One step; the result is contiguous, and written to `out` if that is given."""
    _, _, rows, inner, batch, cols, tokens_last, swap, _ = step  # as `Step.sizes`; this has to be fast
    if tokens_last:
        cols *= tokens
    else:
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
    buffers = None if plan.keep else _buffers(x, plan)
    for index, (start, stop) in enumerate(blocks(len(x), plan.chunk)):
        part, count = x[start:stop], stop - start
        states = [part]
        if any(needs_matrices):
            entering = _entering(part, steps)
            own = kept[index * between : (index + 1) * between]
            states = [entering, *own] if plan.keep else _states(entering, matrices, steps, count, buffers)
        through = _entering(grad[start:stop], steps)
        for k in range(between, lowest - 1, -1):
            state = states[k] if sums[k] is not None else None
            through = _step_back(matrices[k], state, through, steps[k], count, sums[k], k > lowest or needs_x)
        if grad_x is not None:
            last = steps[0].tokens_last
            grad_x[start:stop] = through.reshape(-1, count).t() if last else through.reshape(part.shape)
    return grad_x, [_matrix_gradient(total, step) for total, step in zip(sums, steps, strict=True)]


def _matrix_gradient(total: GradientSum | None, step: Step) -> Tensor | None:
    """The gradient of a step's matrix as it is multiplied, from the sum over chunks, which is (rows, inner)."""
    gradient = None if total is None else total.total()
    return gradient.T if gradient is not None and step.matrix_right else gradient


def _step_back(
    matrix: Tensor,
    state: Tensor | None,
    grad: Tensor,
    step: Step,
    tokens: int,
    total: GradientSum | None,
    wanted: bool,
) -> Tensor:
    """Add a step's share of the gradient of its matrix, and return the gradient of its state, if wanted."""
    rows, inner, (batch, cols) = step.rows, step.inner, step.sizes(tokens)
    if step.matrix_right:
        grad = grad.reshape(batch, rows)
        if total is not None and state is not None:
            total.add(grad.T, state.view(batch, inner))
        return grad @ matrix.T if wanted else grad
    grad = grad.reshape(batch, rows, cols)
    side = _side_by_side(grad) if total is not None or step.swap_back else grad
    if total is not None and state is not None:
        total.add(side, _side_by_side(state.view(batch, inner, cols)).T)
    if not wanted:
        return grad
    if step.swap_back:
        return (matrix.T @ side).view(inner, batch, cols).transpose(0, 1)
    return torch.bmm(matrix.T.expand(batch, inner, rows), grad)
