"""A share of the parameters for one layer: how much of it is used, and the error against one cap for all bonds.

`MPOLinear.from_linear(layer, ratio=q)` for every size of weight in BERT, GPT-2, T5 and Llama, vocabularies that need
padding included, against the largest single cap for all bonds within the same limit. Nothing is timed. The matrices
are random with a part of fast decay, as in `decompose.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from goals import Goal
from interleaved import RESULTS, write_result
from torch import nn
from weights import make_matrix, relative_error

from mpo_core import MPOLinear, decompose, uniform_bond

SIZES = {
    "BERT": [(768, 768), (3072, 768), (768, 3072), (30522, 768)],
    "GPT-2": [(2304, 768), (50257, 768)],
    "T5": [(512, 512), (2048, 512), (512, 2048), (32128, 512)],
    "Llama": [(4096, 4096), (1024, 4096), (11008, 4096), (4096, 11008), (32000, 4096)],
}
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
CORES = (3, 5)


@dataclass(frozen=True)
class Row:
    """One layer within one limit.

    Attributes:
        model: whose layer has this size; the other sizes of a model stand under an earlier one.
        size: rows and columns.
        n: number of cores.
        padded: whether the factors need padding.
        share: the limit, over the parameters of the dense weight.
        used: the parameters of the cores, over the limit.
        error: relative error.
        uniform_error: the same with one cap for all bonds.
    """

    model: str
    size: tuple[int, int]
    n: int
    padded: bool
    share: float
    used: float
    error: float
    uniform_error: float

    @property
    def over_uniform(self) -> float:
        """The error over that of one cap."""
        return self.error / self.uniform_error

    def line(self) -> str:
        """For the table."""
        size = f"{self.size[0]}x{self.size[1]}{' padded' if self.padded else ''}"
        return (
            f"{self.model:6} {size:18} n={self.n} share {self.share:4}: {self.used:.4f} of it used,"
            f" error {self.error:.4f}, over one cap's {self.over_uniform:.4f}"
        )


def measure(model: str, rows: int, cols: int, n: int, shares: tuple[float, ...]) -> Iterator[Row]:
    """One layer within each limit."""
    dense = nn.Linear(cols, rows, bias=False, device="meta")
    matrix = make_matrix(rows, cols)
    dense.weight = nn.Parameter(matrix, requires_grad=False)
    for share in shares:
        layer = MPOLinear.from_linear(dense, n=n, ratio=share, gauge="mixed")
        shape, limit = layer.shape, int(share * matrix.numel())
        one_cap = decompose(matrix, shape, uniform_bond(shape, limit))
        yield Row(
            model,
            (rows, cols),
            n,
            (shape.padded_rows, shape.padded_cols) != (rows, cols),
            share,
            sum(core.numel() for core in layer.cores) / limit,
            relative_error(matrix, layer.weight),
            relative_error(matrix, one_cap.to_matrix()),
        )


def main() -> None:
    """Measure, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="two small layers")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {"tiny": [(48, 64), (61, 48)]} if arguments.smoke else SIZES
    rows: list[Row] = []
    for model, own in sizes.items():
        for size in own:
            for n in CORES[:1] if arguments.smoke else CORES:
                for row in measure(model, *size, n, SHARES[-2:] if arguments.smoke else SHARES):
                    rows.append(row)
                    print(row.line(), flush=True)
    goals: list[Goal] = []
    for n in sorted({row.n for row in rows}):
        own = [row for row in rows if row.n == n]
        goals += [
            Goal(f"M6 n={n}, share used, least", min(row.used for row in own), 0.98, True),
            Goal(f"M6 n={n}, share used, most", max(row.used for row in own), 1.0),
            Goal(f"M6 n={n}, error over one cap's, most", max(row.over_uniform for row in own), 1 + 1e-6),
        ]
    if not arguments.smoke:
        print("\n".join(goal.line() for goal in goals))
    record = {
        "clock": "none; what is measured here is quality",
        "smoke": arguments.smoke,
        "rows": rows,
        "goals": [goal.record() for goal in goals],
    }
    print(f"wrote {write_result('budget', record, folder=arguments.out).name}")


if __name__ == "__main__":
    main()
