"""Experiment files, and what the baselines are worth, held against figures that were computed another way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hypermr.baselines import BASELINES
from hypermr.config import Config
from hypermr.data.hierarchies import HierarchyConfig, generate_hierarchy
from hypermr.data.knowledge_base import KnowledgeBase
from hypermr.data.pathquestion import FOLDER, load_pathquestion
from hypermr.data.questions import Question, tokenize
from hypermr.data.splits import make_split
from hypermr.evaluate import hit_chance, report_split
from hypermr.paper import PAPER
from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.config import SCALES
from mpo_core.repro.experiment import check_paper, list_experiments, load_experiment, resolve
from mpo_core.repro.runner import execute_run, start_run

DATA = Path(os.environ.get("MPO_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", list_experiments(PAPER))
def test_every_experiment_is_valid_at_every_scale(name, scale):
    config, _ = resolve(PAPER, load_experiment(PAPER, name), scale)
    assert isinstance(config, Config)


def test_claims_name_what_exists():
    check_paper(PAPER)


def test_copying_runs_on_a_generated_hierarchy(tmp_path):
    record = execute_run(start_run(PAPER, "copying", "smoke", runs=tmp_path), workers=1)
    accuracy = {trial.arm: trial.metrics["accuracy"].value for trial in record.trials}
    assert 0 < accuracy["answer-topic"] < accuracy["random-path"] < 1
    assert all(trial.metrics["accuracy"].n == 100 for trial in record.trials)


def test_data_of_the_user(tmp_path):
    kb = [f"a{number}\tnext\ta{number + 1}" for number in range(40)]
    rows = [f"what is next to a{number} ?\ta{number}\ta{number + 1}\tnext" for number in range(40)]
    (tmp_path / "kb.tsv").write_text("\n".join(kb))
    (tmp_path / "questions.tsv").write_text("\n".join(rows))
    files = [f"data.kb={tmp_path / 'kb.tsv'}", f"data.questions={tmp_path / 'questions.tsv'}"]
    run = start_run(
        PAPER, "copying", "small", runs=tmp_path / "runs", overrides=["data.name=own", "data.hops=1", *files]
    )
    accuracy = {trial.arm: trial.metrics["accuracy"].value for trial in execute_run(run, workers=1).trials}
    assert accuracy["random-path"] == 1.0
    assert accuracy["copy-nearest"] == 0.0


@pytest.mark.parametrize(
    ("override", "error", "says"),
    [
        ("data.name=PQ-9H", UsageError, "unknown data 'PQ-9H'"),
        ("data.split=odd", UsageError, "unknown split 'odd'"),
        ("data.name=PQ-2H", InputFileError, "PathQuestion is not there"),
        ("data.name=own", UsageError, "needs kb and questions"),
    ],
)
def test_data_that_is_not_there(override, error, says, tmp_path, monkeypatch):
    monkeypatch.setenv("MPO_DATA", "")
    with pytest.raises(error, match=says):
        execute_run(start_run(PAPER, "copying", "smoke", runs=tmp_path, overrides=[override]), workers=1)


# Shares of PathQuestion's test questions whose topic and relations are in train, and whose answers have a training
# label: counted by another program.
SHARES = {
    ("PQ-2H", "random-789"): (0.953, 0.974),
    ("PQ-3H", "random-789"): (0.817, 0.960),
    ("PQL-2H", "random-789"): (0.888, 0.962),
    ("PQL-3H", "random-789"): (0.163, 0.865),
    ("PQL-3H_more", "random-789"): (0.816, 0.961),
    ("PQL-3H", "random-1234"): (None, 0.885),
    ("PQ-2H", "topic-disjoint-0"): (0.0, 0.609),
}


@pytest.mark.data
@pytest.mark.skipif(not (DATA / FOLDER).is_dir(), reason="no PathQuestion (set MPO_DATA)")
@pytest.mark.parametrize(("name", "split"), SHARES)
def test_what_the_splits_of_pathquestion_give_away(name, split):
    data = load_pathquestion(name, DATA / FOLDER)
    made = make_split(data, split)
    report = report_split(data.take(made.train).questions, data.take(made.test).questions)
    path, ceiling = SHARES[name, split]
    assert report.ceiling == pytest.approx(ceiling, abs=6e-4)
    assert path is None or report.same_path == pytest.approx(path, abs=6e-4)


def question(text: str, topic: str, answers: set[str], label: str | None = None) -> Question:
    return Question(text, tokenize(text, topic), topic, frozenset(answers), None, label or min(answers))


def test_baselines_by_hand():
    kb = KnowledgeBase.of(
        [("ann", "child", "ben"), ("ann", "child", "cy"), ("ann", "spouse", "dora"), ("ben", "born", "oslo")]
    )
    train = [
        question("who is ann 's child ?", "ann", {"ben", "cy"}),
        question("whom did ann marry ?", "ann", {"dora"}),
        question("where was ben born ?", "ben", {"oslo"}),
    ]
    asked = question("ann 's child ?", "ann", {"ben", "cy"})
    assert BASELINES["answer-topic"](train, kb, 2)(asked) == {"ann": 1.0}
    assert BASELINES["copy-nearest"](train, kb, 2)(asked) == {"ben": 1.0}
    elsewhere = question("where was cy born ?", "cy", {"bergen"})
    assert BASELINES["copy-nearest"](train, kb, 2)(elsewhere) == {"oslo": 1.0}
    # child, spouse and child-born: three sequences; child has two ends.
    chances = BASELINES["random-path"](train, kb, 2)(asked)
    assert chances == pytest.approx({"ben": 1 / 6, "cy": 1 / 6, "dora": 1 / 3, "oslo": 1 / 3})
    assert hit_chance(chances, asked.answers) == pytest.approx(1 / 3)


def test_a_report_by_hand():
    train = [question("who is ann 's child ?", "ann", {"ben"}), question("who is dora ?", "dora", {"dora"})]
    judged = [question("who is ann 's child ?", "ann", {"ben", "cy"}), question("where is eve ?", "eve", {"oslo"})]
    report = report_split(train, judged)
    assert (report.same_text, report.same_topic, report.ceiling, report.topic_is_answer) == (0.5, 0.5, 0.5, 0.0)
    assert report.same_path is None
    assert report.n == 2


def test_no_baseline_knows_the_answers():
    """A question with other answers gets the same ones."""
    data = generate_hierarchy(HierarchyConfig(questions=60))
    train, asked = data.questions[:50], data.questions[50]
    other = question(asked.text, asked.topic, {"nothing"})
    for make in BASELINES.values():
        answer = make(train, data.kb, 3)
        assert answer(asked) == answer(other)
