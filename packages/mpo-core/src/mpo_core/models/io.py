"""Save a model with MPO layers as ``mpo.safetensors`` and ``mpo.json``, and load it into a dense skeleton."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from mpo_core.errors import ManifestError, UsageError
from mpo_core.models.manifest import MANIFEST_FILE, WEIGHTS_FILE, Manifest, read_manifest
from mpo_core.models.skeleton import blank_layers, install_layers, layer_entries
from mpo_core.models.storage import (
    distinct_tensors,
    read_tensors,
    real_device,
    stored_copy,
    tensor_entry,
    write_tensors,
    write_text,
)

__all__ = ["load_mpo", "read_manifest", "save_mpo"]

_Model = TypeVar("_Model", bound=nn.Module)


def save_mpo(model: nn.Module, folder: str | Path, *, extra: Mapping[str, Any] | None = None) -> Path:
    """Write the cores and all other parameters and persistent buffers of a model.

    Every tensor is stored once, however many layers share it. Both files are written beside their place and
    renamed, the weights first: a folder whose writing was cut short is recognised by the checksum.
    Whether a parameter trains is not stored.

    Args:
        model: holds MPO layers; may hold none.
        folder: made if absent; an earlier save in it is replaced.
        extra: free entries for ``mpo.json`` (name of the backbone, metrics); must be JSON.

    Returns:
        The folder.

    Raises:
        UsageError: `extra` is no JSON, or the model is itself an MPO layer, lies on the meta device, or keeps
            something in its state dict that is no tensor.
    """
    layers = layer_entries(model, "save_mpo")
    found = distinct_tensors(model.state_dict(keep_vars=True), "save_mpo")
    try:
        json.dumps(extra or {}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"save_mpo: extra cannot be written as JSON ({error}); pass plain values.") from None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digest = write_tensors(folder / WEIGHTS_FILE, {key: stored_copy(value) for key, (value, _) in found.items()})
    entries = {key: tensor_entry(value, tied) for key, (value, tied) in found.items()}
    manifest = Manifest(layers, entries, sha256=digest, extra=extra or {})
    write_text(folder / MANIFEST_FILE, manifest.to_json())
    return folder


def load_mpo(model: _Model, folder: str | Path) -> _Model:
    """Turn a freshly built dense model into the saved one.

    The layers that the manifest lists are exchanged for MPO layers of its shapes (nothing is decomposed), and
    every parameter and persistent buffer is taken from the file, with the saved dtype, on the device where
    the model has it (from the meta device: on the CPU). Tensors that were shared are shared again.
    Non-persistent buffers and ``requires_grad`` stay as the model has them; new cores train as the dense
    weight did. Build optimizers afterwards: parameters are new objects.

    Args:
        model: of the architecture that was saved, with any weights; changed in place.
        folder: as written by `save_mpo`.

    Returns:
        `model`.

    Raises:
        ManifestError: The folder is no MPO folder, a file is damaged or of another version, or model and
            manifest disagree in a layer, a key, a shape or a dtype. The model may be half changed then.
    """
    folder = Path(folder)
    path = folder / MANIFEST_FILE
    manifest = read_manifest(folder)
    stored = read_tensors(folder / WEIGHTS_FILE, path, manifest.sha256, manifest.tensors)
    state = model.state_dict(keep_vars=True)
    devices = {key: value.device for key, value in state.items() if isinstance(value, Tensor)}
    devices = {**install_layers(model, blank_layers(model, manifest.layers, path)), **devices}
    state = model.state_dict(keep_vars=True)
    _compare(manifest, state, path)
    loaded: dict[str, Tensor] = {}
    shared: dict[tuple[str, bool], Tensor] = {}
    for key, home in manifest.keys.items():
        is_parameter = isinstance(state[key], nn.Parameter)
        if (home, is_parameter) not in shared:
            value = stored[home].to(real_device(devices[key]))
            shared[home, is_parameter] = nn.Parameter(value, requires_grad=False) if is_parameter else value
        loaded[key] = shared[home, is_parameter]
    # With assign=True a Parameter in the state dict becomes the module's own, so shared keys stay shared.
    model.load_state_dict(loaded, strict=True, assign=True)
    return model


def _compare(manifest: Manifest, state: Mapping[str, Any], path: Path) -> None:
    """Hold the manifest's keys and shapes against those of the model."""
    keys = manifest.keys
    for key in state:
        if key not in keys:
            raise ManifestError(f"{path} lacks {key!r}, which the model needs; it was saved from another model.")
    for key, home in keys.items():
        if key not in state:
            raise ManifestError(f"{path} has {key!r}, which the model lacks; it was saved from another model.")
        if tuple(state[key].shape) != manifest.tensors[home].shape:
            raise ManifestError(
                f"{path}: {key!r} has the shape {manifest.tensors[home].shape}, the model needs"
                f" {tuple(state[key].shape)}; build the model from the configuration it was saved with."
            )
