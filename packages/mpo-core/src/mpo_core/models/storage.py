"""Files of tensors that are either complete or absent, and known by their checksum.

A file is written beside its place and renamed. Every tensor is stored once, however many keys of a state dict
lead to it, and what is read is held against a list of names, types and shapes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType] - untyped PathLike
from torch import Tensor, nn

from mpo_core.errors import ManifestError, UsageError
from mpo_core.models.manifest import TensorEntry


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, flush it to disk and rename it; nothing is left of a failure."""
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


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file atomically.

    Returns:
        The sha256 of the file.
    """
    write_atomically(path, lambda place: save_file(dict(tensors), place, metadata={"format": "pt"}))
    return file_sha256(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_atomically(path, lambda place: place.write_text(text, encoding="utf-8"))


def read_tensors(path: Path, manifest: Path, sha256: str, entries: Mapping[str, TensorEntry]) -> dict[str, Tensor]:
    """Load a safetensors file, and hold it against what a manifest says.

    Args:
        path: the file.
        manifest: where `sha256` and `entries` come from, for the messages.
        sha256: of the whole file.
        entries: name, dtype and shape of every tensor in it.

    Raises:
        ManifestError: The file is missing, damaged, or has other tensors.
    """
    if not path.is_file():
        raise ManifestError(f"{path} is missing; copy it beside {manifest.name} or save the model anew.")
    found = file_sha256(path)
    if found != sha256:
        raise ManifestError(
            f"{path} has the sha256 {found[:12]}…, the manifest says {sha256[:12]}…: the file is"
            " damaged, cut short or of another save; fetch or save it anew."
        )
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ManifestError(f"{path} is no safetensors file ({error}); save the model anew.") from None
    for key in sorted(stored.keys() ^ entries.keys()):
        lacking = path if key in entries else manifest
        raise ManifestError(f"{lacking} lacks the tensor {key!r}; save the model anew.")
    for key, entry in entries.items():
        have = (dtype_name(stored[key]), tuple(stored[key].shape))
        if have != (entry.dtype, entry.shape):
            raise ManifestError(
                f"{path}: {key!r} is {have[0]} of shape {have[1]}, the manifest says {entry.dtype} of shape"
                f" {entry.shape}; save the model anew."
            )
    return stored


def distinct_tensors(state: Mapping[str, Any], caller: str) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
    """Every tensor of a state dict once, under its first key, with the further keys that lead to it.

    Args:
        state: from ``state_dict(keep_vars=True)``.
        caller: the function that wants to store them, for the message.

    Raises:
        UsageError: An entry is no tensor, or lies on the meta device.
    """
    firsts: dict[tuple[Any, ...], str] = {}
    found: dict[str, tuple[Tensor, tuple[str, ...]]] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.is_meta:
            what = "lies on the meta device" if isinstance(value, Tensor) else f"is a {type(value).__name__}, no tensor"
            raise UsageError(f"{caller}: {key!r} {what} and cannot be stored.")
        first = firsts.setdefault(_identity(value), key)
        tensor, tied = found.get(first, (value, ()))
        found[first] = (tensor, tied if first == key else (*tied, key))
    return found


def stored_copy(value: Tensor) -> Tensor:
    """A copy on the CPU in memory of its own: safetensors refuses tensors that overlap in storage."""
    return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def tensor_entry(value: Tensor, tied: tuple[str, ...] = ()) -> TensorEntry:
    """What a manifest says about a tensor."""
    return TensorEntry(dtype_name(value), tuple(value.shape), tied)


def dtype_name(value: Tensor) -> str:
    """Torch's name of the type, without ``torch.``."""
    return str(value.dtype).removeprefix("torch.")


def real_device(device: torch.device) -> torch.device:
    """The device itself, and the CPU for the meta device."""
    return torch.device("cpu") if device.type == "meta" else device


def file_sha256(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_sha256(value: Tensor) -> str:
    """The sha256 of the entries of a tensor in memory order, whatever its strides and device."""
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def _identity(value: Tensor) -> tuple[Any, ...]:
    """Equal for tensors that are the same memory seen in the same way."""
    if value.numel() == 0:
        return (id(value),)
    place = (value.device, value.data_ptr(), value.dtype)
    return (*place, tuple(value.shape), value.stride(), isinstance(value, nn.Parameter))
