"""Train a model on the user's own questions, or on those of a paper, into a folder; resumes where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field

from hypermr.answer import Answerer
from hypermr.config import DataConfig, ModelConfig
from hypermr.data.questions import TOPIC
from hypermr.evaluate import Judged, SplitReport, judge, report_split
from hypermr.train import Parts, load_parts, new_answerer, train
from mpo_core.repro.atomic import new_folder, write_json_atomic
from mpo_core.repro.config import StrictModel, TrainingConfig
from mpo_core.repro.jobs import unfinished
from mpo_core.repro.models import model_folders

REPORT = "report.json"
MANY_WALKS = 20_000
"""Around one topic: beyond, a training is told to be slow for that."""


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
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    seed: int


@dataclass(frozen=True)
class TrainResult:
    """What came out.

    Attributes:
        dev: on the questions to choose by.
        test: on those to judge by.
        split: what the split gives away of the latter.
        resumed_from: step of the checkpoint it went on from, 0 for none.
        notes: what is odd about the questions, in sentences.
    """

    dev: Judged
    test: Judged
    split: SplitReport
    resumed_from: int
    notes: tuple[str, ...] = ()


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
            split=report_split(parts.train, parts.test, parts.data.kb),
            resumed_from=fitted.resumed_from,
            notes=tuple(notes_on(parts, answerer)),
        )
        with new_folder(out) as place:
            answerer.save(place)
            write_json_atomic(place / REPORT, {"job": job.model_dump(mode="json"), **asdict(result)})
    return result


def notes_on(parts: Parts, answerer: Answerer) -> Iterator[str]:
    """Sentences on questions that are not as a model needs them; how many there are, and the first one.

    Args:
        parts: of the questions.
        answerer: with the walks.
    """
    everything = (*parts.train, *parts.dev, *parts.test)
    unnamed = [question for question in everything if TOPIC not in question.tokens]
    if unnamed:
        first = unnamed[0]
        yield (
            f"{len(unnamed)} of {len(everything)} questions do not name their topic, as {first.text!r}, which is about "
            f"{first.topic!r}: such a question is answered only with its topic beside it"
        )
    around = answerer.encoder.hypergraphs.around
    most, topic = max((len(around(answerer.kb.entity(q.topic)).sample.walks), q.topic) for q in everything)
    if most > MANY_WALKS:
        yield f"around {topic!r} there are {most:,} walks: --cap takes a sample, and less time and memory"
    if answerer.model.config.head == "pointer":
        lost = [question for question in parts.train if not any(answerer.encoder.encode(question).right)]
        if lost:
            yield (
                f"of {len(lost)} of {len(parts.train)} training questions, as {lost[0].text!r}, no answer is the end "
                f"of a walk of up to {answerer.encoder.hypergraphs.rules.hops} relations: nothing was learnt from them"
            )
