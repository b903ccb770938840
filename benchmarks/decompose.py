"""One matrix into five cores: time against other decomposers, error, odd input, memory; held against stated goals.

Times are least CPU seconds at one thread, all candidates in turns; errors are relative Frobenius norms. The matrices
are random, of the sizes of weights of BERT and Llama, with a part of fast decay. Time does not depend on the values,
but for spectra that float32 cannot resolve.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from goals import Goal
from interleaved import RESULTS, Timing, interleave, peak_extra_bytes, write_result
from peers import DISTRIBUTIONS, Peer, available_peers
from torch import Tensor
from weights import make_matrix, relative_error, shape_of, tt_svd_error

from mpo_core import MPOShape, decompose
from mpo_core.decomposing.decomposition import Precision, decompose_with_spectra, schmidt_values
from mpo_core.operators.contraction import contract_matrix

PRECISIONS: tuple[Precision, Precision] = ("accurate", "fast")
MEMORY_LIMIT = 8 * 2**30
"""Peers that would hold more than this are left out."""
EXACT_ERROR = {"fast": 2.5e-6, "accurate": 6e-7}
VALUE_ERROR = {"fast": 5e-6, "accurate": 1e-12}
SPEED_GOALS = {(768, 768): 4.0, (768, 3072): 5.0, (30720, 768): 10.0, (4096, 4096): 3.0, (4096, 11008): 10.0}
"""How many times faster than tensorly at bond 64."""


@dataclass(frozen=True)
class Speed:
    """Times of all candidates for one matrix.

    Attributes:
        title: which matrix and bonds.
        timings: name -> time.
        errors: name -> relative error; none for what gives no operator.
        left_out: peers that would need too much memory.
    """

    title: str
    timings: dict[str, Timing]
    errors: dict[str, float]
    left_out: list[str] = field(default_factory=list)

    def ratio(self, ours: str, theirs: str) -> float:
        """How many times faster one is than the other."""
        return self.timings[theirs].cpu_s / self.timings[ours].cpu_s

    def lines(self) -> Iterator[str]:
        """For the table, fastest first."""
        yield f"\n{self.title}" + (f" (left out for memory: {', '.join(self.left_out)})" if self.left_out else "")
        for name, timing in sorted(self.timings.items(), key=lambda item: item[1].cpu_s):
            error = f"error {self.errors[name]:9.3e}" if name in self.errors else ""
            wall = "" if timing.wall_s is None else f"   wall at two threads {timing.wall_s * 1e3:9.1f} ms"
            yield f"  {name:26}{timing.cpu_s * 1e3:10.1f} ms  x{timing.rounds}  {error}{wall}"


def measure_speed(
    rows: int, cols: int, bond: int | None, peers: Sequence[Peer], rounds: int, wall_rounds: int = 0
) -> Speed:
    """Time all candidates on one matrix, truncated to a bond, or at full bonds with the Schmidt values."""
    shape, matrix = shape_of(rows, cols), make_matrix(rows, cols)
    bonds = shape.clip_bonds(bond)
    calls: dict[str, Callable[[], Any]] = {}
    for precision in PRECISIONS:
        if bond is None:
            calls[f"spectra {precision}"] = lambda p=precision: decompose_with_spectra(matrix, shape, precision=p)
            calls[f"values {precision}"] = lambda p=precision: schmidt_values(matrix, shape, precision=p)
        else:
            calls[f"mpo-core {precision}"] = lambda p=precision: decompose(matrix, shape, bond, precision=p)
    if bond is None:
        calls["identity gauge"] = lambda: decompose(matrix, shape, gauge="identity")
    else:
        calls["mpo-core symmetric gauge"] = lambda: decompose(matrix, shape, bond, gauge="symmetric")
        calls["mpo-core refine=2"] = lambda: decompose(matrix, shape, bond, refine=2)
    fitting = [peer for peer in peers if peer.memory * matrix.numel() * 4 <= MEMORY_LIMIT]
    calls |= {peer.name: lambda peer=peer: peer.run(matrix, shape, bonds) for peer in fitting}
    results: dict[str, Any] = {}

    def kept(name: str) -> Callable[[], None]:
        return lambda: results.__setitem__(name, calls[name]())

    timings = interleave({name: kept(name) for name in calls}, rounds, wall_rounds)
    errors = {
        name: error for name, result in results.items() if (error := _error_of(result, matrix, shape)) is not None
    }
    title = f"{rows}x{cols}, {'full bonds' if bond is None else f'bond {bond}'}"
    return Speed(title, timings, errors, [peer.name for peer in peers if peer not in fitting])


def _error_of(result: Any, matrix: Tensor, shape: MPOShape) -> float | None:
    """The error of an operator, of an operator beside spectra, or of a peer's cores; None for spectra alone."""
    if isinstance(result, tuple):
        result = result[0]
    if not isinstance(result, list):
        return relative_error(matrix, result.to_matrix())
    return relative_error(matrix, contract_matrix(result, shape)) if result[0].dim() == 4 else None


def truncated_goals(case: tuple[int, int], speed: Speed, peers: Mapping[str, Peer]) -> list[Goal]:
    """M1: against tensorly, and against every peer whose error is as good."""
    accurate = [peer for name, peer in peers.items() if peer.accurate and name in speed.timings]
    rival = min(accurate, key=lambda peer: speed.timings[peer.name].cpu_s)
    least = min(speed.errors[peer.name] for peer in accurate)
    goals: list[Goal] = []
    for precision in PRECISIONS:
        ours, title = f"mpo-core {precision}", f"M1 {speed.title}: {precision}"
        if "tensorly" in speed.timings:
            limit = SPEED_GOALS[case]
            goals.append(Goal(f"{title}, times tensorly", speed.ratio(ours, "tensorly"), limit, True))
        figure = speed.ratio(ours, rival.name)
        goals.append(Goal(f"{title}, times the best rival ({rival.name})", figure, 3.0, True))
        goals.append(Goal(f"{title}, error over the best rival's", speed.errors[ours] / least, 1.001))
    return goals


def lossless_goals(speed: Speed) -> list[Goal]:
    """M2: spectra beside the lossless operator, and the identity gauge."""
    goals = [Goal(f"M2 {speed.title}: error of the identity gauge", speed.errors["identity gauge"], 0.0)]
    for precision, limit in (("fast", 4.0), ("accurate", 2.5)):
        name = f"spectra {precision}"
        goals.append(Goal(f"M3 {speed.title}: {precision}, error", speed.errors[name], EXACT_ERROR[precision]))
        if "tensorly" in speed.timings:
            figure = speed.ratio(name, "tensorly")
            goals.append(Goal(f"M2 {speed.title}: {precision}, times tensorly", figure, limit, True))
    if "tensorly" in speed.timings:
        figure = speed.ratio("identity gauge", "tensorly")
        goals.append(Goal(f"M2 {speed.title}: identity gauge, times tensorly", figure, 40.0, True))
    return goals


def quality_goals(cases: Sequence[tuple[int, int]], bond: int, refined: Sequence[tuple[int, int]]) -> list[Goal]:
    """M3: errors over those of TT-SVD in float64, what refining gains, and float64 and Schmidt values at full bonds."""
    goals: list[Goal] = []
    for rows, cols in cases:
        shape = shape_of(rows, cols)
        for kind in ("gaussian", "power law", "low rank"):
            matrix = make_matrix(rows, cols, kind)
            reference = tt_svd_error(matrix, shape, shape.clip_bonds(bond))
            title = f"M3 {rows}x{cols}, bond {bond}, {kind}"
            for precision in PRECISIONS:
                error = relative_error(matrix, decompose(matrix, shape, bond, precision=precision).to_matrix())
                goals.append(Goal(f"{title}: {precision}, error over TT-SVD's", error / reference, 1.0005))
            if (rows, cols) in refined:
                plain, better = (decompose(matrix, shape, bond, refine=k).to_matrix() for k in (0, 2))
                figure = relative_error(matrix, better) / relative_error(matrix, plain)
                goals.append(Goal(f"{title}: refine=2 over plain", figure, 0.997))
    for rows, cols in refined:
        shape, matrix = shape_of(rows, cols), make_matrix(rows, cols)
        exact = decompose_with_spectra(matrix.double(), shape)[0]
        title = f"M3 {rows}x{cols}, full bonds, float64: error"
        goals.append(Goal(title, relative_error(matrix, exact.to_matrix()), 1e-14))
        truth = true_values(matrix, shape)
        for precision in PRECISIONS:
            found = decompose_with_spectra(matrix, shape, precision=precision)[1]
            worst = max(float((a - b).abs().max() / b[0]) for a, b in zip(found, truth, strict=True))
            goals.append(
                Goal(f"M3 {rows}x{cols}: {precision}, error of the bond values", worst, VALUE_ERROR[precision])
            )
    return goals


def true_values(matrix: Tensor, shape: MPOShape) -> list[Tensor]:
    """The singular values of all unfoldings, in float64, of the triangle of each: it has the same ones."""
    n = shape.n
    digits = matrix.double().reshape(*shape.row_factors, *shape.col_factors)
    digits = digits.permute([axis for k in range(n) for axis in (k, n + k)])
    result: list[Tensor] = []
    for k in range(1, n):
        wide = digits.reshape(math.prod(digits.shape[: 2 * k]), -1)
        upright = wide.T if wide.shape[0] < wide.shape[1] else wide
        result.append(torch.linalg.svdvals(torch.linalg.qr(upright, mode="r")[1]))
    return result


def robustness_goals(rows: int, cols: int, bond: int) -> list[Goal]:
    """M4: input that makes others fail is decomposed, finite, and to the precision of its dtype."""
    shape, plain = shape_of(rows, cols), make_matrix(rows, cols)
    half = plain[: rows // 2]
    inputs = {
        "zeros": torch.zeros(rows, cols),
        "identity": torch.eye(rows, cols),
        "rank 3": plain[:, :3] @ plain[:3],
        "duplicated halves": torch.cat([half, half]),
        "scale 1e-15": plain * 1e-15,
        "scale 1e15": plain * 1e15,
        "bfloat16": plain.bfloat16(),
        "float16": plain.half(),
        "transposed view": plain.T.contiguous().T,
        "float64, scale 1e150": plain.double() * 1e150,
    }
    goals: list[Goal] = []
    for name, matrix in inputs.items():
        worst = 0.0
        norm = float(matrix.double().mul(1 / max(1e-300, float(matrix.abs().max()))).norm())
        for precision in PRECISIONS:
            for gauge in ("mixed", "symmetric"):
                exact = decompose_with_spectra(matrix, shape, gauge=gauge, precision=precision)[0]
                cut = decompose(matrix, shape, bond, gauge=gauge, precision=precision)
                finite = all(bool(core.isfinite().all()) for core in (*exact.cores, *cut.cores))
                error = relative_error(matrix, exact.to_matrix()) if norm > 0 else float(exact.to_matrix().abs().max())
                worst = max(worst, error if finite else math.inf)
        limit = {"bfloat16": 2e-2, "float16": 3e-3, "float64, scale 1e150": 1e-14}.get(name, EXACT_ERROR["fast"])
        goals.append(Goal(f"M4 {rows}x{cols}, {name}: error at full bonds", worst, limit))
    return goals


def memory_goals(cases: Sequence[tuple[int, int]], bond: int) -> list[Goal]:
    """M5: how far the memory of a fresh process rises, over the bytes of the matrix."""
    goals: list[Goal] = []
    for rows, cols in cases:
        setup = "\n".join(
            [
                "from weights import make_matrix, shape_of",
                "from mpo_core import decompose",
                "from mpo_core.decomposing.decomposition import decompose_with_spectra",
                "for p in ('accurate', 'fast'):",
                "    decompose(make_matrix(768, 768), bonds=64, precision=p)",
                "    decompose_with_spectra(make_matrix(768, 768), precision=p)",
                f"matrix, shape = make_matrix({rows}, {cols}), shape_of({rows}, {cols})",
            ]
        )
        for precision in PRECISIONS:
            for what, call in (
                (f"bond {bond}", f"decompose(matrix, shape, {bond}, precision={precision!r})"),
                ("full bonds with spectra", f"decompose_with_spectra(matrix, shape, precision={precision!r})"),
            ):
                figure = peak_extra_bytes(setup, call) / (rows * cols * 4)
                goals.append(Goal(f"M5 {rows}x{cols}, {what}: {precision}, extra memory", figure, 3.5))
    return goals


def measure(smoke: bool, rounds: int, wall_rounds: int, peers: Mapping[str, Peer]) -> tuple[list[Speed], list[Goal]]:
    """Everything, printing tables on the way."""
    speeds: list[Speed] = []
    goals: list[Goal] = []
    bond = 7 if smoke else 64
    for rows, cols in [(48, 64)] if smoke else list(SPEED_GOALS):
        walls = wall_rounds if max(rows, cols) <= 3072 else 0
        speeds.append(measure_speed(rows, cols, bond, list(peers.values()), rounds, walls))
        goals += [] if smoke else truncated_goals((rows, cols), speeds[-1], peers)
        print("\n".join(speeds[-1].lines()), flush=True)
    chosen = [peer for name, peer in peers.items() if name in ("tensorly", "authors' sweeps")]
    for rows, cols in [(48, 64)] if smoke else [(768, 768), (768, 3072), (30720, 768)]:
        speeds.append(measure_speed(rows, cols, None, chosen, rounds))
        goals += [goal for goal in lossless_goals(speeds[-1]) if not (smoke and goal.at_least)]
        print("\n".join(speeds[-1].lines()), flush=True)
    six = [(48, 64), (64, 48)] if smoke else [*SPEED_GOALS, (3072, 768)]
    goals += quality_goals(six, bond, [] if smoke else [(768, 768), (768, 3072)])
    goals += robustness_goals(*((48, 64) if smoke else (768, 768)), bond)
    goals += [] if smoke else memory_goals([(768, 3072), (4096, 11008)], bond)
    return speeds, goals


def main() -> None:
    """Measure, print the tables and what was reached, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny matrices, few peers, no goals of speed")
    parser.add_argument("--rounds", type=int, default=7, help="samples of what takes less than five seconds")
    parser.add_argument("--wall", type=int, default=0, help="samples of the wall time at two threads; on idle cores")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    peers, missing = available_peers()
    for distribution in missing:
        print(f"{distribution} is not installed and left out")
    if arguments.smoke:
        peers = {name: peer for name, peer in peers.items() if peer.distribution in (None, "tensorly")}
    speeds, goals = measure(arguments.smoke, 2 if arguments.smoke else arguments.rounds, arguments.wall, peers)
    print("\n" + "\n".join(goal.line() for goal in goals))
    print(f"\n{sum(goal.met for goal in goals)} of {len(goals)} goals met")
    record = {"smoke": arguments.smoke, "absent": missing, "goals": [goal.record() for goal in goals], "speeds": speeds}
    path = write_result("decompose", record, DISTRIBUTIONS, arguments.out)
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
