"""Train a network on corpora into a folder that ``summarize --model`` reads; called again after a stop, it goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cp_bcs.baselines import nearest, random_comment
from cp_bcs.config import DecodingConfig, ModelConfig
from cp_bcs.data.pairs import read_pairs
from cp_bcs.data.splits import Split, make_split
from cp_bcs.evaluate import JudgedSummaries, judge_summaries
from cp_bcs.learned import Learned
from cp_bcs.learning import OnProgress, learn
from cp_bcs.retrieval import Index
from cp_bcs.summaries.calibrating import FEWEST_PROJECTS, HeldOut, calibrate, judge_drafts
from cp_bcs.summaries.calibration import Calibration
from mpo_core.errors import InputFileError
from mpo_core.repro.atomic import new_folder, write_json_atomic
from mpo_core.repro.config import StrictModel, TrainingConfig
from mpo_core.repro.jobs import refuse_existing, unfinished
from mpo_core.repro.models import model_folders

REPORT, CALIBRATION = "report.json", "calibration.json"
FEWEST_JUDGED = 200
"""Held-out functions from which a threshold is learned."""


class TrainJob(StrictModel):
    """Everything that decides what comes out.

    Attributes:
        corpora: sha256 of each corpus, by its path.
        split: which functions are held out; see `make_split`.
        model: the network.
        decoding: how sentences are chosen.
        training: epochs, batches, schedule.
        learning_rate: peak.
        seed: of the weights at the start, order and dropout.
    """

    corpora: dict[str, str]
    split: str
    model: ModelConfig
    decoding: DecodingConfig
    training: TrainingConfig
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class TrainResult:
    """What came out.

    Attributes:
        functions: to learn from.
        test: the network's summaries of the test functions.
        nearest: those of the nearest known functions.
        random: of random ones.
        calibration: learned from the dev functions.
        resumed_from: step of the checkpoint it went on from, 0 for none.
    """

    functions: int
    test: JudgedSummaries
    nearest: JudgedSummaries
    random: JudgedSummaries
    calibration: Calibration
    resumed_from: int


def digests(corpora: Sequence[Path]) -> dict[str, str]:
    """What the corpora hold.

    Raises:
        InputFileError: a folder is no corpus.
    """
    found: dict[str, str] = {}
    for folder in corpora:
        try:
            found[str(folder)] = hashlib.sha256((folder / "pairs.jsonl").read_bytes()).hexdigest()
        except OSError as error:
            raise InputFileError(
                f"{folder} is no corpus (pairs.jsonl: {error.strerror}); make one with cp-bcs corpus or cp-bcs build."
            ) from error
    return found


def train_into(job: TrainJob, out: Path, on_progress: OnProgress | None = None) -> TrainResult:
    """Train, or go on where an earlier call was stopped, and write the folder `out`, which `load_trained` reads.

    Args:
        job: what to do.
        out: the folder to write; it must not exist.
        on_progress: called after every step with steps done and steps in all.

    Raises:
        UsageError: `out` exists, an unfinished training of other settings lies beside it, or the corpora are too small.
        DivergedError: the loss is no longer finite.
        InputFileError: a corpus cannot be read.
    """
    refuse_existing(out)
    pairs = [pair for folder in job.corpora for pair in read_pairs(Path(folder) / "pairs.jsonl")]
    split = make_split(pairs, job.split)
    with unfinished(out, job, "training", model_folders(job.model.encoder, job.model.refiner)) as folder:
        learned, fitted = learn(
            job.model,
            job.decoding,
            split,
            job.training,
            learning_rate=job.learning_rate,
            seed=job.seed,
            folder=folder,
            on_progress=on_progress,
        )
        fitted.require_completed(job.learning_rate, folder)
        result = _judge(learned, split, job.seed, fitted.resumed_from)
        with new_folder(out) as place:
            learned.save(place)
            write_json_atomic(place / CALIBRATION, result.calibration.to_json())
            told = asdict(result)
            for name in ("test", "nearest", "random"):
                del told[name]["each"]
            write_json_atomic(place / REPORT, {"schema_version": 1, "job": job.model_dump(mode="json"), **told})
    return result


def _judge(learned: Learned, split: Split, seed: int, resumed_from: int) -> TrainResult:
    written = [pair.sentence for pair in split.test]
    calibration = _calibrated(learned, split)
    return TrainResult(
        functions=len(split.train),
        test=judge_summaries([draft.sentence for draft in learned.summarize(split.test)], written),
        nearest=judge_summaries(nearest(split.train, split.test, seed), written),
        random=judge_summaries(random_comment(split.train, split.test, seed), written),
        calibration=calibration,
        resumed_from=resumed_from,
    )


def _calibrated(learned: Learned, split: Split) -> Calibration:
    """How far the summaries of functions can be trusted whose project is not among the known ones.

    The dev functions of each project are asked while the known functions of that project are hidden, as they are
    hidden from an index that is calibrated; the weights have seen others of them. With few projects or functions
    there is no threshold: only what has the very same code as a known function is shown.
    """
    index, held_out = learned.index, list[HeldOut]()
    projects = sorted({pair.project for pair in split.dev})
    for project in projects:
        others = [pair for pair in split.train if pair.project != project]
        asked = [pair for pair in split.dev if pair.project == project]
        if not others:
            continue
        if index is not None:
            learned.use_index(Index([pair for pair in index.pairs if pair.project != project]), refined=True)
        held_out += judge_drafts(learned, others, asked)
    if index is not None:
        learned.use_index(index, refined=True)
    if not held_out:  # one project: nothing can be said of others
        return replace(calibrate(judge_drafts(learned, split.train, split.dev)), threshold=None)
    enough = len(projects) >= FEWEST_PROJECTS and len(held_out) >= FEWEST_JUDGED
    return calibrate(held_out) if enough else replace(calibrate(held_out), threshold=None)


def load_trained(folder: Path) -> tuple[Learned, Calibration]:
    """Read a folder that `train_into` wrote.

    Raises:
        InputFileError: it is none, or damaged.
    """
    learned = Learned.load(folder)
    path = folder / CALIBRATION
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputFileError(f"{path} cannot be read ({error}); train the network again.") from error
    return learned, Calibration.from_json(told, str(path))
