"""Wrong answers to learn from: hyperedges of other questions."""

from __future__ import annotations

import torch
from torch.nn import functional

from hypermr.hypergraph.encoding import ABSENT
from mpo_core.repro.training import Batch

KEPT = 0.5
"""The chance of each to be there: so what is learnt from has now more hyperedges, now fewer."""


def with_negatives(batch: Batch, count: int) -> Batch:
    """A batch in which hyperedges of its other questions stand behind each question's own, as wrong ones.

    Around one topic few relations compete. With negatives each is held against all others, as in retrieval (in-batch
    negatives, Karpukhin et al. 2020). It fits hyperedges that are known by their relations alone.

    Args:
        batch: as `hypermr.hypergraph.encoding.Encoder.batch` makes it.
        count: drawn for each question, with torch's generator, of all hyperedges of the batch. Each is kept with the
            chance `KEPT`, and only if neither the question's own nor those drawn before have its relations.

    Returns:
        The batch with ``relations (b, e + count, hops)``; those that are not kept are `ABSENT`. The walks stay as they
        are, and so does ``right``: what stands behind its end is wrong.
    """
    own = batch["relations"]
    there = own.flatten(0, 1)[(own[..., 0] != ABSENT).flatten()]
    if not len(there):
        return batch
    drawn = there[torch.randint(len(there), (len(own), count), device=own.device)]
    is_own = (drawn.unsqueeze(2) == own.unsqueeze(1)).all(-1).any(-1)
    again = (drawn.unsqueeze(2) == drawn.unsqueeze(1)).all(-1).tril(-1).any(-1)
    kept = (torch.rand(is_own.shape, device=own.device) < KEPT) & ~is_own & ~again
    return {**batch, "relations": torch.cat([own, drawn.masked_fill(~kept.unsqueeze(-1), ABSENT)], dim=1)}


def right_of(batch: Batch, width: int) -> torch.Tensor:
    """The share of right ends of each hyperedge (b, width); of negatives it is 0."""
    right = batch["right"]
    return functional.pad(right, (0, width - right.shape[1]))
