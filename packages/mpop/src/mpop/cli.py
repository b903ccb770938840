"""The command line of MPOP: the shared verbs, and those for the user's own model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpo_core.repro.cli import DataOption, paper_app, run_app, use_data_dir
from mpop.paper import PAPER

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A Hugging Face folder, a hub name, or minilm.")]
OutOption = Annotated[Path, typer.Option("--out", help="The folder to write; it must not exist yet.")]
CoresOption = Annotated[
    list[str] | None,
    typer.Option("--cores", metavar="[PATTERN=]N", help="Core tensors per matrix, 5 unless given; repeatable."),
]
BondOption = Annotated[
    list[str] | None,
    typer.Option("--bond", metavar="[PATTERN=]N", help="Cap on every bond, of the matrices that fit; repeatable."),
]
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
    cores: CoresOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64; the checkpoint's own unless given.")] = None,
) -> None:
    """Turn a model's matrices into matrix product operators; without a limit the result is lossless."""
    from mpop import commands

    choices = commands.compression(cores, include, exclude, bond, budget=budget, tolerance=tolerance)
    commands.compress(model, out, choices, dtype)


@app.command()
def squeeze(
    model: ModelArgument,
    task: Annotated[str, typer.Option(help="The task to tune on and to judge by, as `mrpc` or `doctext`.")],
    out: OutOption,
    target_size: Annotated[
        float | None, typer.Option(help="Where cutting ends, as a share of the model's parameters, below 1.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Stop where the metric has fallen by more than this share.")
    ] = None,
    patience: Annotated[int, typer.Option(help="So many stages in a row may be below the threshold.")] = 0,
    stages: Annotated[int, typer.Option(help="How often the training is interrupted to cut bonds.")] = 10,
    cuts: Annotated[int | None, typer.Option(help="Bonds cut by one at each stage; an even way if left out.")] = None,
    bonds: Annotated[str, typer.Option(help="all, or central: the two of the central tensor, as the paper.")] = "all",
    order: Annotated[str, typer.Option(help="error, relative-error or error-per-parameter.")] = "relative-error",
    spectra: Annotated[str, typer.Option(help="current, or initial: those before training, as the paper.")] = "current",
    trains: Annotated[str, typer.Option(help="auxiliary, auxiliary-only, central or all.")] = "auxiliary",
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-4,
    epochs: Annotated[int, typer.Option(help="Passes over the training examples.")] = 3,
    max_steps: Annotated[int | None, typer.Option(help="Optimizer steps at most.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = 16,
    max_length: Annotated[int, typer.Option(help="Tokens per example at most.")] = 128,
    text: Annotated[str | None, typer.Option(help="A text file or folder of .txt files, for --task text.")] = None,
    eval_text: Annotated[str | None, typer.Option(help="Judge on this text; the last tenth unless given.")] = None,
    train_size: Annotated[int | None, typer.Option(help="Take so many training examples.")] = None,
    eval_size: Annotated[int | None, typer.Option(help="Judge on so many examples at the end.")] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 50,
    seed: Annotated[int, typer.Option(help="Of order, new weights and dropout.")] = 0,
    cores: CoresOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    data_dir: DataOption = None,
) -> None:
    """Cut a model's bonds while it is tuned on a task (dimension squeezing); called again, it goes on."""
    from mpop import commands

    use_data_dir(data_dir)
    job = commands.squeeze_job(
        model,
        task,
        cores=cores,
        include=include,
        exclude=exclude,
        trains=trains,
        learning_rate=learning_rate,
        seed=seed,
        squeeze={
            "target_size": target_size,
            "threshold": threshold,
            "patience": patience,
            "stages": stages,
            "cuts": cuts,
            "bonds": bonds,
            "order": order,
            "spectra": spectra,
        },
        training={
            "epochs": epochs,
            "max_steps": max_steps,
            "batch_size": batch_size,
            "checkpoint_every": checkpoint_every,
        },
        data={
            "max_length": max_length,
            "path": text,
            "eval_path": eval_text,
            "train_size": train_size,
            "eval_size": eval_size,
        },
    )
    commands.squeeze(job, out)


@app.command()
def inspect(
    model: ModelArgument,
    bond: Annotated[int | None, typer.Option(help="Show the error bound of a cut to this bond.")] = None,
    cores: CoresOption = None,
    include: IncludeOption = None,
    exclude: ExcludeOption = None,
    json: Annotated[Path | None, typer.Option(help="Also write the spectra, entropies and bounds here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the bond spectra into this SVG file.")] = None,
) -> None:
    """Show factors, bonds, entanglement entropies and truncation bounds of every matrix of a model."""
    from mpop import commands

    bonds = None if bond is None else [str(bond)]
    commands.inspect(model, commands.compression(cores, include, exclude, bonds), json, plot)


@app.command()
def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A decoder, plain or compressed.")],
    out: Annotated[Path, typer.Option("--out", help="The text file to write; it must not exist yet.")],
    documents: Annotated[int, typer.Option(help="How many.")] = 1000,
    max_tokens: Annotated[int, typer.Option(help="Tokens of each at most.")] = 256,
    temperature: Annotated[float, typer.Option(help="Divides the logits.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
) -> None:
    """Let a decoder write text by itself, for the task `text`."""
    from mpop import commands

    commands.generate(model, out, documents, max_tokens, temperature, seed)


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
