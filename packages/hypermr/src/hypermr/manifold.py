"""Spaces of constant curvature in coordinates that stay safe in float32.

Points are tensors of shape (..., d) in every space, so that a network can exchange one for another:

- `Euclidean`: the coordinates themselves; the curvature is not used.
- `Lorentz`: the space-like coordinates of the hyperboloid ``-t^2 + |x|^2 = -1/c``; the time ``t`` follows from them, so
  every finite tensor is a point.
- `Poincare`: the ball ``|x| < 1/sqrt(c)``.

Both hyperbolic ones have the curvature ``-c``, ``c > 0``. A tangent vector at the origin is given by its Riemannian
normal coordinates in all of them: ``|u|`` is the distance from the origin to ``expmap0(u)``. (geoopt's ball doubles it:
its ``expmap0(u)`` is ours of ``2 u``.)

Distances are computed from the *chord* ``q = |x - y|^2 - (t_x - t_y)^2`` of the hyperboloid, as ``d = 2/sqrt(c)
asinh(sqrt(c q)/2)``: no ``arcosh`` near 1, no NaN at equal points, and squared distances have gradients there.

Range (tests/test_hypermr_manifold.py): float32 carries points up to ``sqrt(c) |u| = 6``, float64 twice as far. Within
it nothing is NaN, and ``logmap0(expmap0(u))`` is ``u`` with a relative error of at most 1e-5. `Space.distance` of
points up to 5 from the origin has an error below 5e-3; the roots of `Space.squared_distances`, which are made for speed
and which the networks use, are off by up to 0.06 there, and 0.2 at 6, most where points are close to each other.
`Space.expmap0` warns (`RangeWarning`) of vectors beyond the range, and `Space.check` raises `RangeError` for points.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hypermr import hyperboloid
from hypermr.radial import (
    asinhc,
    atanhc,
    radial_map,
    safe_sqrt,
    sinhc,
    squared_distance_of_chord,
    tanhc,
)
from mpo_core.errors import MPOError, UsageError

Vectors = Float[Tensor, "*batch d"]
Numbers = Float[Tensor, "*batch"]
Points = Float[Tensor, "*batch n d"]
OtherPoints = Float[Tensor, "*batch m d"]
Pairs = Float[Tensor, "*batch n m"]


class RangeError(MPOError, ValueError):
    """A point lies where float32 does not carry the geometry any more."""


class RangeWarning(UserWarning):
    """The same, of a point that is about to be made."""


class Space(ABC):
    """A space of constant curvature.

    In all methods ``c`` is a positive number or a tensor with one element; the curvature is ``-c``.
    """

    name: ClassVar[str]
    reach: ClassVar[float]
    """The largest ``sqrt(c) |u|`` that float32 carries; for float64 it is twice as far."""

    @abstractmethod
    def expmap0(self, u: Vectors, c: Tensor, *, within_reach: bool = False) -> Vectors:
        """The point that a tangent vector at the origin leads to.

        Args:
            u: tangent vectors.
            c: curvature.
            within_reach: vectors beyond the reach of float32 are first pulled back to it; else they are warned of.
        """

    @abstractmethod
    def logmap0(self, x: Vectors, c: Tensor) -> Vectors:
        """The tangent vector at the origin that leads to a point; inverse of `expmap0`."""

    @abstractmethod
    def chord(self, x: Vectors, y: Vectors, c: Tensor) -> Numbers:
        """The squared chord between points; broadcasts."""

    @abstractmethod
    def squared_distances(self, x: Points, y: OtherPoints, c: Tensor) -> Pairs:
        """Of all pairs, by one matrix product: exact up to the rounding of squared norms, so less so far out."""

    @abstractmethod
    def midpoint(self, x: OtherPoints, weights: Pairs, c: Tensor) -> Points:
        """Weighted midpoints of points: in the hyperboloid the centroid of Law et al. 2019.

        Args:
            x: the points.
            weights: not negative, each row with a positive sum.
            c: curvature.
        """

    def squared_distance(self, x: Vectors, y: Vectors, c: Tensor) -> Numbers:
        """Of points; broadcasts. Smooth, also at equal points."""
        return self.from_chord(self.chord(x, y, c), c)

    def distance(self, x: Vectors, y: Vectors, c: Tensor) -> Numbers:
        """Of points; broadcasts. At equal points it is 0, with the gradient 0."""
        return safe_sqrt(self.squared_distance(x, y, c))

    def from_chord(self, chord: Tensor, c: Tensor) -> Tensor:
        """Squared distances of squared chords."""
        return squared_distance_of_chord(chord, c)

    def move(self, x: Vectors, c: Tensor, to: Tensor) -> Vectors:
        """The point in the same direction and at the same distance from the origin, at another curvature."""
        return self.expmap0(self.logmap0(x, c), to)

    def check(self, x: Vectors, c: Tensor) -> None:
        """Hold points against the range.

        Raises:
            RangeError: one is not finite, or farther from the origin than the dtype carries.
        """
        x, c = x.detach(), torch.as_tensor(c).detach()
        if not x.isfinite().all():
            raise RangeError(f"a point of the {self.name} space is not finite.")
        beyond = self._beyond(self.logmap0(x, c), c)
        if beyond:
            raise RangeError(beyond)

    def _beyond(self, u: Tensor, c: Tensor) -> str | None:
        """What is wrong where a tangent vector at the origin leads beyond the range."""
        reach = self.reach * (2 if u.dtype == torch.float64 else 1)
        farthest = float((u.norm(dim=-1) * c.sqrt()).max()) if u.numel() else 0.0
        if farthest <= reach * (1 + 1e-5):  # the norm is rounded
            return None
        return (
            f"a point of the {self.name} space is {farthest:.3g} units of curvature from the origin, but {u.dtype} "
            f"carries {reach:g}; scale tangent vectors down, or use float64."
        )

    def _warn_beyond(self, u: Tensor, c: Tensor) -> None:
        beyond = self._beyond(u.detach(), torch.as_tensor(c).detach())
        if beyond:
            warnings.warn(RangeWarning(beyond), stacklevel=3)


class Euclidean(Space):
    """Flat space; ``c`` is not used."""

    name = "euclidean"
    reach = math.inf

    def expmap0(self, u: Tensor, c: Tensor, *, within_reach: bool = False) -> Tensor:
        """The vector itself."""
        return u

    def logmap0(self, x: Tensor, c: Tensor) -> Tensor:
        """The point itself."""
        return x

    def chord(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """The squared distance."""
        return (x - y).square().sum(-1)

    def squared_distances(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """Of all pairs."""
        return squared_gaps(x, y)

    def from_chord(self, chord: Tensor, c: Tensor) -> Tensor:
        """The chord itself."""
        return chord

    def midpoint(self, x: Tensor, weights: Tensor, c: Tensor) -> Tensor:
        """The weighted mean."""
        return weights @ x / weights.sum(-1, keepdim=True)


class Lorentz(Space):
    """The hyperboloid in space-like coordinates."""

    name = "lorentz"
    reach = 6.0

    def expmap0(self, u: Tensor, c: Tensor, *, within_reach: bool = False) -> Tensor:
        """``sinh(r) / r u`` with ``r = sqrt(c) |u|``."""
        if not within_reach:
            self._warn_beyond(u, c)
        return radial_map(u, c, sinhc, reach=self.reach if within_reach else None)

    def logmap0(self, x: Tensor, c: Tensor) -> Tensor:
        """``asinh(s) / s x`` with ``s = sqrt(c) |x|``."""
        return radial_map(x, c, asinhc)

    def time(self, x: Tensor, c: Tensor) -> Tensor:
        """The time coordinate, of shape (..., 1)."""
        return (1 / c + x.square().sum(-1, keepdim=True)).sqrt()

    def chord(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """``|x - y|^2 - (t_x - t_y)^2``, the difference of times without cancellation."""
        gap = x - y
        times = (self.time(x, c) + self.time(y, c)).squeeze(-1)
        return (gap.square().sum(-1) - ((gap * (x + y)).sum(-1) / times).square()).clamp_min(0)

    def squared_distances(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """Of all pairs."""
        return hyperboloid.squared_distances(x, y, c)

    def midpoint(self, x: Tensor, weights: Tensor, c: Tensor) -> Tensor:
        """The centroid in the space around the hyperboloid, scaled onto it."""
        return hyperboloid.midpoint(x, weights, c)


class Poincare(Space):
    """The ball; sums are computed on the hyperboloid, of which it is another picture."""

    name = "poincare"
    reach = 6.0
    hyperboloid: ClassVar[Lorentz] = Lorentz()

    def expmap0(self, u: Tensor, c: Tensor, *, within_reach: bool = False) -> Tensor:
        """``tanh(r / 2) / r u`` with ``r = sqrt(c) |u|``."""
        if not within_reach:
            self._warn_beyond(u, c)
        return radial_map(u, c, tanhc, inner=0.25, outer=0.5, reach=self.reach if within_reach else None)

    def logmap0(self, x: Tensor, c: Tensor) -> Tensor:
        """``2 atanh(s) / s x`` with ``s = sqrt(c) |x|``."""
        return radial_map(x, c, atanhc, outer=2)

    def to_hyperboloid(self, x: Tensor, c: Tensor) -> Tensor:
        """The same point in the coordinates of `Lorentz`: ``2 x / (1 - c |x|^2)``."""
        return 2 * x / self._inside(x, c)

    def of_hyperboloid(self, x: Tensor, c: Tensor) -> Tensor:
        """The point that has these coordinates in `Lorentz`: ``x / (1 + sqrt(c) t)``."""
        return x / (1 + (1 + c * x.square().sum(-1, keepdim=True)).sqrt())

    def chord(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """``4 |x - y|^2 / ((1 - c |x|^2) (1 - c |y|^2))``."""
        inside = (self._inside(x, c) * self._inside(y, c)).squeeze(-1)
        return 4 * (x - y).square().sum(-1) / inside

    def squared_distances(self, x: Tensor, y: Tensor, c: Tensor) -> Tensor:
        """Of all pairs."""
        return self.from_chord(4 * squared_gaps(x, y) / (self._inside(x, c) * self._inside(y, c).mT), c)

    def midpoint(self, x: Tensor, weights: Tensor, c: Tensor) -> Tensor:
        """The gyromidpoint, through the hyperboloid."""
        return self.of_hyperboloid(self.hyperboloid.midpoint(self.to_hyperboloid(x, c), weights, c), c)

    def _inside(self, x: Tensor, c: Tensor) -> Tensor:
        """``1 - c |x|^2``, kept from 0 where rounding has put a point on the edge."""
        return (1 - c * x.square().sum(-1, keepdim=True)).clamp_min(torch.finfo(x.dtype).eps)


SPACES: dict[str, Space] = {space.name: space for space in (Euclidean(), Lorentz(), Poincare())}


def space_of(geometry: str) -> Space:
    """The space of a name.

    Raises:
        UsageError: there is none.
    """
    if geometry not in SPACES:
        raise UsageError(f"unknown geometry {geometry!r}; expected one of {', '.join(SPACES)}.")
    return SPACES[geometry]


def squared_gaps(x: Points, y: OtherPoints) -> Pairs:
    """Squared Euclidean distances of all pairs, by one matrix product."""
    squares = x.square().sum(-1, keepdim=True) + y.square().sum(-1, keepdim=True).mT
    return (squares - 2 * x @ y.mT).clamp_min(0)
