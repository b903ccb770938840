"""One training loop on accelerate: AdamW, linear warm-up and decay, gradient clipping, resumable to the bit.

A fit writes ``log.jsonl`` and ``checkpoints/`` into its folder. Called again on the same folder it goes on
from the last complete checkpoint, and on the CPU ends with the very bits of a fit that was never interrupted.
On several processes each takes its rows of every batch; gradients are those of one process up to rounding.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mpo_core.errors import ManifestError, UsageError
from mpo_core.repro.acceleration import accelerator_for
from mpo_core.repro.atomic import remove_folder, write_bytes_atomic
from mpo_core.repro.checkpoint import (
    TrainingState,
    checkpoint_step,
    frozen_hash,
    list_checkpoints,
    load_latest_checkpoint,
    model_tensors,
    restore_model,
    save_checkpoint,
)
from mpo_core.repro.config import TrainingConfig
from mpo_core.repro.devices import to_device
from mpo_core.repro.fit_result import FitResult
from mpo_core.repro.intervention import Intervention
from mpo_core.repro.optimization import default_parameter_groups, learning_rate_factor
from mpo_core.repro.record import SeriesPoint
from mpo_core.repro.seeding import restore_rng, rng_states, seed_everything

Batch = dict[str, Tensor]
LossFunction = Callable[[nn.Module, Batch], Tensor]
WeightFunction = Callable[[Batch], float]


class BatchSource(Protocol):
    """Batches in an order that is a pure function of (seed, epoch): a resumed run sees the same ones."""

    def __len__(self) -> int:
        """Number of batches, that is optimizer steps, per epoch."""
        ...

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; every tensor's first dimension is the row of the batch."""
        ...


def fit(
    model: nn.Module,
    batches: BatchSource,
    training: TrainingConfig,
    *,
    learning_rate: float,
    seed: int,
    folder: Path,
    loss_of: LossFunction | None = None,
    weight_of: WeightFunction | None = None,
    parameter_groups: Sequence[dict[str, Any]] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    intervention: Intervention | None = None,
) -> FitResult:
    """Train a model in place, or go on where an earlier call on the same folder stopped.

    Args:
        model: as it is before training; parameters without ``requires_grad`` stay, and are checked on resume.
        batches: the training batches.
        training: epochs, schedule, clipping, logging and checkpoints.
        learning_rate: peak learning rate.
        seed: seeds the generators of Python, numpy and torch (dropout) when training starts.
        folder: gets ``log.jsonl`` and ``checkpoints/``.
        loss_of: ``(model, batch) -> scalar``, a mean over the batch; default ``model(**batch).loss``.
        weight_of: how many terms that mean runs over, default the number of rows. Only several processes
            need it: a loss averaged over tokens must say how many, for its gradients to be right.
        parameter_groups: groups for AdamW, each may bring its own ``lr``; default: all trained parameters,
            with no weight decay on those of one dimension (biases, LayerNorm).
        on_progress: called after every step with (steps done, steps in all).
        intervention: changes the model between steps, as dimension squeezing does; on one process only.

    Returns:
        Status, steps and the logged series. The model holds the trained weights; after ``diverged`` those
        before the failing step.

    Raises:
        UsageError: nothing to train, batches that end early, mixed precision fp16 or another one than accelerate
            already has in this process, or an intervention on several processes.
        ManifestError: the folder holds checkpoints of other settings, or of other frozen weights.
    """
    with accelerator_for(training) as accelerator:
        if intervention is not None and accelerator.num_processes > 1:
            raise UsageError("a model that changes while it trains can be trained on one process only.")
        total = training.epochs * len(batches)
        total = total if training.max_steps is None else min(total, training.max_steps)
        if total == 0:
            raise UsageError("there is nothing to train on: the batch source holds no batch.")
        groups = default_parameter_groups(model, training) if parameter_groups is None else parameter_groups
        optimizer = torch.optim.AdamW(list(groups), lr=learning_rate, weight_decay=training.weight_decay, fused=True)
        peak_rates = [float(group["lr"]) for group in optimizer.param_groups]
        settings = training.model_dump(mode="json", exclude={"checkpoint_every"})
        settings |= {
            "precision": accelerator.mixed_precision,
            "seed": seed,
            "learning_rates": peak_rates,
            "steps": total,
            "processes": accelerator.num_processes,
        }
        if intervention is not None:
            settings["intervention"] = dict(intervention.settings())
        model.train()
        wrapped, prepared = accelerator.prepare(model, optimizer)
        loop = _Loop(
            accelerator=accelerator,
            model=model,
            wrapped=wrapped,
            optimizer=prepared,
            batches=batches,
            training=training,
            folder=folder,
            total=total,
            peak_rates=peak_rates,
            settings=settings,
            frozen=frozen_hash(model),
            loss_of=loss_of or _model_loss,
            weight_of=weight_of or _rows,
            on_progress=on_progress or (lambda _step, _total: None),
            intervention=intervention,
        )
        seed_everything(seed + 1_000_003 * accelerator.process_index)  # each process its own dropout masks
        return loop.run()


@dataclass
class _Loop:
    accelerator: Accelerator
    model: nn.Module
    wrapped: nn.Module
    optimizer: Any
    batches: BatchSource
    training: TrainingConfig
    folder: Path
    total: int
    peak_rates: list[float]
    settings: dict[str, Any]
    frozen: str
    loss_of: LossFunction
    weight_of: WeightFunction
    on_progress: Callable[[int, int], None]
    intervention: Intervention | None = None
    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    window: list[float] = field(default_factory=list)
    resumed_from: int = 0
    earlier_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def _plain_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer without accelerate's wrapper."""
        return cast("torch.optim.Optimizer", self.optimizer.optimizer)

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def seconds(self) -> float:
        return self.earlier_seconds + time.monotonic() - self.started

    def run(self) -> FitResult:
        rng = self._resume()
        if self.accelerator.is_main_process:
            self._rewrite_log()
        self.accelerator.wait_for_everyone()
        for batch in self._remaining_batches(rng):
            if not self._train_step(batch):
                return self._result("diverged")
            self._after_step()
        return self._result("completed")

    def _resume(self) -> dict[str, Tensor] | None:
        """Take over the newest usable checkpoint; returns this process's generator states."""
        latest = load_latest_checkpoint(self.checkpoints)
        if latest is None:
            return None
        self.step, state = latest
        _check_same_run(state.progress, self.settings, self.frozen, self.checkpoints)
        if self.intervention is not None:
            self.intervention.restore(state.progress["intervention"], state.extra, self._plain_optimizer)
        restore_model(self.model, state.model)
        self.optimizer.load_state_dict(dict(state.optimizer))
        self.rows = list(state.progress["rows"])
        self.window = list(state.progress["window"])
        self.earlier_seconds = state.progress["seconds"]
        self.resumed_from = self.step
        return {name: states[self.accelerator.process_index] for name, states in state.rng.items()}

    def _rewrite_log(self) -> None:
        """Make log and checkpoints end at the step that training starts from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(self.log, "".join(_line(row) for row in self.rows).encode())
        for path in list_checkpoints(self.checkpoints):
            if checkpoint_step(path) > self.step:  # damaged: else it would have been the newest
                remove_folder(path)

    def _remaining_batches(self, rng: dict[str, Tensor] | None) -> Iterator[Batch]:
        """The batches of the steps still to do, with the generators as they were at the checkpoint."""
        length = len(self.batches)
        if rng is not None:
            restore_rng(rng, self.accelerator.device)
        while self.step < self.total:
            epoch, skip = divmod(self.step, length)
            source = iter(self.batches.epoch(epoch))
            for _ in range(skip):
                _next_batch(source, length, epoch)
            if skip and rng is not None:  # making and skipping the batches may have drawn numbers
                restore_rng(rng, self.accelerator.device)
            for _ in range(min(length - skip, self.total - self.step)):
                yield _next_batch(source, length, epoch)

    def _train_step(self, batch: Batch) -> bool:
        """One optimizer step; false, with the weights left alone, when a number is no longer finite."""
        factor = learning_rate_factor(self.step, self.total, self.training.warmup_share)
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            group["lr"] = peak * factor
        self.optimizer.zero_grad()
        loss, mean = self._loss(to_device(batch, self.accelerator.device))
        if not math.isfinite(mean):
            return False
        self.accelerator.backward(loss)
        limit = math.inf if self.training.max_grad_norm is None else self.training.max_grad_norm
        norm = _item(self.accelerator.clip_grad_norm_(self.wrapped.parameters(), limit))
        if not math.isfinite(norm):
            return False
        self.optimizer.step()
        self.step += 1
        self.window.append(mean)
        if self.step % self.training.log_every == 0 or self.step == self.total:
            self._log_row(norm, self.optimizer.param_groups[0]["lr"])
        if self.intervention is not None:
            self.intervention.after_step(self.step, self.total, mean, self._plain_optimizer)
        return True

    def _loss(self, batch: Batch) -> tuple[Tensor, float]:
        """The loss to differentiate on this process, and the mean loss of the whole batch."""
        processes = self.accelerator.num_processes
        if processes == 1:
            loss = self.loss_of(self.wrapped, batch)
            return loss, loss.item()
        own = _own_rows(batch, self.accelerator.process_index, processes)
        weight = self.weight_of(own) if _rows(own) else 0.0
        # A process without rows computes the whole batch with weight 0: all must take part in the reduction.
        loss = self.loss_of(self.wrapped, own if weight else batch)
        # The wrapped model averages gradients over processes, hence the factor.
        loss = loss * (processes * weight / max(self.weight_of(batch), 1.0))
        return loss, _item(self.accelerator.reduce(loss.detach(), "mean"))

    def _log_row(self, norm: float, rate: float) -> None:
        row = {
            "step": self.step,
            "of": self.total,
            "loss": math.fsum(self.window) / len(self.window),
            "learning_rate": rate,
            "grad_norm": norm,
            "seconds": round(self.seconds, 3),
        }
        self.rows.append(row)
        self.window.clear()
        if self.accelerator.is_main_process:
            with self.log.open("a") as file:
                file.write(_line(row))

    def _after_step(self) -> None:
        every = self.training.checkpoint_every
        if self.step == self.total or (every and self.step % every == 0):
            self._save()
        self.on_progress(self.step, self.total)

    def _save(self) -> None:
        states = rng_states(self.accelerator.device)
        rng = {name: self._of_all_processes(state) for name, state in states.items()}
        if self.accelerator.is_main_process:
            with self.log.open("rb") as file:
                os.fsync(file.fileno())
            progress = {
                "settings": self.settings,
                "frozen": self.frozen,
                "rows": self.rows,
                "window": self.window,
                "seconds": self.seconds,
            }
            extra: Mapping[str, Tensor] = {}
            if self.intervention is not None:
                progress["intervention"] = dict(self.intervention.state())
                extra = self.intervention.tensors()
            state = TrainingState(model_tensors(self.model), self.optimizer.state_dict(), rng, progress, extra)
            save_checkpoint(self.checkpoints, self.step, state)
        self.accelerator.wait_for_everyone()

    def _of_all_processes(self, state: Tensor) -> Tensor:
        """One row per process."""
        return cast("Tensor", self.accelerator.gather(state.unsqueeze(0).to(self.accelerator.device)))

    def _result(self, status: Literal["completed", "diverged"]) -> FitResult:
        self.optimizer.zero_grad()  # the gradients' memory is the caller's again
        series = [
            SeriesPoint(
                step=int(row["step"]),
                values={key: row[key] for key in ("loss", "learning_rate", "grad_norm")},
            )
            for row in self.rows
        ]
        return FitResult(status, self.step, series, self.seconds, self.resumed_from)


def _item(value: object) -> float:
    """The number in what accelerate returns; it types its results as anything that may hold tensors."""
    return cast("Tensor", value).item()


def _model_loss(model: nn.Module, batch: Batch) -> Tensor:
    return model(**batch).loss


def _rows(batch: Batch) -> int:
    return next(iter(batch.values())).shape[0]


def _own_rows(batch: Batch, index: int, processes: int) -> Batch:
    rows = _rows(batch)
    for name, tensor in batch.items():
        if tensor.ndim == 0 or tensor.shape[0] != rows:
            raise UsageError(
                f"a batch of {rows} rows cannot be split over processes: its tensor {name!r} has shape "
                f"{tuple(tensor.shape)}; give every tensor the row as first dimension."
            )
    return {name: tensor.tensor_split(processes)[index] for name, tensor in batch.items()}


def _next_batch(source: Iterator[Batch], length: int, epoch: int) -> Batch:
    batch = next(source, None)
    if batch is None:
        raise UsageError(
            f"epoch {epoch} of the batch source ended before the {length} batches that its length promises."
        )
    return batch


def _check_same_run(progress: Mapping[str, Any], settings: dict[str, Any], frozen: str, folder: Path) -> None:
    saved = progress["settings"]
    for name in sorted(saved.keys() | settings.keys()):
        if saved.get(name) != settings.get(name):
            raise ManifestError(
                f"{folder} was made with {name} = {saved.get(name)!r}, but this run has "
                f"{settings.get(name)!r}; use a new folder, or the old settings."
            )
    if progress["frozen"] != frozen:
        raise ManifestError(
            f"{folder} was made from other frozen weights than this model's (their sha256 differs): the run "
            "was started from other weights; give the original ones, or use a new folder."
        )


def _line(row: Mapping[str, float]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
