"""The command line: the shared verbs, and those for the user's own questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hypermr.paper import PAPER
from mpo_core.repro.cli import DataOption, paper_app, run_app, use_data_dir

ModelOption = Annotated[Path, typer.Option("--model", metavar="DIR", help="A folder that train wrote.")]
TopicOption = Annotated[
    str | None, typer.Option(help="The entity the question is about; the longest one it names unless given.")
]
KbOption = Annotated[Path | None, typer.Option("--kb", help="Your triples: subject, relation, object, parted by tabs.")]
InverseOption = Annotated[bool, typer.Option("--inverse", help="Triples can be walked backwards, too.")]
TopOption = Annotated[int, typer.Option("--top", min=1, help="So many answers.")]

app = paper_app(PAPER)


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", help="The folder to write; it must not exist yet.")],
    data: Annotated[
        str | None, typer.Option("--data", help="PQ-2H, PQ-3H, PQL-2H, PQL-3H, PQL-3H_more, KVQA or hierarchy.")
    ] = None,
    kb: KbOption = None,
    questions: Annotated[
        Path | None, typer.Option(help="Your questions: question, topic, answer|answer, and maybe relation|relation.")
    ] = None,
    inverse: InverseOption = False,
    split: Annotated[str, typer.Option(help="random-SEED or topic-disjoint-SEED.")] = "random-1234",
    hops: Annotated[int, typer.Option(help="Relations of a walk at most.")] = 3,
    geometry: Annotated[str, typer.Option(help="lorentz, poincare, euclidean or tangent.")] = "lorentz",
    curvature: Annotated[str, typer.Option(help="learned-per-stage, shared or fixed.")] = "learned-per-stage",
    head: Annotated[str, typer.Option(help="pointer, or closed: the labels of the training questions.")] = "pointer",
    network: Annotated[str, typer.Option(help="hypermr, path-scorer or hypergraph-conv.")] = "hypermr",
    entities: Annotated[str, typer.Option(help="What walks know of their entities: none or ids.")] = "none",
    word_vectors: Annotated[
        str | None, typer.Option(help="A language model whose word vectors are taken: minilm, a folder or a hub name.")
    ] = None,
    negatives: Annotated[
        int | None,
        typer.Option(help="Hyperedges of other questions among a question's own while it is learnt; 8 where they fit."),
    ] = None,
    cap: Annotated[int | None, typer.Option(help="Walks per question at most; a sample of them is drawn.")] = None,
    d: Annotated[int, typer.Option(help="Dimension.")] = 64,
    epochs: Annotated[int, typer.Option(help="Passes over the training questions.")] = 15,
    batch_size: Annotated[int, typer.Option(help="Questions per step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Of the weights at the start, order and dropout.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 200,
    data_dir: DataOption = None,
) -> None:
    """Train a model to answer questions about a knowledge base; called again after a stop, it goes on."""
    from hypermr import commands

    use_data_dir(data_dir)
    job = commands.train_job(
        data={
            "name": data,
            "kb": None if kb is None else str(kb),
            "questions": None if questions is None else str(questions),
            "inverse": inverse,
            "split": split,
            "hops": hops,
        },
        model={
            "geometry": geometry,
            "curvature": curvature,
            "head": head,
            "network": network,
            "entities": entities,
            "word_vectors": word_vectors,
            "negatives": negatives,
            "cap": cap,
            "d": d,
        },
        training={"epochs": epochs, "batch_size": batch_size, "checkpoint_every": checkpoint_every},
        learning_rate=learning_rate,
        seed=seed,
    )
    commands.train(job, out)


@app.command()
def answer(
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    model: ModelOption,
    topic: TopicOption = None,
    top: TopOption = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Answer a question: the likeliest entities, each with its probability and the walk that leads there."""
    from hypermr import commands

    commands.answer(model, question, topic, top, json)


@app.command()
def explain(
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    model: ModelOption,
    topic: TopicOption = None,
    top: TopOption = 5,
    json: Annotated[Path | None, typer.Option("--json", help="Write here why each walk is there, and more.")] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Draw the entities around the topic on the Poincare disc.")
    ] = None,
) -> None:
    """Say what stands behind an answer, and draw it."""
    from hypermr import commands

    commands.explain(model, question, topic, top, json, svg)


@app.command()
def inspect(
    model: Annotated[Path | None, typer.Option("--model", metavar="DIR", help="A folder that train wrote.")] = None,
    kb: KbOption = None,
    data: Annotated[str | None, typer.Option("--data", help="A data set's name.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Also write all figures here.")] = None,
    data_dir: DataOption = None,
) -> None:
    """How tree-like a knowledge base is; of a model, whether its curvature does anything."""
    from hypermr import commands

    use_data_dir(data_dir)
    commands.inspect(model, kb, data, json)


def main() -> None:
    """Entry point of ``hypermr``."""
    run_app(app)
