"""Whether torch transforms what runs: under `torch.func` and `torch.compile` only plain operations will do."""

from __future__ import annotations

import torch

# What torch.autograd.Function asks itself before it refuses to work under torch.func; there is no public form of it.
from torch._C import _are_functorch_transforms_active as transforms_active  # pyright: ignore[reportPrivateUsage]

__all__ = ["plain_operations_only", "transforms_active"]


def plain_operations_only() -> bool:
    """Whether `torch.compile` traces or `torch.func` transforms what runs now."""
    return torch.compiler.is_compiling() or transforms_active()
