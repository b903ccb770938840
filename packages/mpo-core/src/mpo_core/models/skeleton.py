"""Describe the MPO layers of a model, and build layers of such a description without values.

Loading needs no decomposition: the dense layers that a manifest lists are exchanged for MPO layers of its
shapes on the meta device, whose tensors then come from a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from mpo_core.embeddings.embedding import MPOEmbedding
from mpo_core.errors import ManifestError, MPOError, UsageError
from mpo_core.models.manifest import LayerEntry
from mpo_core.models.surgery import blank_cores, is_mpo_layer, layer_kind, make_layer, mpo_layers
from mpo_core.models.targets import all_names, as_target, named_aliases, weight_of
from mpo_core.models.ties import drop_stale_ties


def layer_entries(model: nn.Module, caller: str) -> tuple[LayerEntry, ...]:
    """Describe the MPO layers of a model, each once.

    Args:
        model: holds MPO layers; may hold none.
        caller: the function that asks, for the message.

    Raises:
        UsageError: The model is itself an MPO layer, so that there is no name for it.
    """
    layers = mpo_layers(model)
    if "" in layers:
        raise UsageError(f"{caller}: the model is itself an MPO layer; put it into a module, say nn.Sequential.")
    aliases = named_aliases(model)
    return tuple(
        LayerEntry(
            name=name,
            aliases=tuple(other for other in aliases[id(layer)] if other != name),
            kind=layer_kind(layer),
            shape=layer.shape,
            bonds=tuple(layer.bonds),
            bias=getattr(layer, "bias", None) is not None,
            padding_idx=layer.padding_idx if isinstance(layer, MPOEmbedding) else None,
        )
        for name, layer in layers.items()
    )


def blank_layers(model: nn.Module, entries: Iterable[LayerEntry], path: Path) -> list[tuple[LayerEntry, nn.Module]]:
    """MPO layers without values for entries of a manifest; the model is looked at, not changed.

    The cores require a gradient if the dense weight does, biases are the very same parameters.

    Args:
        model: holds the dense layers.
        entries: of the manifest.
        path: of the manifest, for the messages.

    Raises:
        ManifestError: A layer does not exist, or is not what the entry says.
    """
    modules = dict(all_names(model))
    return [(entry, _blank_layer(entry, modules, path)) for entry in entries]


def install_layers(model: nn.Module, layers: Iterable[tuple[LayerEntry, nn.Module]]) -> dict[str, torch.device]:
    """Exchange dense layers for the ones of `blank_layers`, in place.

    Returns:
        Key of every parameter of the new layers -> the device that the dense weight was on.
    """
    devices: dict[str, torch.device] = {}
    modules = dict(all_names(model))
    for entry, layer in layers:
        device = weight_of(modules[entry.name]).device
        for name in (entry.name, *entry.aliases):
            devices.update({f"{name}.{key}": device for key, _ in layer.named_parameters()})
            model.set_submodule(name, layer)
    drop_stale_ties(model, is_mpo_layer)
    return devices


def _blank_layer(entry: LayerEntry, modules: Mapping[str, nn.Module], path: Path) -> nn.Module:
    """The MPO layer of an entry, without values, after a look at the dense layer whose place it takes."""
    for name in (entry.name, *entry.aliases):
        if name == "" or name not in modules:
            raise ManifestError(
                f"{path}: the layer {name!r} does not exist in this {type(modules['']).__name__}; build"
                " the model from the configuration it was saved with."
            )
    dense = modules[entry.name]
    try:
        target = as_target(entry.name, dense)
    except UsageError as error:
        raise ManifestError(f"{path}: the layer {entry.name!r} does not fit the model: {error}") from None
    found = (target.kind, target.rows, target.cols)
    expected = (entry.kind, entry.shape.rows, entry.shape.cols)
    if found != expected:
        raise ManifestError(
            f"{path}: the layer {entry.name!r} is {expected[0]} {expected[1]}x{expected[2]} in the manifest"
            f" and {found[0]} {found[1]}x{found[2]} in the model; build the model from the configuration it"
            " was saved with."
        )
    weight = weight_of(dense)
    cores = blank_cores(entry.shape, entry.bonds, weight.dtype)
    bias = getattr(dense, "bias", None)
    if entry.bias and bias is None:
        bias = nn.Parameter(torch.empty(entry.shape.rows, dtype=weight.dtype, device="meta"))
    try:
        layer = make_layer(entry.kind, cores, entry.shape, bias if entry.bias else None, entry.padding_idx)
    except MPOError as error:
        raise ManifestError(f"{path}: the layer {entry.name!r} cannot be built ({error}).") from None
    for core in cores:
        core.requires_grad_(weight.requires_grad)
    return layer.train(dense.training)
