"""What the paper compares with, and what its readers will want to compare with.

Dense fine-tuning is an arm without compression, truncated singular value decomposition one with ``shapes: low-rank``;
both need no code of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from mpo_core import MissingPartError, Target, UsageError

LAYER_LISTS = ("encoder.layer", "transformer.layer", "layers", "h", "encoder.albert_layer_groups")
"""Where transformers' backbones keep their blocks (BERT, DistilBERT, Llama, GPT-2, ALBERT)."""


def train_last_layers(model: PreTrainedModel, layers: int) -> None:
    """Freeze the backbone but for its last blocks; what lies outside the backbone (the head) trains (Table 5).

    A pooler belongs to the head: it comes after the last block.

    Raises:
        UsageError: when the model keeps its blocks nowhere we know, or has fewer than ``layers``.
    """
    backbone = model.base_model
    blocks = list(blocks_of(model, "last-layers").children())
    if not 1 <= layers <= len(blocks):
        raise UsageError(f"layers is {layers}, but {type(backbone).__name__} has {len(blocks)} blocks; give 1 to that.")
    backbone.requires_grad_(False)
    for block in blocks[-layers:]:
        block.requires_grad_(True)
    pooler = getattr(backbone, "pooler", None)
    if pooler is not None:
        pooler.requires_grad_(True)


def keep_blocks(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Drop all blocks of a backbone but some, in place: the student of DistilBERT before its distillation.

    Sanh et al. 2019 keep every other block.

    Args:
        model: a transformers model with a list of blocks.
        kept: which blocks stay, ascending, from 0.

    Raises:
        UsageError: no list of blocks, or a block that there is not.
    """
    blocks = blocks_of(model, "keep_blocks")
    if not kept or list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < len(blocks):
        raise UsageError(f"keep_blocks is {list(kept)}; give some of the blocks 0 to {len(blocks) - 1}, ascending.")
    remaining = [blocks[index] for index in kept]
    for index in reversed(range(len(blocks))):
        del blocks[index]
    blocks.extend(remaining)
    config: Any = model.config
    config.num_hidden_layers = len(remaining)


def train_biases(model: PreTrainedModel) -> None:
    """Train biases and what lies outside the backbone, the head (BitFit, Ben Zaken et al. 2022)."""
    model.base_model.requires_grad_(False)
    for name, parameter in model.base_model.named_parameters():
        if name.endswith("bias"):
            parameter.requires_grad_(True)


def add_lora(model: PreTrainedModel, targets: Sequence[Target], rank: int) -> None:
    """Add low-rank updates to the linear layers of a model, in place, and train them and the head (Hu et al. 2022).

    Args:
        model: changed in place; its weights freeze.
        targets: from `mpo_core.find_targets`; embeddings among them are left alone.
        rank: of every update; its scale is 1 (``alpha = rank``), and the learning rate's sweep does the rest.

    Raises:
        MissingPartError: without the package peft.
        UsageError: no linear layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingPartError(
            "trains: lora needs the package peft; install mpop with its extra: pip install 'mpop[peft]'."
        ) from error
    inside = dict(model.base_model.named_modules())
    prefix = f"{model.base_model_prefix}."
    names = [target.name.removeprefix(prefix) for target in targets if target.kind != "embedding"]
    names = [name for name in names if name in inside]
    if not names:
        raise UsageError("trains: lora finds no linear layer in the backbone; change include and exclude.")
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
    inject_adapter_in_model(config, model.base_model)


def blocks_of(model: PreTrainedModel, what: str) -> nn.ModuleList:
    """The list of a backbone's blocks.

    Raises:
        UsageError: it keeps them nowhere we know.
    """
    backbone = model.base_model
    for name in LAYER_LISTS:
        try:
            return cast("nn.ModuleList", backbone.get_submodule(name))
        except AttributeError:
            continue
    raise UsageError(f"{what} finds no list of blocks in {type(backbone).__name__}.")
