"""``mpo.json``: what a saved MPO model consists of, checked entry by entry when read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mpo_core.errors import ManifestError, MPOError
from mpo_core.shapes import MPOShape

if TYPE_CHECKING:
    from mpo_core.models.targets import Kind

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

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the module."""
        return (self.name, *self.aliases)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form, which `Reader.layer` reads."""
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "kind": self.kind,
            "transposed": self.transposed,
            "shape": self.shape.to_dict(),
            "bonds": list(self.bonds),
            "bias": self.bias,
            "padding_idx": self.padding_idx,
        }


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

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form, which `Reader.tensor` reads."""
        return {"dtype": self.dtype, "shape": list(self.shape), "tied": list(self.tied)}


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
            "layers": [layer.to_dict() for layer in self.layers],
            "tensors": {key: entry.to_dict() for key, entry in self.tensors.items()},
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
    reader = Reader(path)
    content = reader.content(SCHEMA_VERSION)
    weights = reader.mapping(content, "weights", "")
    manifest = Manifest(
        layers=reader.layers(content),
        tensors=reader.tensors(content, "tensors"),
        sha256=reader.get(weights, "sha256", str, "weights."),
        extra=reader.mapping(content, "extra", ""),
    )
    reader.check_unique("layers", [name for layer in manifest.layers for name in layer.names])
    reader.check_unique("tensors", [k for key, entry in manifest.tensors.items() for k in (key, *entry.tied)])
    return manifest


@dataclass(frozen=True)
class Reader:
    """Takes typed values out of a JSON file and says where one is amiss.

    Attributes:
        path: of the file.
    """

    path: Path

    def content(self, schema_version: int) -> Any:
        """The parsed file, after a look at its ``schema_version``.

        Raises:
            ManifestError: no JSON, or another version.
        """
        try:
            content: Any = json.loads(self.path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise ManifestError(f"{self.path} cannot be read as JSON ({error}); save the model anew.") from None
        version = self.get(content, "schema_version", int, "")
        if version != schema_version:
            advice = "update mpo-core" if version > schema_version else "save the model anew"
            raise ManifestError(
                f"{self.path}: schema_version is {version}, this mpo-core reads {schema_version}; {advice}."
            )
        return content

    def get(self, content: Any, key: str, kind: type[_Value], where: str) -> _Value:
        """The value of a key, which has to be there and of a type.

        Raises:
            ManifestError: it is not.
        """
        if not isinstance(content, dict) or key not in content:
            raise ManifestError(f"{self.path}: {where}{key} is missing; save the model anew.")
        value = cast("dict[str, Any]", content)[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ManifestError(f"{self.path}: {where}{key} is {value!r}; expected a {kind.__name__}.")
        return value

    def mapping(self, content: Any, key: str, where: str) -> dict[str, Any]:
        """The value of a key, which has to be a mapping.

        Raises:
            ManifestError: it is not.
        """
        return cast("dict[str, Any]", self.get(content, key, dict, where))

    def items(self, content: Any, key: str, kind: type[_Value], where: str) -> tuple[_Value, ...]:
        """The entries of a list, all of one type.

        Raises:
            ManifestError: they are not.
        """
        values = cast("list[Any]", self.get(content, key, list, where))
        if any(not isinstance(v, kind) or isinstance(v, bool) for v in values):
            raise ManifestError(f"{self.path}: {where}{key} is {values!r}; expected a list of {kind.__name__}.")
        return tuple(values)

    def check_unique(self, part: str, names: Iterable[str]) -> None:
        """Refuse a name that a part of the file has twice.

        Raises:
            ManifestError: it has.
        """
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise ManifestError(f"{self.path}: {part} lists {name!r} twice; save the model anew.")
            seen.add(name)

    def layers(self, content: Any) -> tuple[LayerEntry, ...]:
        """The part ``layers`` of the file."""
        entries = cast("list[Any]", self.get(content, "layers", list, ""))
        return tuple(self.layer(entry, f"layers[{index}]") for index, entry in enumerate(entries))

    def layer(self, entry: Any, where: str) -> LayerEntry:
        """One entry of ``layers``.

        Raises:
            ManifestError: it describes no layer.
        """
        kind = self.get(entry, "kind", str, f"{where}.")
        if kind not in ("linear", "conv1d", "embedding"):
            raise ManifestError(f"{self.path}: {where}.kind is {kind!r}; expected 'linear', 'conv1d' or 'embedding'.")
        try:
            shape = MPOShape.from_dict(self.mapping(entry, "shape", f"{where}."))
        except (MPOError, KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"{self.path}: {where}.shape is no factorisation ({error}).") from None
        bonds = self.items(entry, "bonds", int, f"{where}.")
        if len(bonds) != len(shape.full_bonds) or any(bond < 1 for bond in bonds):
            raise ManifestError(
                f"{self.path}: {where}.bonds is {list(bonds)}; expected {len(shape.full_bonds)} positive"
                " bond dimensions."
            )
        padding: Any = entry.get("padding_idx")
        return LayerEntry(
            name=self.get(entry, "name", str, f"{where}."),
            aliases=self.items(entry, "aliases", str, f"{where}."),
            kind=kind,
            shape=shape,
            bonds=bonds,
            bias=self.get(entry, "bias", bool, f"{where}."),
            padding_idx=None if padding is None else self.get(entry, "padding_idx", int, f"{where}."),
        )

    def tensors(self, content: Any, part: str) -> dict[str, TensorEntry]:
        """A part of the file that maps keys of a state dict to tensors."""
        entries = self.mapping(content, part, "")
        return {key: self.tensor(entry, f"{part}[{key!r}]") for key, entry in entries.items()}

    def tensor(self, entry: Any, where: str) -> TensorEntry:
        """One entry of such a part.

        Raises:
            ManifestError: it describes no tensor.
        """
        return TensorEntry(
            dtype=self.get(entry, "dtype", str, f"{where}."),
            shape=self.items(entry, "shape", int, f"{where}."),
            tied=self.items(entry, "tied", str, f"{where}."),
        )
