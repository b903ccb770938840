"""What it costs to look rows up or to rebuild the whole table, and which of the two is faster.

Multiplications (two FLOPs each), with the names of `mpo_core.lookup_plan`; ``H`` heads and ``K`` distinct ids:

- lookup: ``H J_n d_n j d_f + K J_n j d_f J_f``, and merging the cores of either side to the tables;
- rebuild: the product of all cores in the best order;
- training: three times as much.

These are the counts of `torch.utils.flop_counter`, to the last one, where all cores are trained. The time is an
estimate (`mpo_core.machine`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from mpo_core.contraction import best_split
from mpo_core.lookup_plan import Ints, RowPlan, plan_rows
from mpo_core.machine import Copy, Machine, Operation, Product
from mpo_core.operations import Layout, merging
from mpo_core.shapes import MPOShape

EmbeddingStrategy = Literal["auto", "lookup", "rebuild"]
EMBEDDING_STRATEGIES: tuple[EmbeddingStrategy, ...] = ("auto", "lookup", "rebuild")

# Fitted to measured times: what a lookup does besides its products.
_FIXED_CALLS = 40
_SECONDS_PER_ID = 4e-8


@dataclass(frozen=True)
class Way:
    """What one way to compute the rows costs.

    Attributes:
        flops: floating-point operations.
        seconds: estimated time, without what all ways share: finding the distinct ids, handing rows to tokens.
        extra_bytes: of the tables and stems, or the whole table, which exist for a moment or, in training, until the
            backward pass; the gradients of the cores are not counted.
    """

    flops: int
    seconds: float
    extra_bytes: int


@dataclass(frozen=True)
class EmbeddingCost:
    """What `MPOEmbedding` chooses from; printed as a table.

    Attributes:
        ids: number of distinct ids.
        training: whether the backward pass to all cores is counted.
        ways: ``lookup`` and ``rebuild``.
    """

    ids: int
    training: bool
    ways: dict[str, Way]

    @property
    def fastest(self) -> str:
        """The way with the least estimated time."""
        return min(self.ways, key=lambda name: self.ways[name].seconds)

    def __str__(self) -> str:
        lines = [f"  {'training' if self.training else 'forward'}, {self.ids} ids    GFLOP        ms       MiB"]
        for name, way in self.ways.items():
            mark = ">" if name == self.fastest else " "
            figures = f"{way.flops / 1e9:9.3f} {way.seconds * 1e3:9.2f} {way.extra_bytes / 2**20:9.1f}"
            lines.append(f"{mark} {name:22} {figures}")
        return "\n".join(lines)


def embedding_cost(
    ids: Ints, shape: MPOShape, bonds: tuple[int, ...], machine: Machine, training: bool = False
) -> EmbeddingCost:
    """The cost of looking up some rows, and of rebuilding the table.

    Args:
        ids: distinct row numbers, ascending, at least one.
        shape: the factors.
        bonds: the ``n - 1`` bonds.
        machine: the constants of the estimate.
        training: the backward pass to all cores belongs to it.

    Example:
        >>> shape = MPOShape.choose(30522, 384)
        >>> cost = embedding_cost(np.arange(100), shape, shape.clip_bonds(64), Machine())
        >>> cost.fastest, cost.ways["lookup"].flops < cost.ways["rebuild"].flops / 50
        ('lookup', True)
    """
    lookup = lookup_way(plan_rows(ids, shape, bonds, machine), machine, training)
    return EmbeddingCost(
        len(ids), training, {"lookup": lookup, "rebuild": rebuild_way(shape, bonds, machine, training)}
    )


def lookup_way(plan: RowPlan, machine: Machine, training: bool) -> Way:
    """The cost of a plan."""
    tables = _tables(plan.layout, machine, training)
    f = plan.factors
    passes = 3 if training else 1
    stems = [block.heads[1] - block.heads[0] for block in plan.blocks]
    numbers = (sum(stems) if training else max(stems)) * f.stem_size if f.inner else 0
    numbers += f.pivot_size if plan.stem_order is not None else 0
    seconds = passes * (plan.seconds + _FIXED_CALLS * machine.call) + len(plan.order) * _SECONDS_PER_ID
    if training:  # the gradient of the pivot
        seconds += machine.seconds([Copy(f.pivot_size, f.outer)])
    return Way(
        passes * plan.flops + tables.flops,
        seconds + tables.seconds,
        tables.extra_bytes + numbers * machine.itemsize,
    )


@lru_cache(maxsize=1024)
def rebuild_way(shape: MPOShape, bonds: tuple[int, ...], machine: Machine, training: bool) -> Way:
    """The cost of the whole table."""
    layout = Layout(shape, bonds)
    if shape.n == 1:
        return Way(0, machine.call, 0)
    split = best_split(shape, bonds)
    halves = _merged(layout, ((0, split), (split, shape.n)), machine, training)
    rows, inner, cols = math.prod(layout.sizes[:split]), layout.ends[split], math.prod(layout.sizes[split:])
    swap = Copy(layout.padded, layout.cols(split, shape.n))
    operations: list[Operation] = [Product(1, rows, inner, cols), swap]
    if training:  # and the gradient of the table is zeroed, filled and swapped
        operations += [Product(1, rows, cols, inner), Product(1, inner, rows, cols), swap, swap, swap]
    return Way(
        halves.flops + _flops(operations),
        halves.seconds + machine.seconds(operations),
        halves.extra_bytes + (3 if training else 1) * layout.padded * machine.itemsize,
    )


@lru_cache(maxsize=1024)
def least_lookup_seconds(shape: MPOShape, bonds: tuple[int, ...], machine: Machine, training: bool) -> float:
    """Estimated time of the cheapest lookup, that of a single row."""
    return lookup_way(plan_rows(np.zeros(1, np.int64), shape, bonds, machine), machine, training).seconds


@lru_cache(maxsize=1024)
def _tables(layout: Layout, machine: Machine, training: bool) -> Way:
    """Merging the cores of either side."""
    n, pivot = layout.shape.n, layout.shape.central
    sides = ((0, 1), (1, n)) if n < 3 else ((0, pivot), (pivot + 1, n))
    return _merged(layout, sides, machine, training)


def _merged(layout: Layout, stretches: tuple[tuple[int, int], ...], machine: Machine, training: bool) -> Way:
    parts = [merging(layout, start, stop) for start, stop in stretches if start < stop]
    operations = [operation for part in parts for operation in part.forward]
    if training:
        operations += [operation for part in parts for operation in part.backward]
    kept = sum(part.kept for part in parts) * machine.itemsize
    return Way(_flops(operations), machine.seconds(operations), kept)


def _flops(operations: list[Operation]) -> int:
    return sum(operation.flops for operation in operations if isinstance(operation, Product))
