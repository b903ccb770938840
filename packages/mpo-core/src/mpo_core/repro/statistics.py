"""Means, and paired tests over seeds.

Two arms that ran on the same seeds share data order and initial weights, so they are compared seed by seed.
Cases in which a t-test has nothing to divide by are decided without it, never by a division by (almost) zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

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
