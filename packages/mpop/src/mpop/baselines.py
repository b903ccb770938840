"""What the paper compares with. Dense fine-tuning is an arm without compression and needs no code of its own."""

from __future__ import annotations

from transformers import PreTrainedModel

from mpo_core import UsageError

LAYER_LISTS = ("encoder.layer", "transformer.layer", "layers", "h", "encoder.albert_layer_groups")
"""Where transformers' backbones keep their blocks (BERT, DistilBERT, Llama, GPT-2, ALBERT)."""


def train_last_layers(model: PreTrainedModel, layers: int) -> None:
    """Freeze the backbone but for its last blocks; what lies outside the backbone (the head) trains (Table 5).

    A pooler belongs to the head: it comes after the last block.

    Raises:
        UsageError: when the model keeps its blocks nowhere we know, or has fewer than ``layers``.
    """
    backbone = model.base_model
    for name in LAYER_LISTS:
        try:
            blocks = list(backbone.get_submodule(name).children())
            break
        except AttributeError:
            continue
    else:
        raise UsageError(f"trains: last-layers finds no list of blocks in {type(backbone).__name__}.")
    if not 1 <= layers <= len(blocks):
        raise UsageError(f"layers is {layers}, but {type(backbone).__name__} has {len(blocks)} blocks; give 1 to that.")
    backbone.requires_grad_(False)
    for block in blocks[-layers:]:
        block.requires_grad_(True)
    pooler = getattr(backbone, "pooler", None)
    if pooler is not None:
        pooler.requires_grad_(True)
