"""Metrics of a model on one encoded split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mpo_core.errors import UsageError
from mpo_core.repro.devices import device_of, to_device
from mpo_core.repro.metrics import compute_metrics, perplexity
from mpo_core.repro.record import Measurement
from mpo_core.repro.tasks.batches import IGNORED, EncodedExample, Masking, TextBatches
from mpo_core.repro.tasks.task import Split, TextTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@torch.no_grad()
def evaluate_task(
    model: nn.Module,
    encoded: Sequence[EncodedExample],
    task: TextTask,
    batch_size: int,
    split: Split,
    *,
    pad_token_id: int | None = None,
    masking: Masking | None = None,
) -> dict[str, Measurement]:
    """Measure every metric of the task, with the number of examples (or of predicted tokens).

    Args:
        model: gives ``logits``: ``(batch, num_labels)``, or ``(batch, length, vocabulary)`` in language
            modelling. It
            is evaluated where it is, and left in the mode in which it was.
        encoded: the examples of ``split``, all with labels.
        task: names the metrics.
        batch_size: examples at once.
        split: recorded with the figures.
        pad_token_id: by default that of the model's configuration, else 0.
        masking: for a masked language model; the same tokens are hidden every time.

    Raises:
        DivergedError: predictions or loss are not finite.
        UsageError: a model for masked language modelling without ``masking``.
    """
    masked_model = "MaskedLM" in type(model).__name__
    if task.kind == "language-modelling" and masked_model != (masking is not None):
        needs = "needs" if masked_model else "takes no"
        raise UsageError(f"{type(model).__name__} {needs} masking: pass Masking.of(tokenizer) to masked models only.")
    pad = pad_token_id if pad_token_id is not None else _pad_token_id(model)
    batches = TextBatches(encoded, batch_size, 0, pad, shuffle=False, kind=task.kind, masking=masking)
    training = model.training
    model.eval()
    try:
        if task.kind == "language-modelling":
            nats, tokens = _token_loss(model, batches)
            values, count = perplexity(nats, tokens), tokens
        else:
            predictions, labels = _predictions(model, batches)
            values, count = compute_metrics(task.metrics, predictions, labels), len(labels)
    finally:
        model.train(training)
    return {name: Measurement(value=values[name], n=count, split=split) for name in task.metrics}


def _token_loss(model: nn.Module, batches: TextBatches) -> tuple[float, int]:
    """Summed negative log-likelihood in nats, and the number of predicted tokens."""
    nats, tokens = 0.0, 0
    for inputs, labels in _on_device(model, batches):
        logits: Tensor = model(**inputs).logits
        if batches.masking is None:
            logits, labels = logits[:, :-1], labels[:, 1:]
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        nats += float(loss.double())
        tokens += int((labels != IGNORED).sum())
    return nats, tokens


def _predictions(model: nn.Module, batches: TextBatches) -> tuple[list[float], list[float]]:
    """Predicted classes or numbers and the labels; NaN stands for a row whose logits are not finite."""
    predictions: list[float] = []
    labels: list[float] = []
    for inputs, true in _on_device(model, batches):
        logits: Tensor = model(**inputs).logits.double()
        values = logits[:, 0] if batches.kind == "regression" else logits.argmax(dim=-1).double()
        predictions += values.masked_fill(~logits.isfinite().all(dim=-1), torch.nan).tolist()
        labels += true.tolist()
    return predictions, labels


def _on_device(model: nn.Module, batches: TextBatches) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Each batch as inputs and labels, on the model's device."""
    device = device_of(model)
    for batch in batches.epoch(0):
        moved = to_device(batch, device)
        if "labels" not in moved:
            raise UsageError("these examples have no labels, so there is nothing to measure.")
        yield moved, moved.pop("labels")


def _pad_token_id(model: nn.Module) -> int:
    value = getattr(getattr(model, "config", None), "pad_token_id", None)
    return value if isinstance(value, int) else 0
