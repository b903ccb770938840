"""``mpo.json``: what a saved MPO model consists of, checked entry by entry when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mpo_core.errors import ManifestError, MPOError
from mpo_core.shapes import MPOShape

if TYPE_CHECKING:
    from mpo_core.targets import Kind

MANIFEST_FILE = "mpo.json"
WEIGHTS_FILE = "mpo.safetensors"
SCHEMA_VERSION = 1

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class LayerEntry:
    """One MPO layer.

    Attributes:
        name: first dotted name in the model.
        aliases: further names of the same module.
        kind: the dense layer that it stands for.
        shape: factorisation of its matrix.
        bonds: the n - 1 bond dimensions.
        bias: whether it has a bias.
        padding_idx: of an embedding.
    """

    name: str
    aliases: tuple[str, ...]
    kind: Kind
    shape: MPOShape
    bonds: tuple[int, ...]
    bias: bool
    padding_idx: int | None

    @property
    def transposed(self) -> bool:
        """Whether the dense weight is stored as (in, out), as a Conv1D does."""
        return self.kind == "conv1d"


@dataclass(frozen=True)
class TensorEntry:
    """One stored tensor.

    Attributes:
        dtype: torch's name of its type, without ``torch.``.
        shape: its sizes.
        tied: further keys of the state dict that are this very tensor.
    """

    dtype: str
    shape: tuple[int, ...]
    tied: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """The content of ``mpo.json``.

    Attributes:
        layers: the MPO layers.
        tensors: key in the weights file -> entry; a tensor that stands under several keys of the state
            dict is stored once, under the first.
        sha256: of the weights file.
        extra: whatever the writer added.
        schema_version: of the format.
    """

    layers: tuple[LayerEntry, ...]
    tensors: Mapping[str, TensorEntry]
    sha256: str
    extra: Mapping[str, Any]
    schema_version: int = SCHEMA_VERSION

    @property
    def keys(self) -> dict[str, str]:
        """Every key of the state dict -> the key under which its tensor is stored."""
        return {key: stored for stored, entry in self.tensors.items() for key in (stored, *entry.tied)}

    def to_json(self) -> str:
        """The text of ``mpo.json``."""
        content = {
            "format": "mpo",
            "schema_version": self.schema_version,
            "weights": {"file": WEIGHTS_FILE, "sha256": self.sha256},
            "layers": [
                {
                    "name": layer.name,
                    "aliases": list(layer.aliases),
                    "kind": layer.kind,
                    "transposed": layer.transposed,
                    "shape": layer.shape.to_dict(),
                    "bonds": list(layer.bonds),
                    "bias": layer.bias,
                    "padding_idx": layer.padding_idx,
                }
                for layer in self.layers
            ],
            "tensors": {
                key: {"dtype": entry.dtype, "shape": list(entry.shape), "tied": list(entry.tied)}
                for key, entry in self.tensors.items()
            },
            "extra": dict(self.extra),
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check ``mpo.json``; the weights file is not touched.

    Raises:
        ManifestError: The folder is no MPO folder, or its manifest is no JSON, of another schema version, or
            has an entry of the wrong form.
    """
    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        raise ManifestError(f"{folder} is no MPO folder: it holds no {MANIFEST_FILE}; save_mpo writes one.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ManifestError(f"{path} cannot be read as JSON ({error}); save the model anew.") from None
    reader = _Reader(path)
    version = reader.get(content, "schema_version", int, "")
    if version != SCHEMA_VERSION:
        advice = "update mpo-core" if version > SCHEMA_VERSION else "save the model anew"
        raise ManifestError(f"{path}: schema_version is {version}, this mpo-core reads {SCHEMA_VERSION}; {advice}.")
    weights = reader.get(content, "weights", dict, "")
    layers = reader.get(content, "layers", list, "")
    tensors = reader.get(content, "tensors", dict, "")
    manifest = Manifest(
        layers=tuple(reader.layer(entry, f"layers[{index}]") for index, entry in enumerate(layers)),
        tensors={key: reader.tensor(entry, f"tensors[{key!r}]") for key, entry in tensors.items()},
        sha256=reader.get(weights, "sha256", str, "weights."),
        extra=reader.get(content, "extra", dict, ""),
        schema_version=version,
    )
    _check_unique(path, "layers", [n for layer in manifest.layers for n in (layer.name, *layer.aliases)])
    _check_unique(path, "tensors", [k for key, entry in manifest.tensors.items() for k in (key, *entry.tied)])
    return manifest


def _check_unique(path: Path, part: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ManifestError(f"{path}: {part} lists {name!r} twice; save the model anew.")
        seen.add(name)


@dataclass(frozen=True)
class _Reader:
    """Takes typed values out of parsed JSON and says where one is amiss."""

    path: Path

    def get(self, content: Any, key: str, kind: type[_Value], where: str) -> _Value:
        if not isinstance(content, dict) or key not in content:
            raise ManifestError(f"{self.path}: {where}{key} is missing; save the model anew.")
        value = content[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ManifestError(f"{self.path}: {where}{key} is {value!r}; expected a {kind.__name__}.")
        return value

    def items(self, content: Any, key: str, kind: type[_Value], where: str) -> tuple[_Value, ...]:
        values = self.get(content, key, list, where)
        if any(not isinstance(v, kind) or isinstance(v, bool) for v in values):
            raise ManifestError(f"{self.path}: {where}{key} is {values!r}; expected a list of {kind.__name__}.")
        return tuple(values)

    def layer(self, entry: Any, where: str) -> LayerEntry:
        kind = self.get(entry, "kind", str, f"{where}.")
        if kind not in ("linear", "conv1d", "embedding"):
            raise ManifestError(f"{self.path}: {where}.kind is {kind!r}; expected 'linear', 'conv1d' or 'embedding'.")
        try:
            shape = MPOShape.from_dict(self.get(entry, "shape", dict, f"{where}."))
        except (MPOError, KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"{self.path}: {where}.shape is no factorisation ({error}).") from None
        bonds = self.items(entry, "bonds", int, f"{where}.")
        if len(bonds) != len(shape.full_bonds) or any(bond < 1 for bond in bonds):
            raise ManifestError(
                f"{self.path}: {where}.bonds is {list(bonds)}; expected {len(shape.full_bonds)} positive"
                " bond dimensions."
            )
        padding = entry.get("padding_idx")
        return LayerEntry(
            name=self.get(entry, "name", str, f"{where}."),
            aliases=self.items(entry, "aliases", str, f"{where}."),
            kind=kind,
            shape=shape,
            bonds=bonds,
            bias=self.get(entry, "bias", bool, f"{where}."),
            padding_idx=None if padding is None else self.get(entry, "padding_idx", int, f"{where}."),
        )

    def tensor(self, entry: Any, where: str) -> TensorEntry:
        return TensorEntry(
            dtype=self.get(entry, "dtype", str, f"{where}."),
            shape=self.items(entry, "shape", int, f"{where}."),
            tied=self.items(entry, "tied", str, f"{where}."),
        )
