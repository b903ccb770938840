"""``mpo_config.json``: what an adapter consists of, and which base model it needs; checked entry by entry when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mpo_core.adapters.adoption_config import MPOConfig
from mpo_core.errors import ManifestError, MPOError
from mpo_core.models.manifest import LayerEntry, Reader, TensorEntry

ADAPTER_CONFIG_FILE = "mpo_config.json"
ADAPTER_WEIGHTS_FILE = "mpo_model.safetensors"
ADAPTER_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class BaseTensor:
    """A tensor of the base model, as it can be recognised.

    Attributes:
        dtype: torch's name of its type.
        shape: its sizes.
        sha256: of its entries in row-major order; empty for a tensor on the meta device.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class AdapterManifest:
    """The content of ``mpo_config.json``.

    Attributes:
        config: how the model was adapted.
        layers: the MPO layers.
        tensors: key in the weights file -> entry, each tensor once.
        recomputed: key of a core that is computed from the base model instead -> entry.
        base: key in the base model's state dict -> what it has to be.
        trained: keys that train, each tensor once.
        sha256: of the weights file.
    """

    config: MPOConfig
    layers: tuple[LayerEntry, ...]
    tensors: Mapping[str, TensorEntry]
    recomputed: Mapping[str, TensorEntry]
    base: Mapping[str, BaseTensor]
    trained: tuple[str, ...]
    sha256: str

    def to_json(self) -> str:
        """The text of ``mpo_config.json``."""
        content = {
            "format": "mpo-adapter",
            "schema_version": ADAPTER_SCHEMA_VERSION,
            "config": self.config.to_dict(),
            "weights": {"file": ADAPTER_WEIGHTS_FILE, "sha256": self.sha256},
            "layers": [layer.to_dict() for layer in self.layers],
            "tensors": {key: entry.to_dict() for key, entry in self.tensors.items()},
            "recomputed": {key: entry.to_dict() for key, entry in self.recomputed.items()},
            "base": {
                key: {"dtype": entry.dtype, "shape": list(entry.shape), "sha256": entry.sha256}
                for key, entry in self.base.items()
            },
            "trained": list(self.trained),
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read_adapter_manifest(folder: str | Path) -> AdapterManifest:
    """Read and check ``mpo_config.json``; the weights file is not touched.

    Raises:
        ManifestError: The folder holds no adapter, or its manifest is no JSON, of another schema version, or has an
            entry of the wrong form.
    """
    path = Path(folder) / ADAPTER_CONFIG_FILE
    if not path.is_file():
        raise ManifestError(
            f"{folder} holds no {ADAPTER_CONFIG_FILE}; expected a folder that MPOModel.save_pretrained has written."
        )
    reader = Reader(path)
    content = reader.content(ADAPTER_SCHEMA_VERSION)
    try:
        config = MPOConfig.from_dict(reader.mapping(content, "config", ""))
    except (MPOError, TypeError) as error:
        raise ManifestError(f"{path}: config is refused ({error})") from None
    weights = reader.mapping(content, "weights", "")
    base = reader.mapping(content, "base", "")
    manifest = AdapterManifest(
        config=config,
        layers=reader.layers(content),
        tensors=reader.tensors(content, "tensors"),
        recomputed=reader.tensors(content, "recomputed"),
        base={
            key: BaseTensor(
                reader.get(entry, "dtype", str, f"base[{key!r}]."),
                reader.items(entry, "shape", int, f"base[{key!r}]."),
                reader.get(entry, "sha256", str, f"base[{key!r}]."),
            )
            for key, entry in base.items()
        },
        trained=reader.items(content, "trained", str, ""),
        sha256=reader.get(weights, "sha256", str, "weights."),
    )
    reader.check_unique("layers", [name for layer in manifest.layers for name in layer.names])
    own = {**manifest.tensors, **manifest.recomputed}
    keys = [key for part in (manifest.tensors, manifest.recomputed) for key in part]
    reader.check_unique("tensors and recomputed", [*keys, *(key for entry in own.values() for key in entry.tied)])
    for key in manifest.trained:
        if key not in own:
            raise ManifestError(f"{path}: trained names {key!r}, which is no tensor of the adapter; save it anew.")
    return manifest
