"""What came of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mpo_core.errors import DivergedError
from mpo_core.repro.record import SeriesPoint


@dataclass(frozen=True)
class FitResult:
    """What a fit did.

    Args:
        status: ``diverged`` when the loss or the gradient norm became NaN or infinite; training stops there.
        steps: optimizer steps done, those before a resume included.
        series: the logged points: mean ``loss`` since the point before, ``learning_rate``, ``grad_norm``.
        seconds: training time, that before a resume included.
        resumed_from: step of the checkpoint that this call started from, 0 for none.
    """

    status: Literal["completed", "diverged"]
    steps: int
    series: list[SeriesPoint]
    seconds: float
    resumed_from: int

    def require_completed(self, learning_rate: float, folder: Path) -> None:
        """Refuse to go on with a model whose training diverged.

        Args:
            learning_rate: that it was trained with.
            folder: what holds the checkpoints, which the user has to remove.

        Raises:
            DivergedError: it did; the sentence says what to do.
        """
        if self.status == "diverged":
            raise DivergedError(
                f"the loss was no longer finite after step {self.steps}; take a smaller learning rate than "
                f"{learning_rate:g}, and remove {folder}."
            )
