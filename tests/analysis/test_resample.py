from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from deepcuts.analysis.significance import two_level

LABELS = np.tile([0.0, 1.0], 100)


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


@pytest.mark.parametrize("seed_spread", [0.0, 0.05])
def test_intervals_hold_the_truth_over_new_seeds_and_new_examples(seed_spread: float) -> None:
    # examples differ in how hard they are, for all seeds alike, and seeds in how good they are
    generator = np.random.default_rng(4)
    covered = []
    for _ in range(150):
        hard = generator.normal(0, 0.15, len(LABELS))
        better = 0.1 + generator.normal(0, seed_spread, (4, 1))
        ours, theirs = (
            np.where(generator.random((4, 200)) < np.clip(rate, 0, 1), LABELS, 1 - LABELS)
            for rate in (0.75 + better + hard, 0.75 - hard)
        )
        found = two_level(LABELS, ours, theirs, "accuracy", resamples=100)
        covered.append(found.low <= 0.1 <= found.high)
    assert np.mean(covered) >= 0.91
