"""What train, answer, explain and inspect do: load, call the package, print."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.table import Table

from hypermr.answer import Answered, Answerer, load_answerer
from hypermr.config import DataConfig
from hypermr.data.knowledge_base import read_knowledge_base
from hypermr.data.loading import load_data
from hypermr.data.questions import tokenize
from hypermr.explain import draw_walk, unknown_words
from hypermr.explain import explain as explain_answer
from hypermr.hyperbolicity import delta_hyperbolicity
from hypermr.inspection import look_inside
from hypermr.train import load_parts
from hypermr.training_run import TrainJob, train_into
from mpo_core.errors import UsageError
from mpo_core.repro.atomic import write_bytes_atomic, write_json_atomic
from mpo_core.repro.commands import new_console
from mpo_core.repro.jobs import refused_option
from mpo_core.repro.progress import StepProgress

console = new_console()

NEGATIVES = 8
"""Of `train`, unless told otherwise."""


def train_job(
    *,
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    training: Mapping[str, Any],
    learning_rate: float,
    seed: int,
) -> TrainJob:
    """The job that the options ask for.

    Raises:
        UsageError: no data, or a value out of range; one sentence that names the option.
    """
    own = data["kb"] is not None or data["questions"] is not None
    if (data["name"] is None) != own or (own and None in (data["kb"], data["questions"])):
        raise UsageError("give --data NAME, or your own --kb FILE and --questions FILE.")
    given = {
        "data": {**_given(data), **_absolute(data), "name": "own" if own else data["name"]},
        "model": _given(model),
        "training": _given(training),
        "learning_rate": learning_rate,
        "seed": seed,
    }
    try:
        job = TrainJob.model_validate(given)
    except ValidationError as error:
        raise refused_option(error, ("data", "model", "training")) from error
    if model["negatives"] is not None or not job.model.takes_negatives:
        return job
    return job.model_copy(update={"model": job.model.model_copy(update={"negatives": NEGATIVES})})


def train(job: TrainJob, out: Path) -> None:
    """Train a model into a new folder and print how it does."""
    with StepProgress("train") as progress:
        result = train_into(job, out, progress)
    if result.resumed_from:
        console.out(f"went on from step {result.resumed_from}")
    table = Table("", "dev", "test")
    rows = {"right answers": "accuracy", "right relations": "path", "answer among the walks' ends": "reachable"}
    for title, name in rows.items():
        table.add_row(title, *(_percent(getattr(part, name)) for part in (result.dev, result.test)))
    console.print(table)
    given_away = result.split
    console.out(
        f"of the {given_away.n} test questions, {_percent(given_away.same_text)} have their text in train, "
        f"{_percent(given_away.same_path)} their topic and relations; a head over the training labels could answer "
        f"{_percent(given_away.ceiling)}; answer finds the topic of {_percent(given_away.topic_found)} in their text"
    )
    for note in result.notes:
        console.out(f"note: {note}.")
    console.out(f'written to {out}; ask it with: hypermr answer --model {out} "…"')


def answer(folder: Path, text: str, topic: str | None, top: int, as_json: bool) -> None:
    """Print the likeliest answers, with probability and walk."""
    answerer = load_answerer(folder)
    answered = answerer.answer(text, topic)
    if as_json:
        console.out(json.dumps(explain_answer(answerer, answered, top), indent=2, ensure_ascii=False))
        return
    if not answered.candidates:
        console.out(f"no answer: {answered.reason}")
        return
    _note_question(answerer, answered)
    table = Table("answer", "probability", "because of")
    for candidate in answered.candidates[:top]:
        walk = answerer.walk_to(candidate)
        because = "the labels of the training questions" if walk is None else walk.text(answerer.kb)
        table.add_row(_escaped(candidate.entity), f"{candidate.probability:.4f}", _escaped(because))
    console.print(table)
    first = answered.candidates[0]
    alike = sum(each.probability == first.probability for each in answered.candidates)
    if alike > top:
        console.out(f"{alike} entities are as likely as the first one; --top {alike} shows them.")


def explain(
    folder: Path, text: str, topic: str | None, top: int, json_file: Path | None, svg_file: Path | None
) -> None:
    """Print what stands behind an answer; write all of it as JSON, and a picture."""
    answerer = load_answerer(folder)
    answered = answerer.answer(text, topic)
    told = explain_answer(answerer, answered, top)
    if not answered.candidates:
        console.out(f"no answer: {answered.reason}")
    else:
        _note_question(answerer, answered)
        console.out(f"question hyperedges: {'; '.join(told['question_hyperedges'])}")
        console.out(f"knowledge: {told['why_these_walks']}, {told['hyperedges']} hyperedges")
        table = Table("answer", "probability", "relations", "of it", "leads to")
        for candidate in told["answers"]:
            for number, way in enumerate(candidate["because"]):
                table.add_row(
                    _escaped(candidate["entity"]) if number == 0 else "",
                    f"{candidate['probability']:.4f}" if number == 0 else "",
                    _escaped(" -> ".join(way["relations"])),
                    f"{way['probability']:.4f}",
                    f"{way['leads_to']} entities" if way["leads_to"] > 1 else "1 entity",
                )
        console.print(table)
    if json_file is not None:
        write_json_atomic(json_file, told)
        console.out(f"explanation: {json_file}")
    if svg_file is not None:
        write_bytes_atomic(svg_file, draw_walk(answerer, answered).encode())
        console.out(f"picture: {svg_file}")


def inspect(folder: Path | None, kb_file: Path | None, data: str | None, json_file: Path | None) -> None:
    """Print the hyperbolicity of a knowledge base; of a model also what its curvature does."""
    if sum(each is not None for each in (folder, kb_file, data)) != 1:
        raise UsageError("give one of --model, --kb and --data.")
    told: dict[str, Any] = {}
    if folder is not None:
        answerer = load_answerer(folder)
        kb = answerer.kb
        inside = look_inside(answerer, load_parts(answerer.data).dev)
        told["model"] = asdict(inside)
        table = Table("stage", "curvature", "gradient of the loss on dev")
        for number, (c, gradient) in enumerate(zip(inside.curvatures, inside.gradients, strict=True), start=1):
            name = "head" if number == len(inside.curvatures) else str(number)
            table.add_row(name, f"-{c:.4f}", f"{gradient:.3g}")
        console.print(table)
        if inside.points:
            console.out(
                f"{inside.points:,} points, on average {inside.radius:.2f} units of curvature from the origin; "
                f"{_percent(inside.clipped)} were pulled back to the reach of float32"
            )
        else:
            console.out("this model works in flat space: curvature is not used.")
    elif kb_file is not None:
        kb = read_knowledge_base(kb_file)
    else:
        kb = load_data(DataConfig(name=str(data))).kb
    found = delta_hyperbolicity(kb)
    told["knowledge_base"] = asdict(found)
    console.out(
        f"{kb.name}: {len(kb.entities):,} entities, {kb.n_triples:,} triples, {found.components:,} components; the "
        f"largest holds {found.entities:,} entities ({_percent(found.share)}) and has the diameter {found.diameter}"
    )
    console.out(
        f"delta-hyperbolicity over {found.samples:,} quadruples: at most {found.delta:g}, {found.mean:.3f} on average "
        "(a tree has 0)"
    )
    if json_file is not None:
        write_json_atomic(json_file, told)
        console.out(f"figures: {json_file}")


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; the others keep their defaults."""
    return {name: value for name, value in options.items() if value is not None}


def _absolute(data: Mapping[str, Any]) -> dict[str, str]:
    """The user's files, so that they are found from another folder, too."""
    return {
        name: str(Path(data[name]).expanduser().resolve()) for name in ("kb", "questions") if data[name] is not None
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _escaped(text: str) -> str:
    """Brackets are markup to rich."""
    return text.replace("[", r"\[")


def _note_question(answerer: Answerer, answered: Answered) -> None:
    """How a question was understood."""
    if answered.question is None:
        return
    console.out(f"topic: {answered.question.topic}")
    others = [name for name in answered.named if name != answered.question.topic]
    if others:
        console.out(f"note: the question also names {', '.join(map(repr, others))}; --topic takes another one.")
    unknown = [word for word in unknown_words(answerer, answered.question) if word not in _words_of(others)]
    if unknown:
        console.out(f"note: the model does not know {', '.join(map(repr, unknown))}.")


def _words_of(names: Iterable[str]) -> set[str]:
    return {word for name in names for spelling in (name, name.replace("_", " ")) for word in tokenize(spelling)}
