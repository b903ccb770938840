"""Batches are made on the CPU; a network reads them on its own device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def device_of(model: nn.Module) -> torch.device:
    """Where a model is: the device of its first parameter; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch on a device; what is there already is not copied."""
    return {name: tensor.to(device) for name, tensor in batch.items()}
