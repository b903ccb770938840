"""Dropout that spends less on random numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STEPS = 1 << 16


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`; on CPUs each element costs 16 random bits, not a number of its own.

    There drawing is most of what dropout costs. The share that is dropped is rounded to a multiple of 1/65536, and what
    is left is scaled by the rounded share.

    Args:
        p: share of elements that are dropped.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Of the shape of `input`."""
        dropped = round(self.p * _STEPS)
        if not self.training or not 0 < dropped < _STEPS or input.device.type != "cpu":
            return super().forward(input)
        bits = torch.empty((input.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = bits[: input.numel()].view(input.shape) >= dropped - _STEPS // 2
        return input * kept.to(input.dtype).mul_(_STEPS / (_STEPS - dropped))
