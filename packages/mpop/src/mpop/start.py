"""The tuned dense model that the trials of a run start from: made by the first trial that needs it."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from mpo_core import DivergedError, UsageError
from mpo_core.repro.atomic import new_folder, remove_folder, write_json_atomic
from mpo_core.repro.config import TaskConfig
from mpo_core.repro.lock import folder_lock
from mpo_core.repro.models import load_model, load_tokenizer
from mpo_core.repro.tasks import TextBatches, TextTask, encode_split, evaluate_task, load_task
from mpo_core.repro.training import fit
from mpop.config import Config, TunedStart

MODEL, MEASURED = "model", "start.json"
_A_DAY = 86_400.0


def load_for_task(name: str, task: TextTask, seed: int) -> PreTrainedModel:
    """A model with the head that a task needs.

    Args:
        name: as in `mpo_core.repro.models.resolve_model`.
        task: the task.
        seed: of the weights that the checkpoint lacks.
    """
    if task.kind == "language-modelling":
        return load_model(name, "causal-lm", seed=seed)
    return load_model(name, "classification", num_labels=task.num_labels, seed=seed)


def tuned_start(config: Config, folder: Path) -> Path:
    """The folder of the tuned model; tunes it if nobody has, and waits for who is at it.

    Args:
        config: of a finetune study with a start.
        folder: of the run's tuned model, shared by its trials; gets checkpoints, a log, the model, and how good it is
            on the split ``select``.

    Raises:
        UsageError: the configuration has no start.
        DivergedError: the loss is no longer finite.
    """
    start, task = config.start, config.task
    if start is None or task is None:
        raise UsageError("only a finetune study with a start has a tuned model.")
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder, wait_seconds=_A_DAY):
        if not (folder / MODEL).exists():
            _tune(config.model, start, task, folder)
    return folder / MODEL


def _tune(name: str, start: TunedStart, asked: TaskConfig, folder: Path) -> None:
    task = load_task(asked.model_copy(update={"train_size": None}))
    tokenizer = load_tokenizer(name)
    model = load_for_task(name, task, start.seed)
    train = encode_split(task, "train", tokenizer, asked.max_length)
    size = start.training.batch_size
    batches = TextBatches(train, size, start.seed, pad_token_id=tokenizer.pad_token_id, kind=task.kind)
    fitted = fit(model, batches, start.training, learning_rate=start.learning_rate, seed=start.seed, folder=folder)
    if fitted.status == "diverged":
        raise DivergedError(f"the start diverged at the learning rate {start.learning_rate:g}; take a smaller one.")
    select = encode_split(task, "select", tokenizer, asked.max_length)
    measured = evaluate_task(model, select, task, size, "select")
    write_json_atomic(folder / MEASURED, {name: each.model_dump(mode="json") for name, each in measured.items()})
    with new_folder(folder / MODEL) as place:
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    remove_folder(folder / "checkpoints")
