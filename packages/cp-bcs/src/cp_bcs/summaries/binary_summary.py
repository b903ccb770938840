"""Every function of a binary, summarised from the bottom of the call graph up; stopped, it goes on where it was.

The answers of each batch of functions are written before the next is begun, so that a killed job loses one batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cp_bcs.binary.program import Program
from cp_bcs.data.pairs import Pair
from cp_bcs.decompile.lexing import clean_pseudo
from cp_bcs.retrieval import Neighbour
from cp_bcs.summaries.answering import Answer, answer
from cp_bcs.summaries.calibration import NO_SUMMARY, Calibration, copies_of
from cp_bcs.summaries.call_order import bottom_up
from cp_bcs.summaries.drafts import Summarizer
from cp_bcs.summaries.survey import OnProgress, Surveyed, survey
from mpo_core.repro.atomic import write_bytes_atomic

if TYPE_CHECKING:
    from cp_bcs.decompile.decompiler import PseudoCode

BATCH = 100
"""Functions that are summarised together."""
_IN_PART = "/* only a part of the function was decompiled */\n"

Trusted = tuple[Summarizer, Calibration]


def summarize_program(
    program: Program,
    trusted: Trusted | None,
    folder: Path,
    pseudo_code: Mapping[int, PseudoCode] | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """All functions of a binary with their summaries, as plain data.

    Args:
        program: the binary.
        trusted: what writes the summaries, with its calibration; None for facts alone.
        folder: keeps finished batches; an earlier call for the same binary and summarizer may have left some.
        pseudo_code: of functions, by address, where a decompiler made it: it is shown, and the summarizer reads it,
            unless the decompiler saw only a part of the function.
        on_progress: called with functions done, functions in all, and what is being done.

    Returns:
        ``file``, ``sha256``, ``architecture``, ``base`` (address of its first byte in memory), ``notes``,
        ``threshold``, ``counts``, and ``functions``: one entry for each, in the order of their addresses.
    """
    pseudo_code = pseudo_code or {}
    surveyed = survey(program, on_progress)
    surveyed = {address: _with_pseudo(each, pseudo_code.get(address)) for address, each in surveyed.items()}
    answers = {} if trusted is None else _answers(surveyed, trusted, folder, on_progress)
    callers = _callers(surveyed)
    parts = program.parts if all(each.asked for each in surveyed.values()) else {}
    functions = []
    for address, each in surveyed.items():
        said = answers.get(address, _nothing())
        owner = parts.get(address)
        entry = {
            **each.told,
            "part_of": None if owner is None else f"{owner:#x}",
            "callers": [f"{caller:#x}" for caller in callers.get(address, ())],
            **{key: value for key, value in said.items() if key != "weights"},
            "pseudo_code": _shown(pseudo_code.get(address)),
        }
        _mark_code(entry, each, said, answers)
        functions.append(entry)
    image = program.image
    return {
        "schema_version": 1,
        "kind": "cp-bcs summaries",
        "file": image.name,
        "sha256": image.sha256,
        "architecture": image.architecture,
        "base": f"{image.spans[0][0]:#x}",
        "notes": list(image.notes),
        "threshold": None if trusted is None else trusted[1].threshold,
        "counts": {
            "functions": len(functions),
            "summarized": sum(entry["summary"] is not None for entry in functions),
            "same_code": sum(bool(entry["same_code_as"]) for entry in functions),
            "failed": sum("error" in entry for entry in functions),
        },
        "functions": functions,
    }


def _answers(
    surveyed: Mapping[int, Surveyed], trusted: Trusted, folder: Path, on_progress: OnProgress | None
) -> dict[int, dict[str, Any]]:
    """What is said of each function, callees first; batches that are in the folder are read from there."""
    asked = {address: each.asked for address, each in surveyed.items() if each.asked is not None}
    copies = copies_of(list(asked.values()))
    levels = bottom_up({address: list(surveyed[address].called) for address in asked})
    batches = [level[start : start + BATCH] for level in levels for start in range(0, len(level), BATCH)]
    said: dict[int, dict[str, Any]] = {}
    for number, batch in enumerate(batches):
        path = folder / f"batch-{number:05}.json"
        if path.exists():
            done: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        else:
            answers = answer(*trusted, [asked[address] for address in batch], copies)
            done = [_plain(each, asked[address], copies) for address, each in zip(batch, answers, strict=True)]
            write_bytes_atomic(path, json.dumps(done, ensure_ascii=False, allow_nan=False).encode())
        said |= zip(batch, done, strict=True)
        if on_progress is not None:
            on_progress(len(said), len(asked), "summarising")
    return said


def _with_pseudo(each: Surveyed, made: PseudoCode | None) -> Surveyed:
    """A function with pseudo code, cleaned as that of corpora is, for the summarizer to read."""
    if each.asked is None or made is None or made.text is None or made.truncated:
        return each
    text = clean_pseudo(made.text, [name for name in (made.name, each.asked.name) if name])
    return replace(each, asked=replace(each.asked, pseudo=text))


def _shown(made: PseudoCode | None) -> str | None:
    if made is None or made.text is None:
        return None
    return (_IN_PART if made.truncated else "") + made.text


def _nothing() -> dict[str, Any]:
    return {
        "summary": None,
        "said": NO_SUMMARY,
        "confidence": None,
        "draft": None,
        "same_code_as": [],
        "same_shape_as": [],
        "copies": None,
        "known": [],
        "weights": None,
    }


def _plain(said: Answer, function: Pair, copies: Mapping[str, int]) -> dict[str, Any]:
    draft = said.draft
    known = [_neighbour(each, function) for each in draft.neighbours]
    if draft.source is not None and draft.source not in draft.neighbours:
        known.append(_neighbour(draft.source, function))
    return {
        "summary": said.summary,
        "said": said.summary or NO_SUMMARY,
        "confidence": None if said.confidence is None else round(said.confidence, 4),
        "draft": draft.sentence or None,
        "same_code_as": sorted({each["name"] for each in known if each["same_code"]}),
        "same_shape_as": sorted({each["name"] for each in known if each["same_shape"] and not each["same_code"]}),
        "copies": copies[function.body],
        "known": known,
        "weights": None if draft.highlights is None else [round(weight, 3) for weight in draft.highlights],
    }


def _neighbour(neighbour: Neighbour, function: Pair) -> dict[str, Any]:
    pair = neighbour.pair
    return {
        "project": pair.project,
        "file": pair.file,
        "line": pair.line or None,
        "name": pair.name,
        "sentence": pair.sentence or None,
        "similarity": round(neighbour.similarity, 4),
        "same_code": pair.is_code_of(function),
        "same_shape": pair.body == function.body,
    }


def _callers(surveyed: Mapping[int, Surveyed]) -> dict[int, list[int]]:
    callers: dict[int, list[int]] = {}
    for address, each in surveyed.items():
        for callee in each.called:
            callers.setdefault(callee, []).append(address)
    return callers


def _mark_code(
    entry: Mapping[str, Any], each: Surveyed, said: Mapping[str, Any], answers: Mapping[int, Mapping[str, Any]]
) -> None:
    """Give instructions their weights, and calls the summaries of what they call."""
    code = entry.get("code", [])
    for row, weight in zip(code, said["weights"] or [], strict=False):
        row["weight"] = weight
    for callee, nodes in each.called.items():
        summary = answers.get(callee, {}).get("summary")
        for node in nodes if summary is not None else ():
            code[node]["callee"] = summary
