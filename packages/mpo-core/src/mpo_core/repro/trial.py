"""A trial: one arm, one learning rate, one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Trial:
    """One unit of work of a study.

    Args:
        arm: name of the arm in the study's configuration.
        seed: seeds data order, initialisation of new weights and dropout.
        learning_rate: ``None`` for an arm that trains nothing.
        stage: ``sweep`` is judged on the split ``select``, ``final`` on the split ``eval``.
    """

    arm: str
    seed: int
    learning_rate: float | None
    stage: Literal["sweep", "final"]

    @property
    def split(self) -> Literal["select", "eval"]:
        """The split on which this trial is judged."""
        return "select" if self.stage == "sweep" else "eval"

    @property
    def key(self) -> str:
        """A name fit for a folder, unique in the study: ``final-lfa-lr0.001-seed3``."""
        rate = "" if self.learning_rate is None else f"-lr{self.learning_rate:g}"
        return f"{self.stage}-{self.arm}{rate}-seed{self.seed}"
