"""Metrics against values worked out by hand, and the degenerate cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mpo_core.errors import DivergedError, UsageError
from mpo_core.repro.metrics import compute_metrics, perplexity


def test_classification_metrics_by_hand():
    # tp 2, fp 1, fn 1, tn 1
    values = compute_metrics(("accuracy", "f1", "mcc"), [1, 1, 1, 0, 0], [1, 1, 0, 1, 0])
    assert list(values) == ["accuracy", "f1", "mcc"]
    assert values["accuracy"] == pytest.approx(0.6)
    assert values["f1"] == pytest.approx(2 / 3)
    assert values["mcc"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))


def test_correlations_by_hand():
    values = compute_metrics(("pearson", "spearman"), [1.0, 2.0, 4.0], [1.0, 2.0, 3.0])
    assert values["spearman"] == pytest.approx(1.0)
    assert values["pearson"] == pytest.approx(3 / math.sqrt(2 * 14 / 3))


@pytest.mark.parametrize("name", ["mcc", "pearson", "spearman"])
@pytest.mark.parametrize(("predictions", "labels"), [([1, 1, 1], [0, 1, 1]), ([0, 1, 1], [1, 1, 1]), ([1], [0])])
def test_constant_input_has_no_correlation_and_gives_no_warning(name, predictions, labels):
    assert compute_metrics((name,), predictions, labels) == {name: 0.0}


def test_nearly_constant_predictions_give_a_number():
    predictions = 1.0 + np.array([0, 1, 2]) * 1e-15
    assert -1 <= compute_metrics(("pearson",), predictions, [0.0, 1.0, 2.0])["pearson"] <= 1


def test_f1_without_any_positive_is_zero():
    assert compute_metrics(("f1",), [0, 0], [0, 0]) == {"f1": 0.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_predictions_that_are_not_finite_are_refused(bad):
    with pytest.raises(DivergedError, match="NaN or infinite"):
        compute_metrics(("accuracy",), [0, bad], [0, 1])


@pytest.mark.parametrize(("predictions", "labels"), [([], []), ([1, 2], [1]), ([[1]], [[1]])])
def test_shapes_that_do_not_fit_are_refused(predictions, labels):
    with pytest.raises(UsageError, match="as many predictions as labels"):
        compute_metrics(("accuracy",), predictions, labels)


def test_unknown_metric_names_the_known_ones():
    with pytest.raises(UsageError, match="'bleu'; known: accuracy"):
        compute_metrics(("bleu",), [1], [1])


def test_perplexity_of_uniform_guesses_is_the_vocabulary():
    assert perplexity(10 * math.log(512), 10) == {
        "loss": pytest.approx(math.log(512)),
        "perplexity": pytest.approx(512),
    }


@pytest.mark.parametrize("nats", [math.nan, math.inf, 1e6])
def test_perplexity_of_a_diverged_loss_is_refused(nats):
    with pytest.raises(DivergedError):
        perplexity(nats, 2)


def test_perplexity_of_no_tokens_is_refused():
    with pytest.raises(UsageError, match="at least one"):
        perplexity(0.0, 0)
