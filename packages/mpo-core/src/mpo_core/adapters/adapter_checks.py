"""Hold an adapter against the base model that is at hand, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from mpo_core.adapters.adapter_manifest import AdapterManifest
from mpo_core.adapters.base_weights import BaseRecord, home_of_weight, make_record
from mpo_core.decomposing.chain import home_site
from mpo_core.decomposing.lossless import identity_core
from mpo_core.errors import ManifestError, UsageError
from mpo_core.models.manifest import LayerEntry
from mpo_core.models.storage import dtype_name, tensor_entry
from mpo_core.models.surgery import mpo_layers


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a base model, which has to be plain and to hold values.

    Raises:
        UsageError: It holds MPO layers, or something that is no tensor with values.
    """
    if mpo_layers(model):
        raise UsageError("from_pretrained: the model holds MPO layers already; load the base model anew.")
    state = model.state_dict(keep_vars=True)
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.is_meta:
            raise UsageError(f"from_pretrained: {key!r} of the base model is no tensor with values; load its weights.")
    return state


def _replaced(manifest: AdapterManifest) -> set[str]:
    """The keys of the base model's weights that the layers take the place of."""
    return {f"{name}.weight" for entry in manifest.layers for name in entry.names}


def _core_keys(manifest: AdapterManifest) -> dict[str, tuple[LayerEntry, int]]:
    """Key of every core under every name -> its layer and number."""
    return {
        f"{name}.cores.{index}": (entry, index)
        for entry in manifest.layers
        for name in entry.names
        for index in range(entry.shape.n)
    }


def check_keys(state: Mapping[str, Tensor], manifest: AdapterManifest, path: Path) -> None:
    """Hold the keys and shapes of the manifest against those that the model will have; all must be accounted for.

    Args:
        state: of the base model.
        manifest: of the adapter.
        path: of the manifest, for the messages.

    Raises:
        ManifestError: A key is missing or surplus, or a shape differs.
    """
    cores, replaced = _core_keys(manifest), _replaced(manifest)
    sizes = {key: tuple(value.shape) for key, value in state.items() if key not in replaced}
    for key, (entry, index) in cores.items():
        bonds, shape = (1, *entry.bonds, 1), entry.shape
        sizes[key] = (bonds[index], shape.row_factors[index], shape.col_factors[index], bonds[index + 1])
    own = {**manifest.tensors, **manifest.recomputed}
    given = {name: entry.shape for key, entry in own.items() for name in (key, *entry.tied)}
    given.update({key: entry.shape for key, entry in manifest.base.items() if key not in replaced})
    for key in sorted(sizes.keys() ^ given.keys()):
        what = "has" if key in given else "lacks"
        raise ManifestError(
            f"{path} {what} {key!r}, {'which the model lacks' if key in given else 'which the model needs'}; load the"
            " base model that the adapter was made for."
        )
    for key, size in sizes.items():
        if given[key] != size:
            raise ManifestError(
                f"{path}: {key!r} has the shape {given[key]}, the model needs {size}; load the base model that the"
                " adapter was made for."
            )
    for key in manifest.recomputed:
        entry, index = cores.get(key, (None, 0))
        home = entry is not None and index == home_site(entry.shape)
        if entry is None or entry.bonds != entry.shape.full_bonds or (home and weight_key(key) not in manifest.base):
            raise ManifestError(f"{path}: {key!r} cannot be computed from the base model; save the adapter anew.")


def record_of(state: Mapping[str, Tensor], manifest: AdapterManifest, flags: Mapping[str, bool]) -> BaseRecord:
    """The record that the adapter was made with, from the base model at hand."""
    own = {**manifest.tensors, **manifest.recomputed}
    trained = {name for key in manifest.trained for name in (key, *own[key].tied)}
    names = {key.rsplit(".cores.", 1)[0] for home, e in manifest.recomputed.items() for key in (home, *e.tied)}
    weights = {name: state[f"{name}.weight"] for name in names if f"{name}.weight" in manifest.base}
    replaced = _replaced(manifest)
    dense = {key: value for key, value in state.items() if key not in replaced}
    return make_record(dense, weights, names, trained, flags)


def check_base(record: BaseRecord, manifest: AdapterManifest, path: Path) -> None:
    """Hold the base model against what the manifest says it was.

    Raises:
        ManifestError: A tensor has another dtype or other values.
    """
    for key, expected in manifest.base.items():
        found = record.tensors.get(key)
        if found is None:
            raise ManifestError(f"{path}: base names {key!r}, which does not stay frozen; save the adapter anew.")
        if found.dtype != expected.dtype:
            raise ManifestError(
                f"{path}: the base model's {key!r} is {found.dtype}, the adapter was made on {expected.dtype}; load"
                f" the base model in {expected.dtype} (the adapted model can be converted afterwards)."
            )
        if found != expected:
            raise ManifestError(
                f"{path}: the base model's {key!r} has the sha256 {found.sha256[:12]}…, the adapter was made on"
                f" {expected.sha256[:12]}…; load that base model, or, if this is a new head with random values, name"
                " it in modules_to_save before training."
            )


def recomputed_cores(state: Mapping[str, Tensor], manifest: AdapterManifest, path: Path) -> dict[str, Tensor]:
    """The cores that are not in the file, from the weights of the base model.

    Raises:
        ManifestError: One has not the dtype that the manifest says.
    """
    places = _core_keys(manifest)
    values: dict[str, Tensor] = {}
    for key, expected in manifest.recomputed.items():
        entry, index = places[key]
        weight = state[weight_key(key)]
        if index == home_site(entry.shape):
            value = home_of_weight(weight, entry.shape, entry.kind)
        else:
            value = identity_core(entry.shape, index, weight)
        if tensor_entry(value, expected.tied) != expected:
            raise ManifestError(
                f"{path}: {key!r} is {expected.dtype} in the manifest, the base model gives {dtype_name(value)}; load"
                " the base model in the dtype that the adapter was made in."
            )
        values[key] = value
    return values


def weight_key(core_key: str) -> str:
    """Key of the dense weight whose core this is."""
    return f"{core_key.rsplit('.cores.', 1)[0]}.weight"
