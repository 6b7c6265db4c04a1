"""Tests and intervals for few seeds: of a mean, of paired differences, of resampled predictions (arrays to numbers).

S = seeds: the difference of two strategies that share everything but the strategy, one per seed.
N = validation examples, which all seeds share.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtr, stdtr, stdtrit

from deepcuts.experiment.metrics import FUNCTIONS, Floats, UndefinedMetric


def half_width(n: ArrayLike, sd: ArrayLike, level: float = 0.95) -> NDArray[np.float64]:
    """Half the width of Student's t interval of a mean of `n` values with sample deviation `sd`, elementwise.

    t(n - 1, (1 + level) / 2) * sd / sqrt(n) (Student 1908); NaN where n is below 2: one value has no spread.
    """
    n, sd = np.asarray(n, np.float64), np.asarray(sd, np.float64)
    enough = n >= 2
    freedom = np.where(enough, n - 1, 1.0)
    width = stdtrit(freedom, (1 + level) / 2) * sd / np.sqrt(freedom + 1)
    return np.where(enough, width, np.nan)


LEVEL = 0.05
POWER = 0.8

# From so many seeds on the interval is a studentised bootstrap: fewer have too few resamples that differ.
BOOTSTRAP_SEEDS = 8
_RESAMPLES = 9999

# Metrics are fractions of examples: a smaller spread than this is the rounding of their differences.
_NO_SPREAD = 1e-12
_EXACT_SEEDS = 20
_FLIPS = 99_999
_MOST_SEEDS = 10_000


def spread(differences: Floats) -> float:
    """Sample standard deviation of (S,): NaN for one difference, 0 where they differ by rounding alone."""
    if len(differences) < 2:
        return float("nan")
    deviation = float(np.std(differences, ddof=1))
    return deviation if deviation > _NO_SPREAD else 0.0


def t_test(differences: Floats) -> float:
    """Two-sided p of the paired t test that the mean of (S,) is 0 (Student 1908), S - 1 degrees of freedom.

    NaN where the differences have no spread: fewer than two, or all of them the same.
    """
    deviation = spread(differences)
    if not deviation > 0:
        return float("nan")
    t = abs(differences.mean()) * np.sqrt(len(differences)) / deviation
    return float(2 * stdtr(len(differences) - 1, -t))


def sign_flip(differences: Floats, two_sided: bool = True) -> float:
    """p of the sign-flip test of (S,): the share of all 2^S choices of signs whose sum is as far from 0 as the
    one seen (as high, one-sided), which is exact whenever the differences are symmetric about 0.

    No p is below 2 / 2^S (1 / 2^S one-sided). Above 20 seeds 99,999 random choices and the one seen stand for all
    (Fisher 1935, "The Design of Experiments", section 21; Phipson and Smyth 2010 for the + 1).
    """
    seen = float(differences.sum())
    slack = 1e-9 * max(1e-300, float(np.abs(differences).sum()))
    if len(differences) <= _EXACT_SEEDS:
        sums = np.zeros(1)
        for difference in differences:
            sums = np.concatenate([sums + difference, sums - difference])
    else:
        signs = np.random.default_rng(0).integers(0, 2, (_FLIPS, len(differences)), np.int8) * 2 - 1
        sums = np.append(signs @ differences, seen)
    as_far = np.abs(sums) >= abs(seen) - slack if two_sided else sums >= seen - slack
    return float(as_far.mean())


def fewest_seeds(level: float = LEVEL, two_sided: bool = True) -> int:
    """The number of seeds below which no sign-flip test can have p <= level: 6 at 0.05, 5 one-sided."""
    return int(np.ceil(np.log2((2 if two_sided else 1) / level)))


def holm(values: ArrayLike) -> Floats:
    """p values (N,) of a family corrected for their number: Holm 1979, "A simple sequentially rejective multiple
    test procedure". The k-th smallest is multiplied by N - k + 1, and none is below the one before. NaN stays."""
    p = np.asarray(values, np.float64)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected


def equivalence(differences: Floats, margin: float) -> float:
    """p of the two one-sided tests that the mean of (S,) lies within ± margin: the larger of both (Schuirmann
    1987, "A comparison of the two one-sided tests procedure"), and of their exact sign-flip forms, so that fewer
    than 5 seeds never show it. 1 for fewer than two differences."""
    if len(differences) < 2:
        return 1.0
    above, below = differences + margin, margin - differences
    return max(max(_one_sided(side), sign_flip(side, two_sided=False)) for side in (above, below))


def _one_sided(differences: Floats) -> float:
    """p of the t test that the mean is 0, against being above; without spread 0 or 1, by the sign."""
    mean, error = differences.mean(), spread(differences) / np.sqrt(len(differences))
    if error == 0:
        return 0.0 if mean > 0 else 1.0
    return float(stdtr(len(differences) - 1, -mean / error))


def interval(differences: Floats, level: float = 1 - LEVEL) -> tuple[float, float]:
    """Confidence interval of the mean of (S,): Student's t, from 8 seeds on the studentised bootstrap, which
    needs no normal distribution (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 12.5).

    NaN where the differences have no spread, as `t_test`. Where resamples often have none, as of a few values and
    many ties, the t interval stands in.
    """
    deviation = spread(differences)
    if not deviation > 0:
        return float("nan"), float("nan")
    mean = float(differences.mean())
    if len(differences) >= BOOTSTRAP_SEEDS:
        sample = differences[_draws(len(differences))]
        errors = sample.std(axis=1, ddof=1)
        if np.mean(errors <= _NO_SPREAD) < (1 - level) / 4:
            t = (sample.mean(axis=1) - mean) / np.maximum(errors, _NO_SPREAD)
            low, high = np.quantile(t, [(1 - level) / 2, (1 + level) / 2])
            return mean - float(high) * deviation, mean - float(low) * deviation
    half = float(half_width(len(differences), deviation, level))
    return mean - half, mean + half


@cache
def _draws(seeds: int) -> NDArray[np.int64]:
    """The resamples (9999, S) of S places, always the same: an interval does not change when asked for again."""
    return np.random.default_rng(0).integers(0, seeds, (_RESAMPLES, seeds))


def seeds_needed(difference: float, deviation: float, margin: float, level: float = LEVEL) -> float:
    """The fewest seeds that would decide with 80 % power, were the mean and deviation of the differences these:
    show the difference (two-sided t test at `level`) or show that it lies within ± margin, whichever takes fewer.

    The powers are those of the noncentral t (Cohen 1988, "Statistical Power Analysis", chapter 2; both one-sided
    tests together at least the sum of their powers - 1). NaN where the deviation is unknown, and where 10,000
    seeds are not enough.
    """
    if not deviation >= 0:
        return float("nan")
    to_differ = _first(lambda n: _power_of_difference(n, difference, deviation, level) >= POWER, fewest_seeds())
    to_agree = _first(
        lambda n: _power_of_equivalence(n, difference, deviation, margin, level) >= POWER,
        fewest_seeds(two_sided=False),
    )
    return float(min((n for n in (to_differ, to_agree) if n is not None), default=float("nan")))


def _first(enough: Callable[[int], bool], fewest: int) -> int | None:
    """The first n from `fewest` on with enough(n), which stays true once it is; None above 10,000."""
    low, high = fewest - 1, fewest
    while not enough(high):
        low, high = high, high * 2
        if low > _MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high if high <= _MOST_SEEDS else None


def _power_of_difference(n: int, difference: float, deviation: float, level: float) -> float:
    if deviation == 0:
        return float(difference != 0)
    shift = abs(difference) * np.sqrt(n) / deviation
    return float(_above(n, shift, stdtrit(n - 1, 1 - level / 2)))


def _power_of_equivalence(n: int, difference: float, deviation: float, margin: float, level: float) -> float:
    if deviation == 0:
        return float(abs(difference) < margin)
    critical = stdtrit(n - 1, 1 - level)
    sides = [(margin - sign * difference) * np.sqrt(n) / deviation for sign in (1, -1)]
    return float(sum(_above(n, side, critical) for side in sides) - 1)


def _above(n: int, shift: float, critical: float) -> float:
    """P(t > critical) for noncentral t with n - 1 degrees of freedom; far beyond it, certainty."""
    if abs(shift) > 30 + critical:
        return float(shift > 0)
    return float(1 - nctdtr(n - 1, shift, critical))


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p that two trials are right equally often, from the examples that only one of them has
    right: binomial with probability 1/2 (McNemar 1947, "Note on the sampling error of the difference between
    correlated proportions"; exact as in Fagerland et al. 2013). 1 where there are none."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


@dataclass(frozen=True)
class Resampled:
    """A mean difference of a metric over seeds, its standard error and its 95 % interval."""

    difference: float
    error: float
    low: float
    high: float


def two_level(
    labels: Floats, ours: Floats, theirs: Floats, metric: str, resamples: int = 1000, level: float = 0.95
) -> Resampled:
    """Paired bootstrap of metric(ours) - metric(theirs), the mean over seeds: labels (N,), predictions (S, N) each.

    Every resample draws seeds, then examples: the same examples for both strategies, and for all seeds, which share
    one validation split (seeds and examples are crossed: Owen 2007, "The pigeonhole bootstrap"; examples drawn anew
    for each seed would average out a noise that the seeds have in common). Of S seeds S - 1 are drawn, which makes
    the variance over few seeds unbiased (Rao and Wu 1988, "Resampling inference with complex survey data"). The
    interval is Student's, with the degrees of freedom of Satterthwaite (1946) for the two sources: percentiles of
    so few seeds would be far too narrow. One seed: the examples alone.

    Raises ValueError for an unknown metric or arrays that do not fit together.
    """
    if metric not in FUNCTIONS:
        raise ValueError(f"no function gives metric {metric!r} from predictions; known: {', '.join(FUNCTIONS)}")
    if ours.shape != theirs.shape or ours.shape[1:] != labels.shape or not ours.size:
        raise ValueError(
            f"labels {labels.shape}, predictions {ours.shape} and {theirs.shape}: need (N,), (S, N) and (S, N)"
        )
    seeds, examples = ours.shape
    seen = _metric_differences(labels, ours, theirs, metric)
    generator = np.random.default_rng(0)
    drawn = np.empty(resamples)
    for i in range(resamples):
        some = generator.integers(0, seeds, max(1, seeds - 1)) if seeds > 1 else np.zeros(1, np.int64)
        which, repeats = np.unique(some, return_counts=True)
        places = generator.integers(0, examples, examples)
        values = _metric_differences(labels[places], ours[which][:, places], theirs[which][:, places], metric)
        drawn[i] = values @ repeats / repeats.sum()
    error = float(drawn.std(ddof=1))
    half = stdtrit(_freedom(error**2, seen, examples), (1 + level) / 2) * error
    mean = float(seen.mean())
    return Resampled(mean, error, float(mean - half), float(mean + half))


def _metric_differences(labels: Floats, ours: Floats, theirs: Floats, metric: str) -> Floats:
    """metric(ours) - metric(theirs) per row, (S,); what is undefined in a resample counts as 0.0, as anywhere."""
    function = FUNCTIONS[metric]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetric)
        return np.array([function(labels, a) - function(labels, b) for a, b in zip(ours, theirs, strict=True)])


def _freedom(variance: float, seen: Floats, examples: int) -> float:
    """Degrees of freedom of a variance of which the seeds have their part, and the examples the rest."""
    by_example = max(1.0, examples - 1.0)
    if len(seen) < 2 or variance <= 0:
        return by_example
    of_seeds = min(float(seen.var(ddof=1)) / len(seen), variance)
    rest = variance - of_seeds
    return float(variance**2 / (of_seeds**2 / (len(seen) - 1) + rest**2 / by_example))
