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


def main() -> None:
    """Entry point of ``cp-bcs``."""
    run_app(app)
