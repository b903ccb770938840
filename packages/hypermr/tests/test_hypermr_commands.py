"""The practical verbs: train, answer, explain, inspect, on own files, through the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from typer.testing import CliRunner

from hypermr.answer import CONFIG, KNOWLEDGE, WEIGHTS, load_answerer
from hypermr.cli import app
from hypermr.commands import train_job
from hypermr.config import DataConfig, ModelConfig
from hypermr.data.loading import load_data
from hypermr.training_run import TrainJob, train_into
from mpo_core.errors import InputFileError, UsageError
from mpo_core.repro.checkpoint import list_checkpoints
from mpo_core.repro.config import TrainingConfig

COLOURS = ("red", "green", "blue", "amber", "violet", "white")
FAMILY = [
    *(f"P{number}\tparent\tP{(number * 7 + 3) % 40}" for number in range(40)),
    *(f"P{number}\tlikes [most]\t{COLOURS[number % 6]}" for number in range(40)),
    "P1\tspouse\t$x_{1}$",
    "$x_{1}$\tspouse\tP1",
]


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    rows = []
    for number in range(40):
        parent = (number * 7 + 3) % 40
        rows.append(f"who is the parent of P{number} ?\tP{number}\tP{parent}\tparent")
        rows.append(f"what does P{number} 's parent like ?\tP{number}\t{COLOURS[parent % 6]}\tparent|likes [most]")
    (folder / "kb.tsv").write_text("\n".join(FAMILY), encoding="utf-8")
    (folder / "questions.tsv").write_text("\n".join(rows), encoding="utf-8")
    return folder


def job_of(own: Path, **changes: Any) -> TrainJob:
    data = DataConfig(
        name="own", kb=str(own / "kb.tsv"), questions=str(own / "questions.tsv"), hops=2, split="topic-disjoint-0"
    )
    given: dict[str, Any] = {
        "data": data,
        "model": ModelConfig(d=16, heads=2, stages=1),
        "training": TrainingConfig(epochs=25, batch_size=16, checkpoint_every=5),
        "learning_rate": 1e-2,
        "seed": 0,
    }
    return TrainJob(**(given | changes))


@pytest.fixture(scope="module")
def trained(own, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "model"
    result = train_into(job_of(own), out)
    assert result.test.accuracy == 1.0  # topics that it has never seen
    assert result.test.path == 1.0
    assert result.test.reachable == 1.0
    assert result.split.same_topic == 0.0
    assert not out.with_name("model.training").exists()
    return out


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_train_through_the_command_line(own, tmp_path):
    out = tmp_path / "m"
    options = ("--kb", own / "kb.tsv", "--questions", own / "questions.tsv", "--hops", 2, "--d", 8, "--epochs", 1)
    code, text = invoke("train", *options, "--out", out)
    assert code == 0
    assert "right answers" in text
    assert sorted(path.name for path in out.iterdir()) == [CONFIG, KNOWLEDGE, WEIGHTS, "report.json"]
    report = json.loads((out / "report.json").read_text())
    assert report["job"]["model"]["geometry"] == "lorentz"
    assert 0 <= report["test"]["accuracy"] <= 1
    with pytest.raises(UsageError, match="exists already"):
        invoke("train", *options, "--out", out)


def test_a_saved_model_answers_as_before(trained, own):
    answerer = load_answerer(trained)
    questions = load_data(answerer.data).questions
    rows = [answerer.encoder.encode(question) for question in questions]
    again = load_answerer(trained)
    for (_, one), (_, two) in zip(answerer.probabilities(rows), again.probabilities(rows), strict=True):
        assert torch.equal(one, two)
    answered = answerer.answer("What does P5 's parent like?")
    assert answered.candidates[0].entity == COLOURS[38 % 6]
    assert answered.candidates[0].probability > 0.5


def test_answer_says_what_and_why(trained):
    code, text = invoke("answer", "--model", trained, "who is the parent of P5 ?", "--top", "2")
    assert code == 0
    assert "P5 -parent-> P38" in text
    code, text = invoke("answer", "--model", trained, "what does P5 's parent like ?")
    assert "-likes [most]->" in text  # not taken for markup
    code, text = invoke("answer", "--model", trained, "who is the parent of P5 or P7 ?", "--topic", "P7")
    assert "topic: P7" in text
    code, text = invoke("answer", "--model", trained, "who is the parent of P5 or P7 ?")
    assert "topic: P5" in text
    assert "also names 'P7'" in text
    code, text = invoke("answer", "--model", trained, "what does P5 's grandmother like ?")
    assert "does not know 'grandmother'" in text


def test_answer_without_a_topic_says_so(trained):
    code, text = invoke("answer", "--model", trained, "who is that ?")
    assert code == 0
    assert text == "no answer: no entity of kb.tsv is named in the question.\n"
    code, text = invoke("answer", "--model", trained, "who is that ?", "--topic", "Q1", "--json")
    assert json.loads(text) == {"answers": [], "reason": "the topic 'Q1' is no entity of kb.tsv."}
    code, text = invoke("answer", "--model", trained, "who is the parent of red ?")
    assert "nothing leads on from 'red'" in text


def test_explain_tells_everything(trained, tmp_path):
    files = ("--json", tmp_path / "why.json", "--svg", tmp_path / "disc.svg")
    code, text = invoke("explain", "--model", trained, "who is the parent of P1 ?", *files)
    assert code == 0
    assert "parent of <topic>" in text
    told = json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))
    assert told["topic"] == "P1"
    assert told["why_these_walks"] == "all 6 walks of 1 to 2 relations"
    assert told["walks"] == 6
    assert told["question_hyperedges"][:2] == ["who is the", "is the parent"]
    best = told["answers"][0]
    assert best["entity"] == "P10"
    assert best["because"][0]["walks"] == ["P1 -parent-> P10"]
    ways = told["knowledge_hyperedges"]
    assert [way["relations"] for way in ways[:1]] == [["parent"]]
    assert sum(way["probability"] for way in ways) == pytest.approx(1, abs=1e-3)
    walks = [walk for way in ways for walk in way["walks"]]
    assert sorted(walk["reason"] for walk in walks)[0] == "1 relation from P1; number 1 of 6"
    assert len(walks) == 6
    svg = (tmp_path / "disc.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(svg)  # noqa: S314 - our own file
    assert svg.count("<path") > 5
    assert "P10  parent of 0" in svg


def test_a_picture_of_names_that_are_markup(trained, tmp_path):
    svg = tmp_path / "disc.svg"
    code, _ = invoke("explain", "--model", trained, "the spouse of $x_{1}$ ?", "--topic", "$x_{1}$", "--svg", svg)
    assert code == 0
    ElementTree.fromstring(svg.read_text(encoding="utf-8"))  # noqa: S314
    with pytest.raises(UsageError, match="nothing to draw: no entity"):
        invoke("explain", "--model", trained, "who ?", "--svg", svg)


def test_inspect(trained, own, tmp_path):
    code, text = invoke("inspect", "--model", trained, "--json", tmp_path / "inside.json")
    assert code == 0
    assert "delta-hyperbolicity" in text
    told = json.loads((tmp_path / "inside.json").read_text())
    assert len(told["model"]["curvatures"]) == 2
    assert told["knowledge_base"]["entities"] > 40
    code, text = invoke("inspect", "--kb", own / "kb.tsv")
    assert "47 entities" in text
    with pytest.raises(UsageError, match="one of --model, --kb and --data"):
        invoke("inspect")


@pytest.mark.parametrize("name", [CONFIG, KNOWLEDGE, WEIGHTS])
def test_a_damaged_model_is_refused_by_name(trained, tmp_path, name):
    for damage in ("gone", "cut", "other"):
        folder = tmp_path / damage
        folder.mkdir()
        for path in trained.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        if damage == "gone":
            (folder / name).unlink()
        elif damage == "cut":
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(content[: len(content) // 2])
        else:
            (folder / name).write_text('{"name": 3}')
        with pytest.raises(InputFileError, match=name):
            load_answerer(folder)


def test_edges_to_nowhere_are_refused(trained, tmp_path):
    for path in trained.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    known = json.loads((tmp_path / KNOWLEDGE).read_text(encoding="utf-8"))
    known["edges"][0][0][1] = 10**6
    (tmp_path / KNOWLEDGE).write_text(json.dumps(known))
    with pytest.raises(InputFileError, match="leads to what has no name"):
        load_answerer(tmp_path)


def test_a_training_begun_otherwise_is_not_gone_on_with(own, tmp_path):
    out = tmp_path / "m"
    begun = out.with_name("m.training")
    begun.mkdir()
    (begun / "config.json").write_text(json.dumps(job_of(own).model_dump(mode="json")))
    with pytest.raises(UsageError, match=r"begun with learning_rate = 0.01, but now it is 0.02"):
        train_into(job_of(own, learning_rate=2e-2), out)
    assert not out.exists()


def test_a_killed_training_ends_with_the_same_bits(own, trained, tmp_path):
    out = tmp_path / "model"
    (tmp_path / "job.json").write_text(job_of(own).model_dump_json())
    program = (
        "import sys; from pathlib import Path; from hypermr.training_run import TrainJob, train_into;"
        "train_into(TrainJob.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "job.json"), str(out)]
    running = subprocess.Popen(command)
    checkpoints = tmp_path / "model.training" / "checkpoints"
    for _ in range(600):
        if list_checkpoints(checkpoints):  # those that are whole
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not out.exists()
    result = train_into(job_of(own), out)
    assert result.resumed_from > 0
    assert (out / WEIGHTS).read_bytes() == (trained / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": {}}, "give --data NAME"),
        ({"data": {"kb": "k"}}, "give --data NAME"),
        ({"data": {"name": "hierarchy", "kb": "k", "questions": "q"}}, "give --data NAME"),
        ({"model": {"geometry": "round"}}, "--geometry 'round': Input should be"),
        ({"model": {"d": 6}}, "no multiple of heads"),
        ({"training": {"epochs": 0}}, "--epochs 0: Input should be greater"),
        ({"data": {"name": "hierarchy", "hops": 0}}, "--hops 0: Input should be greater"),
    ],
    ids=str,
)
def test_options_that_cannot_be(changes, says):
    nothing: dict[str, Any] = {"name": None, "kb": None, "questions": None}
    given: dict[str, Any] = {"data": {"name": "hierarchy"}, "model": {}, "training": {}} | changes
    given["data"] = nothing | given["data"]
    with pytest.raises(UsageError, match=says):
        train_job(**given, learning_rate=1e-3, seed=0)


def test_an_unknown_data_set_is_refused(tmp_path):
    with pytest.raises(UsageError, match="unknown data 'PQ-9H'"):
        invoke("train", "--data", "PQ-9H", "--out", tmp_path / "m")


def test_odd_questions_are_noted(tmp_path):
    (tmp_path / "kb.tsv").write_text("".join(f"p{n}\tchild\tp{n + 1}\n" for n in range(12)))
    rows = [f"who is the child of p{n} ?\tp{n}\tp{n + 1}" for n in range(9)]
    rows += ["who is it ?\tp3\tp4", "who is the nephew of p0 ?\tp0\tp9"]
    (tmp_path / "questions.tsv").write_text("\n".join(rows))
    options = ("--kb", tmp_path / "kb.tsv", "--questions", tmp_path / "questions.tsv", "--hops", 1, "--d", 8)
    code, text = invoke("train", *options, "--epochs", 1, "--out", tmp_path / "m")
    assert code == 0
    assert "1 of 11 questions do not name their topic, as 'who is it ?'" in text
    notes = [line for line in text.splitlines() if "no answer is the end" in line]
    assert all("1 of" in note and "up to 1 relations" in note for note in notes)


@pytest.mark.parametrize("rate", ["-1", "0", "nan", "inf"])
def test_learning_rates_that_cannot_be(own, tmp_path, rate):
    options = ("--kb", own / "kb.tsv", "--questions", own / "questions.tsv", "--out", tmp_path / "m")
    with pytest.raises(UsageError, match="--learning-rate"):
        invoke("train", *options, "--learning-rate", rate)
    assert not list(tmp_path.iterdir())


def test_a_model_is_inspected_from_another_folder(own, tmp_path, monkeypatch):
    monkeypatch.chdir(own)
    options = ("--kb", "kb.tsv", "--questions", "questions.tsv", "--hops", 1, "--d", 8, "--epochs", 1)
    assert invoke("train", *options, "--out", tmp_path / "m")[0] == 0
    monkeypatch.chdir(tmp_path)
    code, text = invoke("inspect", "--model", "m")
    assert code == 0
    assert "points" in text


def test_train_takes_negatives_where_they_fit(own):
    from hypermr.commands import NEGATIVES, train_job

    def job(**model: object) -> TrainJob:
        data = {"name": None, "kb": own / "kb.tsv", "questions": own / "questions.tsv"}
        return train_job(data=data, model={"negatives": None, **model}, training={}, learning_rate=0.01, seed=0)

    assert job().model.negatives == NEGATIVES
    assert job(negatives=3).model.negatives == 3
    assert job(head="closed").model.negatives == 0
    assert job(entities="ids").model.negatives == 0


def test_names_in_any_script_are_drawn(own, tmp_path):
    (tmp_path / "kb.tsv").write_text("北京\t市长\t李\n李\t妻子\t王\n王\t父亲\t张\n", encoding="utf-8")
    rows = ("谁是北京的市长?\t北京\t李\n", "谁是李的妻子?\t李\t王\n", "谁是王的父亲?\t王\t张\n")
    (tmp_path / "questions.tsv").write_text("".join(rows), encoding="utf-8")
    options = ("--kb", tmp_path / "kb.tsv", "--questions", tmp_path / "questions.tsv", "--hops", 1, "--d", 8)
    assert invoke("train", *options, "--epochs", 1, "--out", tmp_path / "m")[0] == 0
    code, text = invoke("explain", "--model", tmp_path / "m", "谁是北京的市长?", "--svg", tmp_path / "disc.svg")
    assert code == 0
    assert "topic: 北京" in text
    assert "市长" in (tmp_path / "disc.svg").read_text(encoding="utf-8")
