"""Save what training has made of a model, and put it on the base model again.

The folder holds ``mpo_model.safetensors`` and ``mpo_config.json``. Only what trains is in the file, and of the rest
only what the base model does not give to the bit:

- At full bonds in the identity gauge, the frozen home core is the weight of the base model with its entries in another
  order, and every other core starts as a reshaped identity. Those that are frozen are left out. The sha256 of the
  weight is noted, and held against the base model when the adapter is loaded.
- In all other cases the frozen cores are in the file in full. They could be computed anew from the base model, too, but
  not to the bit: eigenvectors depend on processor, library and thread count, and the trained cores would silently
  stand in another basis than the one they were trained in.
- Dense tensors that are frozen (norms, layers that were not decomposed) are left out, noted and checked likewise.

So the loaded model computes what the saved one did, to the bit, or an error says what differs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mpo_core.adapters.adapter_checks import base_state, check_base, check_keys, recomputed_cores, record_of, weight_key
from mpo_core.adapters.adapter_manifest import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    AdapterManifest,
    BaseTensor,
    read_adapter_manifest,
)
from mpo_core.adapters.adoption_config import MPOConfig
from mpo_core.adapters.base_weights import BaseRecord, all_parameters, core_places, gradient_flags
from mpo_core.decomposing.chain import home_site
from mpo_core.errors import ManifestError, NonFiniteError
from mpo_core.models.manifest import TensorEntry
from mpo_core.models.skeleton import blank_layers, install_layers, layer_entries
from mpo_core.models.storage import distinct_tensors, read_tensors, stored_copy, tensor_entry, write_tensors, write_text
from mpo_core.models.surgery import mpo_layers, set_forward


def save_adapter(model: nn.Module, config: MPOConfig, record: BaseRecord, folder: str | Path) -> Path:
    """Write what the base model does not give.

    Args:
        model: the adapted model itself, without a wrapper around it.
        config: how it was adapted.
        record: what the base model was.
        folder: made if absent; an earlier save in it is replaced. The weights are written first, so that a save that
            was cut short is recognised by the checksum.

    Returns:
        The folder.

    Raises:
        NonFiniteError: A tensor to be stored holds NaN or infinity, as after a training that diverged.
        UsageError: The model lies on the meta device, or keeps something in its state dict that is no tensor.
    """
    layers = layer_entries(model, "save_pretrained")
    places = core_places(model)
    stored: dict[str, Tensor] = {}
    tensors: dict[str, TensorEntry] = {}
    recomputed: dict[str, TensorEntry] = {}
    base: dict[str, BaseTensor] = {}
    trained: list[str] = []
    for key, (value, tied) in distinct_tensors(model.state_dict(keep_vars=True), "save_pretrained").items():
        keys = (key, *tied)
        if value.requires_grad or key in record.trained:
            trained.append(key)
        if all(name in places and record.gives(name, *places[name]) for name in keys):
            recomputed[key] = tensor_entry(value, tied)
            if places[key][2] == home_site(places[key][1].shape):
                base.update({weight: record.tensors[weight] for weight in map(weight_key, keys)})
        elif key not in places and record.keeps(keys, value):
            base.update({name: record.tensors[name] for name in keys})
        else:
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NonFiniteError(f"save_pretrained: {key!r} holds NaN or infinity; an earlier checkpoint may not.")
            stored[key], tensors[key] = stored_copy(value), tensor_entry(value, tied)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digest = write_tensors(folder / ADAPTER_WEIGHTS_FILE, stored)
    manifest = AdapterManifest(config, layers, tensors, recomputed, base, tuple(trained), digest)
    write_text(folder / ADAPTER_CONFIG_FILE, manifest.to_json())
    return folder


def load_adapter(model: nn.Module, folder: str | Path) -> tuple[MPOConfig, BaseRecord]:
    """Put an adapter on its base model, in place; everything is checked before the model is changed.

    All parameters are frozen afterwards. Those from the file have the saved dtype, on the device of the base model;
    tensors that were shared are shared again.

    Args:
        model: the base model, with the weights it had when the adapter was made.
        folder: as written by `save_adapter`.

    Returns:
        The configuration, and the record of the base model.

    Raises:
        ManifestError: The folder holds no adapter, a file is damaged or of another version, a stored value is not
            finite, or the model is not the base model of the adapter.
        UsageError: The model holds MPO layers, or is on the meta device.
    """
    folder = Path(folder)
    path = folder / ADAPTER_CONFIG_FILE
    manifest = read_adapter_manifest(folder)
    stored = read_tensors(folder / ADAPTER_WEIGHTS_FILE, path, manifest.sha256, manifest.tensors)
    for key, value in stored.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ManifestError(f"{folder / ADAPTER_WEIGHTS_FILE}: {key!r} holds NaN or infinity; save the model anew.")
    state = base_state(model)
    layers = blank_layers(model, manifest.layers, path)
    check_keys(state, manifest, path)
    record = record_of(state, manifest, gradient_flags(model))
    check_base(record, manifest, path)
    values = {**stored, **recomputed_cores(state, manifest, path)}

    devices = install_layers(model, layers)
    loaded: dict[str, Tensor] = {}
    parameters = {key for key, _ in all_parameters(model)}
    for home, entry in {**manifest.tensors, **manifest.recomputed}.items():
        device = devices[home] if home in devices else state[home].device
        value = values[home].to(device)
        shared = nn.Parameter(value, requires_grad=False) if home in parameters else value
        loaded.update(dict.fromkeys((home, *entry.tied), shared))
    # With assign=True a Parameter in the state dict becomes the module's own, so shared keys stay shared.
    model.load_state_dict(loaded, strict=False, assign=True)
    model.requires_grad_(False)
    for layer in mpo_layers(model).values():
        set_forward(layer, manifest.config.strategy, manifest.config.cache)
    return manifest.config, record
