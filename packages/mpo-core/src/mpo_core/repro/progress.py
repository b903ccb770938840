"""How far a run is: bars on a terminal, plain lines elsewhere, on stderr so that stdout stays clean."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

Mode = Literal["auto", "bars", "lines", "none"]
Steps = Mapping[str, tuple[int, int]]


class Progress:
    """Reports the trials of a run as they start and end; use it as a context manager.

    Args:
        title: what runs.
        mode: ``auto`` takes bars on a terminal and lines elsewhere; ``none`` says nothing.
        stream: where to write, default stderr.
        interval: seconds between two plain lines about running trials.
    """

    def __init__(
        self, title: str = "", *, mode: Mode = "auto", stream: TextIO | None = None, interval: float = 10.0
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self.mode = ("bars" if self._stream.isatty() else "lines") if mode == "auto" else mode
        self._title = title
        self._interval = interval
        self._name = ""
        self._total = self._done = self._done_before = 0
        self._started = self._last_line = time.monotonic()
        self._bars: Bars | None = None
        self._trials_bar: TaskID | None = None
        self._step_bars: dict[str, TaskID] = {}

    def __enter__(self) -> Progress:
        """Show the bars, where there are bars."""
        if self.mode == "bars":
            self._bars = _started_bars(self._stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the bars away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def begin(self, name: str, total: int, done: int = 0) -> None:
        """A stage of the run starts.

        Args:
            name: ``sweep`` or ``final``.
            total: its trials.
            done: those that an earlier session has finished.
        """
        self._name, self._total, self._done, self._done_before = name, total, done, done
        self._started = self._last_line = time.monotonic()
        if self._bars is not None:
            self._remove_step_bars(set())
            if self._trials_bar is not None:
                self._bars.remove_task(self._trials_bar)
            self._trials_bar = self._bars.add_task(self._heading, total=total, completed=done)
        elif total:
            earlier = f" ({done} done earlier)" if done else ""
            self._line(f"{total} trials{earlier}")

    def trial_done(self, key: str, status: str) -> None:
        """A trial has ended.

        Args:
            key: `Trial.key`.
            status: the record's status.
        """
        self._done += 1
        if self._bars is not None and self._trials_bar is not None:
            self._bars.advance(self._trials_bar)
            if status == "diverged":
                self._bars.console.print(f"{key} diverged")
        else:
            self._line(f"{self._done} of {self._total} trials: {key} {status}{self._time_left()}")

    def steps(self, running: Steps) -> None:
        """How far the running trials are; call it as often as you like.

        Args:
            running: trial key -> (steps done, steps in all).
        """
        if self._bars is not None:
            self._remove_step_bars(set(running))
            for key, (step, of) in running.items():
                if key not in self._step_bars:
                    self._step_bars[key] = self._bars.add_task(f"  {key}", total=of)
                self._bars.update(self._step_bars[key], completed=step)
        elif running and time.monotonic() - self._last_line >= self._interval:
            states = ", ".join(f"{key} at step {step} of {of}" for key, (step, of) in running.items())
            self._line(f"{self._done} of {self._total} trials; {states}{self._time_left()}")

    @property
    def _heading(self) -> str:
        return f"{self._title} {self._name}".strip()

    def _time_left(self) -> str:
        finished = self._done - self._done_before
        if not finished or self._done == self._total:
            return ""
        seconds = (time.monotonic() - self._started) / finished * (self._total - self._done)
        return f", about {seconds:.0f} s left" if seconds < 120 else f", about {seconds / 60:.0f} min left"

    def _line(self, text: str) -> None:
        if self.mode == "lines":
            self._last_line = time.monotonic()
            print(f"{self._heading}: {text}", file=self._stream, flush=True)

    def _remove_step_bars(self, keep: set[str]) -> None:
        if self._bars is not None:
            for key in [key for key in self._step_bars if key not in keep]:
                self._bars.remove_task(self._step_bars.pop(key))


class StepProgress:
    """Reports the steps of one job: call it with steps done, steps in all, and what else there is to say.

    Use it as a context manager.

    Args:
        name: of the job.
        stream: where to write, default stderr: a bar on a terminal, plain lines elsewhere.
        interval: seconds between two plain lines that have no news.
    """

    def __init__(self, name: str, *, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self._name, self._interval = name, interval
        self._stream = stream if stream is not None else sys.stderr
        self._bars: Bars | None = None
        self._bar: TaskID | None = None
        self._last_line = 0.0
        self._text = ""

    def __enter__(self) -> Self:
        """Show the bar, where there is one."""
        if self._stream.isatty():
            self._bars = _started_bars(self._stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def __call__(self, step: int, total: int, text: str = "") -> None:
        """Say where it stands; a new text is said at once."""
        news, self._text = text != self._text, text
        if self._bars is not None:
            description = text or self._name
            if self._bar is None:
                self._bar = self._bars.add_task(description, total=total)
            self._bars.update(self._bar, completed=step, description=description)
        elif news or step == total or time.monotonic() - self._last_line >= self._interval:
            self._last_line = time.monotonic()
            more = f"; {text}" if text else ""
            print(f"{self._name}: step {step} of {total}{more}", file=self._stream, flush=True)


def _started_bars(stream: TextIO) -> Bars:
    """Bars that go away when they are stopped."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Bars(*columns, console=Console(file=stream), transient=True)
    bars.start()
    return bars
