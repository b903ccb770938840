"""Give an adapted model the weights of its base model back, for good or for a while, or say why that cannot be.

No second copy of the base model is kept. Its weights are still there, to the bit, in every layer of the identity gauge
whose home core is frozen, and the few dense tensors that train were copied. A layer whose bonds were cut has lost its
weight.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mpo_core.adapters.base_weights import BaseRecord, all_parameters, core_places, weight_of_home
from mpo_core.decomposing.chain import home_site
from mpo_core.decomposing.lossless import identity_core
from mpo_core.errors import UsageError
from mpo_core.models.surgery import layer_kind, merge_modules, mpo_layers


def restore_base(model: nn.Module, record: BaseRecord, caller: str) -> None:
    """Turn an adapted model back into the base model, to the bit, in place.

    Raises:
        UsageError: Some weight of the base model is not there any more; nothing is changed then.
    """
    check_restorable(model, record, caller)
    weights: dict[str, Tensor] = {}
    for name, layer in mpo_layers(model).items():
        home = layer.cores[home_site(layer.shape)]
        weights[name] = weight_of_home(home, layer.shape, layer_kind(layer))
    merge_modules(model)
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_parameter(f"{name}.weight").copy_(weight)
        _copy_originals(model, record)
    restore_flags(model, record)


def restore_flags(model: nn.Module, record: BaseRecord) -> None:
    """Let every parameter train again that trained in the base model; those of other names stay as they are."""
    for key, parameter in all_parameters(model):
        parameter.requires_grad_(record.flags.get(key, parameter.requires_grad))


@contextmanager
def base_in_place(model: nn.Module, record: BaseRecord, caller: str) -> Generator[None]:
    """Compute with the weights of the base model inside the block; everything is put back after it, to the bit.

    Raises:
        UsageError: Some weight of the base model is not there any more.
    """
    check_restorable(model, record, caller)
    state = _tensors(model)
    places = {key: place for key, place in core_places(model).items() if place[2] != home_site(place[1].shape)}
    kept = {key: state[key].detach().clone() for key in (*places, *record.originals)}
    try:
        with torch.no_grad():
            for key, (_, layer, index) in places.items():
                state[key].copy_(identity_core(layer.shape, index, state[key]))
            _copy_originals(model, record)
        yield
    finally:
        with torch.no_grad():
            for key, value in kept.items():
                state[key].copy_(value)


def check_restorable(model: nn.Module, record: BaseRecord, caller: str) -> None:
    """Make sure that the base model can be had from the adapted one, to the bit.

    Raises:
        UsageError: It cannot; the message names the first tensor that is lost.
    """
    advice = "load the base model again instead"
    for name, layer in mpo_layers(model).items():
        home = home_site(layer.shape)
        if not record.gives(f"{name}.cores.{home}", name, layer, home):
            raise UsageError(
                f"{caller}: the weight that {name!r} had in the base model is kept only at full bonds in the identity"
                f" gauge with core {home} frozen and unchanged, which is not so here; {advice}."
            )
    cores = core_places(model)
    for key, value in _tensors(model).items():
        if key not in cores and key not in record.originals and not record.keeps([key], value):
            raise UsageError(f"{caller}: {key!r} was to stay frozen, but was changed or unfrozen; {advice}.")


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _copy_originals(model: nn.Module, record: BaseRecord) -> None:
    state = _tensors(model)
    for key, value in record.originals.items():
        state[key].copy_(value)
