"""Dimension squeezing as the authors' released callback does it, told from its behaviour (docs/errata.md, MPOP 4).

It knows neither errors nor metrics: where a moving average of the training loss has been below a target for some steps,
the cap on all bonds of the next structure falls by one, and the cores are sliced as they are. Two things are not as
they were there: the new cores are handed to the optimizer, without which they would never be trained, and where it
gives up the training goes on without cuts instead of ending.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mpo_core import MPOEmbedding
from mpop.config import ReleasedSqueeze, Structure
from mpop.narrowing import SqueezingState
from mpop.squeezing import bond_spectra, leading_maps


class ReleasedSqueezing(SqueezingState[ReleasedSqueeze]):
    """Cuts bonds while the model trains, by the training loss.

    Args:
        model: holds MPO layers in the symmetric gauge; which of their cores train is the caller's choice.
        config: targets, waits and caps.
        original: parameters of the dense model; sizes are shares of it.

    Raises:
        UsageError: no MPO layer.
    """

    def __init__(self, model: nn.Module, config: ReleasedSqueeze, original: int) -> None:
        super().__init__(model, config, original)
        self._structures: dict[str, Structure] = {
            name: structure_of(name, isinstance(layers[0], MPOEmbedding))
            for name, layers in self._narrowing.groups.items()
        }
        self._spectra = {name: bond_spectra(self._narrowing.cores(name)) for name in self.bonds}
        self._caps: dict[Structure, int] = {}
        for structure in self._structures.values():
            widest = max(max(self.bonds[name], default=1) for name in self._of(structure))
            self._caps[structure] = min(config.start.get(structure, widest), widest)
        self._losses: list[float] = []
        self._under = self._over = self._cuts = 0
        self._started = self._stopped = False

    def after_step(self, step: int, total: int, loss: float, optimizer: torch.optim.Optimizer) -> None:
        """Cut, where the loss has been low for long enough; see `mpo_core.repro.intervention.Intervention`."""
        if not self._started:
            self._started = True
            for structure in self._caps:
                self._cut_to_cap(structure, optimizer)
            self._note(step, loss)
        structure = None if self._stopped else self._next()
        if structure is None:
            return
        self._losses = [*self._losses, loss][-self._config.window :]
        if sum(self._losses) / len(self._losses) < self._config.best_loss + self._config.slack:
            self._under, self._over = self._under + 1, 0
        else:
            self._over += 1
        wait = self._config.steps_under_attention if structure == "attention" else self._config.steps_under
        if self._over >= self._config.give_up:
            self._stopped = True
        elif self._under >= wait:
            self._caps[structure] -= 1
            self._cut_to_cap(structure, optimizer)
            self._under, self._cuts = 0, self._cuts + 1
        else:
            return
        self._note(step, sum(self._losses) / len(self._losses))

    def state(self) -> Mapping[str, Any]:
        """Bonds, caps and counters."""
        return {
            "bonds": {name: list(bonds) for name, bonds in self.bonds.items()},
            "caps": self._caps,
            "losses": self._losses,
            "counts": [self._under, self._over, self._cuts],
            "flags": [self._started, self._stopped],
            "history": self.history,
        }

    def tensors(self) -> Mapping[str, Tensor]:
        """Frozen cores."""
        return self._narrowing.frozen()

    def restore(
        self, state: Mapping[str, Any], tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Cores of the shapes of a checkpoint, with the values of the frozen ones."""
        self._narrowing.restore(state["bonds"], tensors, optimizer)
        self._caps, self._losses = dict(state["caps"]), list(state["losses"])
        self._under, self._over, self._cuts = state["counts"]
        self._started, self._stopped = state["flags"]
        self.history = list(state["history"])

    def _next(self) -> Structure | None:
        """The structure whose cap falls next; None where there is none left."""
        config = self._config
        if config.order is not None:
            return config.order[self._cuts] if self._cuts < len(config.order) else None
        left: list[Structure] = [
            structure for structure, cap in self._caps.items() if cap > config.stop.get(structure, 1)
        ]
        return min(left, key=self._loss_of_a_cut, default=None)

    def _loss_of_a_cut(self, structure: Structure) -> float:
        """What it adds to the squared estimated error of the model."""
        last = self._caps[structure] - 1
        spectra = [values for name in self._of(structure) for values in self._spectra[name] if len(values) > last]
        return sum(float(values[last]) ** 2 for values in spectra)

    def _cut_to_cap(self, structure: Structure, optimizer: torch.optim.Optimizer) -> None:
        cap = max(self._caps[structure], 1)
        for name in self._of(structure):
            bonds = tuple(min(bond, cap) for bond in self.bonds[name])
            if bonds != self.bonds[name]:
                self._narrowing.narrow(name, bonds, optimizer, leading_maps)

    def _of(self, structure: Structure) -> list[str]:
        return [name for name, own in self._structures.items() if own == structure]

    def _note(self, step: int, loss: float) -> None:
        point = {"step": step, "size": self.size, "metric": None, "loss": loss, "cuts": self._cuts}
        self.history.append(point | {"stopped": self._stopped})


def structure_of(name: str, embeds: bool) -> Structure:
    """Which of the three structures a matrix belongs to, by its name.

    Example:
        >>> structure_of("bert.encoder.layer.0.attention.self.query", False)
        'attention'
        >>> structure_of("bert.encoder.layer.0.intermediate.dense", False)
        'linear'
    """
    if embeds:
        return "embedding"
    attends = any(part in name.lower() for part in ("attention", "attn"))
    return "attention" if attends else "linear"
