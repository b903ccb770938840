"""What the practical verbs do: read, call the package, print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from rich.table import Table

from cp_bcs.binary.description import describe, describe_all
from cp_bcs.binary.functions import Function
from cp_bcs.binary.image import Architecture
from cp_bcs.binary.program import Program
from cp_bcs.data.compiling import Optimization
from cp_bcs.data.corpus import build_corpus, write_corpus
from cp_bcs.data.pseudo_code import PseudoCodeOfPairs
from cp_bcs.data.recipes import build, list_recipes, load_recipe
from cp_bcs.decompile.decompiler import Decompiler
from mpo_core.errors import UsageError
from mpo_core.repro.atomic import write_json_atomic
from mpo_core.repro.commands import new_console
from mpo_core.repro.progress import StepProgress

console = new_console()
PSEUDO_CODE = "pseudo-code"
"""Folder in the output folder, where none is named."""
_SHOWN_TEXTS = 3
_LONGEST = 40


def functions(binary: Path, at: str | None, json_file: Path | None) -> None:
    """Print the functions of a binary, or the code of one; write all of it as JSON."""
    program = Program.read(binary)
    for note in program.image.notes:
        console.out(f"note: {note}.")
    if at is not None:
        _print_code(program, find_function(program, at))
    else:
        _print_functions(program)
    if json_file is not None:
        write_json_atomic(json_file, describe_all(program))
        console.out(f"functions: {json_file}")


def corpus(
    tree: Path,
    binaries: Sequence[Path],
    out: Path,
    project: str | None,
    largest: int | None = None,
    cache: Path | None = None,
) -> None:
    """Build a corpus and tell what became of all functions."""
    name = project or tree.resolve().name
    decompiler = _decompiler(largest, cache or out / PSEUDO_CODE)
    with StepProgress("pseudo code") as progress:
        built = build_corpus(tree, binaries, name, _pseudo_code(decompiler, progress))
    if not built.pairs:
        reasons = "; ".join(f"{count} {reason}" for reason, count in built.left_out.most_common(3))
        raise UsageError(f"no documented function of {name} is in {binaries[0].name} ({reasons}).")
    manifest = write_corpus(built, out, name)
    table = Table("functions", "of which")
    table.add_row(f"{built.functions:,}", "in the binaries")
    for reason, count in built.left_out.most_common():
        table.add_row(f"- {count:,}", reason)
    table.add_row(f"{len(built.pairs):,}", f"pairs, {manifest['distinct_bodies']:,} distinct bodies")
    if largest is not None:
        for twin in ("stripped", "unstripped"):
            for what, count in cast("dict[str, Any]", manifest["pseudo_code"])[twin].items():
                table.add_row(f"- {count:,}", f"pseudo code, {twin}: {what}")
    console.print(table)
    console.out(f"corpus: {out / 'pairs.jsonl'} (sha256 {str(manifest['sha256'])[:12]}…), {out / 'manifest.json'}")


def recipes() -> None:
    """Print the recipes of the package."""
    table = Table("recipe", "Debian source", "what it is")
    for name, recipe in list_recipes().items():
        table.add_row(name, recipe.source, recipe.title)
    console.print(table)


def build_cells(
    names: Sequence[str],
    architectures: Sequence[str],
    optimizations: Sequence[str],
    work: Path,
    out: Path,
    jobs: int,
    largest: int | None = None,
    cache: Path | None = None,
) -> None:
    """Build recipes for each cell and write a corpus for each; what is there already is kept."""
    for option, values, known in (
        ("--architecture", architectures, get_args(Architecture)),
        ("--optimization", optimizations, get_args(Optimization)),
    ):
        wrong = next((value for value in values if value not in known), None)
        if wrong is not None:
            raise UsageError(f"{option} {wrong}: expected one of {', '.join(known)}.")
    chosen = {name: load_recipe(name) for name in names}
    decompiler = _decompiler(largest, cache or out / PSEUDO_CODE)
    table = Table("corpus", "pairs", "distinct bodies", "sha256")
    for name, recipe in chosen.items():
        for architecture in cast("Sequence[Architecture]", architectures):
            for optimization in cast("Sequence[Optimization]", optimizations):
                folder = out / f"{recipe.source}-{architecture}-{optimization}"
                place = folder / "manifest.json"
                manifest: dict[str, Any] = json.loads(place.read_text()) if place.exists() else {}
                if not manifest or (largest is not None and "pseudo_code" not in manifest):
                    console.out(f"building {name} for {architecture} at {optimization}")
                    built = build(recipe, architecture, optimization, work, jobs)
                    with StepProgress(f"pseudo code of {name}") as progress:
                        pseudo_code = _pseudo_code(decompiler, progress)
                        found = build_corpus(built.tree, built.artefacts, recipe.source, pseudo_code)
                    manifest = write_corpus(found, folder, recipe.source)
                pairs, bodies = manifest["pairs"], manifest["distinct_bodies"]
                table.add_row(folder.name, f"{pairs:,}", f"{bodies:,}", f"{manifest['sha256'][:12]}…")
    console.print(table)
    console.out(f"corpora: {out}")


def _decompiler(largest: int | None, cache: Path) -> Decompiler | None:
    """What writes pseudo code of functions of at most so many bytes; None where none is asked for."""
    return None if largest is None else Decompiler(cache, largest=largest)


def _pseudo_code(decompiler: Decompiler | None, progress: StepProgress) -> PseudoCodeOfPairs | None:
    if decompiler is None:
        return None
    return PseudoCodeOfPairs(decompiler, lambda what, done, of: progress(done, of, what))


def find_function(program: Program, wanted: str) -> Function:
    """A function by its name, its address, or an address inside it.

    Raises:
        UsageError: there is none.
    """
    named = [function for function in program.functions if function.name == wanted]
    if named:
        return named[0]
    try:
        address = int(wanted, 16)
    except ValueError:
        raise UsageError(
            f"{program.image.name} has no function named {wanted!r}; give a name that `functions` prints, or an "
            "address in hexadecimal digits."
        ) from None
    for function in program.functions:
        if function.address <= address < function.end:
            return function
    raise UsageError(f"{program.image.name} has no function at {address:#x}.")


def _print_functions(program: Program) -> None:
    table = Table("address", "bytes", "found by", "instructions", "blocks", "calls", "name", "strings")
    for function in program.functions:
        told = describe(program, function)
        texts = [repr(text)[:_LONGEST] for text in told["strings"][:_SHOWN_TEXTS]]
        more = len(told["strings"]) - len(texts)
        table.add_row(
            f"{function.address:#x}",
            str(function.size),
            function.source,
            str(told["instructions"]),
            str(told["blocks"]),
            str(len(told["calls"])),
            escaped(function.name or ""),
            escaped(", ".join(texts) + (f" and {more} more" if more else "")),
        )
    console.print(table)
    image = program.image
    console.out(
        f"{image.name}: {image.architecture}, {len(program.functions):,} functions, "
        f"{len(image.imports):,} imported names, {len(image.exports):,} exported ones"
    )


def _print_code(program: Program, function: Function) -> None:
    told = describe(program, function, code=True)
    console.out(f"{told['name'] or 'function'} at {told['address']}, {told['size']} bytes, found by {told['source']}")
    table = Table("address", "instruction", "normalised", "text")
    for row in told["code"]:
        table.add_row(
            row["address"], escaped(row["instruction"]), escaped(row["normalized"]), escaped(row["text"] or "")
        )
    console.print(table)


def escaped(text: Any) -> str:
    """Brackets are markup to rich; what a terminal obeys is shown instead."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text)).replace("[", r"\[")
