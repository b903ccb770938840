"""Save a model with MPO layers as ``mpo.safetensors`` and ``mpo.json``, and load it into a dense skeleton."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mpo_core.embedding import MPOEmbedding
from mpo_core.errors import ManifestError, MPOError, UsageError
from mpo_core.manifest import (
    MANIFEST_FILE,
    WEIGHTS_FILE,
    LayerEntry,
    Manifest,
    TensorEntry,
    read_manifest,
)
from mpo_core.surgery import blank_cores, is_mpo_layer, layer_kind, make_layer, mpo_layers
from mpo_core.targets import as_target, named_aliases, weight_of
from mpo_core.ties import drop_stale_ties

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
    layers = _layer_entries(model)
    stored, tensors = _distinct_tensors(model)
    try:
        json.dumps(extra or {}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"save_mpo: extra cannot be written as JSON ({error}); pass plain values.") from None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / WEIGHTS_FILE
    _write_atomically(weights, lambda path: save_file(stored, path, metadata={"format": "pt"}))
    manifest = Manifest(layers, tensors, sha256=_sha256(weights), extra=extra or {})
    text = manifest.to_json()
    _write_atomically(folder / MANIFEST_FILE, lambda path: path.write_text(text, encoding="utf-8"))
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
    manifest = read_manifest(folder)
    stored = _read_weights(folder, manifest)
    devices = {key: value.device for key, value in model.state_dict(keep_vars=True).items() if _is_tensor(value)}
    _install_layers(model, manifest, folder, devices)
    state = model.state_dict(keep_vars=True)
    _compare(manifest, state, folder)
    loaded: dict[str, Tensor] = {}
    shared: dict[tuple[str, bool], Tensor] = {}
    for key, home in manifest.keys.items():
        is_parameter = isinstance(state[key], nn.Parameter)
        if (home, is_parameter) not in shared:
            value = stored[home].to(_real(devices[key]))
            shared[home, is_parameter] = nn.Parameter(value, requires_grad=False) if is_parameter else value
        loaded[key] = shared[home, is_parameter]
    # With assign=True a Parameter in the state dict becomes the module's own, so shared keys stay shared.
    model.load_state_dict(loaded, strict=True, assign=True)
    return model


def _layer_entries(model: nn.Module) -> tuple[LayerEntry, ...]:
    layers = mpo_layers(model)
    if "" in layers:
        raise UsageError("save_mpo: the model is itself an MPO layer; put it into a module, say nn.Sequential.")
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


def _distinct_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, TensorEntry]]:
    """The tensors to store, each once, and their entries with the keys that share them."""
    firsts: dict[tuple[Any, ...], str] = {}
    stored: dict[str, Tensor] = {}
    tied: dict[str, list[str]] = {}
    for key, value in model.state_dict(keep_vars=True).items():
        if not _is_tensor(value) or value.is_meta:
            what = "lies on the meta device" if _is_tensor(value) else f"is a {type(value).__name__}, no tensor"
            raise UsageError(f"save_mpo: {key!r} {what} and cannot be stored.")
        first = firsts.setdefault(_identity(value), key)
        if first != key:
            tied[first].append(key)
            continue
        # A copy of its own memory: safetensors refuses tensors that overlap in storage.
        stored[key] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        tied[key] = []
    entries = {
        key: TensorEntry(_dtype_name(value), tuple(value.shape), tuple(tied[key])) for key, value in stored.items()
    }
    return stored, entries


def _identity(value: Tensor) -> tuple[Any, ...]:
    """Equal for tensors that are the same memory seen in the same way."""
    if value.numel() == 0:
        return (id(value),)
    place = (value.device, value.data_ptr(), value.dtype)
    return (*place, tuple(value.shape), value.stride(), isinstance(value, nn.Parameter))


def _read_weights(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    """Load the weights file and hold it against the manifest's list of tensors."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ManifestError(f"{path} is missing; copy it beside {MANIFEST_FILE} or save the model anew.")
    found = _sha256(path)
    if found != manifest.sha256:
        raise ManifestError(
            f"{path} has the sha256 {found[:12]}…, the manifest says {manifest.sha256[:12]}…: the file is"
            " damaged, cut short or of another save; fetch or save it anew."
        )
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ManifestError(f"{path} is no safetensors file ({error}); save the model anew.") from None
    for key in sorted(stored.keys() ^ manifest.tensors.keys()):
        lacking = WEIGHTS_FILE if key in manifest.tensors else MANIFEST_FILE
        raise ManifestError(f"{folder / lacking} lacks the tensor {key!r}; save the model anew.")
    for key, entry in manifest.tensors.items():
        have = (_dtype_name(stored[key]), tuple(stored[key].shape))
        if have != (entry.dtype, entry.shape):
            raise ManifestError(
                f"{path}: {key!r} is {have[0]} of shape {have[1]}, the manifest says {entry.dtype} of shape"
                f" {entry.shape}; save the model anew."
            )
    return stored


def _install_layers(model: nn.Module, manifest: Manifest, folder: Path, devices: dict[str, torch.device]) -> None:
    """Exchange dense layers for MPO layers without values; note the device of their tensors in `devices`."""
    path = folder / MANIFEST_FILE
    modules = dict(model.named_modules(remove_duplicate=False))
    layers = [(entry, _blank_layer(entry, modules, path)) for entry in manifest.layers]
    for entry, layer in layers:
        device = weight_of(modules[entry.name]).device
        for name in (entry.name, *entry.aliases):
            for key, _ in layer.named_parameters():
                devices.setdefault(f"{name}.{key}", device)
            model.set_submodule(name, layer)
    drop_stale_ties(model, is_mpo_layer)


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


def _compare(manifest: Manifest, state: Mapping[str, Any], folder: Path) -> None:
    """Hold the manifest's keys and shapes against those of the model."""
    path = folder / MANIFEST_FILE
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


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    # Not every platform lets a folder be synced; the rename itself is done.
    with suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dtype_name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _real(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "meta" else device
