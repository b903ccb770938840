"""Which of the ways to compute ``y = x W^T`` with ``W`` in MPO form is the fastest, and what each of them costs.

A *plan* first multiplies neighbouring cores to stretches; then the tokens ``x`` meet stretch after stretch, from the
left or from the right. Every core its own stretch is the *chain*, several cores in one is *mixed*. *Rebuild*
multiplies all cores to ``W``, and ``x`` with that.

Multiplications (two FLOPs each), with ``I, J`` rows and columns, ``i_k, j_k`` factors, ``d_k`` bonds, ``T`` tokens:

- `nn.Linear`: ``T I J``, three times that in training;
- rebuild: the product of all cores in the best order, almost all of it ``d_m I J`` for the bond ``m`` between the
  halves, and ``T I J``;
- a stretch of cores a to b that is met from the right: merging it in the best order, and
  ``T (j_1 .. j_{a-1}) (d_{a-1} i_a .. i_b) (j_a .. j_b d_b) (i_{b+1} .. i_n)``;
  from the left with ``(i_1 .. i_{a-1})`` and ``(j_{b+1} .. j_n)`` outside;
- training: three times the forward pass, less one product if ``x`` needs no gradient, and once more whatever is not
  kept for the backward pass.

These are the counts of `torch.utils.flop_counter`, to the last one. The time is an estimate (`mpo_core.machine`).
The search is a dynamic programme over where stretches end: for n cores it rates ``n (n + 1)`` of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from mpo_core.contraction import BLOCK_BYTES
from mpo_core.errors import BondError, UsageError
from mpo_core.machine import Machine, Operation, machine_for
from mpo_core.operations import (
    MANY_TOKENS,
    Direction,
    Layout,
    Recipe,
    Step,
    backward_operations,
    forward_operations,
    merging,
    rebuilding,
    recipe_of,
    step_of,
    total_flops,
)
from mpo_core.shapes import MPOShape, is_whole

Strategy = Literal["auto", "rebuild", "chain", "mixed"]
Kind = Literal["rebuild", "chain", "mixed"]
STRATEGIES: tuple[Strategy, ...] = ("auto", "rebuild", "chain", "mixed")

KEPT_WEIGHTS = 2
"""What training keeps besides x and cores is at most so many times the dense weight."""
_WORTH_KEEPING = 0.02
"""The rebuilt weight is kept for the backward pass where building it again takes more than this share of the time."""
_TYPICAL_CHUNK = 64


@dataclass(frozen=True, eq=False)
class Plan:
    """How the product is computed.

    Attributes:
        kind: ``rebuild``, ``chain`` or ``mixed``.
        steps: the stretches in the order in which ``x`` meets them; empty for ``rebuild``.
        recipes: how the matrix of each is made.
        direction: from which side they come.
        chunk: so many tokens go through all stretches together, which keeps their states in the cache.
        keep: whether the rebuilt weight, or the states between the stretches, are kept for the backward pass instead
            of being computed again.
        flops: floating-point operations, forward and, if planned for training, backward.
        kept_bytes: in training, what is kept for the backward pass besides ``x`` and the cores; else the largest
            tensors that exist for a moment: the rebuilt weight, or the stretches and states.
        seconds: estimated time.
    """

    kind: Kind
    steps: tuple[Step, ...]
    recipes: tuple[Recipe, ...]
    direction: Direction
    chunk: int
    keep: bool
    flops: int
    kept_bytes: int
    seconds: float


@lru_cache(maxsize=16384)
def plan_linear(
    shape: MPOShape,
    bonds: tuple[int, ...],
    tokens: int,
    training: bool = False,
    *,
    strategy: Strategy = "auto",
    input_grad: bool = True,
    machine: Machine | None = None,
) -> Plan:
    """Choose how ``x W^T`` is computed.

    Args:
        shape: the factors.
        bonds: the ``n - 1`` bonds, as a tuple.
        tokens: rows of ``x``.
        training: the backward pass to all cores belongs to it.
        strategy: ``auto`` for the fastest plan; ``rebuild``, ``chain`` or ``mixed`` for the fastest of that kind.
            Fewer than three cores have no mixed plan, one core has no chain: the next simpler kind takes its place.
        input_grad: ``x`` needs a gradient; matters in training.
        machine: the constants of the estimate; those for float32 on the CPU if left out.

    Raises:
        UsageError: the strategy is unknown, or `tokens` is no whole number of at least 0.
        BondError: a bond is no positive integer, or there are not ``n - 1`` of them.

    Example:
        >>> shape = MPOShape.choose(3072, 768, 5)
        >>> [plan_linear(shape, shape.clip_bonds(96), tokens).kind for tokens in (1, 512)]
        ['mixed', 'rebuild']
    """
    if strategy not in STRATEGIES:
        raise UsageError(f"plan_linear: strategy is {strategy!r}; expected one of {', '.join(STRATEGIES)}.")
    if len(bonds) != shape.n - 1 or not all(is_whole(bond) and bond > 0 for bond in bonds):
        raise BondError(f"plan_linear: bonds are {bonds!r}; expected {shape.n - 1} positive integers.")
    if not is_whole(tokens) or tokens < 0:
        raise UsageError(f"plan_linear: tokens is {tokens!r}; expected a whole number of at least 0.")
    search = _Search(Layout(shape, bonds), max(tokens, 1), training, input_grad, machine or _default_machine())
    n = shape.n
    if n == 1 or strategy == "rebuild":
        return search.rebuild()
    if strategy == "chain" or (strategy == "mixed" and n == 2):
        return search.fastest([search.along([(k, k + 1) for k in range(n)], side) for side in _SIDES])
    again = (False, True) if training else (False,)
    found = [
        search.along(search.stretches(side, strategy == "mixed", twice), side) for side in _SIDES for twice in again
    ]
    if strategy == "auto":
        limit = KEPT_WEIGHTS * shape.rows * shape.cols * search.machine.itemsize
        found = [plan for plan in found if not training or plan.kept_bytes <= limit]
        found.append(search.rebuild())
    return search.fastest(found)


_SIDES: list[Direction] = ["left", "right"]


def _default_machine() -> Machine:
    return machine_for("cpu", torch.float32)


@dataclass(frozen=True)
class _Search:
    """Everything a plan depends on."""

    layout: Layout
    tokens: int
    training: bool
    input_grad: bool
    machine: Machine

    def fastest(self, plans: Sequence[Plan]) -> Plan:
        return min(plans, key=lambda plan: plan.seconds)

    def rebuild(self) -> Plan:
        layout, machine = self.layout, self.machine
        parts = rebuilding(layout, self.tokens, self.input_grad)
        operations = parts.forward + (parts.backward if self.training else [])
        seconds, again = machine.seconds(operations), machine.seconds(parts.join)
        limit = KEPT_WEIGHTS * layout.shape.rows * layout.shape.cols
        reused = self.training and self.input_grad  # only the gradient of x takes the weight once more
        keep = reused and again > _WORTH_KEEPING * seconds and parts.kept + layout.padded <= limit
        if reused and not keep:
            operations, seconds = operations + parts.join, seconds + again
        if self.training:
            numbers = parts.kept + (layout.padded if keep else 0)
        else:
            blocks = layout.padded if self.tokens >= MANY_TOKENS else 2 * BLOCK_BYTES // machine.itemsize
            numbers = parts.kept + min(blocks, layout.padded)
        return Plan(
            "rebuild", (), (), "left", self.tokens, keep, total_flops(operations), numbers * machine.itemsize, seconds
        )

    def along(self, stretches: Sequence[tuple[int, int]], direction: Direction) -> Plan:
        """The plan that meets these stretches, given from left to right, coming from one side."""
        layout, machine, tokens = self.layout, self.machine, self.tokens
        ordered = stretches if direction == "left" else stretches[::-1]
        guess = min(tokens, _TYPICAL_CHUNK)
        width = sum(
            step.batch * step.inner * step.cols
            for step in (step_of(layout, *stretch, direction, guess, machine) for stretch in ordered)
        )
        fitting = max(1, machine.cache // ((width + layout.shape.padded_rows) * machine.itemsize))
        rounds = -(-tokens // fitting)
        chunk = -(-tokens // rounds)
        steps = tuple(step_of(layout, *stretch, direction, chunk, machine) for stretch in ordered)
        mergings = [merging(layout, *stretch, direction) for stretch in ordered]
        kept = sum(part.kept for part in mergings)
        states = tokens * (width - layout.shape.padded_cols)
        limit = KEPT_WEIGHTS * layout.shape.rows * layout.shape.cols
        keep = self.training and kept + states <= limit

        def operations(count: int) -> list[Operation]:
            """Of one chunk of so many tokens."""
            found = [operation for step in steps for operation in forward_operations(step, count)]
            if self.training:
                if not keep:
                    found += [operation for step in steps[:-1] for operation in forward_operations(step, count)]
                for k, step in enumerate(steps):
                    found += backward_operations(step, count, k > 0 or self.input_grad)
            return found

        merges = [operation for part in mergings for operation in part.forward]
        if self.training:
            merges += [operation for part in mergings for operation in part.backward]
            numbers = kept + (states if keep else 0)
        else:
            numbers = kept + chunk * width
        return Plan(
            "chain" if len(steps) == layout.shape.n else "mixed",
            steps,
            tuple(recipe_of(layout, step, direction) for step in steps),
            direction,
            chunk,
            keep,
            total_flops(merges) + total_flops(operations(tokens)),
            numbers * machine.itemsize,
            machine.seconds(merges) + machine.seconds(operations(chunk)) * tokens / chunk,
        )

    def stretches(self, direction: Direction, mixed: bool, again: bool) -> list[tuple[int, int]]:
        """The partition into stretches with the least time: at least two, and if `mixed` not all of single cores.

        Args:
            direction: from which side they are met.
            mixed: single cores only are not wanted.
            again: states are computed again in the backward pass.
        """
        n = self.layout.shape.n
        # Best time and stretches of the first `stop` cores, by whether one of the stretches holds several cores.
        best: dict[tuple[int, bool], tuple[float, list[tuple[int, int]]]] = {(0, False): (0.0, [])}
        for stop in range(1, n + 1):
            for start in range(stop):
                if stop - start == n:
                    continue
                seconds = self._stretch_seconds(start, stop, direction, again)
                for merged in (False, True):
                    if (start, merged) not in best:
                        continue
                    before, chosen = best[start, merged]
                    key = stop, merged or stop - start > 1
                    if key not in best or before + seconds < best[key][0]:
                        best[key] = before + seconds, [*chosen, (start, stop)]
        if mixed:
            return best[n, True][1]
        return min((best[key] for key in ((n, False), (n, True)) if key in best), key=lambda item: item[0])[1]

    def _stretch_seconds(self, start: int, stop: int, direction: Direction, again: bool) -> float:
        layout, machine = self.layout, self.machine
        count = min(self.tokens, _TYPICAL_CHUNK)
        step = step_of(layout, start, stop, direction, count, machine)
        part = merging(layout, start, stop, direction)
        operations = forward_operations(step, count)
        if self.training:
            first, last = (start == 0, stop == layout.shape.n)[:: 1 if direction == "left" else -1]
            again_operations = operations if again and not last else []
            operations = operations + again_operations + backward_operations(step, count, not first or self.input_grad)
        merges = part.forward + (part.backward if self.training else [])
        return machine.seconds(merges) + machine.seconds(operations) * self.tokens / count
