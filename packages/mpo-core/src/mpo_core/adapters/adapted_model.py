"""The wrapper around an adapted model: its own interface, and saving, merging and counting besides.

transformers is not imported: trainers are served by passing on what they look for.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import nn

from mpo_core.adapters.adapter_io import load_adapter, save_adapter
from mpo_core.adapters.adoption_config import MPOConfig
from mpo_core.adapters.base_weights import BaseRecord, all_parameters, core_places
from mpo_core.adapters.restoring import base_in_place, restore_base, restore_flags
from mpo_core.errors import NonFiniteError, UsageError
from mpo_core.models.roles import ParameterCount, count_parameters
from mpo_core.models.surgery import merge_modules

_OF_THE_BASE = ("config", "generation_config")
"""Attributes that code outside sets on a model to change what it does; they go through to the base model."""


class MPOModel(nn.Module):
    """A model with layers in MPO form that behaves like the model it wraps; made by `get_mpo_model`.

    Attributes and methods it does not have itself (``config``, ``generate``, ``gradient_checkpointing_enable``) are
    those of the base model, and ``forward`` has the base model's signature, so that trainers find labels and columns.

    The state dict is an ordinary one, except that a tensor with several names (tied embeddings) stands in it once,
    under the first, so that it can be written as safetensors; `load_state_dict` takes either form.

    Attributes:
        base_model: the model itself, with its layers replaced.
        mpo_config: the configuration.
    """

    base_model: nn.Module
    mpo_config: MPOConfig

    def __init__(self, base_model: nn.Module, config: MPOConfig, record: BaseRecord) -> None:
        super().__init__()
        self.mpo_config = config
        self._record = record
        self.base_model = base_model
        self.training = base_model.training
        hooks = cast("Any", self)  # torch gives their types no arguments
        hooks.register_state_dict_post_hook(_drop_further_names)
        hooks.register_load_state_dict_pre_hook(_add_further_names)

    @classmethod
    def from_pretrained(cls, base_model: nn.Module, folder: str | Path, is_trainable: bool = False) -> MPOModel:
        """Put what `save_pretrained` has written on the base model it was made for.

        Nothing is decomposed. The model computes what the saved one did, to the bit.

        Args:
            base_model: with the architecture, the weights and the dtype it had when it was adapted; changed in place.
            folder: as written by `save_pretrained`.
            is_trainable: whether what was trained goes on training; otherwise all is frozen.

        Raises:
            ManifestError: The folder holds no adapter, a file is damaged, or the base model is another one; the base
                model is unchanged then.
            UsageError: The base model holds MPO layers already, or is on the meta device.
        """
        config, record = load_adapter(base_model, folder)
        if is_trainable:
            for key, parameter in all_parameters(base_model):
                parameter.requires_grad_(key in record.trained)
        return wrap(base_model, config, record)

    def save_pretrained(self, folder: str | Path, *, is_main_process: bool = True) -> None:
        """Write what was trained, and of the frozen cores what the base model does not give to the bit.

        See `mpo_core.adapters.adapter_io` for what that is.

        Args:
            folder: made if absent; gets ``mpo_model.safetensors`` and ``mpo_config.json``.
            is_main_process: nothing is written where this is false, in all but one of several processes.

        Raises:
            NonFiniteError: A tensor to be stored holds NaN or infinity.
        """
        if is_main_process:
            save_adapter(self.base_model, self.mpo_config, self._record, folder)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the base model's own method would upload weights that nothing can load.

        Raises:
            UsageError: always.
        """
        raise UsageError("push_to_hub: upload the folder that save_pretrained writes, or the merged model.")

    def get_base_model(self) -> nn.Module:
        """The model itself, with its layers replaced."""
        return self.base_model

    def merge_and_unload(self) -> nn.Module:
        """Multiply the cores of every layer to a dense weight again, in place; tied weights stay tied.

        Every parameter that trained in the base model trains again.

        Returns:
            The plain model; this wrapper is of no use afterwards.

        Raises:
            NonFiniteError: A core holds NaN or infinity; the model is unchanged then.
        """
        for key, (_, layer, index) in core_places(self.base_model).items():
            core = layer.cores[index]
            if not core.is_meta and not bool(torch.isfinite(core).all()):
                raise NonFiniteError(f"merge_and_unload: {key!r} holds NaN or infinity; load an earlier checkpoint.")
        merge_modules(self.base_model)
        restore_flags(self.base_model, self._record)
        return self.base_model

    def unload(self) -> nn.Module:
        """Undo the adaptation, in place: the base model with the weights it had, to the bit.

        Possible where no weight was given up: full bonds in the identity gauge, home core frozen (the default without
        a limit). No second copy of a truncated weight is kept.

        Returns:
            The base model; this wrapper is of no use afterwards.

        Raises:
            UsageError: A weight is lost; nothing is changed then.
        """
        restore_base(self.base_model, self._record, "unload")
        return self.base_model

    @contextmanager
    def disable_adapter(self) -> Generator[None]:
        """Compute with the weights of the base model inside the block, under the conditions of `unload`.

        Everything trained is put back afterwards, to the bit. No backward pass may reach into the block from outside.

        Raises:
            UsageError: A weight of the base model is lost.
        """
        with base_in_place(self.base_model, self._record, "disable_adapter"):
            yield

    def trainable_parameters(self) -> ParameterCount:
        """Numbers of parameters by role, see `mpo_core.count_parameters`."""
        return count_parameters(self.base_model)

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Numbers of parameters that train, and of all."""
        count = self.trainable_parameters()
        return count.trained, count.total

    def print_trainable_parameters(self) -> None:
        """Print how many parameters train, and where they are."""
        print(count_text(self.trainable_parameters()))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the base model."""
        return self.base_model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """What is not found here is the base model's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":  # while the object is being made or copied
                raise
            return getattr(self.base_model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute here, or on the base model what is meant for it."""
        if name in _OF_THE_BASE:
            setattr(self.base_model, name, value)
        else:
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the class of the base model, as the own class is made on the fly."""
        return _blank_wrapper, (type(self.base_model),), vars(self).copy()

    def __repr__(self) -> str:
        return f"MPOModel({self.base_model!r})"

    def _get_name(self) -> str:
        # Trainers decide by this name, say whether label smoothing has to shift the labels of a decoder.
        return type(self.base_model).__name__


def wrap(base_model: nn.Module, config: MPOConfig, record: BaseRecord) -> MPOModel:
    """The wrapper around an adapted model, with a ``forward`` of the base model's signature.

    Args:
        base_model: the model, adapted.
        config: how.
        record: what it was before.
    """
    return _wrapper_class(type(base_model))(base_model, config, record)


@lru_cache(maxsize=256)
def _wrapper_class(base: type[nn.Module]) -> type[MPOModel]:
    """The wrapper for one class of models: trainers look for labels and columns in the class's ``forward``."""

    def forward(self: MPOModel, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)

    forward.__doc__ = MPOModel.forward.__doc__
    with suppress(TypeError, ValueError):  # of scripted modules
        cast("Any", forward).__signature__ = inspect.signature(base.forward)
    return type(f"MPO{base.__name__}", (MPOModel,), {"forward": forward, "__module__": __name__})


def _blank_wrapper(base: type[nn.Module]) -> MPOModel:
    kind = _wrapper_class(base)
    return kind.__new__(kind)


def count_text(count: ParameterCount) -> str:
    """The count in words."""
    share = 100 * count.trained / count.total if count.total else 0.0
    return (
        f"{count.trained:,} of {count.total:,} parameters train ({share:.2f} %); {count.central:,} are in central"
        f" tensors, {count.auxiliary:,} in auxiliary ones, {count.other:,} in neither"
    )


def _further_names(model: nn.Module) -> dict[str, str]:
    """Key of a tensor that has several -> the first of them, for all but the first."""
    firsts: dict[int, str] = {}
    further: dict[str, str] = {}
    for named in (all_parameters(model), model.named_buffers(remove_duplicate=False)):
        for key, value in named:
            first = firsts.setdefault(id(value), key)
            if first != key:
                further[key] = first
    return further


def _drop_further_names(model: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key, first in _further_names(model).items():
        if f"{prefix}{first}" in state:
            state.pop(f"{prefix}{key}", None)


def _add_further_names(model: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    for key, first in _further_names(model).items():
        if f"{prefix}{first}" in state:
            state.setdefault(f"{prefix}{key}", state[f"{prefix}{first}"])
