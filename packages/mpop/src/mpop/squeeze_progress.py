"""How far a squeezing is: step, size, widest bond and metric."""

from __future__ import annotations

from typing import TextIO

from mpo_core.repro.progress import StepProgress
from mpop.train import Squeezing


class SqueezeProgress(StepProgress):
    """Called after every step with steps done, steps in all and the squeezing; use it as a context manager.

    Args:
        stream: where to write, default stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__("squeeze", stream=stream)
        self._stages = -1
        self._standing = ""

    def report(self, step: int, total: int, squeezing: Squeezing) -> None:
        """Say where it stands."""
        if len(squeezing.history) != self._stages:  # else nothing but the step has changed
            self._stages = len(squeezing.history)
            self._standing = describe(squeezing)
        self(step, total, self._standing)


def describe(squeezing: Squeezing) -> str:
    """Size, widest bond, and the metric as it was measured last."""
    bonds = [bond for own in squeezing.bonds.values() for bond in own]
    last = next((point["metric"] for point in reversed(squeezing.history) if point["metric"] is not None), None)
    metric = "" if last is None else f", metric {last:.4f}"
    return f"size {100 * squeezing.size:.1f} %, widest bond {max(bonds, default=1)}{metric}"
