"""Functions of a square, smooth at 0 with their slopes: exponential maps, logarithmic maps and distances in one step.

``sinhc(z^2) = sinh(z) / z``, and so on. Slopes are given in closed form and computed in float64: fewer and safer steps
than differentiating the formulas, and no slope is infinite times 0. They can be differentiated once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

FLOOR = 1e-5
"""Slopes at smaller squares are taken as the one here: that changes ``f(s) u`` by less than 1e-10 of its slope."""


@dataclass(frozen=True)
class Ratio:
    """A function f of a square.

    Attributes:
        value: ``z -> f(z^2)``, for z > 0.
        slope: ``z -> f'(z^2)``, the derivative by the square, for z > 0.
        edge: squares at 1 and beyond are taken as just below 1.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    edge: bool = False

    def __call__(self, square: Tensor) -> Tensor:
        """Of every element."""
        return _RatioFunction.apply(self.inside(square), self)

    def inside(self, square: Tensor) -> Tensor:
        """Squares where the function has an edge: those at it and beyond are taken as just below."""
        return square.clamp_max(1 - torch.finfo(square.dtype).eps) if self.edge else square

    def at(self, square: Tensor) -> Tensor:
        """The function's values, without a gradient."""
        return self.value(square.clamp_min(torch.finfo(square.dtype).tiny).sqrt_())

    def slope_at(self, square: Tensor) -> Tensor:
        """Its slopes, in the type of the squares."""
        return self.slope(square.double().clamp_min(FLOOR).sqrt_()).to(square.dtype)


class _RatioFunction(Function):
    @staticmethod
    def forward(ctx: Any, square: Tensor, ratio: Ratio) -> Tensor:
        ctx.save_for_backward(square)
        ctx.ratio = ratio
        return ratio.at(square)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (square,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.ratio.slope_at(square), None


def sinh(z: Tensor) -> Tensor:
    """Of numbers that are not negative, without a gradient; vectorised, which torch's own is not on a CPU."""
    return z.expm1().sub_((-z).expm1_()).div_(2)


def asinh(z: Tensor) -> Tensor:
    """Of numbers that are not negative, without a gradient; vectorised, which torch's own is not on a CPU."""
    return (z * (z / (1 + torch.hypot(z, z.new_ones(())))) + z).log1p_()


sinhc = Ratio(
    lambda z: sinh(z) / z,
    lambda z: (torch.cosh(z) - sinh(z) / z) / (2 * z * z),
)
"""``sinh(z) / z`` of ``z^2``."""

asinhc = Ratio(
    lambda z: asinh(z) / z,
    lambda z: ((1 + z * z).rsqrt() - asinh(z) / z) / (2 * z * z),
)
"""``asinh(z) / z`` of ``z^2``."""

tanhc = Ratio(
    lambda z: torch.tanh(z) / z,
    lambda z: (1 - torch.tanh(z).square() - torch.tanh(z) / z) / (2 * z * z),
)
"""``tanh(z) / z`` of ``z^2``."""

atanhc = Ratio(
    lambda z: torch.atanh(z) / z,
    lambda z: (1 / (1 - z * z) - torch.atanh(z) / z) / (2 * z * z),
    edge=True,
)
"""``atanh(z) / z`` of ``z^2``; at 1 and beyond as just below 1."""


def radial_map(
    u: Tensor, c: Tensor, ratio: Ratio, *, inner: float = 1, outer: float = 1, reach: float | None = None
) -> Tensor:
    """Move points along their rays: ``outer f(inner c |u|^2) u``, in one step.

    Args:
        u: points (..., d).
        c: curvature, one number.
        ratio: the function f.
        inner: factor of the square.
        outer: factor of the result.
        reach: points with ``sqrt(c) |u|`` beyond are first pulled back to it.
    """
    return _RadialMap.apply(u, torch.as_tensor(c, dtype=u.dtype, device=u.device), ratio, inner, outer, reach)


class _RadialMap(Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, c: Tensor, ratio: Ratio, inner: float, outer: float, reach: float | None
    ) -> Tensor:
        norm = u.square().sum(-1, keepdim=True).mul_(inner)
        square = ratio.inside(norm * c)
        limit = None if reach is None else inner * reach**2
        if limit is not None and bool((square > limit).any()):
            value = ratio.at(square.clamp_max(limit)).mul_((limit / square.clamp_min(limit)).sqrt_())
        else:
            value, limit = ratio.at(square), None
        if outer != 1:
            value.mul_(outer)
        ctx.save_for_backward(u, c, norm, square, value)
        ctx.parameters = ratio, inner, outer, limit
        return u * value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = grad_outputs
        u, c, norm, square, value = ctx.saved_tensors
        ratio, inner, outer, limit = ctx.parameters
        slope = ratio.slope_at(square if limit is None else square.clamp_max(limit))
        if outer != 1:
            slope.mul_(outer)
        if limit is not None:  # beyond the reach the length of the result does not change
            slope = torch.where(square > limit, -value / (2 * square), slope)
        along = (gradient * u).sum(-1, keepdim=True).mul_(slope)
        by_u = torch.addcmul(gradient * value, along * (2 * inner * c), u)
        by_c = (along * norm).sum().reshape(c.shape) if ctx.needs_input_grad[1] else None
        return by_u, by_c, None, None, None, None


def safe_sqrt(square: Tensor) -> Tensor:
    """The root; 0 has the gradient 0."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), torch.zeros_like(square))


def squared_distance_of_chord(chord: Tensor, c: Tensor) -> Tensor:
    """``4/c asinh(sqrt(c q) / 2)^2`` of squared chords q."""
    return _FromChord.apply(chord, torch.as_tensor(c, dtype=chord.dtype, device=chord.device))


class _FromChord(Function):
    @staticmethod
    def forward(ctx: Any, chord: Tensor, c: Tensor) -> Tensor:
        root = (chord * (c / 4)).sqrt_()
        angle = asinh(root)
        ctx.save_for_backward(chord, c, root, angle)
        return angle.square() * (4 / c)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = grad_outputs
        chord, c, root, angle = ctx.saved_tensors
        # 1 at equal points: both factors there are as small as the type has, and equal.
        tiny = torch.finfo(root.dtype).tiny
        by_chord = gradient * angle.clamp_min(tiny).div_(root.clamp_min(tiny)).mul_(root.square().add_(1).rsqrt_())
        by_c = None
        if ctx.needs_input_grad[1]:
            by_c = ((by_chord * chord).sum() - (gradient * angle.square()).sum() * (4 / c)) / c
            by_c = by_c.reshape(c.shape)
        return by_chord, by_c
