from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mpo_core.repro.statistics import mean_sd, non_inferiority_p, one_sided_p, paired_bootstrap, paired_test

A = {0: 0.80, 1: 0.83, 2: 0.79, 3: 0.85, 4: 0.82}
B = {0: 0.78, 1: 0.80, 2: 0.80, 3: 0.81, 4: 0.79, 9: 0.1}


def test_mean_and_sample_deviation() -> None:
    assert mean_sd([1.0, 2.0, 4.0]) == (pytest.approx(7 / 3), pytest.approx(math.sqrt(7 / 3)))
    assert mean_sd([5.0]) == (5.0, None)
    with pytest.raises(ValueError, match="at least one value"):
        mean_sd([])


def test_the_paired_test_by_hand() -> None:
    result = paired_test(A, B)
    differences = [0.02, 0.03, -0.01, 0.04, 0.03]
    mean = sum(differences) / 5
    sd = math.sqrt(sum((d - mean) ** 2 for d in differences) / 4)
    t = mean / (sd / math.sqrt(5))
    assert result.n == 5, "seed 9 has no partner"
    assert result.mean_difference == pytest.approx(mean)
    assert result.sd == pytest.approx(sd)
    assert result.p_value == pytest.approx(2 * stats.t.sf(t, 4))
    half = 2.7764451 * sd / math.sqrt(5)
    assert result.ci95 == (pytest.approx(mean - half), pytest.approx(mean + half))
    assert one_sided_p(result.differences) == pytest.approx(stats.t.sf(t, 4))
    assert one_sided_p([-d for d in result.differences]) == pytest.approx(stats.t.cdf(t, 4))


def test_wilcoxon_counts_all_signs() -> None:
    differences = [0.02, 0.03, -0.01, 0.04, 0.03]
    ranks = [2, 3.5, 1, 5, 3.5]
    observed = sum(r for r, d in zip(ranks, differences, strict=True) if d > 0)
    sums = [
        sum(r for r, plus in zip(ranks, signs, strict=True) if plus) for signs in itertools.product([0, 1], repeat=5)
    ]
    expected = 2 * sum(s >= observed for s in sums) / len(sums)
    assert paired_test(dict(enumerate(differences)), dict.fromkeys(range(5), 0.0)).wilcoxon_p == pytest.approx(expected)


def test_fewer_than_two_pairs_give_no_p_value() -> None:
    one = paired_test({0: 2.0}, {0: 1.0, 1: 1.0})
    assert (one.n, one.mean_difference) == (1, 1.0)
    assert one.sd is one.p_value is one.wilcoxon_p is one.ci95 is None
    none = paired_test({0: 2.0}, {1: 1.0})
    assert (none.n, none.mean_difference, none.p_value) == (0, None, None)
    assert one_sided_p([1.0]) is None


def test_equal_differences_are_judged_by_their_signs_alone() -> None:
    a = {seed: 0.3 + 0.1 * seed for seed in range(5)}
    b = {seed: value - 0.1 for seed, value in a.items()}
    result = paired_test(a, b)
    assert result.p_value == 2 / 2**5
    assert result.ci95 is None
    assert one_sided_p(result.differences) == 1 / 2**5
    assert one_sided_p([-d for d in result.differences]) == 1.0
    assert paired_test(a, a).p_value == 1.0
    assert one_sided_p([0.0] * 5) == 1.0


def test_non_inferiority() -> None:
    slightly_worse = [-0.004, -0.006, -0.005, -0.003, -0.007]
    far, near = non_inferiority_p(slightly_worse, 0.02), non_inferiority_p(slightly_worse, 0.005)
    assert far is not None
    assert far < 0.001
    assert near == pytest.approx(0.5)
    assert non_inferiority_p([0.0] * 5, 0.01) == 1 / 2**5
    with pytest.raises(ValueError, match="margin must be positive"):
        non_inferiority_p(slightly_worse, 0.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8))
def test_p_values_are_probabilities_and_the_two_sides_agree(differences: list[float]) -> None:
    result = paired_test(dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0))
    up, down = one_sided_p(differences), one_sided_p([-d for d in differences])
    assert up is not None
    assert down is not None
    assert result.p_value is not None
    assert 0 <= up <= 1
    assert 0 <= result.p_value <= 1
    assert result.p_value == pytest.approx(min(1.0, 2 * min(up, down)), abs=1e-9)


# -- over cases ----------------------------------------------------------------------------------------------------


def test_the_bootstrap_sees_a_difference_and_sees_none() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(0.3, 0.1, 300)
    better = paired_bootstrap({0: base + rng.normal(0.03, 0.05, 300)}, {0: base}, samples=2000)
    assert better.ci95[0] > 0
    assert better.p_value < 0.01
    assert better.below < 0.01 < 0.9 < better.above
    assert better.ci95[0] < better.mean_difference < better.ci95[1]
    same = paired_bootstrap({0: base + rng.normal(0, 0.05, 300)}, {0: base}, samples=2000)
    assert same.ci95[0] < 0 < same.ci95[1]
    assert same.p_value > 0.05


def test_the_bootstraps_interval_is_that_of_the_t_test_for_many_cases() -> None:
    differences = np.random.default_rng(0).normal(0.1, 1.0, 400)
    found = paired_bootstrap({0: differences}, {0: np.zeros(400)}, samples=5000)
    by_t = paired_test(dict(enumerate(differences)), dict.fromkeys(range(400), 0.0))
    assert by_t.ci95 is not None
    assert found.mean_difference == pytest.approx(by_t.mean_difference)
    assert found.ci95 == pytest.approx(by_t.ci95, abs=0.01)


def test_the_same_cases_in_several_seeds_do_not_count_as_more_cases() -> None:
    rng = np.random.default_rng(2)
    cases = rng.normal(0.02, 0.3, 100)
    once = paired_bootstrap({0: cases}, {0: np.zeros(100)}, samples=2000)
    thrice = paired_bootstrap(dict.fromkeys(range(3), cases), dict.fromkeys(range(3), np.zeros(100)), samples=2000)
    assert thrice.n == 300
    assert thrice.ci95 == pytest.approx(once.ci95)


def test_seeds_with_other_cases_are_drawn_apart_and_weigh_the_same() -> None:
    a, b = {0: [1.0] * 10, 1: [0.0] * 1000, 5: [9.0]}, {0: [0.0] * 10, 1: [0.0] * 1000}
    found = paired_bootstrap(a, b, samples=200)
    assert found.n == 1010
    assert found.mean_difference == 0.5
    assert found.ci95 == (0.5, 0.5)


@pytest.mark.parametrize(
    ("a", "b"), [({}, {}), ({0: [1.0]}, {1: [1.0]}), ({0: []}, {0: []}), ({0: [1.0]}, {0: [1, 2]})]
)
def test_the_bootstrap_refuses_what_is_not_paired(a, b) -> None:
    with pytest.raises(ValueError, match="the same cases"):
        paired_bootstrap(a, b)
