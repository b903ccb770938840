"""accelerate, with the precision that a training asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, is_initialized

from mpo_core.errors import UsageError
from mpo_core.repro.config import TrainingConfig

_MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16"}
"""accelerate's words for the precisions."""


@contextmanager
def accelerator_for(training: TrainingConfig) -> Iterator[Accelerator]:
    """An accelerator of the precision that a training asks for.

    accelerate keeps the first one's precision for the whole process; unless the caller's own code made it, here for one
    training only.

    Raises:
        UsageError: the caller's own accelerator has another precision, or mixed precision fp16.
    """
    fresh = not is_initialized()
    try:
        accelerator = Accelerator(
            mixed_precision=None if training.precision is None else _MIXED_PRECISION[training.precision],
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
    except ValueError as error:
        if fresh:
            raise
        raise UsageError(f"training in {training.precision}: accelerate already has another precision here.") from error
    try:
        if accelerator.mixed_precision == "fp16":
            raise UsageError(
                "mixed precision fp16 is not supported (its loss scale is not in checkpoints); use bf16 or no."
            )
        yield accelerator
    finally:
        if fresh:
            AcceleratorState._reset_state()  # pyright: ignore[reportPrivateUsage]
