"""Dimension squeezing while a model trains: cut, tune, cut again (Liu et al. 2021, section 4.3, Algorithm 2).

An intervention into `mpo_core.repro.training.fit`. At evenly spaced steps of the training the bonds with the least
estimated error are cut, until the size that is due by then; in between the model is tuned as ever. With a threshold the
task's metric is measured before every cut, and squeezing ends where it has fallen too far.

What differs from the paper, all of it on purpose: Schmidt values are those of the cores as they are (``spectra:
initial`` takes those before training, as the paper does), every bond may be cut (``bonds: central``: the paper's),
several bonds are cut at once (``cuts: 1``: the paper's), and the drop that ends it is relative to the metric at the
start and ends in the last model that was good enough, not in the first that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mpo_core import UsageError
from mpop.config import Squeeze
from mpop.narrowing import Narrowing, SqueezingState
from mpop.squeezing import (
    BondFactors,
    Squeezable,
    bond_factors,
    bond_maps,
    bond_spectra,
    cut_until,
    leading_maps,
    squeezed_bonds,
)

Measure = Callable[[], float]


class DimensionSqueezing(SqueezingState[Squeeze]):
    """Cuts bonds while the model trains.

    Args:
        model: holds MPO layers; which of their cores train is the caller's choice.
        config: how far, when, which bonds.
        original: parameters of the dense model; sizes are shares of it.
        measure: the task's metric, higher is better; needed with a threshold.

    Raises:
        UsageError: no MPO layer, a size that cannot be reached, or a threshold without a metric.
    """

    def __init__(self, model: nn.Module, config: Squeeze, original: int, measure: Measure | None = None) -> None:
        if config.threshold is not None and measure is None:
            raise UsageError("squeeze: a threshold needs a metric to hold it against.")
        super().__init__(model, config, original)
        self._model = model
        self._measure = measure
        self._goal = goal_of(self._narrowing, config, original)
        self._at_start = self._narrowing.params()
        initial = config.spectra == "initial"
        self._initial = {name: bond_spectra(self._narrowing.cores(name)) for name in self.bonds} if initial else {}
        self._stage = 0
        self._baseline: float | None = None
        self._misses = 0
        self._stopped = False
        self._accepted: dict[str, Tensor] = {}

    def after_step(self, step: int, total: int, loss: float, optimizer: torch.optim.Optimizer) -> None:
        """Cut, where it is time to; see `mpo_core.repro.intervention.Intervention`."""
        due = self._due(total)
        while not self._stopped and self._stage < len(due) and step >= due[self._stage]:
            metric, made = self._judge(), 0
            if self._stopped:
                self._return_to_accepted(optimizer)
            elif self._stage < self._config.stages:
                made = self._cut(optimizer)
            self._stage += 1
            point = {"step": step, "size": self.size, "metric": metric, "cuts": made, "stopped": self._stopped}
            self.history.append(point)

    def state(self) -> Mapping[str, Any]:
        """Bonds and counters."""
        return {
            "bonds": {name: list(bonds) for name, bonds in self.bonds.items()},
            "stage": self._stage,
            "baseline": self._baseline,
            "misses": self._misses,
            "stopped": self._stopped,
            "history": self.history,
        }

    def tensors(self) -> Mapping[str, Tensor]:
        """Frozen cores, and the last model that was good enough."""
        return self._narrowing.frozen() | {f"accepted {name}": value for name, value in self._accepted.items()}

    def restore(
        self, state: Mapping[str, Any], tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Cores of the shapes of a checkpoint, with the values of the frozen ones."""
        self._narrowing.restore(state["bonds"], tensors, optimizer)
        marked = "accepted "
        self._accepted = {key.removeprefix(marked): value for key, value in tensors.items() if key.startswith(marked)}
        self._stage, self._baseline = state["stage"], state["baseline"]
        self._misses, self._stopped = state["misses"], state["stopped"]
        self.history = list(state["history"])

    def _due(self, total: int) -> list[int]:
        """After which steps cuts are made, and at last, with a threshold, the judgement of the last one.

        A training with fewer steps than stages takes several stages after one step.
        """
        begin, end, count = self._config.begin * total, self._config.end * total, self._config.stages
        judged = self._config.threshold is not None
        last = max(1, total - 1) if judged else total
        steps = [min(last, max(1, round(begin + k * (end - begin) / count))) for k in range(count)]
        return [*steps, min(total, max(steps[-1] + 1, round(end)))] if judged else steps

    def _judge(self) -> float | None:
        """Measure, if there is a threshold, and say whether the model is still good enough."""
        limit = self._config.threshold
        if limit is None or self._measure is None:
            return None
        metric = self._measure()
        if self._baseline is None:
            self._baseline = metric
        drop = (self._baseline - metric) / abs(self._baseline) if self._baseline else -metric
        self._misses = self._misses + 1 if drop > limit else 0
        self._stopped = self._misses > self._config.patience
        if self._misses == 0:
            own = self._model.named_parameters()
            self._accepted = {name: parameter.detach().clone() for name, parameter in own}
        return metric

    def _cut(self, optimizer: torch.optim.Optimizer) -> int:
        """One stage; the number of cuts."""
        config = self._config
        due = self._at_start + (self._stage + 1) / config.stages * (self._goal - self._at_start)
        made = 0

        def enough(bonds: Mapping[str, Sequence[int]]) -> bool:
            nonlocal made
            params = self._narrowing.params(bonds)
            if params <= self._goal or (params <= due if config.cuts is None else made == config.cuts):
                return True
            made += 1
            return False

        initial = config.spectra == "initial"
        factors = {} if initial else {name: bond_factors(self._narrowing.cores(name)) for name in self.bonds}
        for name, bonds in cut_until(self._squeezables(factors), enough, config.order, config.bonds)[0].items():
            make = leading_maps if initial else partial(bond_maps, factors=factors[name])
            self._narrowing.narrow(name, bonds, optimizer, make)
        return made

    def _squeezables(self, factors: Mapping[str, Sequence[BondFactors]]) -> dict[str, Squeezable]:
        """What is cut; without factors, by the spectra before training."""
        found: dict[str, Squeezable] = {}
        for name, shape in self._narrowing.shapes.items():
            if self._config.spectra == "initial":
                bonds = self.bonds[name]
                spectra = [values[:bond] for values, bond in zip(self._initial[name], bonds, strict=True)]
            else:
                spectra = bond_spectra(self._narrowing.cores(name), factors[name])
            found[name] = Squeezable(shape, spectra)
        return found

    def _return_to_accepted(self, optimizer: torch.optim.Optimizer) -> None:
        """The last model that was good enough; the moments of cores that had been cut since start afresh."""
        names = {id(parameter): name for name, parameter in self._model.named_parameters()}
        for name in self.bonds:
            pairs = [(self._accepted[names[id(core)]], core) for core in self._narrowing.cores(name)]
            changed = [old if old.shape != core.shape else None for old, core in pairs]
            self._narrowing.exchange(name, changed, optimizer)
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(self._accepted[name])


def goal_of(narrowing: Narrowing, config: Squeeze, original: int) -> int:
    """The number of parameters at which cutting ends.

    Raises:
        UsageError: what is not decomposed alone is larger, or bonds of 1 are not enough.
    """
    ones = dict(narrowing.bonds)
    for name, shape in narrowing.shapes.items():
        cut = set(squeezed_bonds(shape, config.bonds))
        ones[name] = tuple(1 if k in cut else bond for k, bond in enumerate(ones[name]))
    least = narrowing.params(ones)
    if config.target_size is None:
        return least
    limit, rest = int(config.target_size * original), narrowing.rest
    if rest > limit:
        raise UsageError(
            f"target-size {config.target_size:g} is {limit:,} parameters, but what is not decomposed (heads, norms, "
            f"biases) alone has {rest:,}; take at least {math.ceil(1000 * rest / original) / 1000:g}."
        )
    if least > limit:
        raise UsageError(
            f"target-size {config.target_size:g} is {limit:,} parameters, but with every bond that may be cut "
            f"({config.bonds}) at 1 there are {least:,}; take a larger size, or cut all bonds."
        )
    return limit
