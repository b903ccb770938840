"""Plans for the product of tokens with an operator, and the search for the fastest partition into stretches.

The search is a dynamic programme: the time of a partition is the sum of the times of its stretches, as what a stretch
costs depends on where it begins and ends and on nothing else. It runs for numbers of tokens rounded to three binary
digits, so that batches of many lengths do not each search anew; the few best partitions are then rated exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

from mpo_core.forward.machine import Machine, Operation
from mpo_core.forward.operations import (
    MANY_TOKENS,
    WAYS,
    Layout,
    Merging,
    Recipe,
    Step,
    Way,
    backward_operations,
    forward_operations,
    merging,
    rebuilding,
    recipe_of,
    step_of,
    total_flops,
    transposing,
)
from mpo_core.operators.contraction import BLOCK_BYTES

Kind = Literal["rebuild", "chain", "mixed"]
Stretches = tuple[tuple[int, int], ...]

KEPT_WEIGHTS = 2
"""What training keeps besides x and cores is at most so many times the dense weight."""
_WORTH_KEEPING = 0.02
"""The rebuilt weight is kept for the backward pass where building it again takes more than this share of the time."""
_TYPICAL_CHUNK = 64
_LEAST_CHUNK = 8
"""For fewer tokens at a time, reading the stretches again and again costs more than what the cache spares."""
_COLUMNS = 32
"""Columns of products are computed in groups of which this is a multiple."""
_RATED = 4
"""So many of the best partitions are rated exactly."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How the product is computed.

    Attributes:
        kind: ``rebuild``, ``chain`` or ``mixed``.
        steps: the stretches in the order in which ``x`` meets them; empty for ``rebuild``.
        recipes: how the matrix of each is made.
        chunk: so many tokens go through all stretches together, which keeps their states in the cache.
        keep: whether the rebuilt weight, or the states between the stretches, are kept for the backward pass instead
            of being computed again.
        flops: floating-point operations, forward and, if planned for training, backward.
        kept_bytes: in training, what is kept for the backward pass besides ``x`` and the cores; else the largest
            tensors that exist for a moment: blocks of the rebuilt weight, or stretches and states.
        seconds: estimated time.
    """

    kind: Kind
    steps: tuple[Step, ...]
    recipes: tuple[Recipe, ...]
    chunk: int
    keep: bool
    flops: int
    kept_bytes: int
    seconds: float


class Partition(NamedTuple):
    """Where stretches end, from left to right, and how they are met."""

    way: Way
    stretches: Stretches


@dataclass(frozen=True)
class Search:
    """Everything that a plan depends on.

    Attributes:
        layout: factors and bonds.
        tokens: rows of ``x``, at least one.
        training: the backward pass belongs to it.
        input_grad: ``x`` needs a gradient.
        machine: the constants of the estimate.
    """

    layout: Layout
    tokens: int
    training: bool
    input_grad: bool
    machine: Machine

    def rebuild(self) -> Plan:
        """The plan that multiplies all cores."""
        layout, machine = self.layout, self.machine
        parts = rebuilding(layout, self.tokens, self.input_grad)
        operations = parts.forward + (parts.backward if self.training else [])
        seconds, again = machine.seconds(operations), machine.seconds(parts.join)
        reused = self.training and self.input_grad  # only the gradient of x takes the weight once more
        keep = reused and again > _WORTH_KEEPING * seconds and parts.kept + layout.padded <= self._limit
        if reused and not keep:
            operations, seconds = operations + parts.join, seconds + again
        if self.training:
            numbers = parts.kept + (layout.padded if keep else 0)
        else:
            blocks = layout.padded if self.tokens >= MANY_TOKENS else 2 * BLOCK_BYTES // machine.itemsize
            numbers = parts.kept + min(blocks, layout.padded)
        return Plan("rebuild", (), (), self.tokens, keep, total_flops(operations), numbers * machine.itemsize, seconds)

    def along(self, partition: Partition) -> Plan:
        """The plan that meets these stretches."""
        layout, machine, tokens, way = self.layout, self.machine, self.tokens, partition.way
        ordered = partition.stretches if way.direction == "left" else partition.stretches[::-1]
        parts = [_merging(layout, *stretch, way.direction) for stretch in ordered]
        width = sum(_state_size(layout, *stretch, way) for stretch in ordered)
        fitting = max(_LEAST_CHUNK, machine.cache // ((width + layout.shape.padded_rows) * machine.itemsize))
        chunk = _even_chunk(tokens, fitting, way.tokens_last)
        steps = tuple(step_of(layout, *stretch, way, chunk, machine) for stretch in ordered)
        kept = sum(part.kept for part in parts)
        states = tokens * (width - layout.shape.padded_cols)
        keep = self.training and kept + states <= self._limit
        merges = [operation for part in parts for operation in part.forward]
        numbers = kept + (states if keep else 0) if self.training else kept + chunk * width
        if self.training:
            merges += [operation for part in parts for operation in part.backward]
        return Plan(
            "chain" if len(steps) == layout.shape.n else "mixed",
            steps,
            tuple(recipe_of(layout, step, way.direction) for step in steps),
            chunk,
            keep,
            total_flops(merges) + total_flops(self._pass(steps, way, tokens, keep)),
            numbers * machine.itemsize,
            machine.seconds(merges) + machine.seconds(self._pass(steps, way, chunk, keep)) * tokens / chunk,
        )

    def fits(self, plan: Plan) -> bool:
        """Whether a plan keeps no more than training may."""
        return not self.training or plan.kept_bytes <= self._limit * self.machine.itemsize

    def partitions(self, mixed: bool = False) -> list[Partition]:
        """The best partitions into at least two stretches, the best first; if `mixed`, not all of single cores."""
        digits = max(self.tokens.bit_length() - 3, 0)
        rounded = replace(self, tokens=self.tokens >> digits << digits)
        return _best_partitions(rounded, mixed)

    @cached_property
    def _limit(self) -> int:
        return KEPT_WEIGHTS * self.layout.shape.rows * self.layout.shape.cols

    def _pass(self, steps: Sequence[Step], way: Way, count: int, keep: bool) -> list[Operation]:
        """The operations of so many tokens in one chunk."""
        found = transposing(self.layout, way, count, self.training, self.input_grad)
        found += [operation for step in steps for operation in forward_operations(step, count)]
        if self.training:
            if not keep:
                found += [operation for step in steps[:-1] for operation in forward_operations(step, count)]
            for k, step in enumerate(steps):
                found += backward_operations(step, count, k > 0 or self.input_grad)
        return found


@lru_cache(maxsize=4096)
def _best_partitions(search: Search, mixed: bool) -> list[Partition]:
    ways = WAYS if search.tokens > 1 else WAYS[:2]
    found: dict[Partition, float] = {}
    for way in ways:
        times = _stretch_times(search, way)
        # In training, states are kept, or computed again.
        for again in (False, True) if search.training else (False,):
            seconds, stretches = _best_stretches(search.layout.shape.n, times, again, mixed)
            count = min(search.tokens, _TYPICAL_CHUNK)
            copies = transposing(search.layout, way, count, search.training, search.input_grad)
            seconds += search.machine.seconds(copies) * search.tokens / count
            partition = Partition(way, stretches)
            found[partition] = min(seconds, found.get(partition, seconds))
    return sorted(found, key=lambda partition: found[partition])[:_RATED]


def _stretch_times(search: Search, way: Way) -> dict[tuple[int, int], tuple[float, float]]:
    """Of every stretch, the time for all tokens, and what computing its state again would add."""
    layout, machine, n = search.layout, search.machine, search.layout.shape.n
    count = min(search.tokens, _TYPICAL_CHUNK)
    times: dict[tuple[int, int], tuple[float, float]] = {}
    for start in range(n):
        for stop in range(start + 1, n + 1):
            if stop - start == n:
                continue
            first, last = (start == 0, stop == n)[:: 1 if way.direction == "left" else -1]
            step, part = step_of(layout, start, stop, way, count, machine), _merging(layout, start, stop, way.direction)
            forth = machine.seconds(forward_operations(step, count)) * search.tokens / count
            seconds = forth + machine.seconds(part.forward)
            if search.training:
                back = backward_operations(step, count, not first or search.input_grad)
                seconds += machine.seconds(back) * search.tokens / count + machine.seconds(part.backward)
            times[start, stop] = seconds, 0.0 if last else forth
    return times


def _best_stretches(
    n: int, times: dict[tuple[int, int], tuple[float, float]], again: bool, mixed: bool
) -> tuple[float, Stretches]:
    # Least time and stretches of the first `stop` cores, by whether one of the stretches has several cores.
    best: dict[tuple[int, bool], tuple[float, Stretches]] = {(0, False): (0.0, ())}
    for stop in range(1, n + 1):
        for start in range(stop):
            if (start, stop) not in times:
                continue
            seconds, more = times[start, stop]
            for merged in (False, True):
                if (start, merged) not in best:
                    continue
                total = best[start, merged][0] + seconds + (more if again else 0.0)
                key = stop, merged or stop - start > 1
                if key not in best or total < best[key][0]:
                    best[key] = total, (*best[start, merged][1], (start, stop))
    return min(best[key] for key in ([(n, True)] if mixed else [(n, False), (n, True)]) if key in best)


@lru_cache(maxsize=4096)
def _merging(layout: Layout, start: int, stop: int, direction: Literal["left", "right"]) -> Merging:
    return merging(layout, start, stop, direction)


def _even_chunk(tokens: int, fitting: int, tokens_last: bool) -> int:
    """Tokens per chunk: equal parts, or multiples of what kernels are made for where tokens are columns."""
    if tokens <= fitting:
        return tokens
    if tokens_last and fitting >= _COLUMNS:
        return fitting // _COLUMNS * _COLUMNS
    return -(-tokens // -(-tokens // fitting))


def _state_size(layout: Layout, start: int, stop: int, way: Way) -> int:
    """Numbers per token in the state before a stretch."""
    if way.direction == "left":
        return layout.rows(0, start) * layout.ends[start] * layout.cols(start, layout.shape.n)
    return layout.cols(0, stop) * layout.ends[stop] * layout.rows(stop, layout.shape.n)
