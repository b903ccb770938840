"""Which of the ways to compute ``y = x W^T`` with ``W`` in MPO form is the fastest, and what each of them costs.

A *plan* first multiplies neighbouring cores to stretches; then the tokens ``x`` meet stretch after stretch, from the
left or from the right. Every core its own stretch is the *chain*, several cores in one is *mixed*. *Rebuild*
multiplies all cores to ``W``, and ``x`` with that. Stretches are met with tokens as the first axis of all states, or
as the last.

Multiplications (two FLOPs each), with ``I, J`` rows and columns, ``i_k, j_k`` factors, ``d_k`` bonds, ``T`` tokens:

- `nn.Linear`: ``T I J``, three times that in training;
- rebuild: the product of all cores in the best order, almost all of it ``d_m I J`` for the bond ``m`` between the
  halves, and ``T I J``;
- a stretch of cores a to b that is met from the right: merging it in the best order, and
  ``T (j_1 .. j_{a-1}) (d_{a-1} i_a .. i_b) (j_a .. j_b d_b) (i_{b+1} .. i_n)``;
  from the left with ``(i_1 .. i_{a-1})`` and ``(j_{b+1} .. j_n)`` outside;
- training: three times the forward pass, less one product if ``x`` needs no gradient, and once more whatever is not
  kept for the backward pass.

These are the counts of `torch.utils.flop_counter`, to the last one. The time is an estimate
(`mpo_core.forward.machine`), the search is in `mpo_core.forward.plan_search`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch

from mpo_core.errors import BondError, UsageError
from mpo_core.forward.machine import Machine, machine_for
from mpo_core.forward.operations import WAYS, Layout
from mpo_core.forward.plan_search import KEPT_WEIGHTS, Kind, Partition, Plan, Search
from mpo_core.shapes import MPOShape, is_whole

__all__ = ["KEPT_WEIGHTS", "STRATEGIES", "Kind", "Plan", "Strategy", "plan_linear"]

Strategy = Literal["auto", "rebuild", "chain", "mixed"]
STRATEGIES: tuple[Strategy, ...] = ("auto", "rebuild", "chain", "mixed")


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
    machine = machine_for("cpu", torch.float32) if machine is None else machine
    search = Search(Layout(shape, bonds), max(tokens, 1), training, input_grad, machine)
    n = shape.n
    if n == 1 or strategy == "rebuild":
        return search.rebuild()
    if strategy == "chain" or (strategy == "mixed" and n == 2):
        singles = tuple((k, k + 1) for k in range(n))
        return _fastest([search.along(Partition(way, singles)) for way in (WAYS if tokens > 1 else WAYS[:2])])
    found = [search.along(partition) for partition in search.partitions(strategy == "mixed")]
    if strategy == "auto":
        found = [search.rebuild(), *(plan for plan in found if search.fits(plan))]
    return _fastest(found)


def _fastest(plans: list[Plan]) -> Plan:
    return min(plans, key=lambda plan: plan.seconds)
