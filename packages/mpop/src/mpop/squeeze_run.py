"""Squeeze a user's model on a task, from a plain folder to a compressed one; resumes where it was stopped.

Beside the output lies, until it is complete, a folder ``<out>.squeezing``: what was asked for (``config.json``) and the
checkpoints of the training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from mpo_core import UsageError, count_parameters
from mpo_core.repro.config import StrictModel, TaskConfig, TrainingConfig
from mpo_core.repro.jobs import unfinished
from mpo_core.repro.models import load_config, load_model, load_tokenizer, model_folders
from mpo_core.repro.record import Measurement
from mpo_core.repro.tasks import EncodedExample, TextBatches, TextTask, encode_split, evaluate_task, load_task
from mpo_core.repro.training import fit
from mpop.config import Arm, Compression
from mpop.model import save_compressed
from mpop.train import Squeezing, apply_arm, make_squeezing

Report = Callable[[int, int, Squeezing], None]


class SqueezeJob(StrictModel):
    """Everything that decides what comes out; a job resumes only with the very same.

    Attributes:
        model: ``minilm``, a Hugging Face folder or a hub name.
        task: what it is tuned on, and judged on while it is squeezed.
        training: steps, batches and schedule of the whole of it.
        learning_rate: peak.
        seed: of order, new weights and dropout.
        arm: compression to begin with, cuts, and what trains.
    """

    model: str
    task: TaskConfig
    training: TrainingConfig
    learning_rate: float
    seed: int
    arm: Arm


@dataclass(frozen=True)
class SqueezeResult:
    """What squeezing made of a model.

    Attributes:
        before: parameters of the dense model.
        after: parameters of the squeezed one.
        stopped: the metric fell too far before the size was reached.
        history: one entry for each stage: ``step``, ``size``, ``metric``, ``cuts``.
        metrics: on the split ``eval`` of the task.
        resumed_from: step of the checkpoint it went on from, 0 for none.
    """

    before: int
    after: int
    stopped: bool
    history: list[dict[str, Any]]
    metrics: dict[str, Measurement]
    resumed_from: int


def squeeze_model(job: SqueezeJob, out: Path, report: Report | None = None) -> SqueezeResult:
    """Squeeze a model, or go on where an earlier call was stopped, and write the folder `out`.

    Args:
        job: what to do.
        out: the folder to write, in the form of `mpop.save_compressed`; it must not exist.
        report: called after every step with steps done, steps in all and the squeezing.

    Raises:
        UsageError: `out` exists, an unfinished squeezing of other settings lies there, a size that cannot be reached,
            or a task that does not fit the model.
        DivergedError: the loss is no longer finite.
        InputFileError: model or data cannot be read.
    """
    squeeze = job.arm.squeeze
    if squeeze is None:
        raise UsageError("a squeezing needs to say how far: give the arm a squeeze.")
    texts = [Path(path) for path in (job.task.path, job.task.eval_path) if path is not None]
    with unfinished(out, job, "squeezing", [*model_folders(job.model), *texts]) as begun:
        task = load_task(job.task)
        tokenizer = load_tokenizer(job.model)
        model = load_for_task(job.model, task, job.seed)
        before = count_parameters(model).total
        apply_arm(model, job.arm)
        selected = encode_split(task, "select", tokenizer, job.task.max_length)
        squeezing = make_squeezing(model, squeeze, before, lambda: _score(model, selected, task, job))
        train = encode_split(task, "train", tokenizer, job.task.max_length)
        pad: Any = tokenizer.pad_token_id
        fitted = fit(
            model,
            TextBatches(train, job.training.batch_size, job.seed, pad_token_id=pad, kind=task.kind),
            job.training,
            learning_rate=job.learning_rate,
            seed=job.seed,
            folder=begun,
            intervention=squeezing,
            on_progress=None if report is None else lambda step, total: report(step, total, squeezing),
        )
        fitted.require_completed(job.learning_rate, begun)
        model.eval()
        judged = encode_split(task, "eval", tokenizer, job.task.max_length)
        metrics = evaluate_task(model, judged, task, job.training.batch_size, "eval")
        save_compressed(model, out, compression=job.arm.compression or Compression(), tokenizer=tokenizer)
    stopped = any(point["stopped"] for point in squeezing.history)
    after = count_parameters(model).total
    return SqueezeResult(before, after, stopped, squeezing.history, metrics, fitted.resumed_from)


def load_for_task(name: str, task: TextTask, seed: int) -> PreTrainedModel:
    """A model with the head that a task needs.

    Raises:
        UsageError: it was fine-tuned for another number of labels.
    """
    if task.kind == "language-modelling":
        return load_model(name, "causal-lm", seed=seed)
    own = load_config(name)
    classifies = any(str(each).endswith("ForSequenceClassification") for each in own.architectures or ())
    if classifies and own.num_labels != task.num_labels:
        raise UsageError(
            f"{name} was fine-tuned for {own.num_labels} label(s), but the task {task.name} has {task.num_labels}; "
            "give the model without its head, or another task."
        )
    return load_model(name, "classification", num_labels=task.num_labels, seed=seed)


def _score(model: PreTrainedModel, encoded: list[EncodedExample], task: TextTask, job: SqueezeJob) -> float:
    """The task's first metric; of perplexities, the negative."""
    name = task.metrics[0]
    value = evaluate_task(model, encoded, task, job.training.batch_size, "select")[name].value
    return -value if task.kind == "language-modelling" else value
