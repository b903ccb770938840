"""One trial of the toy study: a small network with dropout and LayerNorm on made data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpo_core.repro.config import StudyConfig
from mpo_core.repro.record import Measurement, ParameterCount, TrialOutcome
from mpo_core.repro.training import fit
from mpo_core.repro.trial import Trial

from .config import Config


class Output(NamedTuple):
    """What a Hugging Face model returns, as far as `fit` looks."""

    loss: Tensor


class ToyModel(nn.Module):
    """Linear, LayerNorm, dropout, linear; returns the mean squared error."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(4, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor, y: Tensor) -> Output:
        """Shapes (batch, 4) and (batch, 1)."""
        out = self.head(self.dropout(torch.tanh(self.norm(self.first(x)))))
        return Output(((out - y) ** 2).mean())


class ToyBatches:
    """Made regression data in an order that follows from (seed, epoch); the last batch is smaller."""

    def __init__(self, seed: int, batch_size: int, n: int = 43, delay: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(n, 4, generator=generator)
        self.y = self.x.sum(1, keepdim=True).sin()
        self.seed, self.batch_size, self.delay = seed, batch_size, delay

    def __len__(self) -> int:
        return -(-len(self.x) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """One epoch."""
        generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
        for rows in torch.randperm(len(self.x), generator=generator).split(self.batch_size):
            time.sleep(self.delay)
            yield {"x": self.x[rows], "y": self.y[rows]}


def make_model(seed: int, hidden: int = 8, dropout: float = 0.2, freeze: bool = False) -> ToyModel:
    """The model as it is before training."""
    torch.manual_seed(seed)
    model = ToyModel(hidden, dropout)
    model.first.requires_grad_(not freeze)
    return model


def run_trial(trial: Trial, config: StudyConfig, folder: Path) -> TrialOutcome:
    """One trial in, its outcome out."""
    if not isinstance(config, Config):
        raise TypeError(type(config))
    arm = config.arms[trial.arm]
    model = make_model(trial.seed, arm.hidden, config.dropout, arm.freeze)
    batches = ToyBatches(trial.seed, config.training.batch_size, delay=config.delay)
    rate = trial.learning_rate
    status, series = "completed", []
    if rate is not None:
        result = fit(model, batches, config.training, learning_rate=rate, seed=trial.seed, folder=folder)
        status, series = result.status, result.series
    model.eval()
    with torch.no_grad():
        loss = model(batches.x, batches.y).loss.item()
    metrics = {"mse": Measurement(value=loss, n=len(batches.x), split=trial.split)} if status == "completed" else {}
    return TrialOutcome(
        status=status,
        parameters=ParameterCount(
            total=sum(p.numel() for p in model.parameters()),
            trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        ),
        metrics=metrics,
        series=series,
    )
