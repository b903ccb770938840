"""Compute ``y = x W^T + b`` from the cores, as a plan says (`mpo_core.forward.cost`).

Without gradients and in ordinary training the work is done by `mpo_core.forward.rebuilt` and
`mpo_core.forward.stretches`. Under `torch.compile` and `torch.func`, which differentiate and arrange operations
themselves, the same plan is carried out by plain differentiable operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mpo_core.errors import ShapeError, UsageError
from mpo_core.forward.cost import Plan, Strategy, plan_linear
from mpo_core.forward.machine import machine_for
from mpo_core.forward.rebuilt import RebuiltLinear, apply_halves
from mpo_core.forward.stretches import StretchedLinear, meet, meet_differentiably, stretch_matrix
from mpo_core.operators.contraction import best_split, contract_matrix, merge_stretch
from mpo_core.operators.operands import check_cores
from mpo_core.operators.tracing import plain_operations_only
from mpo_core.shapes import MPOShape


def apply_mpo(
    x: Float[Tensor, "... in"],
    cores: Sequence[Tensor],
    shape: MPOShape,
    bias: Float[Tensor, " out"] | None = None,
    plan: Plan | None = None,
    *,
    strategy: Strategy = "auto",
    where: str = "apply_mpo",
) -> Float[Tensor, "... out"]:
    """Apply a matrix in MPO form to the last axis, as `torch.nn.functional.linear` does; differentiable.

    Args:
        x: of shape (..., cols), in the dtype of the cores; under autocast all are cast as `nn.Linear` casts.
        cores: of shapes ``(d_{k-1}, i_k, j_k, d_k)``.
        shape: the factors.
        bias: added to the result.
        plan: how to compute it, from `mpo_core.forward.cost.plan_linear` for these sizes; the best one if left out.
        strategy: which plans to choose from where none is given.
        where: who is named in errors.

    Returns:
        Of shape (..., rows).

    Raises:
        ShapeError: the last axis of `x` is not as long as the matrix has columns, or cores, shape and bias do not fit.
        UsageError: `x` has another dtype than the cores, or the strategy is unknown.
    """
    check_features(x, shape, where)
    if bias is not None and bias.shape != (shape.rows,):
        raise ShapeError(f"{where}: bias has the shape {tuple(bias.shape)}; expected ({shape.rows},).")
    if where == "apply_mpo":  # a layer has checked its cores when it was made
        check_cores(cores, shape)
    x, bias, cores = autocast(x, bias, cores)
    check_dtype(x, cores[0], where)
    training = torch.is_grad_enabled() and (
        x.requires_grad or any_requires_grad(cores) or (bias is not None and bias.requires_grad)
    )
    plainly = plain_operations_only()
    if plan is None:
        bonds = tuple([core.shape[-1] for core in cores[:-1]])
        input_grad = x.requires_grad or not training
        tokens = x.numel() // shape.cols
        if plainly:
            plan = _plan_for_graph(
                _rounded(tokens), shape, bonds, training, strategy, input_grad, x.device.type, x.dtype
            )
        else:
            machine = machine_for(x.device.type, x.dtype)
            plan = plan_linear(
                shape, bonds, tokens, training, strategy=strategy, input_grad=input_grad, machine=machine
            )
    if plan.kind == "rebuild":
        if plainly or shape.n == 1:
            return functional.linear(x, contract_matrix(cores, shape), bias)
        split = best_split(shape, tuple([core.shape[-1] for core in cores[:-1]]))
        left, right = merge_stretch(cores[:split]), merge_stretch(cores[split:])
        sizes = shape.rows, shape.cols
        if training:
            return RebuiltLinear.apply(sizes, plan.keep, x, bias, left, right)
        return apply_halves(x, bias, left, right, sizes)
    flat = _padded(x if x.dim() == 2 else x.reshape(-1, shape.cols), shape.padded_cols).contiguous()
    bias = None if bias is None else _padded(bias, shape.padded_rows)
    matrices = [
        stretch_matrix(cores[step.start : step.stop], recipe)
        for step, recipe in zip(plan.steps, plan.recipes, strict=True)
    ]
    if plainly:
        output = meet_differentiably(flat, matrices, plan.steps)
        output = output if bias is None else output + bias
    elif training:
        output = StretchedLinear.apply(plan, flat, bias, *matrices)
    else:
        output = meet(flat, matrices, plan, bias)[0]
    if shape.padded_rows > shape.rows:
        output = output[:, : shape.rows].contiguous()
    return output if x.dim() == 2 else output.view(*x.shape[:-1], shape.rows)


def _rounded(tokens: int) -> int:
    """The number of tokens that a plan in a graph is made for: few numbers, as each has a graph of its own."""
    for limit in (1, 8, 32, 128, 512):
        if tokens <= limit:
            return limit
    return 4096


@torch.compiler.assume_constant_result  # pyright: ignore[reportUnknownMemberType]
def _plan_for_graph(
    tokens: int,
    shape: MPOShape,
    bonds: tuple[int, ...],
    training: bool,
    strategy: Strategy,
    input_grad: bool,
    device: str,
    dtype: torch.dtype,
) -> Plan:
    """Choose while tracing, from sizes that are known there."""
    machine = machine_for(device, dtype)
    return plan_linear(shape, bonds, tokens, training, strategy=strategy, input_grad=input_grad, machine=machine)


def any_requires_grad(tensors: Sequence[Tensor]) -> bool:
    """Whether one of the tensors does."""
    # A loop: this runs at every call of a layer, and a generator takes six times as long.
    for tensor in tensors:  # noqa: SIM110
        if tensor.requires_grad:
            return True
    return False


def check_features(x: Tensor, shape: MPOShape, where: str) -> None:
    """Hold the last axis of an input against the columns of the matrix.

    Raises:
        ShapeError: they differ.
    """
    if x.dim() == 0 or x.shape[-1] != shape.cols:
        raise ShapeError(
            f"{where}: the input has the shape {tuple(x.shape)}; expected a last axis of in_features = {shape.cols}."
        )


def check_dtype(x: Tensor, core: Tensor, where: str) -> None:
    """Hold the dtype of an input against that of the cores.

    Raises:
        UsageError: they differ.
    """
    if x.dtype != core.dtype:
        raise UsageError(
            f"{where}: the input is {x.dtype}, the cores are {core.dtype}; cast one of them, or use torch.autocast."
        )


def autocast(x: Tensor, bias: Tensor | None, cores: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Sequence[Tensor]]:
    """Cast what `nn.Linear` casts under autocast: everything but float64."""
    dtype = autocast_dtype(x)
    if dtype is None:
        return x, bias, cores

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor

    return cast(x), None if bias is None else cast(bias), [cast(core) for core in cores]


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast computes in on the device of a tensor; None where it is off."""
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def _padded(tensor: Tensor, size: int) -> Tensor:
    """With zeros added at the end of the last axis."""
    missing = size - tensor.shape[-1]
    return functional.pad(tensor, (0, missing)) if missing else tensor
