"""Functions of a square, smooth at 0 with their slopes: exponential maps, logarithmic maps and distances in one step.

``sinhc(z^2) = sinh(z) / z``, and so on. Slopes are given in closed form, by series where that one cancels: fewer and
safer steps than differentiating the formulas, and no slope is infinite times 0. They can be differentiated once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

SMALL = 1e-2
"""Slopes at smaller squares are computed by series."""


@dataclass(frozen=True)
class Ratio:
    """A function of a square.

    Attributes:
        value: ``z -> f(z^2)``, for z > 0.
        numerator: ``(z^2, f) -> 2 z^2 f'(z^2)``.
        series: coefficients of ``f`` in the square.
        edge: squares at 1 and beyond are taken as just below 1.
    """

    value: Callable[[Tensor], Tensor]
    numerator: Callable[[Tensor, Tensor], Tensor]
    series: tuple[float, ...]
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

    def slope(self, square: Tensor, value: Tensor) -> Tensor:
        """The derivative by the square, where `value` is the function's."""
        small = square < SMALL
        safe = torch.where(small, 1, square)
        direct = self.numerator(square, value) / (2 * safe)
        last = len(self.series) - 1
        series = torch.full_like(square, last * self.series[last])
        for power in range(last - 1, 0, -1):
            series.mul_(square).add_(power * self.series[power])
        return torch.where(small, series, direct)


class _RatioFunction(Function):
    @staticmethod
    def forward(ctx: Any, square: Tensor, ratio: Ratio) -> Tensor:
        value = ratio.at(square)
        ctx.save_for_backward(square, value)
        ctx.ratio = ratio
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = grad_outputs
        square, value = ctx.saved_tensors
        return gradient * ctx.ratio.slope(square, value), None


sinhc = Ratio(
    lambda z: torch.sinh(z) / z,
    lambda square, value: torch.cosh(square.sqrt()) - value,
    (1, 1 / 6, 1 / 120, 1 / 5040, 1 / 362880),
)
"""``sinh(z) / z`` of ``z^2``."""

asinhc = Ratio(
    lambda z: torch.asinh(z) / z,
    lambda square, value: (1 + square).rsqrt() - value,
    (1, -1 / 6, 3 / 40, -15 / 336, 105 / 3456, -945 / 42240, 10395 / 599040),
)
"""``asinh(z) / z`` of ``z^2``."""

tanhc = Ratio(
    lambda z: torch.tanh(z) / z,
    lambda square, value: 1 - square * value.square() - value,
    (1, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925),
)
"""``tanh(z) / z`` of ``z^2``."""

atanhc = Ratio(
    lambda z: torch.atanh(z) / z,
    lambda square, value: 1 / (1 - square) - value,
    tuple(1 / (2 * k + 1) for k in range(8)),
    edge=True,
)
"""``atanh(z) / z`` of ``z^2``; at 1 and beyond as just below 1."""


def radial_map(u: Tensor, c: Tensor, ratio: Ratio, *, inner: float = 1, outer: float = 1) -> Tensor:
    """Move points along their rays: ``outer f(inner c |u|^2) u``, in one step.

    Args:
        u: points (..., d).
        c: curvature, one number.
        ratio: the function f.
        inner: factor of the square.
        outer: factor of the result.
    """
    return _RadialMap.apply(u, torch.as_tensor(c, dtype=u.dtype, device=u.device), ratio, inner, outer)


class _RadialMap(Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, c: Tensor, ratio: Ratio, inner: float, outer: float) -> Tensor:
        norm = u.square().sum(-1, keepdim=True).mul_(inner)
        square = ratio.inside(norm * c)
        value = ratio.at(square)
        ctx.save_for_backward(u, c, norm, square, value)
        ctx.parameters = ratio, inner, outer
        return u * (value * outer if outer != 1 else value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = grad_outputs
        u, c, norm, square, value = ctx.saved_tensors
        ratio, inner, outer = ctx.parameters
        along = (gradient * u).sum(-1, keepdim=True).mul_(ratio.slope(square, value)).mul_(outer)
        by_u = torch.addcmul(gradient * (value * outer), along * (2 * inner * c), u)
        by_c = (along * norm).sum().reshape(c.shape) if ctx.needs_input_grad[1] else None
        return by_u, by_c, None, None, None


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
        angle = root.asinh()
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


def lorentz_chords(x: Tensor, y: Tensor, times_x: Tensor, times_y: Tensor) -> Tensor:
    """Squared chords of all pairs of the hyperboloid, by one matrix product.

    Args:
        x: space-like coordinates (..., n, d).
        y: space-like coordinates (..., m, d).
        times_x: their times (..., n, 1).
        times_y: their times (..., m, 1).
    """
    return _LorentzChords.apply(x, y, times_x, times_y)


class _LorentzChords(Function):
    """``|x - y|^2 - (t - t')^2``, the difference of times without cancellation, and its slopes as plain differences."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, times_x: Tensor, times_y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, times_x, times_y)
        squares_x, squares_y = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True).mT
        apart = (squares_x - squares_y).div_(times_x + times_y.mT).square_()
        return (x @ y.mT).mul_(-2).add_(squares_x).add_(squares_y).sub_(apart).clamp_min_(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = grad_outputs
        x, y, times_x, times_y = ctx.saved_tensors
        twice = 2 * gradient
        rows, columns = twice.sum(-1, keepdim=True), twice.sum(-2).unsqueeze(-1)
        of_x, of_y = rows * x - twice @ y, columns * y - twice.mT @ x
        of_times_x, of_times_y = twice @ times_y - rows * times_x, twice.mT @ times_x - columns * times_y
        return tuple(
            part.sum_to_size(point.shape)
            for part, point in zip((of_x, of_y, of_times_x, of_times_y), (x, y, times_x, times_y), strict=True)
        )
