"""How close a summary is to the comment that people wrote (CP-BCS, section 4.2; released `src/validate.py`).

All of them compare words of one sentence with words of another, split as `words` does. The paper's BLEU is the mean
over sentences of a smoothed BLEU-4; it is not corpus BLEU, and figures of the two are not comparable: each is named.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

ORDERS = 4
ROUGE_BETA = 1.2
_TOKEN = re.compile(r"\w+|[^\w\s]")


def words(sentence: str) -> list[str]:
    """Lower-cased words and punctuation marks."""
    return _TOKEN.findall(sentence.lower())


class NGrams:
    """The n-grams of a sentence, counted once for many comparisons.

    Args:
        tokens: of the sentence.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.length = len(tokens)
        self.counts = [
            dict(Counter(tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1)))
            for order in range(1, ORDERS + 1)
        ]

    def bleu(self, reference: NGrams) -> float:
        """`sentence_bleu` of this sentence as a summary."""
        if not self.length or not reference.length:
            return 0.0
        logs = 0.0
        for order, (made, written) in enumerate(zip(self.counts, reference.counts, strict=True)):
            fewer, more = (made, written) if len(made) < len(written) else (written, made)
            matches = sum(min(count, more[gram]) for gram, count in fewer.items() if gram in more)
            logs += math.log((matches + 1) / (max(self.length - order, 0) + 1))
        brevity = min(0.0, 1 - reference.length / self.length)
        return math.exp(logs / ORDERS + brevity)


def sentence_bleu(summary: Sequence[str], reference: Sequence[str]) -> float:
    """BLEU-4 of one sentence, each precision with one added to both counts (Lin and Och, 2004), in 0 … 1.

    Args:
        summary: tokens of what was made.
        reference: tokens of what was written.
    """
    return NGrams(summary).bleu(NGrams(reference))


def rouge_l(summary: Sequence[str], reference: Sequence[str], beta: float = ROUGE_BETA) -> float:
    """ROUGE-L: F-measure of the longest common subsequence (Lin, 2004), in 0 … 1.

    Args:
        summary: tokens of what was made.
        reference: tokens of what was written.
        beta: weight of recall.
    """
    common = _longest_common(summary, reference)
    if common == 0:
        return 0.0
    precision, recall = common / len(summary), common / len(reference)
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def corpus_bleu(summaries: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Corpus BLEU of sacreBLEU, in 0 … 1, and its signature."""
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(lowercase=True)
    score = metric.corpus_score(list(summaries), [list(references)]).score / 100
    return score, str(metric.get_signature())


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for place, y in enumerate(b, start=1):
            above = row[place]
            row[place] = diagonal + 1 if x == y else max(above, row[place - 1])
            diagonal = above
    return row[-1]
