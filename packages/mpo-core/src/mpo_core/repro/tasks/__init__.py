"""Text tasks: GLUE, language modelling, documentation text; read into one form, batched and evaluated."""

from __future__ import annotations

from mpo_core._lazy import lazy_namespace

__getattr__, __dir__ = lazy_namespace(
    __name__,
    {
        "Example": "task",
        "TextTask": "task",
        "load_task": "task",
        "EncodedExample": "batches",
        "Masking": "batches",
        "TextBatches": "batches",
        "encode_split": "batches",
        "evaluate_task": "evaluation",
    },
)
