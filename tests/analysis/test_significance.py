from __future__ import annotations

import math
from bisect import bisect_left
from itertools import product

import numpy as np
import pytest
from scipy import stats

from deepcuts.analysis.significance import (
    corrected,
    critical_difference,
    equivalence,
    friedman,
    half_width,
    interval,
    is_shown,
    mcnemar,
    power,
    seeds_needed,
    sign_flip,
    spread,
    t_test,
    two_level,
    within_bounds,
)

NORMAL = np.random.default_rng(3).normal(0.4, 1, 9)
LABELS = np.tile([0.0, 1.0], 100)

# The interval of a mean


def test_three_values_by_hand() -> None:
    # t(2, 0.975) = 4.30265 (any table), sd 0.1: 4.30265 * 0.1 / sqrt(3)
    assert half_width(3, 0.1) == pytest.approx(0.248414, abs=1e-6)


def test_two_values_have_a_wide_interval_and_one_has_none() -> None:
    two, one, none = half_width([2, 1, 0], [1.0, math.nan, math.nan])
    assert two == pytest.approx(12.7062 / math.sqrt(2), rel=1e-5)
    assert math.isnan(one)
    assert math.isnan(none)


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert half_width(5, 0.0) == 0


def test_intervals_end_where_the_metric_does() -> None:
    metrics, low, high = ["accuracy", "matthews", "mse", "else"], [-0.2, -0.2, -0.2, -0.2], [1.4, 0.4, 1.4, 1.4]
    ends = within_bounds(metrics, low, high)
    assert [list(each) for each in ends] == [[0.0, -0.2, 0.0, -0.2], [1.0, 0.4, 1.4, 1.4]]
    ends = within_bounds(["accuracy", "matthews"], [-3.0, -3.0], [3.0, 1.5], differences=True)
    assert [list(each) for each in ends] == [[-1.0, -2.0], [1.0, 1.5]]


# Paired differences


def test_the_t_test_and_its_interval_are_those_of_scipy() -> None:
    seven = NORMAL[:7]
    reference = stats.ttest_1samp(seven, 0)
    assert t_test(seven) == pytest.approx(reference.pvalue, rel=1e-9)
    assert interval(seven) == pytest.approx(tuple(reference.confidence_interval()), rel=1e-9)


def test_tests_and_intervals_are_of_the_last_axis() -> None:
    many = np.random.default_rng(6).normal(0.2, 1, (2, 3, 7))
    reference = stats.ttest_1samp(many, 0, axis=-1)
    assert t_test(many) == pytest.approx(reference.pvalue)
    assert np.stack(interval(many)) == pytest.approx(np.stack(reference.confidence_interval()))
    assert equivalence(many, 0.5)[1, 2] == equivalence(many[1, 2], 0.5)


def test_sign_flips_are_counted_as_by_scipy() -> None:
    found = stats.permutation_test(
        (NORMAL, np.zeros(9)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=600
    )
    assert sign_flip(NORMAL) == pytest.approx(found.pvalue)


def test_sign_flips_one_sided_are_counted_as_by_scipy() -> None:
    found = stats.permutation_test((NORMAL,), np.sum, permutation_type="samples", alternative="greater")
    assert sign_flip(NORMAL, two_sided=False) == pytest.approx(found.pvalue)


def test_sums_that_are_equal_but_for_rounding_are_ties() -> None:
    # 0.1 + 0.2 - 0.3 is 5.6e-17: five of the sums 0.6, 0.4, 0.2, 0, 0, -0.2, -0.4, -0.6 are at least 0; scipy says 4
    assert sign_flip(np.array([0.1, 0.2, -0.3]), two_sided=False) == 5 / 8
    assert sign_flip(np.array([0.1, 0.2, -0.3])) == 1


def test_sign_flips_of_three_differences_by_hand() -> None:
    # sums 6, 4, 2, 0, 0, -2, -4, -6: two of eight as far as 6; from 1, 2, -3 all are as far as 0
    assert sign_flip(np.array([1.0, 2, 3])) == 0.25
    assert sign_flip(np.array([1.0, 2, 3]), two_sided=False) == 0.125
    assert sign_flip(np.array([1.0, 2, -3])) == 1.0


@pytest.mark.parametrize(("seeds", "smallest"), [(1, 1.0), (3, 0.25), (5, 0.0625), (6, 0.03125), (8, 0.0078125)])
def test_few_seeds_bound_the_sign_flip_test(seeds: int, smallest: float) -> None:
    assert sign_flip(np.full(seeds, 0.056)) == smallest
    assert sign_flip(np.arange(1.0, seeds + 1)) == smallest


def test_differences_equal_but_for_rounding_have_no_spread_and_are_certain() -> None:
    same = np.array([1.0 - 0.968, 0.9 - 0.868, 0.032])
    assert len(set(same)) > 1
    assert spread(same) == 0
    assert (t_test(same), t_test(same - 0.032)) == (0, 1)
    assert (equivalence(same, 0.04), equivalence(same, 0.03)) == (0, 1)
    assert all(math.isnan(end) for end in interval(same))


@pytest.mark.parametrize("seeds", [0, 1])
def test_fewer_than_two_differences_have_no_p(seeds: int) -> None:
    few = np.zeros(seeds)
    assert all(math.isnan(value) for value in (t_test(few), equivalence(few, 0.01), spread(few), *interval(few)))


def test_many_seeds_are_flipped_at_random_and_agree_with_the_t_test() -> None:
    many = np.random.default_rng(5).normal(0.25, 1, 40)
    assert sign_flip(many) == pytest.approx(t_test(many), abs=0.01)
    assert sign_flip(many) == sign_flip(many)
    assert sign_flip(many + 10) == pytest.approx(1e-5)


def test_the_rule_by_hand() -> None:
    assert corrected([0.01, 0.3, math.nan], 4) == pytest.approx([0.04, 1, math.nan], nan_ok=True)
    assert is_shown([0.05, 0.051, math.nan], 6).tolist() == [True, False, False]
    assert is_shown(0.0, [5, 6]).tolist() == [False, True]


def test_equivalence_is_the_larger_of_two_one_sided_t_tests() -> None:
    values = np.random.default_rng(2).normal(0.001, 0.01, 12)
    below = stats.ttest_1samp(values, 0.01, alternative="less").pvalue
    above = stats.ttest_1samp(values, -0.01, alternative="greater").pvalue
    assert equivalence(values, 0.01) == pytest.approx(max(below, above), rel=1e-9)


# Power


@pytest.mark.parametrize(("effect", "seeds"), [(1.0, 10), (0.8, 15), (0.5, 34), (0.2, 199)])
def test_seeds_needed_are_those_of_power_tables(effect: float, seeds: int) -> None:
    # Cohen 1988; G*Power: matched pairs, two-sided, level 0.05, power 0.8
    assert seeds_needed(effect, 1.0, margin=1e-9) == seeds


@pytest.mark.parametrize("rows", [1, 50])
@pytest.mark.parametrize("effect", [0.07, 0.3, 0.9, 2.5])
def test_the_power_to_show_a_difference_is_that_of_the_noncentral_t(effect: float, rows: int) -> None:
    for n in (n for n in (6, 7, 12, 40, 1000) if effect * np.sqrt(n) < 9):  # beyond, scipy's is NaN
        limit = stats.t.ppf(1 - 0.025 / rows, n - 1)
        reference = stats.nct.sf(limit, n - 1, effect * np.sqrt(n)) + stats.nct.cdf(-limit, n - 1, effect * np.sqrt(n))
        assert power(n, effect, 1e-9, rows) == pytest.approx(reference, abs=5e-4)


def test_seeds_needed_are_the_first_that_have_the_power() -> None:
    for difference, margin, rows in ((0.0, 0.7, 4), (0.5, 0.9, 10), (2.0, 1.0, 300)):
        powers = [power(n, difference, margin, rows) for n in range(6, 160)]
        first = next(n for n, each in enumerate(powers, 6) if each >= 0.8)
        assert seeds_needed(difference, 1.0, margin, rows) == first


def test_seeds_needed_without_spread_and_without_hope() -> None:
    assert seeds_needed(0.1, 0.0, margin=0.01) == 6
    assert seeds_needed(0.0, 0.0, margin=0.01, rows=1000) == 6
    assert math.isnan(seeds_needed(0.1, math.nan, margin=0.01))
    assert math.isnan(seeds_needed(0.01, 5.0, margin=0.01))


def test_mcnemar_by_hand() -> None:
    # 1 and 7 discordant: 2 * (1 + 8) / 2^8
    assert mcnemar(1, 7) == pytest.approx(18 / 256)
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == 1


# Calibration, by simulation


@pytest.mark.parametrize("seeds", [2, 3, 5, 8, 12])
def test_intervals_hold_the_truth_95_times_in_100(seeds: int) -> None:
    low, high = interval(np.random.default_rng(seeds).normal(0.3, 1, (20_000, seeds)))
    assert np.mean((low <= 0.3) & (high >= 0.3)) == pytest.approx(0.95, abs=0.006)


def test_type_one_errors_are_five_in_100() -> None:
    draws = np.random.default_rng(11).normal(0, 1, (20_000, 9))
    assert np.mean(t_test(draws) <= 0.05) == pytest.approx(0.05, abs=0.006)
    assert np.mean([sign_flip(draw) <= 0.05 for draw in draws[:1500]]) == pytest.approx(0.05, abs=0.015)


def test_sign_flips_hold_their_level_where_differences_are_far_from_normal() -> None:
    draws = np.random.default_rng(12).standard_cauchy((1500, 8))
    assert np.mean([sign_flip(draw) <= 0.05 for draw in draws]) <= 0.06


def test_equivalence_is_claimed_of_a_difference_as_large_as_the_margin_five_times_in_100() -> None:
    draws = np.random.default_rng(13).normal(0.01, 0.003, (20_000, 8))
    assert np.mean(equivalence(draws, 0.01) <= 0.05) == pytest.approx(0.05, abs=0.006)


def test_every_sum_of_signs_is_visited_once() -> None:
    values = np.array([0.3, -0.1, 0.7, 0.2])
    sums = [abs(np.dot(signs, values)) for signs in product((1, -1), repeat=4)]
    assert sign_flip(values) == np.mean(np.array(sums) >= abs(values.sum()) - 1e-12)


def flips_one_by_one(values: np.ndarray, two_sided: bool) -> float:
    """The sign-flip test of one row as it is defined: every choice up to 20 seeds, else 99,999 and the one seen."""
    seen, slack = values.sum(), 1e-9 * np.abs(values).sum()
    if len(values) <= 20:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
    else:
        signs = np.random.default_rng(0).integers(0, 2, (99_999, len(values)), np.int8) * 2 - 1
        sums = np.append(signs @ values, seen)
    return float(((np.abs(sums) >= abs(seen) - slack) if two_sided else (sums >= seen - slack)).mean())


@pytest.mark.parametrize("seeds", [1, 2, 3, 8, 15, 20, 21, 33])
@pytest.mark.parametrize("two_sided", [True, False])
def test_sign_flips_of_many_rows_are_those_of_each(seeds: int, two_sided: bool) -> None:
    rows = np.random.default_rng(seeds).normal(0.2, 1, (6, seeds)).round(1)  # rounded, so that sums are tied
    rows = np.concatenate([rows, np.zeros((1, seeds)), -np.abs(rows[:1])])
    found = sign_flip(rows, two_sided)
    assert found.tolist() == [flips_one_by_one(row, two_sided) for row in rows]
    assert sign_flip(rows.reshape(2, 4, seeds), two_sided).ravel().tolist() == found.tolist()


def test_seeds_needed_by_many_rows_are_those_of_each_row_alone() -> None:
    generator = np.random.default_rng(8)
    means, deviations = generator.normal(0, 0.02, 700), np.abs(generator.normal(0, 0.03, 700))
    deviations[:2] = 0, math.nan
    found = seeds_needed(means, deviations, 0.01, 50)
    alone = [float(seeds_needed(*each, 0.01, 50)) for each in zip(means[:40], deviations[:40], strict=True)]
    assert found[:40].tolist() == pytest.approx(alone, rel=0, abs=0, nan_ok=True)
    counts = range(6, 10_001)
    for mean, deviation, needed in zip(means[2:8], deviations[2:8], found[2:8], strict=True):
        place = bisect_left(counts, 0.8, key=lambda n: power(n, abs(mean) / deviation, 0.01 / deviation, 50))  # noqa: B023
        assert needed == counts[place] if place < len(counts) else math.isnan(needed)


# Resampled predictions


def answers(generator: np.random.Generator, rates: np.ndarray) -> np.ndarray:
    """Predictions (S, 200) that are right with each seed's probability."""
    right = generator.random((len(rates), len(LABELS))) < rates[:, None]
    return np.where(right, LABELS, 1 - LABELS)


def test_one_seed_has_the_error_of_its_examples() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = answers(generator, np.array([0.9])), answers(generator, np.array([0.8]))
    found = two_level(LABELS, ours, theirs, "accuracy")
    right = (ours[0] == LABELS).astype(float) - (theirs[0] == LABELS)
    assert found.difference == pytest.approx(right.mean())
    assert found.error == pytest.approx(right.std() / np.sqrt(len(right)), rel=0.08)
    assert found.high - found.difference == pytest.approx(stats.t.ppf(0.975, 199) * found.error)


def test_seeds_that_differ_widen_the_interval_with_their_few_degrees_of_freedom() -> None:
    # exactly 50 %, 70 % and 90 % right, the same examples every time: the spread is that of the seeds
    ours = np.stack([np.where(np.arange(200) < rate * 200, LABELS, 1 - LABELS) for rate in (0.5, 0.7, 0.9)])
    theirs = np.stack([np.where(np.arange(200) < 100, LABELS, 1 - LABELS)] * 3)
    found = two_level(LABELS, ours, theirs, "accuracy")
    assert found.difference == pytest.approx(0.2)
    assert found.error == pytest.approx(0.2 / np.sqrt(3), rel=0.15)
    assert found.high - found.low > 2 * 3 * found.error


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_the_variance_of_a_mean_over_the_examples_is_that_of_many_resamples(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(3)
    ours, theirs = (answers(generator, np.array(rates)) for rates in ([0.9, 0.8, 0.9], [0.7, 0.7, 0.8]))
    ours[:, :60] = ours[0, :60]  # the examples matter to all seeds
    known = two_level(LABELS, ours, theirs, metric)
    monkeypatch.setattr("deepcuts.analysis.significance._SCORES", {})
    resampled = two_level(LABELS, ours, theirs, metric, resamples=3000)
    assert known.difference == resampled.difference
    assert known.error == pytest.approx(resampled.error, rel=0.03)
    assert (known.low, known.high) == pytest.approx((resampled.low, resampled.high), abs=0.01)


def test_no_interval_of_a_difference_is_wider_than_the_metric() -> None:
    rates = np.array([[1.0, 0.5], [0.2, 0.4]])  # differences of 0.8 and 0.1: by Student -4 to 4.9
    ours, theirs = (
        np.stack([np.where(np.arange(200) < rate * 200, LABELS, 1 - LABELS) for rate in some]) for some in rates
    )
    found = two_level(LABELS, ours, theirs, "accuracy")
    assert (found.low, found.difference, found.high) == (-1, pytest.approx(0.45), 1)


def test_the_same_predictions_differ_by_nothing() -> None:
    ours = answers(np.random.default_rng(1), np.array([0.7, 0.8]))
    found = two_level(LABELS, ours, ours, "matthews")
    assert (found.difference, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews", "pearson", "spearman", "mse"])
def test_any_metric_can_be_resampled_and_comes_out_the_same_twice(metric: str) -> None:
    generator = np.random.default_rng(2)
    ours, theirs = (answers(generator, np.array([0.7, 0.9])) for _ in range(2))
    found = two_level(LABELS, ours, theirs, metric, resamples=50)
    assert found == two_level(LABELS, ours, theirs, metric, resamples=50)
    assert found.low < found.difference < found.high


def test_an_undefined_metric_of_a_resample_is_zero_and_no_warning() -> None:
    constant = np.zeros((2, 200))
    found = two_level(LABELS, constant, constant, "matthews", resamples=20)
    assert found.error == 0


@pytest.mark.parametrize(
    ("ours", "metric", "message"),
    [
        (np.zeros((2, 200)), "acuracy", "no function gives metric 'acuracy'"),
        (np.zeros((2, 199)), "accuracy", "need"),
        (np.zeros((0, 200)), "accuracy", "need"),
    ],
)
def test_mistakes_are_named(ours: np.ndarray, metric: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_level(LABELS, ours, ours, metric)


# Ranks

# Table 5(a) of Demšar 2006: the critical values at 5 % for 2 to 10 arms.
NEMENYI = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]


def test_the_critical_difference_is_that_of_the_table_of_demsar() -> None:
    for arms, q in enumerate(NEMENYI, 2):
        assert critical_difference(arms, 9) == pytest.approx(q * np.sqrt(arms * (arms + 1) / 54), abs=0.001)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)  # his example
    assert np.isnan(critical_difference(1, 9))


def test_friedman_is_that_of_scipy_with_and_without_ties() -> None:
    for highest in (1000, 4):
        values = np.random.default_rng(highest).integers(0, highest, (7, 4)).astype(np.float64)
        ranks = np.array([stats.rankdata(-row) for row in values])
        assert friedman(ranks) == pytest.approx(stats.friedmanchisquare(*values.T).pvalue)


def test_friedman_of_two_arms_is_a_sign_test_and_of_ties_alone_shows_nothing() -> None:
    assert friedman(np.array([[1.0, 2]] * 6)) == pytest.approx(stats.chi2.sf(6, 1))
    assert friedman(np.full((5, 3), 2.0)) == 1
    assert np.isnan(friedman(np.ones((5, 1))))
