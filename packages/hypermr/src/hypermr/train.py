"""One trial: a configuration and an arm in, its outcome out; and the training of one model on any data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypermr.answer import Answerer, make_answerer
from hypermr.baselines import BASELINES
from hypermr.config import Config, DataConfig, EmbeddingConfig, ModelConfig
from hypermr.data.loading import load_data
from hypermr.data.questions import Question, QuestionSet
from hypermr.data.splits import make_split
from hypermr.distortion import embed_graph
from hypermr.evaluate import hit_chance, judge, report_split
from hypermr.hyperbolicity import largest_component, spanning_tree
from hypermr.hypergraph.encoding import Vocabulary
from hypermr.inspection import look_inside
from hypermr.model import AnswerModel
from hypermr.word_vectors import KnownWords, words_of
from mpo_core import count_parameters
from mpo_core.errors import DivergedError, UsageError
from mpo_core.repro.config import TrainingConfig
from mpo_core.repro.fit_result import FitResult
from mpo_core.repro.record import Measurement, ParameterCount, TrialOutcome
from mpo_core.repro.seeding import seed_everything
from mpo_core.repro.training import fit
from mpo_core.repro.trial import Trial


@dataclass(frozen=True)
class Parts:
    """Questions to learn from, to choose on, and to judge on at the end.

    Attributes:
        data: all of it.
        train: questions.
        dev: questions.
        test: questions.
    """

    data: QuestionSet
    train: tuple[Question, ...]
    dev: tuple[Question, ...]
    test: tuple[Question, ...]


def load_parts(config: DataConfig) -> Parts:
    """The questions of a configuration, split."""
    data = load_data(config)
    split = make_split(data, config.split)
    return Parts(data, *(data.take(numbers).questions for numbers in (split.train, split.dev, split.test)))


def new_answerer(model: ModelConfig, config: DataConfig, parts: Parts, seed: int) -> Answerer:
    """An untrained model for the questions of a split.

    Raises:
        UsageError: the head ``closed``, and no question has a label.
        InputFileError: the language model of the word vectors cannot be read.
    """
    seed_everything(seed)
    vocabulary = Vocabulary.of(parts.train, parts.data.kb)
    used = len(vocabulary.words)
    if model.word_vectors is not None:
        vocabulary = vocabulary.together_with(words_of(model.word_vectors))
    labels = list(dict.fromkeys(question.label for question in parts.train if question.label is not None))
    if model.head == "closed" and not labels:
        raise UsageError("the head closed needs questions with a label.")
    answerer = make_answerer(
        model, config, parts.data.kb, vocabulary, labels if model.head == "closed" else (), hops=config.hops
    )
    words = answerer.model.embeddings.words
    if isinstance(words, KnownWords):
        words.fill(vocabulary.words, used)
    return answerer


@dataclass
class CurvatureLog:
    """The curvatures while a model trains: one list for each, a number for each of `steps`.

    Attributes:
        model: the model.
        every: steps between two entries.
    """

    model: AnswerModel
    every: int

    def __post_init__(self) -> None:
        self.steps: list[float] = []
        self.values: list[list[float]] = [[] for _ in range(self.model.curvatures.numel())]

    def __call__(self, step: int, total: int) -> None:
        """Note them down, if it is time."""
        if step % self.every == 0 or step == total:
            self.steps.append(float(step))
            for kept, value in zip(self.values, self.model.curvatures.tolist(), strict=True):
                kept.append(value)

    def arrays(self) -> dict[str, list[float]]:
        """For plots."""
        return {f"curvature/{number}": values for number, values in enumerate(self.values, start=1)}


def train(
    answerer: Answerer,
    questions: Sequence[Question],
    training: TrainingConfig,
    *,
    learning_rate: float,
    seed: int,
    folder: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> FitResult:
    """Train a model in place, or go on where an earlier call on the same folder stopped.

    Args:
        answerer: with the model.
        questions: to learn from.
        training: epochs, schedule, batches.
        learning_rate: peak.
        seed: of order and dropout.
        folder: gets checkpoints and a log.
        on_progress: called after every step with steps done and steps in all.
    """
    rows = [answerer.encoder.encode(question) for question in questions]
    batches = answerer.encoder.batches(rows, training.batch_size, seed)
    return fit(
        answerer.model,
        batches,
        training,
        learning_rate=learning_rate,
        seed=seed,
        folder=folder,
        loss_of=lambda model, batch: answerer.model.loss(model(batch), batch),
        on_progress=on_progress,
    )


def run_trial(trial: Trial, config: Config, folder: Path) -> TrialOutcome:
    """Answer the questions of one part of a split as the trial's arm says.

    Args:
        trial: arm, seed, learning rate and stage; dev is the split that selects.
        config: the experiment at its scale.
        folder: the trial's own folder, for checkpoints and a log.
    """
    arm = config.arms[trial.arm]
    data = config.data_of(trial.arm)
    if arm.embedding is not None:
        return _embed(arm.embedding, data, trial)
    parts = load_parts(data)
    judged = parts.dev if trial.split == "select" else parts.test
    report = report_split(parts.train, judged, parts.data.kb)
    values: dict[str, float | None] = {
        "closed_vocabulary_ceiling": report.ceiling,
        "topic_found": report.topic_found,
    }
    if trial.learning_rate is None:
        answer = BASELINES[arm.answers](parts.train, parts.data.kb, data.hops)
        hits = [hit_chance(answer(question), question.answers) for question in judged]
        values |= {
            "accuracy": sum(hits) / len(hits),
            "same_path_in_train": report.same_path,
            "same_topic_in_train": report.same_topic,
            "same_text_in_train": report.same_text,
        }
        return TrialOutcome(
            parameters=ParameterCount(total=0, trained=0), metrics=_measured(values, len(judged), trial.split)
        )
    answerer = new_answerer(arm.model, data, parts, trial.seed)
    log = CurvatureLog(answerer.model, config.training.log_every)
    fitted = train(
        answerer,
        parts.train,
        config.training,
        learning_rate=trial.learning_rate,
        seed=trial.seed,
        folder=folder,
        on_progress=log,
    )
    counts = count_parameters(answerer.model)
    parameters = ParameterCount(total=counts.total, trained=counts.trained)
    if fitted.status == "diverged":
        return TrialOutcome(status="diverged", parameters=parameters, series=fitted.series)
    result = judge(answerer, judged)
    values |= {"accuracy": result.accuracy, "path_accuracy": result.path, "likelihood": result.likelihood}
    values |= {"reachable": result.reachable}
    metrics = _measured(values, len(judged), trial.split)
    arrays = log.arrays() if len(log.steps) > 1 else {}
    if arm.model.network == "hypermr" and arm.model.geometry != "euclidean":
        inside = look_inside(answerer, parts.dev)
        for name, value in {
            "least_curvature": min(inside.curvatures),
            "largest_curvature": max(inside.curvatures),
            "largest_curvature_gradient": max(map(abs, inside.gradients)),
        }.items():
            metrics[name] = Measurement(value=value, n=len(parts.dev), split="select")
        arrays["curvature gradients/by stage, the head last"] = inside.gradients
        if inside.points:
            metrics["clipped_share"] = Measurement(value=inside.clipped, n=inside.points, split="select")
            metrics["radius"] = Measurement(value=inside.radius, n=inside.points, split="select")
            arrays["radii/share of points"] = inside.radii
    return TrialOutcome(parameters=parameters, metrics=metrics, series=fitted.series, arrays=arrays)


def _embed(embedding: EmbeddingConfig, data: DataConfig, trial: Trial) -> TrialOutcome:
    """How well a space holds the knowledge base; nothing is set apart to judge on, so all trials are judged alike."""
    graph, _, _ = largest_component(load_data(data).kb)
    graph = spanning_tree(graph) if embedding.of == "tree" else graph
    rate = trial.learning_rate or 0.0
    try:
        made = embed_graph(
            graph, embedding.d, embedding.geometry, steps=embedding.steps, learning_rate=rate, seed=trial.seed
        )
    except DivergedError as error:
        return TrialOutcome(status="diverged", notes=[str(error)])
    radii = made.points.norm(dim=-1)
    values = {"distortion": made.distortion, "precision": made.precision, "worst_distortion": made.worst}
    return TrialOutcome(
        parameters=ParameterCount(total=made.points.numel() + 1, trained=made.points.numel() + 1),
        metrics={
            **{name: Measurement(value=value, n=made.pairs) for name, value in values.items()},
            "scale": Measurement(value=made.scale),
            "radius": Measurement(value=float(radii.mean()), n=len(radii)),
        },
    )


def _measured(values: dict[str, float | None], n: int, split: str) -> dict[str, Measurement]:
    return {name: Measurement(value=value, n=n, split=split) for name, value in values.items() if value is not None}
