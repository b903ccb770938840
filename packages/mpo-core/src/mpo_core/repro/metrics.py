"""Metrics of text tasks, by scikit-learn and scipy, with the degenerate cases defined.

A constant prediction (or constant labels) has no correlation: ``mcc``, ``pearson`` and ``spearman`` are then
0, as in scikit-learn's Matthews correlation. ``f1`` is that of class 1, and 0 where nothing is predicted or
true as 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from mpo_core.errors import DivergedError, UsageError


def compute_metrics(
    names: Sequence[str], predictions: Sequence[float] | np.ndarray, labels: Sequence[float] | np.ndarray
) -> dict[str, float]:
    """Compute metrics by name.

    Args:
        names: of ``accuracy``, ``f1``, ``mcc`` (classes), ``pearson``, ``spearman`` (numbers).
        predictions: shape ``(n,)``: class indices, or numbers for the correlations.
        labels: shape ``(n,)``.

    Returns:
        Name -> value, in the order of ``names``.

    Raises:
        UsageError: an unknown metric, no examples, or not one label per prediction.
        DivergedError: a prediction is NaN or infinite.
    """
    if unknown := [name for name in names if name not in _METRICS]:
        raise UsageError(f"unknown metric {unknown[0]!r}; known: {', '.join(_METRICS)}.")
    predicted, true = np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if predicted.shape != true.shape or predicted.ndim != 1 or not predicted.size:
        raise UsageError(
            f"metrics need as many predictions as labels, at least one; found {predicted.shape} and {true.shape}."
        )
    if not np.isfinite(predicted).all():
        raise DivergedError("a prediction is NaN or infinite, so no metric is reported: lower the learning rate.")
    return {name: float(_METRICS[name](predicted, true)) for name in names}


def perplexity(total_nats: float, tokens: int) -> dict[str, float]:
    """Loss per token and its exponential.

    Args:
        total_nats: summed negative log-likelihood in nats.
        tokens: number of tokens it was summed over.

    Returns:
        ``loss`` (nats per token) and ``perplexity``.

    Raises:
        UsageError: no tokens.
        DivergedError: the loss is not finite, or so large that its exponential is not.
    """
    if tokens < 1:
        raise UsageError("perplexity needs at least one predicted token; found none.")
    loss = total_nats / tokens
    if not math.isfinite(loss) or loss > 700:
        raise DivergedError(f"the loss is {loss} nats per token, so no perplexity is reported.")
    return {"loss": loss, "perplexity": math.exp(loss)}


def _accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean(predicted == true))


def _f1(predicted: np.ndarray, true: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(true == 1, predicted == 1, zero_division=0))  # pyright: ignore[reportArgumentType]


def _mcc(predicted: np.ndarray, true: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    if _constant(predicted, true):
        return 0.0
    return float(matthews_corrcoef(true.astype(int), predicted.astype(int)))


def _pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    from scipy import stats

    return _correlation(stats.pearsonr, predicted, true)


def _spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    from scipy import stats

    return _correlation(stats.spearmanr, predicted, true)


def _correlation(measure: Callable, predicted: np.ndarray, true: np.ndarray) -> float:
    if _constant(predicted, true):
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of nearly constant input; the value is still defined
        value = float(measure(predicted, true).statistic)
    return value if math.isfinite(value) else 0.0


def _constant(predicted: np.ndarray, true: np.ndarray) -> bool:
    return bool(np.ptp(predicted) == 0 or np.ptp(true) == 0)


_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "mcc": _mcc,
    "pearson": _pearson,
    "spearman": _spearman,
}
