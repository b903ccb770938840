"""Checkpoints of a training run: safetensors and JSON in a folder with a sha256 manifest, never pickle.

A checkpoint is the folder ``step-00000100`` with

- ``model.safetensors``, ``optimizer.safetensors``, ``rng.safetensors``: the tensors, bit for bit;
- ``extra.safetensors``: further tensors of the training loop, where it has any;
- ``state.json``: the optimizer's structure and scalars, and whatever the training loop adds;
- ``manifest.json``: the sha256 of each of them.

It appears under its name only when complete (see `mpo_core.repro.atomic`); one damaged later is skipped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mpo_core.errors import ManifestError, UsageError
from mpo_core.repro.atomic import new_folder, remove_folder, remove_leftovers, write_json_atomic

FORMAT = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingState:
    """Everything that a training loop needs to go on as if it had never stopped.

    Args:
        model: trained parameters and persistent buffers by name, each distinct tensor once.
        optimizer: ``Optimizer.state_dict()``.
        rng: states of the random number generators, each a tensor.
        progress: JSON values of the loop's own (settings, counters, hash of the frozen weights).
        extra: tensors of the loop's own, besides what it trains.
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    rng: Mapping[str, Tensor]
    progress: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)


def save_checkpoint(folder: Path, step: int, state: TrainingState, *, keep: int = 2) -> Path:
    """Write the checkpoint of one optimizer step, then remove all but the newest ``keep``.

    Args:
        folder: where the checkpoints of this training run lie; made as needed.
        step: number of optimizer steps done.
        state: what to save.
        keep: how many checkpoints to leave.

    Returns:
        The checkpoint's folder.

    Raises:
        UsageError: the optimizer's state holds something that is neither a tensor nor a JSON value.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    path = folder / f"step-{step:08d}"
    if path.exists():  # a damaged one that the run resumed behind, and has now reached again
        remove_folder(path)
    optimizer_tensors: dict[str, Tensor] = {}
    structure = {
        "format": FORMAT,
        "step": step,
        "optimizer": _encode(state.optimizer, optimizer_tensors),
        "progress": _encode(state.progress, {}),
    }
    with new_folder(path) as temporary:
        _save_tensors(state.model, temporary / "model.safetensors")
        _save_tensors(optimizer_tensors, temporary / "optimizer.safetensors")
        _save_tensors(state.rng, temporary / "rng.safetensors")
        if state.extra:
            _save_tensors(state.extra, temporary / "extra.safetensors")
        write_json_atomic(temporary / "state.json", structure)
        hashes = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
        write_json_atomic(temporary / "manifest.json", {"format": FORMAT, "sha256": hashes})
    for old in list_checkpoints(folder)[:-keep]:
        remove_folder(old)
    return path


def load_latest_checkpoint(folder: Path) -> tuple[int, TrainingState] | None:
    """Read the newest checkpoint that is complete and undamaged; each one skipped is logged as a warning.

    Args:
        folder: where the checkpoints lie; need not exist.

    Returns:
        The number of optimizer steps done and the state, or ``None`` when there is no usable checkpoint.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            return _load(path)
        except ManifestError as error:
            _log.warning("skipped a checkpoint: %s", error)
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders by ascending step, damaged ones included."""
    return sorted((path for path in folder.glob("step-*") if path.name[5:].isdigit()), key=checkpoint_step)


def checkpoint_step(path: Path) -> int:
    """The number of optimizer steps that a checkpoint folder's name gives."""
    return int(path.name.removeprefix("step-"))


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that training changes: parameters with a gradient and persistent buffers, tied ones once.

    Raises:
        UsageError: a module keeps extra state that is not a tensor.
    """
    trained: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise UsageError(f"the model's state {name!r} is a {type(value).__name__}; checkpoints hold only tensors.")
        frozen = isinstance(value, nn.Parameter) and not value.requires_grad
        if not frozen and id(value) not in seen:
            seen.add(id(value))
            trained[name] = value
    return trained


def restore_model(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into the model's own, in place, so that ties and the optimizer's references stay.

    Raises:
        ManifestError: names, shapes or dtypes differ from the model's.
    """
    current = model_tensors(model)
    if current.keys() != saved.keys():
        different = sorted(current.keys() ^ saved.keys())[0]
        raise ManifestError(
            f"the checkpoint and the model do not hold the same tensors (for example {different!r}); "
            "build the model as it was built when the run started."
        )
    with torch.no_grad():
        for name, tensor in current.items():
            value = saved[name]
            if value.shape != tensor.shape or value.dtype != tensor.dtype:
                raise ManifestError(
                    f"tensor {name!r} of the checkpoint is {tuple(value.shape)} {value.dtype}, but the "
                    f"model has {tuple(tensor.shape)} {tensor.dtype}; build it as when the run started."
                )
            tensor.copy_(value)


def frozen_hash(model: nn.Module) -> str:
    """The sha256 over names, dtypes, shapes and bytes of all parameters without a gradient."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
            flat = parameter.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load(path: Path) -> tuple[int, TrainingState]:
    names = _checked_names(path)
    structure = json.loads((path / "state.json").read_text())
    optimizer_tensors = load_file(path / "optimizer.safetensors")
    state = TrainingState(
        model=load_file(path / "model.safetensors"),
        optimizer=_decode(structure["optimizer"], optimizer_tensors),
        rng=load_file(path / "rng.safetensors"),
        progress=_decode(structure["progress"], {}),
        extra=load_file(path / "extra.safetensors") if "extra.safetensors" in names else {},
    )
    return structure["step"], state


def _checked_names(path: Path) -> set[str]:
    """The files that the manifest names, all of them there and unchanged."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        version, hashes = manifest["format"], dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path} has no readable manifest.json ({type(error).__name__}).") from error
    if version != FORMAT:
        raise ManifestError(f"{path} is of checkpoint format {version}, and this version reads {FORMAT}.")
    for name in sorted({"model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json", *hashes}):
        if name not in hashes or not (path / name).is_file():
            raise ManifestError(f"{path} lacks the file {name}.")
        if _sha256(path / name) != hashes[name]:
            raise ManifestError(f"{path / name} is not the file that the manifest names (its sha256 differs).")
    return set(hashes)


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    # clone: safetensors refuses tensors that share storage, as views of one buffer do
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(own, path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON that `_decode` turns back into an equal value; tensors go into ``tensors``, by number."""
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"map": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list):
        return [_encode(item, tensors) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, tensors) for item in value]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UsageError(f"a checkpoint cannot hold a {type(value).__name__}; it holds tensors, numbers, text and lists.")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "map":
        return dict(_decode_pairs(content, tensors))
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in content)
    return float(content)


def _decode_pairs(pairs: list[Any], tensors: Mapping[str, Tensor]) -> Iterator[tuple[Any, Any]]:
    for key, value in pairs:
        yield _decode(key, tensors), _decode(value, tensors)
