"""Distances and midpoints on the hyperboloid in one step each, with slopes in closed form.

What attention does most: as single functions they take fewer operations than differentiating the formulas does. Points
are given by their space-like coordinates x; their times are ``t = sqrt(1/c + |x|^2)``. The slopes can be differentiated
once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from hypermr.radial import asinh


def squared_distances(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """Of all pairs, (..., n, m), by one matrix product.

    Args:
        x: points (..., n, d).
        y: points (..., m, d).
        c: curvature, one number.
    """
    return _SquaredDistances.apply(x, y, torch.as_tensor(c, dtype=x.dtype, device=x.device))


def midpoint(x: Tensor, weights: Tensor, c: Tensor) -> Tensor:
    """Weighted midpoints, (..., n, d): the weighted mean in the space around the hyperboloid, scaled onto it.

    Args:
        x: points (..., m, d).
        weights: not negative, (..., n, m), each row with a positive sum.
        c: curvature, one number.
    """
    return _Midpoint.apply(x, weights, torch.as_tensor(c, dtype=x.dtype, device=x.device))


class _SquaredDistances(Function):
    """``4/c asinh(sqrt(c q) / 2)^2`` of ``q = |x - y|^2 - (t - t')^2``, the times' difference without cancellation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        squares_x, squares_y = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
        times_x, times_y = (squares_x + 1 / c).sqrt_(), (squares_y + 1 / c).sqrt_()
        apart = (squares_x - squares_y.mT).div_(times_x + times_y.mT).square_()
        chord = (x @ y.mT).mul_(-2).add_(squares_x).add_(squares_y.mT).sub_(apart).clamp_min_(0)
        root = chord.mul_(c / 4).sqrt_()
        angle = asinh(root)
        ctx.save_for_backward(x, y, times_x, times_y, root, angle, c)
        return angle.square().mul_(4 / c)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = grad_outputs
        x, y, times_x, times_y, root, angle, c = ctx.saved_tensors
        # By the chord; 1 at equal points: both factors there are as small as the type has, and equal.
        tiny = torch.finfo(root.dtype).tiny
        squared_root = root.square()
        slope = angle.clamp_min(tiny).div_(root.clamp_min(tiny)).mul_((squared_root + 1).rsqrt_()).mul_(gradient)
        twice = 2 * slope
        from_y, from_x = twice @ torch.cat([y, times_y], -1), twice.mT @ torch.cat([x, times_x], -1)
        stretch_x, stretch_y = from_y[..., -1:] / times_x, from_x[..., -1:] / times_y
        by_x, by_y = (stretch_x * x).sub_(from_y[..., :-1]), (stretch_y * y).sub_(from_x[..., :-1])
        by_c = None
        if ctx.needs_input_grad[2]:
            of_distance = 4 * ((slope * squared_root).sum() - (gradient * angle.square()).sum())
            of_times = twice.sum() - (stretch_x.sum() + stretch_y.sum()) / 2
            by_c = ((of_distance + of_times) / c.square()).reshape(c.shape)
        return by_x.sum_to_size(x.shape), by_y.sum_to_size(y.shape), by_c


class _Midpoint(Function):
    """With (s, t) the weighted mean of ``(x, sqrt(1/c + |x|^2))``: ``s / sqrt(c (t^2 - |s|^2))``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, c: Tensor) -> Tensor:
        times = (x.square().sum(-1, keepdim=True) + 1 / c).sqrt_()
        points, total = torch.cat([x, times], -1), weights.sum(-1, keepdim=True)
        mean = (weights @ points).div_(total)
        space, time = mean[..., :-1], mean[..., -1:]
        squared = time.square().sub_(space.square().sum(-1, keepdim=True)).mul_(c)
        # In exact arithmetic at least 1: the points lie on the upper sheet.
        scale = squared.clamp_min(1).rsqrt_()
        ctx.save_for_backward(points, weights, total, mean, squared, scale, c)
        return space * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = grad_outputs
        points, weights, total, mean, squared, scale, c = ctx.saved_tensors
        x, times, space, time = points[..., :-1], points[..., -1:], mean[..., :-1], mean[..., -1:]
        # By the squared length, of which the scale is the power -1/2 wherever it is not held at 1.
        by_squared = (gradient * space).sum(-1, keepdim=True).mul_(scale.pow(3)).mul_(-0.5).mul_(squared >= 1)
        pull = by_squared * (2 * c)
        by_mean = torch.cat([(gradient * scale).sub_(pull * space), pull * time], -1).div_(total)
        by_weights = (by_mean @ points.mT).sub_((by_mean * mean).sum(-1, keepdim=True))
        by_points = weights.mT @ by_mean
        stretch = by_points[..., -1:] / times
        by_x = (stretch * x).add_(by_points[..., :-1])
        by_c = None
        if ctx.needs_input_grad[2]:
            by_c = (by_squared * squared).sum() / c - stretch.sum() / (2 * c.square())
            by_c = by_c.reshape(c.shape)
        return by_x.sum_to_size(x.shape), by_weights.sum_to_size(weights.shape), by_c
