"""What of an adapted model the base model already gives, to the bit.

In the identity gauge at full bonds (`mpo_core.decomposing.lossless`) the *home* core is the weight with its entries in
another order, and all others are reshaped identities: no arithmetic is involved, so every machine gets the same bits.
Whatever else makes cores (eigenvectors, truncation) depends on processor and thread count, and is never counted on
here.

A `BaseRecord` is made once, when the model is adapted: checksums of everything that is meant to stay as the base model
has it, and copies of the few dense tensors that are not. It answers, later, whether a tensor still is what the base
model gives, and puts the base model's own weights back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mpo_core.adapters.adapter_manifest import BaseTensor
from mpo_core.decomposing.chain import home_site
from mpo_core.decomposing.lossless import home_core, identity_core, matrix_from_home
from mpo_core.models.storage import dtype_name, tensor_sha256
from mpo_core.models.surgery import MPOLayer, layer_kind
from mpo_core.models.targets import Kind, all_names
from mpo_core.operators.gauge import Core
from mpo_core.shapes import MPOShape


@dataclass(frozen=True)
class BaseRecord:
    """What the base model was, and what of it is meant to change.

    Attributes:
        tensors: key in the base model's state dict -> description, for all that stays as it is, the weights of `exact`
            layers with a frozen home core included.
        exact: names of the layers that are in the identity gauge at full bonds.
        trained: keys of the adapted model's state dict that train.
        originals: key -> copy, for the dense parameters that train and all buffers.
        flags: key of every parameter of the base model -> its ``requires_grad``.
    """

    tensors: Mapping[str, BaseTensor]
    exact: frozenset[str]
    trained: frozenset[str]
    originals: Mapping[str, Tensor] = field(repr=False)
    flags: Mapping[str, bool] = field(repr=False)

    def keeps(self, keys: Iterable[str], value: Tensor) -> bool:
        """Whether a dense tensor of the model is frozen and still what the base model has under all these keys."""
        wanted = [None if key in self.trained else self.tensors.get(key) for key in keys]
        if value.requires_grad or None in wanted:
            return False
        found = describe_tensor(value)
        return all(each == found for each in wanted)

    def gives(self, key: str, layer_name: str, layer: MPOLayer, index: int) -> bool:
        """Whether a core is frozen and can be computed again from the base model, to the bit.

        Args:
            key: of the core in the model's state dict.
            layer_name: name of a layer that holds it.
            layer: the layer.
            index: number of the core in it, from 0.
        """
        core = layer.cores[index]
        if core.requires_grad or key in self.trained or layer_name not in self.exact:
            return False
        if tuple(layer.bonds) != layer.shape.full_bonds:
            return False
        if index != home_site(layer.shape):
            return torch.equal(core, identity_core(layer.shape, index, core))
        weight = weight_of_home(core, layer.shape, layer_kind(layer))
        if describe_tensor(weight) != self.tensors.get(f"{layer_name}.weight"):
            return False
        # The weight says nothing about the padding of the core, which could have been trained.
        return torch.equal(core, home_of_weight(weight, layer.shape, layer_kind(layer)))


def make_record(
    dense: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    exact: Iterable[str],
    trained: Iterable[str],
    flags: Mapping[str, bool],
) -> BaseRecord:
    """Note what the base model is, before anything is trained.

    Args:
        dense: key -> tensor of the state dict, for everything that is no core and no decomposed weight.
        weights: layer name -> the decomposed weight, for the layers of `exact` with a frozen home core.
        exact: names of the layers in the identity gauge at full bonds.
        trained: keys of the adapted model's state dict that train.
        flags: key of every parameter of the base model -> its ``requires_grad``.
    """
    trained = frozenset(trained)
    kept = {key: value for key, value in dense.items() if key not in trained}
    kept.update({f"{name}.weight": weight for name, weight in weights.items()})
    known: dict[int, BaseTensor] = {}
    for value in kept.values():
        if id(value) not in known:  # tied tensors are read once
            known[id(value)] = describe_tensor(value)
    tensors = {key: known[id(value)] for key, value in kept.items()}
    moving = [key for key, value in dense.items() if key in trained or not isinstance(value, nn.Parameter)]
    originals = {key: dense[key].detach().clone() for key in moving}
    return BaseRecord(tensors, frozenset(exact), trained, originals, dict(flags))


def describe_tensor(value: Tensor) -> BaseTensor:
    """What a tensor of the base model is recognised by."""
    return BaseTensor(dtype_name(value), tuple(value.shape), "" if value.is_meta else tensor_sha256(value))


def gradient_flags(model: nn.Module) -> dict[str, bool]:
    """Key of every parameter -> whether it trains."""
    return {key: parameter.requires_grad for key, parameter in all_parameters(model)}


def all_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every key of every parameter; one under two keys comes twice."""
    return model.named_parameters(remove_duplicate=False)


def core_places(model: nn.Module) -> dict[str, tuple[str, MPOLayer, int]]:
    """Key of every core, under every name of its layer -> that name, the layer, and the number of the core."""
    return {
        f"{name}.cores.{index}": (name, layer, index)
        for name, layer in all_names(model)
        if isinstance(layer, MPOLayer)
        for index in range(len(layer.cores))
    }


def home_of_weight(weight: Tensor, shape: MPOShape, kind: Kind) -> Core:
    """The home core of a weight as the dense layer stores it."""
    return home_core(weight.T if kind == "conv1d" else weight, shape)


def weight_of_home(core: Core, shape: MPOShape, kind: Kind) -> Tensor:
    """The weight, as the dense layer stores it, whose home core this is."""
    matrix = matrix_from_home(core, shape)
    return matrix.T.contiguous() if kind == "conv1d" else matrix
