"""What a linear layer in MPO form costs beside `nn.Linear`, as a table to print."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import Any

from mpo_core.errors import UsageError
from mpo_core.forward.cost import Plan, Strategy, plan_linear
from mpo_core.forward.machine import Machine
from mpo_core.forward.operations import linear_operations, total_flops
from mpo_core.shapes import MPOShape, is_whole


@dataclass(frozen=True)
class CostRow:
    """One way to compute the product.

    Attributes:
        name: ``nn.Linear``, a kind of plan, or ``cached``.
        flops: floating-point operations, exactly.
        extra_bytes: in training, what is kept for the backward pass besides input and parameters; else the largest
            tensors besides input, output and parameters.
        relative_time: estimated time over that of `nn.Linear`.
    """

    name: str
    flops: int
    extra_bytes: int
    relative_time: float


@dataclass(frozen=True)
class Cost:
    """What a layer costs with each plan; ``str`` makes a table of it.

    Attributes:
        title: sizes, tokens and mode in words.
        training: whether the backward pass is included.
        rows: `nn.Linear` first, then the plans.
        chosen: the name of the row that the layer takes.
    """

    title: str
    training: bool
    rows: tuple[CostRow, ...]
    chosen: str

    @property
    def relative_time(self) -> float:
        """Estimated time of the chosen plan over that of `nn.Linear`."""
        return self._row(self.chosen).relative_time

    @property
    def advice(self) -> str:
        """A sentence on layers that are slower than `nn.Linear`; empty for others."""
        chosen, dense = self._row(self.chosen), self.rows[0]
        if chosen.relative_time <= 1.02:
            return ""
        more = chosen.flops / dense.flops
        reason = f"it takes {more:.3g} times the operations" if more > 1 else "its products are too small to be fast"
        cure = (
            "more tokens at once or smaller bonds"
            if self.training
            else "more tokens at once, smaller bonds, or cache=True"
        )
        return (
            f"This layer takes about {chosen.relative_time:.3g} times as long as nn.Linear here, because {reason};"
            f" {cure} would help."
        )

    def __str__(self) -> str:
        memory = "MiB kept" if self.training else "MiB extra"
        lines = [self.title, f"{'':2}{'plan':10}{'GFLOP':>12}{memory:>12}{'time':>10}"]
        for row in self.rows:
            mark = "*" if row.name == self.chosen else ""
            size = row.extra_bytes / 2**20
            lines.append(f"{mark:2}{row.name:10}{row.flops / 1e9:12.6f}{size:12.3f}{row.relative_time:10.2f}")
        return "\n".join([*lines, *([self.advice] if self.advice else [])])

    def _row(self, name: str) -> CostRow:
        return next(row for row in self.rows if row.name == name)


def linear_cost(
    shape: MPOShape,
    bonds: tuple[int, ...],
    tokens: int,
    training: bool,
    machine: Machine,
    *,
    strategy: Strategy = "auto",
    cache: bool = False,
) -> Cost:
    """What ``x W^T`` costs with every plan.

    Args:
        shape: the factors.
        bonds: the ``n - 1`` bonds.
        tokens: rows of ``x``.
        training: with the backward pass, to ``x`` and to all cores.
        machine: the constants of the estimate.
        strategy: which plan is chosen.
        cache: whether the weight is kept in eval mode.

    Raises:
        UsageError: `tokens` is no positive integer.
    """
    tokens = _positive(tokens)
    operations = linear_operations(shape, tokens, training)
    dense = machine.seconds(operations)
    flops = total_flops(operations)
    plans: dict[str, Plan] = {}
    for kind in ("rebuild", "chain", "mixed"):
        plan = plan_linear(shape, bonds, tokens, training, strategy=kind, machine=machine)
        plans[plan.kind] = plan  # few cores have fewer kinds
    chosen = plan_linear(shape, bonds, tokens, training, strategy=strategy, machine=machine)
    plans[chosen.kind] = chosen
    rows = [CostRow("nn.Linear", flops, 0, 1.0)]
    rows += [CostRow(name, plan.flops, plan.kept_bytes, plan.seconds / dense) for name, plan in plans.items()]
    kept = cache and not training
    if kept:
        rows.append(CostRow("cached", flops, shape.rows * shape.cols * machine.itemsize, 1.0))
    share = shape.n_params(bonds) / (shape.rows * shape.cols)
    title = (
        f"{shape.cols} -> {shape.rows}, bonds {bonds}, {share:.3g} of the parameters: {tokens} tokens,"
        f" {'training' if training else 'inference'}"
    )
    return Cost(title, training, tuple(rows), "cached" if kept else chosen.kind)


def _positive(tokens: Any) -> int:
    if not is_whole(tokens) or index(tokens) < 1:
        raise UsageError(f"cost: tokens is {tokens!r}; expected a positive integer.")
    return index(tokens)
