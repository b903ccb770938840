"""Does the curvature do anything: its gradients, what is clipped, and how far from the origin the states are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hypermr.answer import BATCH, Answerer
from hypermr.data.questions import Question
from hypermr.hypergraph.encoding import Encoded
from hypermr.layers import Ledger, ToSpace
from hypermr.method import Curvatures
from mpo_core.errors import UsageError
from mpo_core.repro.devices import device_of, to_device

BINS = 24
"""Of the histogram of radii."""


@dataclass(frozen=True)
class Inside:
    """What a model does inside, on some questions.

    Attributes:
        curvatures: ``c`` of the stages and of the head.
        gradients: of the mean loss by each of them, in float64.
        clipped: share of the points that were pulled back to the reach of float32; 0 in flat space.
        points: how many were looked at; 0 in flat space, where nothing needs to be.
        radii: distances from the origin in units of curvature, ``sqrt(c) |u|``: the share of points in each of `BINS`
            equal bins up to the reach of the space.
        radius: their mean.
    """

    curvatures: list[float]
    gradients: list[float]
    clipped: float
    points: int
    radii: list[float]
    radius: float


def look_inside(answerer: Answerer, questions: Sequence[Question]) -> Inside:
    """Look at a model while it reads questions; it stays as it is.

    Args:
        answerer: with the model.
        questions: some hundreds are enough.

    Raises:
        UsageError: its network has no curvature.
    """
    model = answerer.model
    alike: dict[tuple[int, int], list[Encoded]] = defaultdict(list)  # of one size, so that nothing is padded
    for question in questions:
        row = answerer.encoder.encode(question)
        alike[len(row.tokens), len(row.hyperedges)].append(row)
    parts = [rows[start : start + BATCH] for rows in alike.values() for start in range(0, len(rows), BATCH)]
    entrances = [module for module in model.modules() if isinstance(module, ToSpace)]
    holder = next((module for module in model.modules() if isinstance(module, Curvatures)), None)
    if holder is None:
        raise UsageError(f"the network {model.config.network} has no curvature to look at.")
    ledger = Ledger()
    training, was = model.training, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.eval().double()
    for entrance in entrances:
        entrance.ledger = ledger
    gradients = torch.zeros(holder.count, dtype=torch.float64)
    try:
        for part in parts:
            batch = {
                name: tensor.double() if tensor.is_floating_point() else tensor
                for name, tensor in to_device(answerer.encoder.batch(part), device_of(model)).items()
            }
            with holder.watch() as curvatures:
                loss = model.loss(model(batch), batch)
                (gradient,) = torch.autograd.grad(loss, curvatures, allow_unused=True)
            if gradient is not None:
                gradients += gradient.cpu() * len(part) / len(questions)
    finally:
        for entrance in entrances:
            entrance.ledger = None
        model.float()
        model.load_state_dict(was)
        model.train(training)
    radii = torch.cat(ledger.radii) if ledger.radii else torch.zeros(0)
    reach = max((entrance.space.reach for entrance in entrances), default=0.0)
    histogram = torch.histc(radii, BINS, 0, reach) / max(1, len(radii)) if len(radii) else torch.zeros(BINS)
    return Inside(
        curvatures=model.curvatures.tolist(),
        gradients=gradients.tolist(),
        clipped=ledger.clipped / max(1, ledger.seen),
        points=ledger.seen,
        radii=histogram.tolist(),
        radius=float(radii.mean()) if len(radii) else 0.0,
    )
