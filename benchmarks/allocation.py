"""Shares the parameters of all linear layers of MiniLM out and asks, without training, what is left of its embeddings.

Every row of the table has the same number of parameters. The MPO forms are compared with truncated SVD of each layer,
which gets the same allocation (a rank is the one bond of a chain of two cores) and the same weighting by inputs.
Calibration reads sentences of STS-B's training split only; Spearman's correlation of cosine similarity with the scores
is taken on the development split, once, and nothing is chosen by it. ``--smoke`` runs the same on a tiny random model
and random tokens.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from interleaved import RESULTS, write_result
from torch import Tensor, nn
from torch.nn.functional import normalize

from mpo_core import MPOShape, Target, decompose, find_targets
from mpo_core.budgets.activation import collect_covariances, damped_covariance, decompose_for_outputs
from mpo_core.budgets.allocation import Order, allocate_bonds
from mpo_core.budgets.budget import bonds_for_params, uniform_bond
from mpo_core.budgets.kronecker import roots
from mpo_core.decomposing.decomposition import schmidt_values
from mpo_core.operators.gauge import Spectrum

CALIBRATION_PAIRS = 256
BATCH = 64
LEVEL = 0.005
"""Spearman's correlations that differ by less are called level; its standard error on 1,500 pairs is about 0.007."""

Rebuilt = dict[str, Tensor]
Bonds = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Pair:
    """Two sentences as token ids, and how alike people found them."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class Subject:
    """A model of sentence embeddings and the data it is asked about."""

    name: str
    model: nn.Module
    calibration: Sequence[tuple[int, ...]]
    pairs: Sequence[Pair]
    source: str


@dataclass(frozen=True)
class Row:
    """What one method made of the model.

    Attributes:
        method: its name.
        share: parameters over those of the dense layers.
        smallest: the same of the layer that was left least.
        error: ``||W - W'||`` over ``||W||``, all layers together.
        layer_error: the same of single layers, mean.
        output_error: ``||(W - W') C^{1/2}||`` over ``||W C^{1/2}||`` of single layers, mean over the linear ones.
        spearman: on the development split.
        seconds: CPU time of choosing and decomposing, spectra and covariances not counted.
    """

    method: str
    share: float
    smallest: float
    error: float
    layer_error: float
    output_error: float
    spearman: float
    seconds: float


class Layers:
    """The layers of a subject with all that methods need to know of them, computed once."""

    def __init__(self, subject: Subject, targets: Sequence[Target]) -> None:
        self.weights = {target.name: target.matrix.detach().clone() for target in targets}
        batches = ({"input_ids": ids, "attention_mask": mask} for ids, mask in _batches(subject.calibration))
        given = collect_covariances(subject.model, targets, batches)
        self.covariances = {name: damped_covariance(moment, len(moment)) for name, moment in given.items()}
        self.roots = {name: roots(moment) for name, moment in self.covariances.items()}
        self.shapes = {name: MPOShape.choose(weight.shape[0], weight.shape[1]) for name, weight in self.weights.items()}
        self.chains = {name: _two_cores(weight) for name, weight in self.weights.items()}
        self.dense = {name: weight.numel() for name, weight in self.weights.items()}
        weighted = {name: self.weighted(name) for name in self.weights}
        self.spectra = {name: schmidt_values(weight, self.shapes[name]) for name, weight in self.weights.items()}
        self.output_spectra = {name: schmidt_values(weighted[name], self.shapes[name]) for name in weighted}
        self.values: dict[str, list[Spectrum]] = {
            name: [torch.linalg.svdvals(weight.double())] for name, weight in self.weights.items()
        }
        self.output_values: dict[str, list[Spectrum]] = {
            name: [torch.linalg.svdvals(matrix)] for name, matrix in weighted.items()
        }

    def weighted(self, name: str) -> Tensor:
        """``W C^{1/2}``; W itself for an embedding."""
        weight = self.weights[name].double()
        return weight @ self.roots[name][0] if name in self.roots else weight


def methods(layers: Layers) -> dict[str, Callable[[float], tuple[Bonds, Mapping[str, MPOShape], Rebuilt]]]:
    """All methods: a share of the dense parameters -> bonds, shapes, and the matrices that they stand for."""
    svd, mpo = layers.chains, layers.shapes

    def equal(spectra: Mapping[str, Sequence[Spectrum]], shapes: Mapping[str, MPOShape]) -> Callable[[float], Bonds]:
        return lambda share: {
            name: bonds_for_params(spectra[name], shape, int(share * layers.dense[name]))
            for name, shape in shapes.items()
        }

    def capped(share: float) -> Bonds:
        return {
            name: shape.clip_bonds(uniform_bond(shape, int(share * layers.dense[name]))) for name, shape in mpo.items()
        }

    def allocated(
        spectra: Mapping[str, Sequence[Spectrum]],
        shapes: Mapping[str, MPOShape],
        relative: bool = True,
        order: Order = "error-per-parameter",
    ) -> Callable[[float], Bonds]:
        weights = {name: 1 / float(values[0].square().sum()) for name, values in spectra.items()} if relative else None
        limit = sum(layers.dense.values())
        return lambda share: allocate_bonds(spectra, shapes, int(share * limit), weights=weights, order=order)

    def plain(name: str, bonds: tuple[int, ...]) -> Tensor:
        return decompose(layers.weights[name], mpo[name], bonds).to_matrix()

    def for_outputs(name: str, bonds: tuple[int, ...]) -> Tensor:
        if name not in layers.covariances:
            return plain(name, bonds)
        return decompose_for_outputs(layers.weights[name], layers.covariances[name], mpo[name], bonds).to_matrix()

    def svd_plain(name: str, bonds: tuple[int, ...]) -> Tensor:
        return _cut(layers.weights[name].double(), bonds[0]).to(layers.weights[name].dtype)

    def svd_for_outputs(name: str, bonds: tuple[int, ...]) -> Tensor:
        if name not in layers.roots:
            return svd_plain(name, bonds)
        return (_cut(layers.weighted(name), bonds[0]) @ layers.roots[name][1]).to(layers.weights[name].dtype)

    choices = {
        "SVD, equal shares": (equal(layers.values, svd), svd, svd_plain),
        "SVD, allocated": (allocated(layers.values, svd), svd, svd_plain),
        "MPO, one cap": (capped, mpo, plain),
        "MPO, equal shares": (equal(layers.spectra, mpo), mpo, plain),
        "MPO, allocated": (allocated(layers.spectra, mpo), mpo, plain),
        "MPO, smallest values first": (allocated(layers.spectra, mpo, order="error"), mpo, plain),
        "MPO, smallest values first, absolute": (allocated(layers.spectra, mpo, False, "error"), mpo, plain),
        "SVD for outputs, equal shares": (equal(layers.output_values, svd), svd, svd_for_outputs),
        "SVD for outputs, allocated": (allocated(layers.output_values, svd), svd, svd_for_outputs),
        "MPO for outputs, equal shares": (equal(layers.output_spectra, mpo), mpo, for_outputs),
        "MPO for outputs, allocated": (allocated(layers.output_spectra, mpo), mpo, for_outputs),
        "MPO for outputs, smallest values first": (
            allocated(layers.output_spectra, mpo, order="error"),
            mpo,
            for_outputs,
        ),
    }

    def method(choose: Callable[[float], Bonds], shapes: Mapping[str, MPOShape], rebuild: Callable[..., Tensor]):
        def run(share: float) -> tuple[Bonds, Mapping[str, MPOShape], Rebuilt]:
            bonds = choose(share)
            return bonds, shapes, {name: rebuild(name, chosen) for name, chosen in bonds.items()}

        return run

    return {name: method(*parts) for name, parts in choices.items()}


@torch.no_grad()
def measure(
    subject: Subject, targets: Sequence[Target], shares: Sequence[float], skip: str | None = None
) -> dict[str, list[Row]]:
    """One table per share; without the methods that `skip` is part of the name of."""
    layers = Layers(subject, targets)
    tables: dict[str, list[Row]] = {}
    for share in shares:
        rows = tables[f"{share:g}"] = []
        for name, method in methods(layers).items():
            if skip is not None and skip in name:
                continue
            start = time.process_time()
            bonds, shapes, rebuilt = method(share)
            seconds = time.process_time() - start
            rows.append(_row(name, subject, targets, layers, bonds, shapes, rebuilt, seconds))
            print(_line(share, rows[-1]), flush=True)
    return tables


def verdicts(tables: Mapping[str, Sequence[Row]]) -> list[str]:
    """For every share and every way that both forms went, which of SVD and MPO came out ahead."""
    found: list[str] = []
    for share, rows in tables.items():
        by_name = {row.method: row for row in rows}
        for name, svd in by_name.items():
            mpo = by_name.get(name.replace("SVD", "MPO"))
            if mpo is None or not name.startswith("SVD"):
                continue
            gap = mpo.spearman - svd.spearman
            ahead = "level" if abs(gap) < LEVEL else "MPO ahead" if gap > 0 else "SVD ahead"
            found.append(
                f"share {share}, {name[3:].lstrip(', ')}: Spearman SVD {svd.spearman:.4f}, MPO {mpo.spearman:.4f}"
                f" ({ahead}); output error SVD {svd.output_error:.4f}, MPO {mpo.output_error:.4f}"
            )
    return found


def _row(
    method: str,
    subject: Subject,
    targets: Sequence[Target],
    layers: Layers,
    bonds: Bonds,
    shapes: Mapping[str, MPOShape],
    rebuilt: Rebuilt,
    seconds: float,
) -> Row:
    params = {name: shapes[name].n_params(chosen) for name, chosen in bonds.items()}
    errors = {name: (weight - rebuilt[name]).double() for name, weight in layers.weights.items()}
    norms = {name: float(weight.double().norm()) for name, weight in layers.weights.items()}
    outputs = [
        float((errors[name] @ root).norm()) / float(layers.weighted(name).norm())
        for name, (root, _) in layers.roots.items()
    ]
    for target in targets:
        target.matrix.copy_(rebuilt[target.name])
    spearman = score(subject)
    for target in targets:
        target.matrix.copy_(layers.weights[target.name])
    return Row(
        method,
        sum(params.values()) / sum(layers.dense.values()),
        min(count / layers.dense[name] for name, count in params.items()),
        math.hypot(*(float(error.norm()) for error in errors.values())) / math.hypot(*norms.values()),
        sum(float(error.norm()) / norms[name] for name, error in errors.items()) / len(errors),
        sum(outputs) / len(outputs),
        spearman,
        seconds,
    )


@torch.no_grad()
def score(subject: Subject) -> float:
    """Spearman's correlation of the cosine similarity of mean-pooled embeddings with the scores."""
    sentences = sorted(
        {ids for pair in subject.pairs for ids in (pair.first, pair.second)}, key=lambda ids: (len(ids), ids)
    )
    embedded: dict[tuple[int, ...], Tensor] = {}
    for start in range(0, len(sentences), BATCH):
        part = sentences[start : start + BATCH]
        ids, mask = next(_batches(part))
        hidden = subject.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        embedded.update(zip(part, normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1), strict=True))
    cosines = torch.stack([embedded[pair.first] @ embedded[pair.second] for pair in subject.pairs])
    ranks = [_ranks(values.double()) for values in (cosines, torch.tensor([pair.score for pair in subject.pairs]))]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def _ranks(values: Tensor) -> Tensor:
    """Ranks, equal values sharing their mean rank."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[place]


def _batches(sentences: Sequence[tuple[int, ...]]) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(sentences), BATCH):
        part = sentences[start : start + BATCH]
        width = max(len(ids) for ids in part)
        ids = torch.zeros(len(part), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for k, sentence in enumerate(part):
            ids[k, : len(sentence)] = torch.tensor(sentence)
            mask[k, : len(sentence)] = 1
        yield ids, mask


def _two_cores(weight: Tensor) -> MPOShape:
    rows, cols = weight.shape
    return MPOShape(rows, cols, (rows, 1), (1, cols))


def _cut(matrix: Tensor, rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def minilm(data_dir: Path | None) -> Subject:
    """MiniLM and STS-B."""
    from mpo_core.repro.config import TaskConfig
    from mpo_core.repro.models import load_model, load_tokenizer
    from mpo_core.repro.tasks import load_task

    task = load_task(TaskConfig(name="stsb"), data_dir)
    tokenizer = load_tokenizer("minilm")

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, truncation=True, max_length=128)["input_ids"])

    chosen = torch.randperm(len(task.splits["train"]), generator=torch.Generator().manual_seed(0))[:CALIBRATION_PAIRS]
    calibration = [encode(text) for k in chosen.tolist() for text in task.splits["train"][k].texts]
    pairs = [
        Pair(encode(example.texts[0]), encode(example.texts[1]), float(example.label or 0))
        for example in task.splits["eval"]
    ]
    return Subject("minilm", load_model("minilm", "backbone"), calibration, pairs, task.source)


def tiny() -> Subject:
    """A random model of the same kind and random tokens, for `--smoke`."""
    from transformers import BertConfig

    from mpo_core.repro.models import build_model

    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    generator = torch.Generator().manual_seed(0)
    texts = [tuple(torch.randint(1, 100, (4 + k % 5,), generator=generator).tolist()) for k in range(32)]
    pairs = [Pair(texts[k], texts[-1 - k], float(k % 6)) for k in range(16)]
    return Subject("tiny random BERT", build_model(config, "backbone"), texts, pairs, "random tokens")


def _line(share: float, row: Row) -> str:
    return (
        f"{share:4.2f}  {row.method:40s} share {row.share:.4f} (least {row.smallest:.3f})  error {row.error:.4f}"
        f" layers {row.layer_error:.4f} outputs {row.output_error:.4f}  Spearman {row.spearman:.4f}"
        f"  {row.seconds:6.1f} s"
    )


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data-dir", type=Path, default=None, help="folder that holds glue/STS-B; default: MPO_DATA")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    parser.add_argument("--smoke", action="store_true", help="a tiny random model, in seconds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    subject = tiny() if given.smoke else minilm(given.data_dir)
    shares = [0.5] if given.smoke else [0.7, 0.5, 0.3]
    # The pooler is no part of mean-pooled embeddings.
    linear = [target for target in find_targets(subject.model, exclude=["*pooler*"]) if target.kind != "embedding"]
    table = find_targets(subject.model, include=["embeddings.word_embeddings"])
    baseline = score(subject)
    print(f"{subject.name}: Spearman of the dense model {baseline:.4f}; {subject.source}", flush=True)
    content: dict[str, Any] = {
        "clock": "CPU time of one run at one thread; what is measured here is quality",
        "subject": subject.name,
        "data": subject.source,
        "calibration": f"{len(subject.calibration)} sentences of the training split",
        "dense_spearman": baseline,
    }
    for name, targets, part, skip in (
        ("linear", linear, shares, None),
        ("linear_and_embedding", [*linear, *table], shares[1:2] or shares, "for outputs"),
    ):
        content[name] = measure(subject, targets, part, skip)
        content[f"{name}_verdicts"] = verdicts(content[name])
        print("\n".join(content[f"{name}_verdicts"]), flush=True)
    print(write_result("allocation", content, folder=given.out))


if __name__ == "__main__":
    main()
