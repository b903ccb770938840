"""What it costs to look rows up or to rebuild the whole table, and which of the two is faster.

Multiplications (two FLOPs each), with the names of `mpo_core.embeddings.lookup_plan`; ``H`` heads and ``K`` distinct
ids:

- lookup: ``H J_n d_n j d_f + K J_n j d_f J_f``, and merging the cores of either side to the tables; a few rows are
  multiplied one by one, from both ends to the pivot;
- rebuild: the product of all cores in the best order;
- training: three times as much.

These are the counts of `torch.utils.flop_counter`, to the last one, where all cores are trained. The time is an
estimate (`mpo_core.forward.machine`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from mpo_core.embeddings.lookup_plan import Ints, RowPlan, one_by_one, plan_rows
from mpo_core.forward.machine import Copy, Machine, Operation, Product
from mpo_core.forward.operations import Layout, merging, total_flops
from mpo_core.operators.contraction import best_split
from mpo_core.shapes import MPOShape

EmbeddingStrategy = Literal["auto", "lookup", "rebuild"]
EMBEDDING_STRATEGIES: tuple[EmbeddingStrategy, ...] = ("auto", "lookup", "rebuild")

# Calls besides the products, forward and in training, fitted to measured times; the last for a row by itself.
_LOOKUP_CALLS = (48, 170)
_REBUILD_CALLS = (6, 20)
_MERGE_CALLS = (4, 15)
_CALLS_PER_CORE = (1, 4)
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
    """What the rows of some ids cost; ``str`` makes a table of it.

    Attributes:
        title: sizes, ids and mode in words.
        ways: ``lookup`` and ``rebuild``, and ``cached`` where the table may be kept.
        chosen: the name of the way that is taken.
    """

    title: str
    ways: dict[str, Way]
    chosen: str

    def __str__(self) -> str:
        lines = [self.title, f"{'':2}{'way':10}{'GFLOP':>12}{'MiB extra':>12}{'ms':>10}"]
        for name, way in self.ways.items():
            figures = f"{way.flops / 1e9:12.6f}{way.extra_bytes / 2**20:12.3f}{way.seconds * 1e3:10.3f}"
            lines.append(f"{'*' if name == self.chosen else '':2}{name:10}{figures}")
        return "\n".join(lines)


def embedding_cost(
    ids: Ints,
    shape: MPOShape,
    bonds: tuple[int, ...],
    machine: Machine,
    training: bool = False,
    *,
    strategy: EmbeddingStrategy = "auto",
    cache: bool = False,
) -> EmbeddingCost:
    """The cost of looking up some rows, and of rebuilding the table.

    Args:
        ids: distinct row numbers, ascending, at least one.
        shape: the factors.
        bonds: the ``n - 1`` bonds.
        machine: the constants of the estimate.
        training: with the backward pass, to all cores.
        strategy: which way is chosen.
        cache: whether the table is kept in eval mode.

    Example:
        >>> import numpy as np
        >>> shape = MPOShape.choose(30522, 384)
        >>> cost = embedding_cost(np.arange(100), shape, shape.clip_bonds(64), Machine())
        >>> cost.chosen, cost.ways["lookup"].flops < cost.ways["rebuild"].flops / 50
        ('lookup', True)
    """
    ways = {
        "lookup": singles_way(len(ids), shape, bonds, machine, training)
        if one_by_one(len(ids), shape, bonds)
        else lookup_way(plan_rows(ids, shape, bonds, machine), machine, training),
        "rebuild": rebuild_way(shape, bonds, machine, training),
    }
    chosen = min(ways, key=lambda name: ways[name].seconds) if strategy == "auto" else strategy
    if cache and not training:
        chosen = "cached"
        ways[chosen] = Way(0, 0.0, shape.rows * shape.cols * machine.itemsize)
    mode = "training" if training else "forward"
    return EmbeddingCost(f"{shape.rows}x{shape.cols}, bonds {bonds}, {len(ids)} ids, {mode}", ways, chosen)


@lru_cache(maxsize=1024)
def singles_way(number: int, shape: MPOShape, bonds: tuple[int, ...], machine: Machine, training: bool) -> Way:
    """The cost of so many rows one by one."""
    layout, n, pivot = Layout(shape, bonds), shape.n, shape.central
    ends, cols = layout.ends, shape.col_factors
    operations: list[Operation] = [
        Product(1, layout.cols(0, k), ends[k], cols[k] * ends[k + 1]) for k in range(1, pivot + 1)
    ]
    if pivot + 1 < n:
        right = range(n - 2, pivot, -1)
        operations += [Product(1, ends[k] * cols[k], ends[k + 1], layout.cols(k + 1, n)) for k in right]
        operations.append(Product(1, layout.cols(0, pivot + 1), ends[pivot + 1], layout.cols(pivot + 1, n)))
    flops, seconds = total_flops(operations), machine.seconds(operations)
    if training:
        gradients = [Copy(ends[k] * size * ends[k + 1], ends[k + 1]) for k, size in enumerate(layout.sizes)]
        flops, seconds = 3 * flops, 3 * seconds + machine.seconds(gradients)
    seconds += _CALLS_PER_CORE[training] * n * machine.call
    return Way(number * flops, number * seconds, shape.n_params(bonds) * machine.itemsize if training else 0)


def lookup_way(plan: RowPlan, machine: Machine, training: bool) -> Way:
    """The cost of a plan."""
    f = plan.factors
    tables = _tables(plan.layout, machine, training)
    operations, calls = _forward_operations(plan)
    if training:
        more, more_calls = _backward_operations(plan)
        operations, calls = operations + more, calls + more_calls
    seconds = machine.seconds(operations) + (calls + _LOOKUP_CALLS[training]) * machine.call
    stems = [block.heads[1] - block.heads[0] for block in plan.blocks]
    numbers = (sum(stems) if training else max(stems)) * f.stem_size if f.inner else 0
    numbers += f.pivot_size if plan.stem_order is not None else 0
    return Way(
        (3 if training else 1) * plan.flops + tables.flops,
        seconds + tables.seconds + len(plan.order) * _SECONDS_PER_ID,
        tables.extra_bytes + numbers * machine.itemsize,
    )


def _forward_operations(plan: RowPlan) -> tuple[list[Operation], int]:
    """Products and copies, each kind in one, as if all were equally large; and the calls that this leaves out."""
    f, heads, ids = plan.factors, len(plan.near), len(plan.order)
    products, groups = _counts(plan)
    found: list[Operation] = [
        Copy(ids * f.far_size, f.far_size),
        Product(heads, ids * f.far[1] // heads, f.outer, f.near[1] * f.own[1]),
    ]
    if f.inner:
        found.append(Product(products, heads * f.near[1] // products, f.inner, f.own[1] * f.outer))
    if plan.stem_order is not None:
        found += [Copy(f.pivot_size, f.outer), Copy(heads * f.stem_size, f.outer)]
    elif f.inner:
        found.append(Copy(ids * plan.layout.shape.padded_cols, f.far[1]))
    return found, products + 3 * groups


def _backward_operations(plan: RowPlan) -> tuple[list[Operation], int]:
    f, heads, ids = plan.factors, len(plan.near), len(plan.order)
    products, groups = _counts(plan)
    stem = f.near[1] * f.own[1]
    found: list[Operation] = [
        Copy(2 * ids * f.far_size, f.far_size),
        Product(heads, stem, ids * f.far[1] // heads, f.outer),
        Product(heads, ids * f.far[1] // heads, stem, f.outer),
    ]
    if f.inner:
        rows, columns = heads * f.near[1] // products, f.own[1] * f.outer
        found += [Product(products, f.inner, rows, columns), Product(products, rows, columns, f.inner)]
        found += [Copy(f.pivot_size, f.outer), Copy(heads * f.near[1] * f.inner, f.inner)]
    if plan.stem_order is not None:
        found += [Copy(2 * f.pivot_size, f.outer), Copy(heads * f.stem_size, f.outer)]
    elif f.inner:
        found.append(Copy(ids * plan.layout.shape.padded_cols, f.far[1]))
    return found, 2 * products + 5 * groups


def _counts(plan: RowPlan) -> tuple[int, int]:
    """Number of products for the stems, and of groups."""
    f = plan.factors
    per_digit = 1 if plan.stem_order is not None or f.side == "left" else f.own[1]
    return (
        per_digit * sum(len(block.digits) for block in plan.blocks),
        sum(len(block.groups) for block in plan.blocks),
    )


@lru_cache(maxsize=1024)
def rebuild_way(shape: MPOShape, bonds: tuple[int, ...], machine: Machine, training: bool) -> Way:
    """The cost of the whole table."""
    layout = Layout(shape, bonds)
    if shape.n == 1:
        return Way(0, _REBUILD_CALLS[training] * machine.call, 0)
    split = best_split(shape, bonds)
    halves = _merged(layout, ((0, split), (split, shape.n)), machine, training)
    rows, inner, cols = math.prod(layout.sizes[:split]), layout.ends[split], math.prod(layout.sizes[split:])
    swap = Copy(layout.padded, layout.cols(split, shape.n))
    operations: list[Operation] = [Product(1, rows, inner, cols), swap]
    if training:  # and the gradient of the table is zeroed, filled and swapped
        operations += [Product(1, rows, cols, inner), Product(1, inner, rows, cols), swap, swap, swap]
    return Way(
        halves.flops + total_flops(operations),
        halves.seconds + machine.seconds(operations) + _REBUILD_CALLS[training] * machine.call,
        halves.extra_bytes + (3 if training else 1) * layout.padded * machine.itemsize,
    )


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
    calls = _MERGE_CALLS[training] * sum(stop - start > 1 for start, stop in stretches)
    kept = sum(part.kept for part in parts) * machine.itemsize
    return Way(total_flops(operations), machine.seconds(operations) + calls * machine.call, kept)
