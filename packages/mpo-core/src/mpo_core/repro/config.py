"""The configuration that every study shares; a paper package extends it in its own ``config.py``.

A *study* compares *arms* (methods). Each arm is tried with each of its own learning rates on the sweep seeds, judged
on the split ``select``; the best one then runs on all seeds and is judged on the split ``eval``, which is read only
there. One such training run is a *trial*.
"""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator


class StrictModel(BaseModel):
    """A pydantic model that refuses keys it does not know and cannot be changed after it was made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ArmConfig(StrictModel):
    """One method of the comparison.

    ``learning_rates`` is the arm's own sweep: empty for an arm that trains nothing, one value for no sweep.
    """

    learning_rates: tuple[float, ...] = ()


ArmType = TypeVar("ArmType", bound=ArmConfig)


class TaskConfig(StrictModel):
    """Which data a study uses. Sizes are in examples; ``None`` takes all.

    ``name`` is a GLUE task (``cola, sst2, mrpc, stsb, rte, wnli, qnli, qqp, mnli``), a language-modelling corpus
    (``wikitext-2, ptb, tiny-shakespeare``, or ``text`` with ``path``, and ``eval_path`` where other text is to be
    judged on), or an embedded task (``doctext``: documentation text of the Python installation, three classes;
    ``doctext-pairs``: do two passages come from one document; ``doctext-lm``: the same text for language modelling).
    """

    name: str
    path: str | None = None
    eval_path: str | None = None
    max_length: int = Field(default=128, ge=8)
    train_size: int | None = Field(default=None, ge=1)
    select_size: int | None = Field(default=None, ge=1)
    eval_size: int | None = Field(default=None, ge=1)


class TrainingConfig(StrictModel):
    """How one trial trains: AdamW, linear warm-up, then linear decay to zero.

    ``epochs`` and ``max_steps``: whichever ends first. ``checkpoint_every`` is in optimizer steps, 0 for the end only.
    ``precision`` of the forward and backward passes, and of judging the trained model; weights and optimizer
    stay in float32. ``None`` takes what accelerate was told (``ACCELERATE_MIXED_PRECISION``, its launcher), else none.
    """

    epochs: int = Field(default=3, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    log_every: int = Field(default=10, ge=1)
    checkpoint_every: int = Field(default=100, ge=0)
    precision: Literal["float32", "bfloat16"] | None = None


class StudyConfig(StrictModel, Generic[ArmType]):
    """The part of an experiment that every paper shares; a paper binds its own arm: ``StudyConfig[Arm]``.

    ``select_metric`` names the metric (higher is better unless ``select_lower``) that chooses an arm's learning rate,
    ``select_tie`` the one that decides, higher better, between rates of equal ones.
    """

    arms: dict[str, ArmType]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    sweep_seeds: tuple[int, ...] = (100,)
    select_metric: str | None = None
    select_lower: bool = False
    select_tie: str | None = None

    @model_validator(mode="after")
    def _sweeps_have_a_metric(self) -> StudyConfig[ArmType]:
        if not self.arms:
            raise ValueError("a study needs at least one arm")
        swept = [name for name, arm in self.arms.items() if len(arm.learning_rates) > 1]
        if swept and self.select_metric is None:
            raise ValueError(f"arm {swept[0]!r} has several learning rates, so the study needs select_metric")
        return self


Scale = Literal["smoke", "small", "paper"]
SCALES: tuple[Scale, ...] = ("smoke", "small", "paper")
