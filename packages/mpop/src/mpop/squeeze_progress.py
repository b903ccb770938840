"""How far a squeezing is: a bar on a terminal, plain lines elsewhere, on stderr so that stdout stays clean."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mpop.train import Squeezing

_SECONDS = 10.0
"""Between two plain lines."""


class SqueezeProgress:
    """Called after every step with steps done, steps in all and the squeezing; use it as a context manager.

    Args:
        stream: where to write, default stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = 0.0
        self._stages = -1
        self._text = ""

    def __enter__(self) -> SqueezeProgress:
        """Show the bar, where there is one."""
        if self._stream.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(file=self._stream), transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, step: int, total: int, squeezing: Squeezing) -> None:
        """Say where it stands."""
        news = len(squeezing.history) != self._stages
        if news:  # else nothing but the step has changed
            self._stages = len(squeezing.history)
            self._text = describe(squeezing)
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(self._text, total=total)
            self._bar.update(self._task, completed=step, description=self._text)
        elif news or step == total or time.monotonic() - self._said >= _SECONDS:
            self._said = time.monotonic()
            print(f"squeeze: step {step} of {total}; {self._text}", file=self._stream, flush=True)


def describe(squeezing: Squeezing) -> str:
    """Size, widest bond, and the metric as it was measured last."""
    bonds = [bond for own in squeezing.bonds.values() for bond in own]
    last = next((point["metric"] for point in reversed(squeezing.history) if point["metric"] is not None), None)
    metric = "" if last is None else f", metric {last:.4f}"
    return f"size {100 * squeezing.size:.1f} %, widest bond {max(bonds, default=1)}{metric}"
