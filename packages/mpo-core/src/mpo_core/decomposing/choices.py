"""The keywords of a decomposition: what they may be, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Literal, NamedTuple, TypedDict

import torch

from mpo_core.errors import UsageError
from mpo_core.operators.gauge import GAUGES, Gauge
from mpo_core.shapes import is_whole

Method = Literal["sweep", "slice", "sequential", "randomized"]
Precision = Literal["accurate", "fast"]
AnyGauge = Gauge | Literal["mixed", "identity"]

METHODS: tuple[Method, ...] = ("sweep", "slice", "sequential", "randomized")
ANY_GAUGES: tuple[AnyGauge, ...] = ("mixed", "identity", *GAUGES)


class DecomposeOptions(TypedDict, total=False):
    """The keywords of `mpo_core.decompose` that say how, and how far, for functions that pass them on."""

    method: Method
    precision: Precision
    refine: int
    tolerance: float
    ratio: float
    max_params: int
    max_bytes: int


class Limit(NamedTuple):
    """How far bonds are cut, other than by naming them.

    Attributes:
        name: ``tolerance``, ``ratio``, ``max_params`` or ``max_bytes``.
        value: a number; whole for the last two.
    """

    name: str
    value: float

    def max_params(self, entries: int, entry_bytes: int) -> int:
        """The largest number of parameters that a limit other than a tolerance allows.

        Args:
            entries: of the matrix, without padding.
            entry_bytes: of its dtype.
        """
        if self.name == "ratio":
            return int(self.value * entries)
        return int(self.value) // (entry_bytes if self.name == "max_bytes" else 1)


@dataclass(frozen=True)
class Choices:
    """How a matrix is decomposed.

    Attributes:
        gauge: of the result.
        method: how bonds are cut.
        precision: accurate or fast.
        refine: number of least-squares sweeps.

    Raises:
        UsageError: one of them is unknown, or they do not go together.
    """

    gauge: AnyGauge = "mixed"
    method: Method = "sweep"
    precision: Precision = "accurate"
    refine: int = 0

    def __post_init__(self) -> None:
        if self.gauge not in ANY_GAUGES:
            raise UsageError(f"decompose: gauge is {self.gauge!r}; expected one of {', '.join(ANY_GAUGES)}.")
        if self.method not in METHODS:
            raise UsageError(f"decompose: method is {self.method!r}; expected one of {', '.join(METHODS)}.")
        if self.precision not in ("accurate", "fast"):
            raise UsageError(f"decompose: precision is {self.precision!r}; expected 'accurate' or 'fast'.")
        if not is_whole(self.refine) or index(self.refine) < 0:
            raise UsageError(f"decompose: refine is {self.refine!r}; expected a whole number of sweeps, at least 0.")
        if self.refine and self.method not in ("sweep", "randomized"):
            raise UsageError(
                f"decompose: refine is {self.refine} with method {self.method!r}; refining goes with 'sweep' and"
                " 'randomized'."
            )

    def dtype(self, storage: torch.dtype) -> torch.dtype:
        """What is computed in, for cores that are stored in a dtype of at least float32."""
        return torch.float64 if self.precision == "accurate" else storage


def one_limit(
    bonds: int | Sequence[int] | None,
    tolerance: float | None,
    ratio: float | None,
    max_params: int | None,
    max_bytes: int | None,
) -> Limit | None:
    """The limit that is given, or None if it is the bonds, or nothing.

    Raises:
        UsageError: more than one is given, or one is out of range.
    """
    limits: dict[str, Any] = {"tolerance": tolerance, "ratio": ratio, "max_params": max_params, "max_bytes": max_bytes}
    given = {name: value for name, value in limits.items() if value is not None}
    names = ["bonds", *given] if bonds is not None else list(given)
    if len(names) > 1:
        raise UsageError(f"decompose: {' and '.join(names)} are given; expected at most one limit.")
    for name, value in given.items():
        if name in ("max_params", "max_bytes"):
            if not is_whole(value) or index(value) < 1:
                raise UsageError(f"decompose: {name} is {value!r}; expected a positive integer.")
            return Limit(name, index(value))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise UsageError(f"decompose: {name} is {value!r}; expected a finite number of at least 0.")
        if name == "ratio" and value == 0:
            raise UsageError("decompose: ratio is 0; expected a positive share of rows * cols.")
        return Limit(name, float(value))
    return None
