"""The command line: the shared verbs, and those for the user's own binaries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cp_bcs.paper import PAPER
from mpo_core.repro.cli import paper_app, run_app

BinaryArgument = Annotated[Path, typer.Argument(metavar="BINARY", help="An ELF program or library: x86, x64 or ARM.")]

app = paper_app(PAPER)


@app.command()
def functions(
    binary: BinaryArgument,
    at: Annotated[
        str | None, typer.Option("--at", metavar="NAME|ADDRESS", help="Print the code of this function.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write all functions, with code, here.")] = None,
) -> None:
    """List what a binary holds: each function with its extent, control flow, calls and strings."""
    from cp_bcs import commands

    commands.functions(binary, at, json)


@app.command()
def corpus(
    src: Annotated[Path, typer.Option("--src", metavar="TREE", help="Folder of a C project's sources.")],
    elf: Annotated[list[Path], typer.Option("--elf", metavar="FILE", help="Built from them with -g; repeatable.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Gets pairs.jsonl and manifest.json.")],
    project: Annotated[str | None, typer.Option(help="Its name; that of the folder unless given.")] = None,
) -> None:
    """Pair the documented functions of a C project with their machine code, as if it were stripped."""
    from cp_bcs import commands

    commands.corpus(src, elf, out, project)


@app.command()
def build(
    recipes: Annotated[
        list[str] | None, typer.Argument(metavar="RECIPE...", help="Names, or YAML files; none: list the names.")
    ] = None,
    architectures: Annotated[
        list[str] | None, typer.Option("--architecture", help="x64 (the default), x86 or arm; repeatable.")
    ] = None,
    optimizations: Annotated[
        list[str] | None, typer.Option("--optimization", help="O2 (the default), O0, O1, O3 or Os; repeatable.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Sources and builds are kept here.")] = Path("builds"),
    out: Annotated[Path, typer.Option(help="Gets one corpus for each build.")] = Path("corpora"),
    jobs: Annotated[int, typer.Option(min=1, help="Of make.")] = 1,
) -> None:
    """Fetch Debian source packages through apt, build them, and make a corpus of each build."""
    from cp_bcs import commands

    if recipes is None:
        commands.recipes()
        return
    commands.build_cells(recipes, architectures or ["x64"], optimizations or ["O2"], work, out, jobs)


def main() -> None:
    """Entry point of ``cp-bcs``."""
    run_app(app)
