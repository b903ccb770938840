"""Metrics only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cp_bcs.binary.functions import Function
from cp_bcs.binary.image import Image
from cp_bcs.binary.tables import Symbol
from cp_bcs.binary.unwind import unwind_extents
from cp_bcs.meteor import meteor
from cp_bcs.metrics import corpus_bleu, rouge_l, sentence_bleu, words


@dataclass(frozen=True)
class Discovery:
    """How the functions found in a stripped file agree with the symbols of its twin.

    Args:
        n: functions that the symbols name.
        described: those of them that the unwind table describes, and whose symbols tell a size.
        starts: share of the n whose start was found.
        sizes: share of the described ones found with the very same extent; None where none is described. One that is
            not found at all counts as missed.
        modes: share of the n found in the right mode, A32 or Thumb; 1 on other architectures.
        precision: share of the found starts that a symbol names.
    """

    n: int
    described: int
    starts: float
    sizes: float | None
    modes: float
    precision: float


def judge_discovery(found: Sequence[Function], twin: Image) -> Discovery:
    """Compare found functions with the function symbols of the unstripped twin.

    Args:
        found: in the stripped file.
        twin: the same build with symbols.
    """
    symbols = [symbol for symbol in twin.symbols if symbol.is_function and symbol.defined]
    truth: dict[int, Symbol] = {}
    for symbol in symbols:
        address = twin.code_address(symbol.address)
        known = truth.get(address)
        if known is None or symbol.size > known.size:
            truth[address] = symbol
    by_start = {function.address: function for function in found}
    hits = [(symbol, by_start[address]) for address, symbol in truth.items() if address in by_start]
    told = {extent.start for extent in unwind_extents(twin)} if twin.architecture != "arm" else set()
    described = [(s, by_start.get(address)) for address, s in truth.items() if address in told and s.size]
    arm = twin.architecture == "arm"
    return Discovery(
        n=len(truth),
        described=len(described),
        starts=len(hits) / len(truth) if truth else 0.0,
        sizes=_share(f is not None and s.size == f.size for s, f in described) if described else None,
        modes=_share(not arm or function.thumb == bool(symbol.address & 1) for symbol, function in hits),
        precision=_share(function.address in truth for function in found),
    )


def _share(outcomes: Iterable[bool]) -> float:
    values = list(outcomes)
    return sum(values) / len(values) if values else 0.0


@dataclass(frozen=True)
class JudgedSummaries:
    """Summaries against what people wrote.

    Args:
        bleu: mean of the smoothed BLEU-4 of each sentence, 0 … 1: the paper's.
        rouge_l: mean of ROUGE-L, beta 1.2, 0 … 1.
        corpus_bleu: sacreBLEU of all of them together, 0 … 1.
        signature: of sacreBLEU.
        each: the smoothed BLEU-4 of each function.
        meteor: mean of METEOR 1.5, 0 … 1, where it was asked for.
    """

    bleu: float
    rouge_l: float
    corpus_bleu: float
    signature: str
    each: list[float]
    meteor: float | None = None


def judge_summaries(summaries: Sequence[str], references: Sequence[str], with_meteor: bool = False) -> JudgedSummaries:
    """Compare summaries with comments, one with one.

    Args:
        summaries: what was made.
        references: what was written.
        with_meteor: METEOR as well, which needs the extra ``cp-bcs[meteor]``.
    """
    made, written = [words(summary) for summary in summaries], [words(reference) for reference in references]
    each = [sentence_bleu(a, b) for a, b in zip(made, written, strict=True)]
    rouge = [rouge_l(a, b) for a, b in zip(made, written, strict=True)]
    score, signature = corpus_bleu(summaries, references)
    by_meteor = float(np.mean(meteor(summaries, references))) if with_meteor else None
    return JudgedSummaries(float(np.mean(each)), float(np.mean(rouge)), score, signature, each, by_meteor)
