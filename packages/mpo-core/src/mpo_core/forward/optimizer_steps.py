"""How many steps optimizers have taken in this process.

Fused optimizers, and those of some other libraries, write to parameters without raising their version, so a weight
that was computed from parameters cannot tell from these that it is out of date. Every optimizer that derives from
`torch.optim.Optimizer` runs the hook that is registered here, after each step.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

taken = 0
"""The number of steps of all optimizers so far."""
_numbers = count(1)


def _note(*_: Any) -> None:
    global taken
    taken = next(_numbers)  # in one go, so that no thread's step is lost


register_optimizer_step_post_hook(_note)
