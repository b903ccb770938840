"""Figures held against what they are to reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A figure and the value that it is to reach.

    Attributes:
        name: what was measured.
        figure: the value found.
        limit: the value wanted.
        at_least: whether the figure should be above the limit, or below it.
    """

    name: str
    figure: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure is on the right side of the limit."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    def line(self) -> str:
        """For the table."""
        sign = ">=" if self.at_least else "<="
        return f"{'met' if self.met else 'NOT MET':>7}  {self.name:72} {self.figure:10.4g} {sign} {self.limit:g}"

    def record(self) -> dict[str, Any]:
        """For the file."""
        return {"goal": self.name, "figure": self.figure, "limit": self.limit, "met": self.met}
