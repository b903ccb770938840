"""The command line: the shared verbs, and those for the user's own binaries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cp_bcs.paper import PAPER
from mpo_core.repro.cli import paper_app, run_app

BinaryArgument = Annotated[Path, typer.Argument(metavar="BINARY", help="An ELF program or library: x86, x64 or ARM.")]
IndexOption = Annotated[Path | None, typer.Option("--index", metavar="DIR", help="Known functions: what index wrote.")]
PseudoOption = Annotated[bool, typer.Option("--pseudo", help="With pseudo code, through angr: cp-bcs[angr].")]
LargestOption = Annotated[int, typer.Option(metavar="BYTES", min=1, help="Of a function that is decompiled.")]
CacheOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Keeps pseudo code; the folder pseudo-code in --out unless given.")
]

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
    pseudo: PseudoOption = False,
    largest: LargestOption = 1500,
    cache: CacheOption = None,
) -> None:
    """Pair the documented functions of a C project with their machine code, as if it were stripped."""
    from cp_bcs import commands

    commands.corpus(src, elf, out, project, largest if pseudo else None, cache)


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
    pseudo: PseudoOption = False,
    largest: LargestOption = 1500,
    cache: CacheOption = None,
) -> None:
    """Fetch Debian source packages through apt, build them, and make a corpus of each build."""
    from cp_bcs import commands

    if recipes is None:
        commands.recipes()
        return
    commands.build_cells(
        recipes,
        architectures or ["x64"],
        optimizations or ["O2"],
        work,
        out,
        jobs,
        largest if pseudo else None,
        cache,
    )


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="The folder to write; it must not exist yet.")],
    corpora: Annotated[
        list[Path], typer.Option("--corpus", metavar="DIR", help="That corpus or build wrote; repeatable.")
    ],
    split: Annotated[
        str, typer.Option(help="What is held out: random-SEED, deduplicated-SEED, files-SEED or project-NAME.")
    ] = "files-0",
    sources: Annotated[
        str, typer.Option(help="What it looks at, parted by commas: code, graph, pseudo, neighbours.")
    ] = "code,graph,neighbours",
    variant: Annotated[str, typer.Option(help="paper, or released: what the released code does otherwise.")] = "paper",
    refine: Annotated[bool, typer.Option("--refine", help="Train a refiner of pseudo code, too.")] = False,
    refiner: Annotated[
        str | None, typer.Option(metavar="PATH", help="A seq2seq checkpoint that becomes the refiner.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(metavar="PATH", help="A checkpoint whose encoder reads pseudo code, as it is.")
    ] = None,
    contrast: Annotated[
        float, typer.Option(help="Weight of the loss by which the network learns to look for known functions.")
    ] = 10.0,
    d: Annotated[int, typer.Option(help="Dimension.")] = 96,
    layers: Annotated[int, typer.Option(help="Of the Transformer parts.")] = 1,
    length: Annotated[int, typer.Option(help="Instructions, and pieces of code, that are read.")] = 128,
    epochs: Annotated[int, typer.Option(help="Passes over the training functions.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Functions per step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Of the weights at the start, order and dropout.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 100,
    graph_backend: Annotated[str, typer.Option(help="pyg or dgl.")] = "pyg",
) -> None:
    """Train a network on corpora, and see how it does beside copying; called again after a stop, it goes on."""
    from cp_bcs import training_commands

    job = training_commands.train_job(
        corpora,
        split,
        model={
            "sources": tuple(source.strip() for source in sources.split(",")),
            "variant": variant,
            "refined": refine or refiner is not None,
            "refiner": refiner,
            "encoder": encoder,
            "contrast": contrast,
            "d": d,
            "layers": layers,
            "code_length": length,
            "pseudo_length": length,
            "graph_length": length,
            "graph_backend": graph_backend,
        },
        training={"epochs": epochs, "batch_size": batch_size, "checkpoint_every": checkpoint_every},
        learning_rate=learning_rate,
        seed=seed,
    )
    training_commands.train(job, out)


@app.command()
def index(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write; it must not exist yet.")],
    corpora: Annotated[
        list[Path] | None, typer.Option("--corpus", metavar="DIR", help="That corpus or build wrote; repeatable.")
    ] = None,
    src: Annotated[Path | None, typer.Option("--src", metavar="TREE", help="Sources of the files of --elf.")] = None,
    elf: Annotated[
        list[Path] | None, typer.Option("--elf", metavar="FILE", help="Unstripped; repeatable, with or without --src.")
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="Name of what --elf is from; of folder or file unless given.")
    ] = None,
) -> None:
    """Index known functions: of corpora, of your own sources and builds, or of builds with symbols alone."""
    from cp_bcs import summary_commands

    summary_commands.index(corpora or [], src, elf or [], project, out)


@app.command()
def search(
    binary: BinaryArgument,
    phrase: Annotated[str, typer.Argument(metavar="PHRASE", help="What the function does: 'parses the header'.")],
    index: IndexOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="So many functions.")] = 10,
    json: Annotated[Path | None, typer.Option("--json", help="Write the functions and all evidence here.")] = None,
) -> None:
    """Find the functions of a binary that fit a phrase, with the evidence for each."""
    from cp_bcs import summary_commands

    summary_commands.search(binary, phrase, index, top, json)


@app.command()
def summarize(
    binary: BinaryArgument,
    index: IndexOption = None,
    model: Annotated[Path | None, typer.Option("--model", metavar="RUN", help="A trained network.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="File, or what files are called before .html, .json, .sarif.")
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="A page to read and search; the default.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything, for other programs.")] = False,
    sarif: Annotated[bool, typer.Option("--sarif", help="SARIF 2.1.0, for viewers of analysis results.")] = False,
    pseudo: PseudoOption = False,
    largest: LargestOption = 1500,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keeps pseudo code for other runs; else it goes at the end.")
    ] = None,
) -> None:
    """Say what every function of a binary does, with the evidence, or that nothing can be said with confidence."""
    from cp_bcs import summary_commands

    asked = {"html": html, "json": json, "sarif": sarif}
    formats = [name for name, wanted in asked.items() if wanted] or ["html"]
    summary_commands.summarize(binary, model, index, out, formats, largest if pseudo else None, cache)


@app.command()
def export(
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="ghidra or angr.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it here instead.")] = None,
) -> None:
    """Print the script that puts the summaries of a JSON file into Ghidra or angr as comments."""
    from cp_bcs import summary_commands

    summary_commands.export(tool, out)


def main() -> None:
    """Entry point of ``cp-bcs``."""
    run_app(app)
