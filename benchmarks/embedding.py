"""Rows of an embedding in MPO form: looked up, rebuilt, chosen by itself; beside nn.Embedding and tensorly-torch.

Tables of BERT's vocabulary, 32 x 128 tokens with a given number of distinct ids (one token for a single id), forward
without gradients and a training step without the optimizer. Ids are drawn evenly from the vocabulary, the worst case
for a lookup, or as often as words occur (``frequent``: probability 1 / (id + 3)).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from interleaved import RESULTS, Timing, installed, interleave, peak_extra_bytes, write_result
from torch import Tensor, nn

from mpo_core import MPOEmbedding, MPOShape

TOKENS = 32 * 128
PEER_LIMIT = 2**30
"""tensorly-torch gathers one slice of every core for every token; where that is more bytes, it is not run."""


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        rows: of the table.
        cols: of the table.
        bond: cap of all bonds; None for full ones.
        ids: number of distinct ids.
        frequent: drawn as words occur.
        training: with the backward pass.
    """

    rows: int
    cols: int
    bond: int | None
    ids: int
    frequent: bool = False
    training: bool = False

    @property
    def text(self) -> str:
        """For the table."""
        kind = "train" if self.training else "forward"
        ids = f"{self.ids:>5}{'f' if self.frequent else ' '}"
        return f"{self.rows}x{self.cols} bond {self.bond or 'full':>4} ids {ids} {kind}"


def shape_of(case: Case) -> MPOShape:
    """The factors that the layer chooses itself."""
    return MPOShape.choose(case.rows, case.cols)


def make_tokens(case: Case) -> Tensor:
    """Tokens with exactly so many distinct ids, each at least once."""
    generator = torch.Generator().manual_seed(0)
    weights = 1 / (torch.arange(case.rows) + 3.0) if case.frequent else torch.ones(case.rows)
    ids = torch.multinomial(weights, case.ids, generator=generator)
    if case.ids == 1:
        return ids.view(1, 1)
    more = torch.randint(case.ids, (max(TOKENS - case.ids, 0),), generator=generator)
    tokens = torch.cat([ids, ids[more]])
    return tokens[torch.randperm(len(tokens), generator=generator)].view(-1, min(128, len(tokens)))


def make_cores(case: Case) -> list[Tensor]:
    """Random cores of about unit variance of the table; the time does not depend on the values."""
    generator = torch.Generator().manual_seed(1)
    shape = shape_of(case)
    return [torch.randn(size, generator=generator) / math.sqrt(size[0]) for size in shape.core_shapes(case.bond)]


def make_own(case: Case, strategy: str) -> MPOEmbedding:
    """Our layer; ``cached`` keeps the table."""
    kept: Any = "auto" if strategy == "cached" else strategy
    layer = MPOEmbedding(make_cores(case), shape_of(case), strategy=kept, cache=strategy == "cached")
    layer.train(case.training)
    return layer


def make_layer(case: Case, name: str) -> nn.Module:
    """One of ours by its strategy, ``dense`` or ``tensorly``."""
    if name == "dense":
        return nn.Embedding(case.rows, case.cols)
    return make_peer(case) if name == "tensorly" else make_own(case, name)


def make_peer(case: Case) -> nn.Module:
    """tensorly-torch's FactorizedEmbedding of the same factors and bonds, with our cores."""
    from tltorch import FactorizedEmbedding  # pyright: ignore[reportMissingImports]

    shape = shape_of(case)
    bonds: Any = (1, *shape.clip_bonds(case.bond), 1)
    layer = FactorizedEmbedding(
        shape.padded_rows,
        shape.padded_cols,
        auto_tensorize=False,
        tensorized_num_embeddings=shape.row_factors,
        tensorized_embedding_dim=shape.col_factors,
        factorization="blocktt",
        rank=bonds,
    )
    with torch.no_grad():
        for factor, core in zip(layer.weight.factors, make_cores(case), strict=True):
            factor.copy_(core)
    return layer


def peer_bytes(case: Case) -> int:
    """What tensorly-torch gathers for the largest core."""
    shape = shape_of(case)
    largest = max(size[0] * size[2] * size[3] for size in shape.core_shapes(case.bond))
    return 4 * largest * make_tokens(case).numel()


def make_step(case: Case, strategy: str) -> Callable[[], Tensor]:
    """A forward pass, or a training step without the optimizer."""
    layer, tokens = make_layer(case, strategy), make_tokens(case)
    if not case.training:

        def forward() -> Tensor:
            with torch.no_grad():
                return layer(tokens)

        return forward
    probe = torch.randn(*tokens.shape, case.cols, generator=torch.Generator().manual_seed(2))

    def step() -> Tensor:
        layer.zero_grad(set_to_none=True)
        output = layer(tokens)
        output.backward(probe)
        return output

    return step


def runs_peer(case: Case) -> bool:
    """Whether tensorly-torch is here and the case is small enough for it."""
    return installed("tensorly-torch") is not None and peer_bytes(case) <= PEER_LIMIT


def distance(case: Case, names: list[str]) -> dict[str, float]:
    """How far the rows of each candidate are from those of the rebuilt table, relative to its largest number."""
    tokens = make_tokens(case)
    with torch.no_grad():
        table = make_own(case, "rebuild").weight
        wanted, scale = table[tokens], float(table.abs().max())
        return {name: float((make_layer(case, name)(tokens) - wanted).abs().max()) / scale for name in names}


def measure(case: Case, rounds: int, memory: Sequence[str]) -> dict[str, Any]:
    """Times, errors and estimates of the candidates of one case, and peak memory of some."""
    own = ["auto", "lookup", "rebuild", *([] if case.training else ["cached"])]
    peers = ["tensorly"] if runs_peer(case) else []
    timings = interleave({name: make_step(case, name) for name in ["dense", *own, *peers]}, rounds)
    measured = [name for name in ["dense", *own, *peers] if name in memory]
    peaks = {name: peak_extra_bytes(_setup(case, name), "step()") for name in measured}
    return {
        "case": case,
        "timings": timings,
        "estimate": make_own(case, "auto").cost(make_tokens(case), case.training),
        "distance": distance(case, [*own, *peers]),
        "peak_extra_bytes": peaks,
    }


def _setup(case: Case, name: str) -> str:
    """Builds the step, and warms up on a small table: what the step itself allocates is to be seen."""
    small = Case(60, 12, 2, 5, training=case.training)
    lines = ["from embedding import Case, make_step", f"make_step({small!r}, {name!r})()"]
    return "\n".join([*lines, f"step = make_step({case!r}, {name!r})"])


COLUMNS = ("dense", "auto", "lookup", "rebuild", "cached", "tensorly")


def line(result: dict[str, Any]) -> str:
    """Milliseconds of CPU time, and peak memory where it was measured."""
    timings: dict[str, Timing] = result["timings"]
    text = f"{result['case'].text:46}"
    text += " ".join(f"{timings[name].cpu_s * 1e3:9.2f}" if name in timings else f"{'-':>9}" for name in COLUMNS)
    peaks = result["peak_extra_bytes"]
    return text + "".join(f"  {name} {peaks[name] / 2**20:.0f} MiB" for name in COLUMNS if name in peaks)


def cases(smoke: bool) -> list[Case]:
    """All lines of the table, a forward pass and a training step each."""
    if smoke:
        return [Case(200, 24, 4, ids, training=training) for ids in (1, 30) for training in (False, True)]
    found = [
        Case(30522, cols, bond, ids, training=training)
        for cols in (384, 768)
        for bond in (16, 64, None)
        for ids in (1, 64, 512, 4096)
        for training in (False, True)
    ]
    return found + [
        Case(30522, 384, bond, ids, frequent=True, training=training)
        for bond in (16, 64, None)
        for ids in (512, 2048)
        for training in (False, True)
    ]


def main() -> None:
    """Measure, print the table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny tables, in seconds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    arguments = parser.parse_args()
    rounds = 2 if arguments.smoke else 5
    print(f"{'CPU ms, least of ' + str(rounds):46}" + " ".join(f"{name:>9}" for name in COLUMNS))
    results: list[dict[str, Any]] = []
    for case in cases(arguments.smoke):
        memory = ("dense", "lookup", "rebuild", "tensorly") if case.ids in (512, 4096) and not case.frequent else ()
        results.append(measure(case, rounds, memory))
        print(line(results[-1]), flush=True)
    path = write_result("embedding", {"tokens": TOKENS, "results": results}, ("tensorly-torch",), arguments.out)
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
