"""One trial: a configuration and an arm in, its outcome out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from mpo_core import DivergedError, UsageError, count_parameters, decompose, find_targets, freeze_cores
from mpo_core.repro.models import build_model, load_model, load_tokenizer
from mpo_core.repro.record import Measurement, ParameterCount, TrialOutcome
from mpo_core.repro.tasks import TextBatches, TextTask, encode_split, evaluate_task, load_task
from mpo_core.repro.training import fit
from mpo_core.repro.trial import Trial
from mpop.baselines import add_lora, keep_blocks, train_biases, train_last_layers
from mpop.config import DEFAULT_EXCLUDE, Arm, Compression, Config, ReleasedSqueeze, Squeeze
from mpop.evaluate import bound_metrics, central_entropy_share, random_matrices
from mpop.model import compress_model
from mpop.released import ReleasedSqueezing
from mpop.squeeze import DimensionSqueezing
from mpop.start import load_for_task, tuned_start

RANDOM_MATRICES = 60

Squeezing = DimensionSqueezing | ReleasedSqueezing


def run_trial(trial: Trial, config: Config, folder: Path) -> TrialOutcome:
    """Run one trial of an MPOP experiment.

    Args:
        trial: arm, seed, learning rate and stage.
        config: the experiment at its scale.
        folder: the trial's own folder, for checkpoints and ``log.jsonl``.
    """
    arm = config.arms[trial.arm]
    if config.study == "count":
        return _count(arm)
    if config.study == "truncate":
        return _truncate(trial, arm, config)
    return _finetune(trial, arm, config, folder)


def apply_arm(model: PreTrainedModel, arm: Arm) -> list[str]:
    """Decompose and freeze a model, in place, as an arm says; the notes that compression gave."""
    notes: list[str] = []
    if arm.keep_blocks is not None:
        keep_blocks(model, arm.keep_blocks)
    if arm.compression is not None:
        notes += compress_model(model, arm.compression, cache=True).notes
    match arm.trains:
        case "auxiliary":
            freeze_cores(model, "central")
        case "auxiliary-only":
            model.base_model.requires_grad_(False)
            freeze_cores(model, "central")
        case "central":
            freeze_cores(model, "auxiliary")
        case "last-layers":
            train_last_layers(model, arm.layers)
        case "biases":
            train_biases(model)
        case "lora":
            add_lora(model, find_targets(model, exclude=DEFAULT_EXCLUDE), arm.lora_rank)
        case "nothing":
            model.requires_grad_(False)
        case "all":
            pass
    return notes


def _finetune(trial: Trial, arm: Arm, config: Config, folder: Path) -> TrialOutcome:
    """Fine-tune on the task, and judge on the trial's split."""
    if config.task is None:
        raise UsageError("a finetune study needs a task.")
    task = load_task(config.task)
    tokenizer = load_tokenizer(config.model)
    name = config.model if config.start is None else str(tuned_start(config, folder.parent / "tuned"))
    model = load_for_task(name, task, trial.seed)
    original = count_parameters(model).total
    notes = apply_arm(model, arm)
    status, series = "completed", []
    squeezing: Squeezing | None = None
    if arm.squeeze is not None:
        squeezing = make_squeezing(model, arm.squeeze, original, select_measure(model, task, tokenizer, config))
    if trial.learning_rate is not None:
        train = encode_split(task, "train", tokenizer, config.task.max_length)
        batches = TextBatches(
            train, config.training.batch_size, trial.seed, pad_token_id=tokenizer.pad_token_id, kind=task.kind
        )
        fitted = fit(
            model,
            batches,
            config.training,
            learning_rate=trial.learning_rate,
            seed=trial.seed,
            folder=folder,
            intervention=squeezing,
        )
        status, series = fitted.status, fitted.series
    metrics: dict[str, Measurement] = {}
    if status == "completed":
        judged = encode_split(task, trial.split, tokenizer, config.task.max_length)
        try:
            metrics = evaluate_task(model, judged, task, config.training.batch_size, trial.split)
        except DivergedError as error:
            status, notes = "diverged", [*notes, str(error)]
    counts = count_parameters(model)
    if metrics:
        metrics["size"] = Measurement(value=counts.total / original)
    return TrialOutcome(
        status=status,
        parameters=ParameterCount(total=counts.total, trained=counts.trained),
        metrics=metrics,
        series=series,
        arrays={} if squeezing is None else squeezing_arrays(squeezing),
        notes=notes,
    )


def make_squeezing(
    model: PreTrainedModel, config: Squeeze | ReleasedSqueeze, original: int, measure: Callable[[], float]
) -> Squeezing:
    """The squeezing that a configuration asks for.

    Args:
        model: compressed, its frozen cores frozen.
        config: of either variant.
        original: parameters of the dense model.
        measure: the task's metric, higher is better.
    """
    if isinstance(config, ReleasedSqueeze):
        return ReleasedSqueezing(model, config, original)
    return DimensionSqueezing(model, config, original, measure)


def select_measure(
    model: PreTrainedModel, task: TextTask, tokenizer: PreTrainedTokenizerBase, config: Config
) -> Callable[[], float]:
    """The metric that a squeezing is held against, on the split ``select``; higher is better."""
    if config.task is None:
        raise UsageError("a finetune study needs a task.")
    encoded = encode_split(task, "select", tokenizer, config.task.max_length)
    name = config.select_metric or task.metrics[0]
    size = config.training.batch_size

    def measure() -> float:
        value = evaluate_task(model, encoded, task, size, "select")[name].value
        return -value if config.select_lower else value

    return measure


def squeezing_arrays(squeezing: Squeezing) -> dict[str, list[float]]:
    """How size and metric went, for plots."""
    history = squeezing.history
    arrays = {name: [float(point[name]) for point in history] for name in ("step", "size", "cuts")}
    if all(point["metric"] is not None for point in history):
        arrays["metric"] = [float(point["metric"]) for point in history]
    return {f"squeezing/{name}": values for name, values in arrays.items()}


def _count(arm: Arm) -> TrialOutcome:
    """Count the parameters of an architecture on the meta device: no weights, no decomposition."""
    architecture = dict(arm.architecture or {})
    model = build_model(AutoConfig.for_model(**architecture), "backbone", meta=True)
    notes = apply_arm(model, arm)
    counts = count_parameters(model)
    return TrialOutcome(
        parameters=ParameterCount(total=counts.total, trained=counts.trained),
        metrics={"trained_share": Measurement(value=counts.trained / counts.total)},
        notes=notes,
    )


def _truncate(trial: Trial, arm: Arm, config: Config) -> TrialOutcome:
    """Measure truncation errors, bounds and entropies in float64."""
    compression = arm.compression or Compression()
    if arm.matrices == "random":
        matrices = random_matrices(RANDOM_MATRICES, trial.seed)
    else:
        model = load_model(config.model, "own", dtype=torch.float64)
        targets = find_targets(model, compression.include, compression.exclude)
        matrices = [target.matrix.detach() for target in targets]
    mpos = [decompose(matrix, n=compression.n) for matrix in matrices]
    largest = max(mpos, key=lambda mpo: mpo.shape.rows * mpo.shape.cols)
    spectra = largest.bond_spectra()
    return TrialOutcome(
        metrics={
            **bound_metrics(mpos, config.cases, trial.seed),
            "central_entropy_share": central_entropy_share(mpos),
        },
        arrays={f"Schmidt values/bond {k}": spectrum.tolist() for k, spectrum in enumerate(spectra, start=1)},
        notes=[f"Schmidt values of a {largest.shape.rows} x {largest.shape.cols} matrix, the first of the largest"],
    )
