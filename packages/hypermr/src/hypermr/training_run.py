"""Train a model on the user's own questions, or on those of a paper, into a folder; resumes where it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from hypermr.config import DataConfig, ModelConfig
from hypermr.evaluate import Judged, SplitReport, judge, report_split
from hypermr.train import load_parts, new_answerer, train
from mpo_core.repro.atomic import new_folder, write_json_atomic
from mpo_core.repro.config import StrictModel, TrainingConfig
from mpo_core.repro.jobs import unfinished
from mpo_core.repro.models import model_folders

REPORT = "report.json"


class TrainJob(StrictModel):
    """Everything that decides what comes out.

    Attributes:
        data: questions, knowledge base and split.
        model: what is trained.
        training: epochs, batches, schedule.
        learning_rate: peak.
        seed: of the weights at the start, order and dropout.
    """

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class TrainResult:
    """What came out.

    Attributes:
        dev: on the questions to choose by.
        test: on those to judge by.
        split: what the split gives away of the latter.
        resumed_from: step of the checkpoint it went on from, 0 for none.
    """

    dev: Judged
    test: Judged
    split: SplitReport
    resumed_from: int


def train_into(job: TrainJob, out: Path, on_progress: Callable[[int, int], None] | None = None) -> TrainResult:
    """Train, or go on where an earlier call was stopped, and write the folder `out`, which `load_answerer` reads.

    Args:
        job: what to do.
        out: the folder to write; it must not exist.
        on_progress: called after every step with steps done and steps in all.

    Raises:
        UsageError: `out` exists, or an unfinished training of other settings lies beside it.
        DivergedError: the loss is no longer finite.
        InputFileError: the data cannot be read.
    """
    own = [Path(path) for path in (job.data.kb, job.data.questions) if path is not None]
    with unfinished(out, job, "training", [*model_folders(job.model.word_vectors), *own]) as folder:
        parts = load_parts(job.data)
        answerer = new_answerer(job.model, job.data, parts, job.seed)
        fitted = train(
            answerer,
            parts.train,
            job.training,
            learning_rate=job.learning_rate,
            seed=job.seed,
            folder=folder,
            on_progress=on_progress,
        )
        fitted.require_completed(job.learning_rate, folder)
        result = TrainResult(
            dev=judge(answerer, parts.dev),
            test=judge(answerer, parts.test),
            split=report_split(parts.train, parts.test),
            resumed_from=fitted.resumed_from,
        )
        with new_folder(out) as place:
            answerer.save(place)
            write_json_atomic(place / REPORT, {"job": job.model_dump(mode="json"), **asdict(result)})
    return result
