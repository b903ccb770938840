"""Batches of rows of different lengths: those of about one size share a batch, so that it needs little padding."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from mpo_core.repro.training import Batch

Row = TypeVar("Row")

CHUNK = 8
"""So many batches' rows are sorted by size together."""


class SortedBatches(Generic[Row]):
    """Training rows in an order that seed and epoch decide; a `mpo_core.repro.training.BatchSource`.

    Args:
        rows: what to train on.
        size_of: how long a row is.
        collate: makes a batch of rows.
        batch_size: rows of a batch, at most.
        seed: of the order.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        size_of: Callable[[Row], int],
        collate: Callable[[Sequence[Row]], Batch],
        batch_size: int,
        seed: int,
    ) -> None:
        self.rows, self.size_of, self.collate, self.batch_size, self.seed = rows, size_of, collate, batch_size, seed

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.rows) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        draw = random.Random(f"{self.seed}/{epoch}")
        order = draw.sample(range(len(self.rows)), len(self.rows))
        size = self.batch_size
        batches: list[list[int]] = []
        for start in range(0, len(order), size * CHUNK):
            chunk = sorted(order[start : start + size * CHUNK], key=lambda number: self.size_of(self.rows[number]))
            batches += [chunk[first : first + size] for first in range(0, len(chunk), size)]
        draw.shuffle(batches)
        for numbers in batches:
            yield self.collate([self.rows[number] for number in numbers])


def padded(rows: Sequence[Sequence[Any]], fill: Any) -> Tensor:
    """Rows of equal length, at least 1.

    Args:
        rows: of numbers, or of equally long rows of numbers.
        fill: what stands where a shorter row has nothing.
    """
    length = max(1, *(len(row) for row in rows)) if rows else 1
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows])
