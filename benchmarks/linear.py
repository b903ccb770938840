"""`MPOLinear` beside nn.Linear and tensorly-torch, by tokens and bond; and whether the cost model chooses well.

The layer is nn.Linear(768, 3072) with five cores. The grid has every number of tokens, bond and direction (forward
without gradients; training: forward and backward to input, bias and all cores, without the optimizer); a fixed
strategy that is estimated to take more than four times as long as the fastest is not run. Goals M7 to M12.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from goals import Goal
from interleaved import RESULTS, Timing, installed, interleave, keep_freed_memory, peak_extra_bytes, write_result
from layers import FULL, PEERS, SMOKE, Size, make_cores, make_layer, make_peers, runner
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mpo_core import MPOShape
from mpo_core.forward.cost import STRATEGIES, plan_linear
from mpo_core.operators.contraction import contract_matrix, contraction_tree, core_sizes

PATIENCE = 4.0
"""A fixed strategy is not run where the model says that it takes so many times as long as the fastest."""
CLOSE = 1.05
"""The model's choice is right where it takes at most so many times as long as the best fixed strategy."""


Times = dict[str, Timing]


@dataclass(frozen=True)
class Cell:
    """One cell of the grid.

    Attributes:
        tokens: rows of the input.
        bond: cap of all bonds.
        training: with the backward pass.
        chosen: kind of plan that the cost model chooses.
        seconds: candidate -> CPU seconds; ``nn.Linear``, ``auto``, the fixed strategies, the peers.
    """

    tokens: int
    bond: int
    training: bool
    chosen: str
    seconds: Times

    def ratio(self, name: str, other: str = "nn.Linear") -> float:
        """Time of a candidate over that of another."""
        return self.seconds[name].cpu_s / self.seconds[other].cpu_s

    @property
    def best_fixed(self) -> str:
        """The fastest fixed strategy."""
        return min((name for name in STRATEGIES[1:] if name in self.seconds), key=lambda name: self.seconds[name].cpu_s)

    @property
    def right(self) -> bool:
        """Whether the plan chosen is as fast as the best."""
        return self.ratio(self.chosen, self.best_fixed) <= CLOSE

    def line(self) -> str:
        """For the table."""
        dense = self.seconds["nn.Linear"].cpu_s * 1e3
        others = [name for name in self.seconds if name != "nn.Linear"]
        mark = " " if self.right else "!"
        return (
            f"{'train' if self.training else 'fwd':5} bond {self.bond:4} tokens {self.tokens:5} {dense:9.3f} ms"
            f" {mark}{self.chosen:8}" + "".join(f" {name} {self.ratio(name):.3f}" for name in others)
        )


def measure_grid(size: Size) -> Iterator[Cell]:
    """All cells."""
    dense = nn.Linear(size.cols, size.rows)
    for training, bond, tokens in product((False, True), size.bonds, size.tokens):
        bonds = size.shape.clip_bonds(bond)
        plans = {name: plan_linear(size.shape, bonds, tokens, training, strategy=name) for name in STRATEGIES}
        layers: dict[str, nn.Module] = {"nn.Linear": dense}
        for name, plan in plans.items():
            if plan.seconds <= PATIENCE * plans["auto"].seconds:
                layers[name] = make_layer(size, bond, name)  # pyright: ignore[reportArgumentType]
        layers |= make_peers(size, bond)
        x = torch.randn(tokens, size.cols)
        candidates = {name: runner(layer, x, training) for name, layer in layers.items()}
        yield Cell(tokens, bond, training, plans["auto"].kind, interleave(candidates, size.rounds))


def least(several: Sequence[Times]) -> Times:
    """Each candidate's least time."""
    return {name: min((times[name] for times in several), key=lambda timing: timing.cpu_s) for name in several[0]}


def best_of(passes: Sequence[Sequence[Cell]]) -> list[Cell]:
    """Each cell with the least times of all passes through the grid."""
    return [replace(same[0], seconds=least([cell.seconds for cell in same])) for same in zip(*passes, strict=True)]


def grid_goals(cells: list[Cell]) -> list[Goal]:
    """M7, M9, and the choice of M12."""
    worst = max(cells, key=lambda cell: cell.ratio("auto", cell.best_fixed))
    where = f"{'train' if worst.training else 'fwd'}, bond {worst.bond}, {worst.tokens} tokens"
    goals = [Goal(f"M7 auto / best fixed strategy, worst cell ({where})", worst.ratio("auto", worst.best_fixed), 1.15)]
    by_key = {(cell.training, cell.bond, cell.tokens): cell for cell in cells}
    limits = [
        ("M7", True, 96, 4096, 1.05),
        ("M7", True, 96, 512, 1.35),
        ("M7", True, 96, 32, 4.8),
        ("M7", False, 96, 1, 7.0),
        ("M9", False, 8, 1, 0.45),
        ("M9", False, 8, 32, 0.9),
        ("M9", True, 8, 32, 0.8),
    ]
    for name, training, bond, tokens, limit in limits:
        if cell := by_key.get((training, bond, tokens)):
            mode = "training" if training else "forward"
            goals.append(Goal(f"{name} {mode}, bond {bond}, {tokens} tokens / nn.Linear", cell.ratio("auto"), limit))
    wins = [(True, 96, 32, 1.3), (True, 96, 512, 1.15), (False, 8, 1, 3.0)]
    for training, bond, tokens, limit in wins:
        cell = by_key.get((training, bond, tokens))
        if cell and "tltorch-factorized" in cell.seconds:
            mode = "training" if training else "forward"
            gain = cell.ratio("tltorch-factorized", "auto")
            goals.append(Goal(f"M7 {mode}, bond {bond}, {tokens} tokens: tltorch factorized / ours", gain, limit, True))
    peers = [(cell, name) for cell in cells for name in cell.seconds if name.startswith("tltorch")]
    if peers:
        cell, name = min(peers, key=lambda pair: pair[0].ratio(pair[1], "auto"))
        where = f"{'train' if cell.training else 'fwd'}, bond {cell.bond}, {cell.tokens} tokens, {name}"
        goals.append(Goal(f"M7 tltorch / ours, least gain ({where})", cell.ratio(name, "auto"), 1.0, True))
    share = sum(cell.right for cell in cells) / len(cells)
    goals.append(Goal("M12 share of cells where the model's choice is right", share, 0.9, True))
    return goals


def measure_cached(size: Size, bond: int) -> dict[int, Times]:
    """M8: eval mode with the kept weight, beside `nn.Linear` with that very tensor: where it lies in memory matters."""
    layer = make_layer(size, bond, cache=True).eval()
    dense = nn.Linear(size.cols, size.rows).requires_grad_(False).eval()
    with torch.no_grad():
        dense.weight.data = layer.weight
    found: dict[int, Times] = {}
    for tokens in size.tokens:
        x = torch.randn(tokens, size.cols)
        pair = {"nn.Linear": runner(dense, x, False), "cached": runner(layer, x, False)}
        found[tokens] = interleave(pair, 3 * size.rounds)
    return found


def cached_goals(found: Mapping[int, Times]) -> list[Goal]:
    """How far from `nn.Linear` it is."""
    return [
        Goal(f"M8 cached, {tokens} tokens / nn.Linear", times["cached"].cpu_s / times["nn.Linear"].cpu_s, 1.02)
        for tokens, times in found.items()
    ]


def authors_rebuild(cores: list[Tensor], shape: MPOShape) -> Tensor:
    """The matrix in the order of the papers' code: core after core from the left, one permutation at the end."""
    tensor = cores[0]
    for core in cores[1:]:
        tensor = torch.tensordot(tensor, core, dims=1)
    n = shape.n
    tensor = tensor.squeeze(0).squeeze(-1).permute(*range(0, 2 * n, 2), *range(1, 2 * n, 2))
    return tensor.reshape(shape.padded_rows, shape.padded_cols)


def measure_rebuild(size: Size, bond: int, tokens: int) -> Times:
    """M10: rebuilding the weight, in float32, and training in bfloat16."""
    shape, cores = size.shape, make_cores(size.shape, bond)
    side = 2048 if size is FULL else 256
    square = torch.randn(side, side)
    half = square.bfloat16()
    with torch.no_grad():
        times = interleave(
            {
                "gemm": lambda: square @ square,
                "gemm-bf16": lambda: half @ half,
                "ours": lambda: contract_matrix(cores, shape),
                "authors": lambda: authors_rebuild(cores, shape),
            },
            size.rounds,
        )
    layer, dense = make_layer(size, bond).bfloat16(), nn.Linear(size.cols, size.rows)
    x = torch.randn(tokens, size.cols)
    pair = {"training nn.Linear": runner(dense, x, True), "training bf16": runner(layer, x.bfloat16(), True)}
    return times | interleave(pair, size.rounds)


def rebuild_goals(size: Size, bond: int, tokens: int, times: Times) -> list[Goal]:
    """The rate against that of a large product, and what bfloat16 gains."""
    flops = 2 * contraction_tree(core_sizes(size.shape), (1, *size.shape.clip_bonds(bond), 1))[0]
    side = 2048 if size is FULL else 256
    rate, gemm = flops / times["ours"].cpu_s, 2 * side**3 / times["gemm"].cpu_s
    print(f"rebuild {times['ours'].cpu_s * 1e3:.2f} ms = {rate / 1e9:.1f} GF/s, GEMM {gemm / 1e9:.1f} GF/s")
    goals = [
        Goal(f"M10 rebuild, bond {bond}, rate / rate of GEMM", rate / gemm, 0.55, True),
        Goal(f"M10 rebuild, bond {bond}: ours / authors' order", times["ours"].cpu_s / times["authors"].cpu_s, 0.5),
    ]
    if times["gemm"].cpu_s / times["gemm-bf16"].cpu_s < 1.8:
        print("bfloat16 is not fast on this machine: its goals are left out")
        return goals
    x = torch.randn(tokens, size.cols)
    with torch.no_grad():
        wanted = make_layer(size, bond)(x)
        found = make_layer(size, bond).bfloat16()(x.bfloat16()).float()
        error = float(torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted))
    ratio = times["training bf16"].cpu_s / times["training nn.Linear"].cpu_s
    return [
        *goals,
        Goal(f"M10 training in bfloat16, bond {bond}, {tokens} tokens / nn.Linear in float32", ratio, 0.6),
        Goal("M10 error of the bfloat16 forward pass", error, 6e-3),
    ]


def kept_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes kept for the backward pass besides the input and the parameters."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (x, *layer.parameters())}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x)
    return sum(saved.values())


def measure_memory(size: Size, bonds: tuple[int | None, ...], tokens: tuple[int, ...]) -> tuple[list[Goal], list[Any]]:
    """M11: what training keeps, and how far the resident memory of a process rises, in dense weights.

    The second holds the output, the gradient of the input, and what exists for a moment only.
    """
    weight = 4 * size.rows * size.cols
    goals, rows = [], []
    kept = {
        (bond, count): kept_bytes(make_layer(size, bond), torch.randn(count, size.cols, requires_grad=True)) / weight
        for bond, count in product(bonds, tokens)
    }
    (bond, count), most = max(kept.items(), key=lambda item: item[1])
    goals.append(Goal(f"M11 kept besides x and cores, in dense weights, worst (bond {bond}, {count} tokens)", most, 2))
    setup = "\n".join(
        [
            "import sys, torch",
            f"sys.path.insert(0, {str(Path(__file__).parent)!r})",
            "from linear import *",
            "size = FULL",
            "layer = {layer}",
            "x = torch.randn({tokens}, size.cols, requires_grad=True)",
            "probe = torch.randn({tokens}, size.rows)",
            "for tensor in [x, *layer.parameters()]: tensor.grad = torch.zeros_like(tensor)",
            "layer(x[:1]).sum().backward()",
        ]
    )
    if size is not FULL:  # every peak takes a process of its own
        return goals, rows
    layers = {"nn.Linear": "nn.Linear(size.cols, size.rows)"}
    layers |= {f"bond {bond}": f"make_layer(size, {bond})" for bond in bonds}
    for (label, layer), count in product(layers.items(), tokens):
        code = setup.format(layer=layer, tokens=count)
        peak = peak_extra_bytes(code, "layer(x).backward(probe)") / weight
        output = 4 * count * (size.rows + size.cols) / weight
        rows.append({"layer": label, "tokens": count, "peak": peak, "output_and_input_gradient": output})
        print(
            f"peak of a training step, {label}, {count} tokens: {peak:.2f} dense weights, of which {output:.2f} output"
        )
    return goals, rows


def measure_flops(size: Size) -> Goal:
    """M12: predicted operations against those that torch counts."""
    wrong = 0
    for bond, training, strategy in product(size.bonds, (False, True), STRATEGIES):
        count = 8
        plan = plan_linear(size.shape, size.shape.clip_bonds(bond), count, training, strategy=strategy)
        layer, x = make_layer(size, bond, strategy), torch.randn(count, size.cols, requires_grad=True)
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
            output = layer(x)
            if training:
                output.sum().backward()
        wrong += counter.get_total_flops() != plan.flops
    return Goal("M12 plans whose operations are not exactly those counted", wrong, 0)


def main() -> None:
    """Measure, print, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a tiny layer, once, in seconds; goals are not judged")
    parser.add_argument(
        "--passes", type=int, default=2, help="through the whole grid: neighbours on a host come and go"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    options = parser.parse_args()
    size = SMOKE if options.smoke else FULL
    torch.set_num_threads(1)
    torch.manual_seed(0)
    freed = "kept by the process" if keep_freed_memory() else "left to the allocator"
    print(f"freed memory: {freed}")
    for peer in PEERS:
        print(f"{peer}: {installed(peer) or 'not installed, skipped'}")
    bond, most = size.bonds[-2], size.tokens[-1]
    passes: list[list[Cell]] = []
    cached: list[dict[int, Times]] = []
    rebuilt: list[Times] = []
    for number in range(1, 1 + (1 if options.smoke else options.passes)):
        passes.append([])
        for cell in measure_grid(size):
            passes[-1].append(cell)
            print(f"{number}: {cell.line()}", flush=True)
        cached.append(measure_cached(size, bond))
        rebuilt.append(measure_rebuild(size, bond, most))
    cells = best_of(passes)
    print("\n".join(cell.line() for cell in cells))
    kept = {tokens: least([times[tokens] for times in cached]) for tokens in size.tokens}
    goals = [*grid_goals(cells), *cached_goals(kept), *rebuild_goals(size, bond, most, least(rebuilt))]
    many: tuple[int | None, ...] = (size.bonds[0], bond, None)
    memory, peaks = measure_memory(size, many, size.tokens[-2:])
    goals += [*memory, measure_flops(size)]
    print("\n".join(goal.line() for goal in goals))
    content = {
        "layer": f"{size.cols} -> {size.rows}, five cores, float32",
        "smoke": options.smoke,
        "passes": len(passes),
        "freed_memory": freed,
        "goals": [goal.record() for goal in goals],
        "peaks_in_dense_weights": peaks,
        "grid": [
            {
                "tokens": cell.tokens,
                "bond": cell.bond,
                "training": cell.training,
                "chosen": cell.chosen,
                "best_fixed": cell.best_fixed,
                "seconds": {name: timing.cpu_s for name, timing in cell.seconds.items()},
                "over_nn_linear": {name: round(cell.ratio(name), 4) for name in cell.seconds},
            }
            for cell in cells
        ],
    }
    print(write_result("linear", content, PEERS, options.out))


if __name__ == "__main__":
    main()
