"""Cut the bonds of a model's layers while it trains: new cores in layers and optimizer, and its moments with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from mpo_core import UsageError, count_parameters, mpo_layers, swap_parameters
from mpo_core.forward.layer import MPOLayer
from mpo_core.repro.config import StrictModel
from mpo_core.shapes import MPOShape
from mpop.squeezing import BondMap, mapped_core, mapped_moment

ConfigType = TypeVar("ConfigType", bound=StrictModel)
Maps = Callable[[Sequence[Tensor], Sequence[int]], list[BondMap | None]]


class Narrowing:
    """The matrices of a model whose bonds can be cut.

    Args:
        model: holds MPO layers; which of their cores train is the caller's choice.

    Raises:
        UsageError: it holds none.
    """

    def __init__(self, model: nn.Module) -> None:
        self.groups = layer_groups(model)
        if not self.groups:
            raise UsageError("squeeze: the model has no matrix product operator; compress it at full bonds first.")
        self._model = model
        cores = sum(layers[0].shape.n_params(layers[0].bonds) for layers in self.groups.values())
        self.rest = count_parameters(model).total - cores

    @property
    def bonds(self) -> dict[str, tuple[int, ...]]:
        """The present bonds by matrix."""
        return {name: layers[0].bonds for name, layers in self.groups.items()}

    @property
    def shapes(self) -> dict[str, MPOShape]:
        """The factors by matrix."""
        return {name: layers[0].shape for name, layers in self.groups.items()}

    def cores(self, name: str) -> list[Tensor]:
        """The present cores of a matrix."""
        return list(self.groups[name][0].cores)

    def params(self, bonds: Mapping[str, Sequence[int]] | None = None) -> int:
        """Parameters of the whole model, at the present bonds or at others."""
        bonds = self.bonds if bonds is None else bonds
        return self.rest + sum(self.groups[name][0].shape.n_params(tuple(own)) for name, own in bonds.items())

    def narrow(self, name: str, bonds: Sequence[int], optimizer: torch.optim.Optimizer, make: Maps) -> None:
        """Cut the bonds of one matrix.

        Args:
            name: of the matrix.
            bonds: the new bonds.
            optimizer: gets the new cores in the place of the old ones, and their moments.
            make: how, `mpop.squeezing.bond_maps` or `leading_maps`.
        """
        cores = self.cores(name)
        maps: list[BondMap | None] = [None, *make(cores, bonds), None]
        pairs = list(pairwise(maps))
        moments = [
            {
                key: mapped_moment(value, before, after, "sq" in key) if _same_shape(value, core) else value
                for key, value in optimizer.state.get(core, {}).items()
            }
            for core, (before, after) in zip(cores, pairs, strict=True)
        ]
        new = [
            None if before is after is None else mapped_core(core, before, after)
            for core, (before, after) in zip(cores, pairs, strict=True)
        ]
        self.exchange(name, new, optimizer)
        for core, own in zip(self.cores(name), moments, strict=True):
            if own:
                optimizer.state[core] = own

    def exchange(self, name: str, values: Sequence[Tensor | None], optimizer: torch.optim.Optimizer) -> None:
        """Put new cores into all layers of a matrix and into the optimizer; None leaves a core as it is."""
        layers = self.groups[name]
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for k, value in enumerate(values):
            if value is None:
                continue
            old = layers[0].cores[k]
            new = nn.Parameter(value.detach().contiguous(), requires_grad=old.requires_grad)
            for layer in layers:
                layer.cores[k] = new
            if id(old) in held:
                swap_parameters(optimizer, {old: [new]}, carry="none")

    def frozen(self) -> dict[str, Tensor]:
        """The frozen cores, which cuts change as well, under names for a checkpoint."""
        return {
            f"frozen {name} {k}": core
            for name in self.groups
            for k, core in enumerate(self.cores(name))
            if not core.requires_grad
        }

    def restore(
        self, bonds: Mapping[str, Sequence[int]], tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> None:
        """Give the cores the shapes of a checkpoint, and the frozen ones their values.

        Args:
            bonds: by matrix.
            tensors: what `frozen` gave, perhaps among others.
            optimizer: gets the new cores.
        """
        for name, own in bonds.items():
            sizes = zip(self.cores(name), self.groups[name][0].shape.core_shapes(tuple(own)), strict=True)
            self.exchange(
                name, [None if core.shape == size else core.new_zeros(size) for core, size in sizes], optimizer
            )
        with torch.no_grad():
            for key, core in self.frozen().items():
                core.copy_(tensors[key])


class SqueezingState(Generic[ConfigType]):
    """What every squeezing knows of itself.

    Args:
        model: holds MPO layers.
        config: how it is squeezed.
        original: parameters of the dense model; sizes are shares of it.
    """

    def __init__(self, model: nn.Module, config: ConfigType, original: int) -> None:
        self._narrowing = Narrowing(model)
        self._config = config
        self._original = original
        self.history: list[dict[str, Any]] = []

    @property
    def size(self) -> float:
        """Present parameters as a share of the dense model's."""
        return self._narrowing.params() / self._original

    @property
    def bonds(self) -> dict[str, tuple[int, ...]]:
        """The present bonds by matrix."""
        return self._narrowing.bonds

    def settings(self) -> Mapping[str, Any]:
        """The configuration, and the size that shares are of."""
        return self._config.model_dump(mode="json") | {"original": self._original}


def layer_groups(model: nn.Module) -> dict[str, list[MPOLayer]]:
    """The MPO layers of a model by the name of the first of those that share their cores."""
    groups: dict[tuple[int, ...], tuple[str, list[MPOLayer]]] = {}
    for name, layer in mpo_layers(model).items():
        groups.setdefault(tuple(id(core) for core in layer.cores), (name, []))[1].append(layer)
    return dict(groups.values())


def _same_shape(value: Any, core: Tensor) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape == core.shape
