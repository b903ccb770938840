"""What train does: read the options, train, print how the network does beside copying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.table import Table

from cp_bcs.training_run import TrainJob, digests, train_into
from mpo_core.repro.commands import new_console
from mpo_core.repro.jobs import refused_option
from mpo_core.repro.progress import StepProgress

console = new_console()

_SMALL = {"heads": 4, "dropout": 0.1, "attention_dropout": 0.0, "pieces": 4000, "least_count": 2, "nodes": "pieces"}
"""What a network of a few thousand functions takes besides the options; ``--variant released`` keeps whole nodes."""


def train_job(
    corpora: Sequence[Path],
    split: str,
    *,
    model: Mapping[str, Any],
    training: Mapping[str, Any],
    learning_rate: float,
    seed: int,
) -> TrainJob:
    """The job that the options ask for.

    Raises:
        UsageError: a value out of range; one sentence that names the option.
        InputFileError: a folder is no corpus.
    """
    network = {**_SMALL, **model, "inner": 2 * model["d"], "summary_length": 32}
    if model["variant"] == "released":
        network |= {"nodes": "instruction", "least_count": 1, "contrast": 0.0}
    retrieves = "neighbours" in network["sources"]
    try:
        return TrainJob.model_validate(
            {
                "corpora": digests(corpora),
                "split": split,
                "model": network,
                "decoding": {"consensus": retrieves, "tuned": retrieves},
                "training": {**training, "weight_decay": 0.0, "max_grad_norm": 5.0},
                "learning_rate": learning_rate,
                "seed": seed,
            }
        )
    except ValidationError as error:
        raise refused_option(error, ("model", "training", "decoding")) from error


def train(job: TrainJob, out: Path) -> None:
    """Train a network into a new folder and print how it does."""
    with StepProgress("train") as progress:
        result = train_into(job, out, progress)
    if result.resumed_from:
        console.out(f"went on from step {result.resumed_from}")
    table = Table("summaries of the test functions", "BLEU, mean of sentences", "ROUGE-L", "corpus BLEU")
    rows = {"the network's": result.test, "the nearest function's": result.nearest, "random ones": result.random}
    for title, judged in rows.items():
        values = (judged.bleu, judged.rouge_l, judged.corpus_bleu)
        table.add_row(title, *(f"{100 * value:.2f}" for value in values))
    console.print(table)
    console.out(f"{result.functions:,} functions to learn from, {len(result.test.each):,} to judge on ({job.split})")
    threshold = result.calibration.threshold
    told = "only those of known bodies" if threshold is None else f"those with a confidence of {threshold:.2f} or more"
    console.out(f"summaries that will be shown: {told}")
    console.out(f"written to {out}; use it with: cp-bcs summarize BINARY --model {out}")
