"""Configuration of the toy study that the runner's tests use."""

from __future__ import annotations

from mpo_core.repro.config import ArmConfig, StudyConfig, TrainingConfig


class Arm(ArmConfig):
    """A hidden size, and whether the first layer is trained."""

    hidden: int = 8
    freeze: bool = False


class Config(StudyConfig[Arm]):
    """The toy study; ``delay`` in seconds per step gives a test time to kill it."""

    training: TrainingConfig = TrainingConfig()
    dropout: float = 0.2
    delay: float = 0.0
