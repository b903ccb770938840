"""Training of one network on one split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cp_bcs.config import DecodingConfig, ModelConfig
from cp_bcs.data.splits import Split
from cp_bcs.encoding import Encoder
from cp_bcs.learned import Learned
from cp_bcs.refining import Refiner, with_pseudo
from cp_bcs.retrieval import Index
from cp_bcs.saving import new_network
from mpo_core.errors import UsageError
from mpo_core.repro.config import TrainingConfig
from mpo_core.repro.training import FitResult, fit

OnProgress = Callable[[int, int], None]


def learn(
    model: ModelConfig,
    decoding: DecodingConfig,
    split: Split,
    training: TrainingConfig,
    *,
    learning_rate: float,
    seed: int,
    folder: Path,
    on_progress: OnProgress | None = None,
) -> tuple[Learned, FitResult]:
    """Train a network on the training part of a split, or go on where an earlier call on the same folder stopped.

    A training function's neighbours are as near as those of a test function can be: of a split by file, for example,
    none is from its own file.

    Args:
        model: sizes and forms.
        decoding: how sentences are chosen.
        split: what to learn from; its dev part is looked at by ``variant: released`` alone.
        training: epochs, schedule, batches.
        learning_rate: peak.
        seed: of weights, order and dropout.
        folder: gets checkpoints and logs.
        on_progress: called after every step with steps done and steps in all.

    Raises:
        UsageError: pseudo code is to be read, and the functions have none.
    """
    refiner, train, dev = None, split.train, split.dev
    if "pseudo" in model.sources and not any(pair.pseudo for pair in train):
        raise UsageError(f"the split {split.name} holds no pseudo code; make the corpora with --pseudo.")
    if model.refined:
        refiner = Refiner.learn(
            model, train, training, learning_rate=learning_rate, seed=seed, folder=folder / "refiner"
        )
        train, dev = (tuple(with_pseudo(part, refiner.refine(part))) for part in (train, dev))
    encoder = Encoder.learn(model, train, dev)
    index = Index(train) if "neighbours" in model.sources or decoding.consensus else None
    learned = Learned(encoder, new_network(encoder, seed), index, decoding, refiner)
    rows, _ = learned.encode(train, apart=split.group)
    fitted = fit(
        learned.network,
        encoder.batches(rows, training.batch_size, seed),
        training,
        learning_rate=learning_rate,
        seed=seed,
        folder=folder,
        loss_of=lambda network, batch: learned.network.loss(network(batch), batch),
        on_progress=on_progress,
    )
    if index is not None and fitted.status == "completed":
        learned.use_index(index, refined=True)
    return learned, fitted
