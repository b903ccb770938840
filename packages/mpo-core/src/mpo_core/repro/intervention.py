"""What may change a model in the middle of its training, and how that survives a resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor


class Intervention(Protocol):
    """Changes model and optimizer between two steps, and can do so again when a fit resumes.

    What it changes of parameters without a gradient has to be among its `tensors`.
    """

    def settings(self) -> Mapping[str, Any]:
        """JSON values that a resumed fit must share."""
        ...

    def after_step(self, step: int, total: int, loss: float, optimizer: torch.optim.Optimizer) -> None:
        """One optimizer step is done; called before its checkpoint is written.

        Args:
            step: steps done.
            total: steps in all.
            loss: mean over the batch.
            optimizer: holds the trained parameters; exchanged ones are put in with `mpo_core.swap_parameters`.
        """
        ...

    def state(self) -> Mapping[str, Any]:
        """JSON values from which `restore` makes the present structure."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """Tensors to keep in checkpoints, besides what is trained."""
        ...

    def restore(
        self, state: Mapping[str, Any], tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Give model and optimizer, both as before training, the structure of a checkpoint; trained values follow."""
        ...
