"""Why a model answers as it does: the hypergraphs it saw, the walks to its answers, a picture on the Poincare disc."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from hypermr.answer import Answered, Answerer, Candidate
from hypermr.data.questions import Question
from hypermr.hypergraph.hyperedges import Neighbourhood
from hypermr.hypergraph.ngrams import ngrams
from hypermr.hypergraph.walks import Walk
from mpo_core.errors import UsageError

MOST_DRAWN = 150
"""Entities of a picture."""
MOST_WALKS = 20
"""Walks that are told of a hyperedge."""
STEPS = 600
"""Of the optimiser that places the entities of a picture."""
ARC = 24
"""Points of a drawn geodesic."""


def explain(answerer: Answerer, answered: Answered, top: int = 5) -> dict[str, Any]:
    """What stands behind an answer, fit for JSON.

    Args:
        answerer: that gave it.
        answered: the answer.
        top: so many candidates.
    """
    question = answered.question
    if question is None:
        return {"answers": [], "reason": answered.reason}
    kb = answerer.kb
    around = answerer.encoder.hypergraphs.around(kb.entity(question.topic))
    told: dict[str, Any] = {
        "question": question.text,
        "topic": question.topic,
        "question_hyperedges": [" ".join(words) for words in ngrams(question.tokens, answerer.model.config.ngram)],
        "unknown_words": unknown_words(answerer, question),
        "why_these_walks": around.sample.reason(),
        "walks": len(around.sample.walks),
        "hyperedges": len(around.hyperedges),
        "answers": [_candidate(answerer, candidate) for candidate in answered.candidates[:top]],
        "knowledge_hyperedges": _hyperedges(answerer, answered, around),
    }
    if answered.reason:
        told["reason"] = answered.reason
    return told


def _hyperedges(answerer: Answerer, answered: Answered, around: Neighbourhood) -> list[dict[str, Any]]:
    """Every hyperedge with its probability and its walks, each with why it is there; the likeliest hyperedges first."""
    kb, sample = answerer.kb, around.sample
    topic = kb.entities[sample.walks[0].entities[0]] if sample.walks else ""
    chances = {hyperedge: chance for each in answered.candidates for hyperedge, chance in each.hyperedges}
    places = dict(zip(sample.walks, sample.places, strict=True))
    drawn = sample.total > len(sample.walks)
    told: list[dict[str, Any]] = []
    for hyperedge in sorted(around.hyperedges, key=lambda each: -chances.get(each, 0.0)):
        relations = [kb.relations[number] for number in hyperedge.relations]
        hops = f"{len(relations)} relation{'s' * (len(relations) > 1)} from {topic}"
        told.append(
            {
                "relations": relations,
                "probability": chances.get(hyperedge),
                "walks": [
                    {
                        "walk": walk.text(kb),
                        "reason": f"{hops}; number {places[walk] + 1} of {sample.total}"
                        + (f", drawn with seed {sample.rules.seed}" if drawn else ""),
                    }
                    for walk in hyperedge.walks
                ],
            }
        )
    return told


def unknown_words(answerer: Answerer, question: Question) -> list[str]:
    """Words of a question that neither the training questions nor the language model of the word vectors have."""
    known = set(answerer.encoder.vocabulary.words)
    return [word for word in question.tokens if word not in known]


def _candidate(answerer: Answerer, candidate: Candidate) -> dict[str, Any]:
    kb = answerer.kb
    return {
        "entity": candidate.entity,
        "probability": candidate.probability,
        "because": [
            {
                "relations": [kb.relations[number] for number in hyperedge.relations],
                "probability": chance,
                "leads_to": len(hyperedge.ends),
                "walks": [walk.text(kb) for walk in hyperedge.walks if kb.entities[walk.end] == candidate.entity][
                    :MOST_WALKS
                ],
            }
            for hyperedge, chance in candidate.hyperedges
        ],
    }


def draw_walk(answerer: Answerer, answered: Answered) -> str:
    """The entities around a topic on the Poincare disc, with the likeliest walk, as SVG.

    Entities are placed so that hyperbolic distances are those of the graph (`hypermr.distortion`); lines are geodesics.

    Args:
        answerer: that gave the answer.
        answered: the answer; without a topic there is nothing to draw.

    Raises:
        UsageError: there is nothing to draw.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    if answered.question is None or not answered.candidates:
        raise UsageError(f"there is nothing to draw: {answered.reason}")
    around = answerer.encoder.hypergraphs.around(answerer.kb.entity(answered.question.topic))
    if not around.sample.walks:  # a closed vocabulary answers all the same
        raise UsageError(f"there is nothing to draw: nothing leads on from {answered.question.topic!r}.")
    # A closed vocabulary names no walk: the first one stands for what is around.
    best = answerer.walk_to(answered.candidates[0]) or around.sample.walks[0]
    entities, edges = _subgraph(around, best)
    place = {entity: number for number, entity in enumerate(entities)}
    points = _placed(len(entities), [(place[one], place[two]) for one, two in edges], place[best.entities[0]])
    figure = Figure(figsize=(7, 7.5), layout="constrained")
    axes = figure.add_subplot()
    turn = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(turn), np.sin(turn), color="0.6", linewidth=1)
    for one, two in edges:
        axes.plot(*_geodesic(points[place[one]], points[place[two]]).T, color="0.75", linewidth=0.8, zorder=1)
    axes.scatter(*points.T, s=14, color="0.45", zorder=2)
    for one, two in pairwise(best.entities):
        axes.plot(*_geodesic(points[place[one]], points[place[two]]).T, color="C3", linewidth=2, zorder=3)
    numbers: dict[int, list[str]] = {}
    for number, entity in enumerate(best.entities):
        numbers.setdefault(place[entity], []).append(str(number))
    for where, passed in numbers.items():
        axes.annotate(
            ", ".join(passed),
            points[where],
            fontsize=10,
            weight="bold",
            color="C3",
            xytext=(5, 5),
            textcoords="offset points",
            zorder=4,
        )
    names = [_plain(answerer.kb.entities[entity]) for entity in best.entities]
    relations = [
        f"  {_plain(answerer.kb.relations[relation])} of {number}" for number, relation in enumerate(best.relations)
    ]
    walk = "\n".join(
        f"{number}  {name}{how}" for number, (name, how) in enumerate(zip(names, ["", *relations], strict=True))
    )
    axes.text(0, -1.05, walk, ha="center", va="top", fontsize=9)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(_plain(answered.question.text.strip()), fontsize=10)
    written = io.StringIO()
    with rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # text stays text: whoever shows it has the fonts
        figure.savefig(written, format="svg")
    return written.getvalue()


def _plain(text: str) -> str:
    """Matplotlib reads what stands between two dollar signs as a formula."""
    return text.replace("$", r"\$")


def _subgraph(around: Neighbourhood, best: Walk) -> tuple[list[int], list[tuple[int, int]]]:
    """Entities and edges of the walk, then of the others while there is room."""
    entities = dict.fromkeys(best.entities)
    edges = dict.fromkeys(_steps(best))
    for walk in around.sample.walks:
        new = [entity for entity in walk.entities if entity not in entities]
        if len(entities) + len(new) <= MOST_DRAWN:
            entities |= dict.fromkeys(new)
            edges |= dict.fromkeys(_steps(walk))
    return list(entities), list(edges)


def _steps(walk: Walk) -> Iterator[tuple[int, int]]:
    for one, two in pairwise(walk.entities):
        if one != two:
            yield min(one, two), max(one, two)


def _placed(count: int, edges: list[tuple[int, int]], middle: int) -> np.ndarray:
    """Points of the disc (count, 2), one of them in its middle."""
    from hypermr.distortion import disc, embed_graph

    if not edges:  # all walks go round in a circle of one
        return np.zeros((count, 2))
    rows, columns = np.array(edges).T
    one_way = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    points = disc(embed_graph(one_way + one_way.T, 2, "lorentz", steps=STEPS).points)
    return _moebius(-points[middle].expand_as(points), points).numpy()


def _geodesic(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Points along the shortest way on the disc, by Moebius addition (Ganea et al. 2018, Eq. 1)."""
    x, y = (torch.as_tensor(point, dtype=torch.float64) for point in (one, two))
    towards = _moebius(-x, y)
    length = towards.norm()
    if length < 1e-12:
        return np.repeat(one[None], ARC, axis=0)
    shares = torch.linspace(0, 1, ARC, dtype=torch.float64).unsqueeze(1)
    steps = torch.tanh(shares * torch.atanh(length.clamp_max(1 - 1e-12))) * towards / length
    return _moebius(x.expand_as(steps), steps).numpy()


def _moebius(x: Tensor, y: Tensor) -> Tensor:
    product = (x * y).sum(-1, keepdim=True)
    xx, yy = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    return ((1 + 2 * product + yy) * x + (1 - xx) * y) / (1 + 2 * product + xx * yy)
