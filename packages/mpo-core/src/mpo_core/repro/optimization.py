"""What the optimizer is given: the learning-rate schedule and the parameter groups."""

from __future__ import annotations

from typing import Any

from torch import nn

from mpo_core.errors import UsageError
from mpo_core.repro.config import TrainingConfig


def learning_rate_factor(step: int, total: int, warmup_share: float) -> float:
    """Linear warm-up to 1, then linear decay towards 0, as a factor of the peak learning rate.

    Args:
        step: index of the optimizer step, from 0.
        total: number of optimizer steps.
        warmup_share: share of the steps that warm up.

    >>> [learning_rate_factor(step, 6, 1 / 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warmup = round(warmup_share * total)
    if step < warmup:
        return (step + 1) / warmup
    return (total - step) / (total - warmup)


def default_parameter_groups(model: nn.Module, training: TrainingConfig) -> list[dict[str, Any]]:
    """Two AdamW groups: with weight decay, and (one dimension: biases, LayerNorm) without.

    Raises:
        UsageError: no parameter of the model has ``requires_grad``.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise UsageError("no parameter of the model has requires_grad; there is nothing to train.")
    decayed = [parameter for parameter in trained if parameter.ndim > 1]
    plain = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
