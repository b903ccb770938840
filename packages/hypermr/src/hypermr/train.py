"""One trial: a configuration and an arm in, its outcome out."""

from __future__ import annotations

from pathlib import Path

from hypermr.baselines import BASELINES
from hypermr.config import Config
from hypermr.data.loading import load_data
from hypermr.data.splits import make_split
from hypermr.evaluate import hit_chance, report_split
from mpo_core.repro.record import Measurement, ParameterCount, TrialOutcome
from mpo_core.repro.trial import Trial


def run_trial(trial: Trial, config: Config, folder: Path) -> TrialOutcome:
    """Answer the questions of one part of a split as the trial's arm says.

    Args:
        trial: arm and stage; nothing is drawn here, so the seed does not matter.
        config: the experiment at its scale.
        folder: the trial's own folder; nothing is written to it here.
    """
    data = load_data(config.data)
    split = make_split(data, config.data.split)
    train = data.take(split.train).questions
    judged = data.take(split.dev if trial.split == "select" else split.test).questions
    answer = BASELINES[config.arms[trial.arm].answers](train, data.kb, config.data.hops)
    hits = [hit_chance(answer(question), question.answers) for question in judged]
    report = report_split(train, judged)
    values = {
        "accuracy": sum(hits) / len(hits),
        "closed_vocabulary_ceiling": report.ceiling,
        "same_path_in_train": report.same_path,
        "same_topic_in_train": report.same_topic,
        "same_text_in_train": report.same_text,
    }
    return TrialOutcome(
        parameters=ParameterCount(total=0, trained=0),
        metrics={
            name: Measurement(value=value, n=len(hits), split=trial.split)
            for name, value in values.items()
            if value is not None
        },
    )
