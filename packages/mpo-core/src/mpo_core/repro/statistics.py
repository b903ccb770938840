"""Means, and paired tests over seeds or over cases.

Two arms that ran on the same seeds share data order and initial weights, so they are compared seed by seed. Where each
seed was judged on many cases (the functions of a test part), they can also be compared case by case.
Cases in which a t-test has nothing to divide by are decided without it, never by a division by (almost) zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

Cases = Sequence[float] | NDArray[np.floating[Any]]
"""The score of each case."""
LEVEL = 0.05
"""Significance level of every verdict."""
EXACT_SIGNS = 13
"""Up to this many pairs Wilcoxon's p-value counts all 2^n assignments of signs."""
EQUAL = 1e-12
"""Differences whose spread is this share of their size (or less) count as equal: what is left is rounding."""


@dataclass(frozen=True)
class PairedResult:
    """Two arms on the same seeds; the differences are ``a - b``.

    ``None`` stands for what the data cannot give: with fewer than two pairs everything but the mean; with
    equal differences the interval.

    Attributes:
        n: seeds that both arms have.
        mean_difference: mean of the differences (``None`` without a pair).
        sd: their sample standard deviation.
        p_value: two-sided, paired t-test; where all differences are equal, the sign-flip test.
        wilcoxon_p: two-sided, Wilcoxon's signed-rank test.
        ci95: 95 % confidence interval of the mean difference (t).
        differences: the differences, by seed.
    """

    n: int
    mean_difference: float | None
    sd: float | None
    p_value: float | None
    wilcoxon_p: float | None
    ci95: tuple[float, float] | None
    differences: tuple[float, ...]


@dataclass(frozen=True)
class BootstrapResult:
    """Two arms on the same cases; the differences are ``a - b``.

    Attributes:
        n: cases, of all seeds.
        mean_difference: mean over seeds of the mean over cases.
        ci95: 95 % interval of it, from the percentiles of the resampled ones.
        below: share of the resampled ones that are 0 or less.
        above: share that are 0 or more.
    """

    n: int
    mean_difference: float
    ci95: tuple[float, float]
    below: float
    above: float

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference."""
        return min(1.0, 2 * min(self.below, self.above))


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); the latter is ``None`` for one value.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("mean_sd needs at least one value, found none")
    return fmean(values), stdev(values) if len(values) > 1 else None


def paired_test(a: Mapping[int, float], b: Mapping[int, float]) -> PairedResult:
    """Compare two arms on the seeds that both have.

    Args:
        a: seed -> value of one arm.
        b: seed -> value of the other.
    """
    differences = tuple(a[seed] - b[seed] for seed in sorted(set(a) & set(b)))
    n = len(differences)
    if n < 2:
        mean = differences[0] if differences else None
        return PairedResult(n, mean, None, None, None, None, differences)
    mean, sd = mean_sd(differences)
    if _equal(differences):
        p = _sign_flip_p(differences, two_sided=True)
        return PairedResult(n, mean, sd, p, p, None, differences)
    from scipy import stats  # takes a while to import: a command that only lists must not wait for it

    p: Any = stats.ttest_1samp(_scaled(differences), 0.0)[1]
    half = float(stats.t.ppf(0.975, n - 1)) * (sd or 0.0) / math.sqrt(n)
    return PairedResult(n, mean, sd, float(p), _wilcoxon(differences), (mean - half, mean + half), differences)


def one_sided_p(differences: Sequence[float], threshold: float = 0.0) -> float | None:
    """P-value of a t-test of "the mean is at most ``threshold``" against "it is greater".

    Where all differences are equal the sign-flip test takes its place: ``2^-n`` above the threshold, else 1.

    Returns:
        The p-value, or ``None`` with fewer than two differences.
    """
    if len(differences) < 2:
        return None
    above = [difference - threshold for difference in differences]
    if _equal(above):
        return _sign_flip_p(above, two_sided=False)
    from scipy import stats

    p: Any = stats.ttest_1samp(_scaled(above), 0.0, alternative="greater")[1]
    return float(p)


def non_inferiority_p(differences: Sequence[float], margin: float) -> float | None:
    """P-value against "the arm is worse by ``margin`` or more", for differences in which more is better.

    Raises:
        ValueError: a margin that is not positive.
    """
    if not margin > 0:
        raise ValueError(f"margin must be positive, found {margin}")
    return one_sided_p(differences, threshold=-margin)


def paired_bootstrap(
    a: Mapping[int, Cases], b: Mapping[int, Cases], samples: int = 10_000, seed: int = 0
) -> BootstrapResult:
    """Resample cases, both arms together (Koehn, EMNLP 2004).

    Where all seeds have equally many cases, the k-th case of one goes with the k-th of the others: they may be the same
    case, judged again. Else each seed's cases are drawn by themselves.

    Args:
        a: seed -> score of each case of one arm.
        b: of the other arm, the same cases in the same order.
        samples: how often cases are drawn.
        seed: of the drawing.

    Raises:
        ValueError: no seed in common, a seed without cases, or one whose arms have different numbers of cases.
    """
    seeds = sorted(set(a) & set(b))
    if not seeds or any(not len(a[s]) or len(a[s]) != len(b[s]) for s in seeds):
        raise ValueError("paired_bootstrap needs the same cases of both arms, in one seed at least")
    parts = [np.asarray(a[s], dtype=float) - np.asarray(b[s], dtype=float) for s in seeds]
    n = sum(len(part) for part in parts)
    if len({len(part) for part in parts}) == 1:
        parts = [np.mean(parts, axis=0)]
    rng = np.random.default_rng(seed)
    drawn = np.array([np.mean([rng.choice(part, len(part)).mean() for part in parts]) for _ in range(samples)])
    low, high = np.percentile(drawn, [2.5, 97.5])
    below, above = ((int(np.sum(sign * drawn <= 0)) + 1) / (samples + 1) for sign in (1, -1))
    mean = fmean([float(part.mean()) for part in parts])
    return BootstrapResult(n, mean, (float(low), float(high)), below, above)


def _equal(values: Sequence[float]) -> bool:
    return max(values) - min(values) <= EQUAL * max(abs(value) for value in values)


def _scaled(values: Sequence[float]) -> list[float]:
    """The values in units of the largest: the t statistic stays, and squares of tiny values do not vanish."""
    largest = max(abs(value) for value in values)
    return [value / largest for value in values]


def _sign_flip_p(values: Sequence[float], *, two_sided: bool) -> float:
    """P-value of equal values under random signs: only all-plus is as extreme (or all-minus, two-sided)."""
    if values[0] == 0 or (values[0] < 0 and not two_sided):
        return 1.0
    return math.ldexp(1.0, (1 if two_sided else 0) - len(values))


def _wilcoxon(differences: Sequence[float]) -> float:
    from scipy import stats

    # scipy's "auto" turns to the normal approximation when ties or zeros occur, which is off for a few seeds.
    n = len(differences)
    method: Any = stats.PermutationMethod(n_resamples=2**n) if n <= EXACT_SIGNS else "auto"
    p: Any = stats.wilcoxon(differences, method=method)[1]
    return float(p)
