"""The command line of MPOP: the shared verbs, and compress, inspect and merge on the user's own model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpo_core.repro.cli import paper_app, run_app
from mpop.paper import PAPER

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face folder, a hub name, or minilm.")]
OutOption = Annotated[Path, typer.Option("--out", help="The folder to write; it must not exist yet.")]
CoresOption = Annotated[int, typer.Option("--cores", help="Core tensors per matrix.")]
BondOption = Annotated[int | None, typer.Option(help="One cap on every bond.")]
IncludeOption = Annotated[list[str] | None, typer.Option(help="Name pattern of matrices to decompose; repeatable.")]
ExcludeOption = Annotated[list[str] | None, typer.Option(help="Name pattern of matrices to leave; repeatable.")]

app = paper_app(PAPER)


@app.command()
def compress(
    model: ModelArgument,
    out: OutOption,
    budget: Annotated[
        float | None, typer.Option(help="Parameters to keep, as a share of the model's, up to 1.")
    ] = None,
    bond: BondOption = None,
    tolerance: Annotated[float | None, typer.Option(help="Relative error allowed per matrix, below 1.")] = None,
    cores: CoresOption = 5,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64; the checkpoint's own unless given.")] = None,
) -> None:
    """Turn a model's matrices into matrix product operators; without a limit the result is lossless."""
    from mpop import commands

    choices = commands.compression(cores, include, exclude, bond=bond, budget=budget, tolerance=tolerance)
    commands.compress(model, out, choices, dtype)


@app.command()
def inspect(
    model: ModelArgument,
    bond: BondOption = None,
    cores: CoresOption = 5,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    json: Annotated[Path | None, typer.Option(help="Also write the spectra, entropies and bounds here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the bond spectra into this SVG file.")] = None,
) -> None:
    """Show factors, bonds, entanglement entropies and truncation bounds of every matrix of a model."""
    from mpop import commands

    commands.inspect(model, commands.compression(cores, include, exclude, bond=bond), json, plot)


@app.command()
def merge(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that compress wrote.")],
    out: OutOption,
) -> None:
    """Multiply the cores of a compressed model out into a plain folder that from_pretrained opens."""
    from mpop import commands

    commands.merge(folder, out)


def main() -> None:
    """Entry point of ``mpop``."""
    run_app(app)
