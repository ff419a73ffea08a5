"""The test, the interval and the power against sums written out in whole numbers, and against simulation."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from ingot.validate.answers import statistics
from ingot.validate.answers.statistics import bootstrap, compare, mcnemar, most_that_differ, power, sees, smallest_drop


def coin_p(one: int, other: int) -> Fraction:
    """P(a split at least as uneven), a fair coin, by enumeration of all 2^m outcomes' counts."""
    m = one + other
    as_far = [k for k in range(m + 1) if abs(2 * k - m) >= abs(one - other)]
    return Fraction(sum(math.comb(m, k) for k in as_far), 2**m)


def test_mcnemar_is_the_enumeration_of_a_fair_coin() -> None:
    for one, other in itertools.product(range(25), repeat=2):
        assert mcnemar(one, other) == pytest.approx(float(coin_p(one, other)), rel=1e-12)
    for one, other in ((300, 340), (1000, 1200), (0, 900)):
        assert mcnemar(one, other) == pytest.approx(float(coin_p(one, other)), rel=1e-9)


def test_mcnemar_agrees_with_scipys_binomial_test() -> None:
    from scipy.stats import binomtest

    for one, other in ((5, 1), (59, 80), (0, 6), (12345, 12000)):
        assert mcnemar(one, other) == pytest.approx(binomtest(one, one + other, 0.5).pvalue, rel=1e-9)


def test_the_bootstrap_of_four_samples_is_the_enumeration_of_all_resamples() -> None:
    differences = np.array([-1.0, 0.0, 0.25, 1.0])
    means = np.sort([np.mean(draw) for draw in itertools.product(differences, repeat=4)])
    low, high = bootstrap(differences, confidence=0.8, seed=1, resamples=200_000)
    assert low in means
    assert high in means
    assert np.mean(means < low) <= 0.1 + 0.01
    assert np.mean(means <= low) >= 0.1 - 0.01
    assert np.mean(means > high) <= 0.1 + 0.01
    assert np.mean(means >= high) >= 0.1 - 0.01


def test_the_bootstrap_agrees_with_scipys() -> None:
    from scipy.stats import bootstrap as scipys

    rng = np.random.default_rng(5)
    differences = rng.choice([-1.0, 0.0, 0.5, 1.0], size=300, p=[0.12, 0.7, 0.1, 0.08])
    ours = bootstrap(differences, confidence=0.95, seed=0, resamples=10_000)
    theirs = scipys((differences,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_the_interval_does_not_depend_on_how_much_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(0).normal(size=50)
    whole = bootstrap(differences, confidence=0.95, seed=3, resamples=1000)
    monkeypatch.setattr(statistics, "_HELD", 7 * 50)
    assert bootstrap(differences, confidence=0.95, seed=3, resamples=1000) == whole
    assert bootstrap(differences, confidence=0.95, seed=4, resamples=1000) != whole


@pytest.mark.parametrize(("samples", "worse", "better"), [(100, 0.10, 0.05), (256, 0.06, 0.03), (1000, 0.03, 0.02)])
def test_the_interval_covers_the_truth_as_often_as_it_says(samples: int, worse: float, better: float) -> None:
    rng = np.random.default_rng(11)
    trials = 400
    drawn = rng.choice([-1.0, 1.0, 0.0], size=(trials, samples), p=[worse, better, 1 - worse - better])
    intervals = [bootstrap(row, confidence=0.95, seed=n, resamples=2000) for n, row in enumerate(drawn)]
    covered = np.mean([low <= better - worse <= high for low, high in intervals])
    # 0.95 within four standard errors of 400 trials
    assert 0.906 <= covered <= 0.994


def exact_power(samples: int, worse: float, better: float) -> float:
    """Sum over all tables of the trinomial."""
    total = 0.0
    for b in range(samples + 1):
        for c in range(samples + 1 - b):
            if coin_p(b, c) <= Fraction(1, 20):
                ways = math.comb(samples, b) * math.comb(samples - b, c)
                total += ways * worse**b * better**c * (1 - worse - better) ** (samples - b - c)
    return total


@pytest.mark.parametrize(
    ("samples", "drop", "differing"), [(20, 0.3, 0.4), (30, 0.2, 0.2), (40, 0.1, 0.5), (12, 0.9, 1.0), (5, 0.5, 0.5)]
)
def test_power_is_the_sum_over_all_tables(samples: int, drop: float, differing: float) -> None:
    worse, better = (differing + drop) / 2, max(0.0, (differing - drop) / 2)
    assert power(samples, drop, differing) == pytest.approx(exact_power(samples, worse, better), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("samples", "differing"), [(256, 14), (256, 0), (1000, 100), (50, 5)])
def test_the_smallest_drop_is_found_four_times_in_five(samples: int, differing: int) -> None:
    drop = smallest_drop(samples, differing)
    assert drop is not None
    share = max(differing / samples, drop)
    rng = np.random.default_rng(2)
    tables = rng.multinomial(samples, [(share + drop) / 2, (share - drop) / 2, 1 - share], size=4000)
    found = np.mean([mcnemar(int(worse), int(better)) <= 0.05 for worse, better, _ in tables])
    assert found == pytest.approx(0.8, abs=0.025)
    assert power(samples, drop - 0.001, max(differing / samples, drop - 0.001)) < 0.8


def test_too_few_samples_show_nothing_and_it_is_said() -> None:
    assert smallest_drop(5, 5) is None
    assert "cannot show a drop" in sees(5, 2)
    assert smallest_drop(6, 0) == pytest.approx(0.8 ** (1 / 6), abs=2e-4)  # all six must turn wrong


def test_when_nothing_differs_the_bound_is_that_of_the_rule_of_three() -> None:
    for samples in (30, 256, 10_000):
        assert most_that_differ(samples) == pytest.approx(3 / samples, rel=0.06)
        assert (1 - most_that_differ(samples)) ** samples == pytest.approx(0.05)
    assert "fewer than 1.2 %" in sees(256, 0)
    assert "3.1 points" in sees(256, 0)


def test_scores_of_the_same_samples_become_a_comparison() -> None:
    reference, candidate = [1.0] * 90 + [0.0] * 10, [1.0] * 78 + [0.4] * 12 + [0.5] * 2 + [0.0] * 8
    found = compare(reference, candidate, seed=1)
    assert (found.samples, found.only_reference, found.only_candidate) == (100, 12, 2)
    assert found.difference == pytest.approx(np.mean(candidate) - np.mean(reference))
    assert found.p_value == pytest.approx(float(coin_p(12, 2)))
    assert found.interval[0] < found.difference < found.interval[1] < 0
    assert "14 of 100 samples" in found.sees
    assert compare(reference, candidate, seed=1) == found


def test_equal_scores_have_p_one_and_no_width() -> None:
    found = compare([1.0, 0.0] * 128, [1.0, 0.0] * 128)
    assert (found.p_value, found.interval, found.difference) == (1.0, (0.0, 0.0), 0.0)


@pytest.mark.parametrize("pair", [([], []), ([1.0], [1.0, 0.0])])
def test_scores_of_different_samples_are_no_pair(pair: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="same samples"):
        compare(*pair)
