"""What index, search, summarize and export do: read, call the package, write and print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from cp_bcs.binary.program import Program
from cp_bcs.binary.reading import readable_name
from cp_bcs.commands import escaped
from cp_bcs.summaries.binary_summary import summarize_program
from cp_bcs.summaries.calibrating import default_calibration
from cp_bcs.summaries.calibration import Calibration
from cp_bcs.summaries.knowledge import (
    Knowledge,
    digest_of,
    known_pairs,
    load_summarizer,
    read_knowledge,
    write_knowledge,
)
from cp_bcs.summaries.page import render_page
from cp_bcs.summaries.phrase_search import find_phrase
from cp_bcs.summaries.sarif import sarif_log
from cp_bcs.summaries.survey import survey
from mpo_core.errors import UsageError
from mpo_core.repro.atomic import write_bytes_atomic, write_json_atomic
from mpo_core.repro.commands import new_console
from mpo_core.repro.config import StrictModel
from mpo_core.repro.jobs import refuse_existing, unfinished
from mpo_core.repro.progress import StepProgress

if TYPE_CHECKING:
    from cp_bcs.decompile.decompiler import PseudoCode

console = new_console()
_SHOWN_EVIDENCE = 3
_LONGEST = 100
_UNFINISHED = "summarizing"
_SCRIPTS = {"ghidra": "ghidra_comments.py", "angr": "angr_comments.py"}


class SummaryJob(StrictModel):
    """Everything that decides what comes out.

    Attributes:
        sha256: of the binary.
        index: digest of the index; empty without one.
        model: digest of the trained network's weights.
        largest: bytes of a function whose pseudo code is shown.
        outputs: names of the files.
    """

    sha256: str
    index: str
    model: str | None
    largest: int | None
    outputs: tuple[str, ...]


def index(corpora: Sequence[Path], tree: Path | None, binaries: Sequence[Path], project: str | None, out: Path) -> None:
    """Index known functions into a new folder, and tell what is in it."""
    refuse_existing(out)
    pairs = known_pairs(corpora, tree, binaries, project)
    console.out(f"indexing {len(pairs):,} functions, and asking about each as if its project were unknown")
    knowledge = write_knowledge(pairs, out)
    told = knowledge.describe()
    table = Table("project", "functions")
    for name, count in told["projects"].items():
        table.add_row(escaped(name), f"{count:,}")
    console.print(table)
    console.out(f"{told['functions']:,} known functions, {told['with_sentence']:,} of them with a sentence")
    calibration = knowledge.calibration
    learned = "the package's own" if calibration == default_calibration() else "learned from these projects"
    console.out(
        f"confidence: {learned} ({calibration.functions:,} functions of {len(calibration.projects)} projects); "
        + (
            "only functions with a known body get a summary"
            if calibration.threshold is None
            else f"summaries are shown from {calibration.threshold:.2f} on"
        )
    )
    console.out(f'written to {out}; use it with: cp-bcs summarize BINARY --index {out}, or cp-bcs search BINARY "…"')


def search(binary: Path, phrase: str, folder: Path | None, top: int, json_file: Path | None) -> None:
    """Print the functions that fit a phrase, with the evidence."""
    knowledge = None if folder is None else read_knowledge(folder)
    program = Program.read(binary)
    surveyed = survey(program)
    hits = find_phrase(surveyed, None if knowledge is None else knowledge.index, phrase, top)
    if not hits:
        console.out("no function fits; use other words" + ("." if knowledge else ", or give --index DIR."))
    table = Table("score", "address", "name", "because of")
    for hit in hits:
        because = "\n".join(
            escaped(
                f"{each.kind}: {each.text[:_LONGEST]}"
                + (f" ({each.strength:.2f}: {each.origin})" if each.origin else "")
            )
            for each in hit.evidence[:_SHOWN_EVIDENCE]
        )
        table.add_row(
            f"{hit.score:.3f}", f"{hit.address:#x}", escaped(surveyed[hit.address].told["name"] or ""), because
        )
    if hits:
        console.print(table)
    if json_file is not None:
        told = [
            {
                "address": f"{hit.address:#x}",
                "name": surveyed[hit.address].told["name"],
                "score": round(hit.score, 4),
                "evidence": [asdict(each) for each in hit.evidence],
            }
            for hit in hits
        ]
        image = program.image
        described = {"schema_version": 1, "file": image.name, "sha256": image.sha256, "phrase": phrase, "hits": told}
        write_json_atomic(json_file, described)
        console.out(f"functions: {json_file}")


def summarize(
    binary: Path,
    model: Path | None,
    folder: Path | None,
    out: Path | None,
    formats: Sequence[str],
    largest: int | None = None,
    cache: Path | None = None,
) -> None:
    """Summarise every function of a binary into one file for each format; stopped, it goes on when called again.

    Args:
        binary: the file.
        model: a trained network.
        folder: an index.
        out: what the files are called before their endings, or a folder for them; as the binary unless given.
        formats: of ``html``, ``json``, ``sarif``.
        largest: bytes of a function whose pseudo code is shown; None for no pseudo code.
        cache: keeps pseudo code; with the unfinished parts unless given.
    """
    name = readable_name(binary)
    outputs = _outputs(out / name if out is not None and out.is_dir() else out or Path(name), formats)
    program = Program.read(binary)
    knowledge = None if folder is None else read_knowledge(folder)
    trusted = load_summarizer(model, knowledge)
    job = SummaryJob(
        sha256=program.image.sha256,
        index="" if knowledge is None else knowledge.digest,
        model=None if model is None else digest_of(model),
        largest=largest,
        outputs=tuple(readable_name(path) for path in outputs),
    )
    # All files are written before the finished parts go, the first one last: it says that the job is done.
    with unfinished(outputs[0], job, _UNFINISHED) as parts, StepProgress("summarize") as progress:
        pseudo_code = (
            None if largest is None else _decompiled(binary, largest, cache or parts / "pseudo-code", progress)
        )
        report = summarize_program(program, trusted, parts, pseudo_code, progress)
        report["index"] = None if knowledge is None else knowledge.describe()
        report["summarizer"] = None if trusted is None else _summarizer(model, trusted[1])
        for path in reversed(outputs):
            write_bytes_atomic(path, rendered(report, path.suffix.lstrip(".")).encode())
    _tell(report, program, trusted is not None, knowledge)
    if model is not None and knowledge is not None:
        console.out("note: the network's confidences were learned with its training functions as the known ones.")
    if trusted is not None and trusted[0].reads_pseudo and largest is None:
        console.out("note: this network reads pseudo code, too; give --pseudo for better summaries.")
    for path in outputs:
        console.out(f"summaries: {path} ({path.stat().st_size / 1e6:,.1f} MB)")


def _summarizer(model: Path | None, calibration: Calibration) -> dict[str, Any]:
    """What wrote the summaries, and from what their confidences were learned."""
    return {
        "kind": "retrieval" if model is None else "network",
        "calibrated_on": {"functions": calibration.functions, "projects": list(calibration.projects)},
    }


def rendered(report: dict[str, Any], form: str) -> str:
    """A report as the text of a file: ``html``, ``json`` or ``sarif``."""
    if form == "html":
        return render_page(report)
    told = report if form == "json" else sarif_log(report)
    return json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n"


def export(tool: str, out: Path | None) -> None:
    """Print, or write, the script that puts summaries into another tool."""
    if tool not in _SCRIPTS:
        raise UsageError(f"there is no script for {tool!r}; there are {', '.join(_SCRIPTS)}.")
    text = files("cp_bcs.scripts").joinpath(_SCRIPTS[tool]).read_text(encoding="utf-8")
    if out is None:
        console.out(text, end="")
        return
    refuse_existing(out)
    write_bytes_atomic(out, text.encode())
    console.out(f"script: {out}")


def _outputs(stem: Path, formats: Sequence[str]) -> list[Path]:
    """The files to write; none may exist, but those that a stopped job had written already."""
    if stem.suffix.lstrip(".") in formats:
        stem = stem.with_suffix("")
    outputs = [stem.with_name(f"{stem.name}.{each}") for each in formats]
    begun = outputs[0].with_name(f"{outputs[0].name}.{_UNFINISHED}").is_dir()
    for path in outputs[:1] if begun else outputs:
        refuse_existing(path)
    if not stem.parent.is_dir():  # said at once, not after the work
        raise UsageError(f"{stem.parent} is no folder to write {outputs[0].name} into; make it first.")
    return outputs


def _decompiled(binary: Path, largest: int, cache: Path, progress: StepProgress) -> dict[int, PseudoCode]:
    """Pseudo code by address."""
    from cp_bcs.decompile.decompiler import Decompiler

    decompiler = Decompiler(cache, largest=largest)
    return decompiler.decompile(binary, on_done=lambda done, of: progress(done, of, "decompiling"))


def _tell(report: dict[str, Any], program: Program, summarized: bool, knowledge: Knowledge | None) -> None:
    counts = report["counts"]
    console.out(f"{report['file']}: {report['architecture']}, {counts['functions']:,} functions")
    if counts["failed"]:
        console.out(f"{counts['failed']:,} could not be analysed; their entries tell why")
    if not summarized:
        console.out(
            "no summaries: there is no index of known functions; make one with cp-bcs index, and give --index DIR"
        )
        return
    console.out(
        f"{counts['summarized']:,} with a confident summary, {counts['same_code']:,} with the code of a known one"
    )
    architectures = [program.image.architecture] if knowledge is None else knowledge.describe()["architectures"]
    if program.image.architecture not in architectures:
        console.out(f"note: the index knows functions for {', '.join(architectures)} only.")
