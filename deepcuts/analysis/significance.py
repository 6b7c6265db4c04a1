"""Computes tests and intervals for few seeds: of a mean, of paired differences, of resampled predictions.

Arrays in, numbers out. S = seeds: one difference per seed, between two strategies that share everything else.
N = validation examples, the same for all seeds.

The distributions are scipy's. The functions of scipy.stats that wrap them are the references in the tests and not
called here, but for the binomial test: importing scipy.stats takes 0.9 s, which every table and curve would pay, and
per call they are many times slower, as noted beside each (`compare` makes a thousand calls for a large sweep).
statsmodels (Holm, equivalence, power) would be a new dependency for a few lines, without the exact sign-flip forms.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtr, stdtr, stdtrit

from deepcuts.experiment.metrics import FUNCTIONS, Floats, UndefinedMetric

LEVEL = 0.05
POWER = 0.8

# The interval is a studentised bootstrap from this many seeds on: fewer have too few different resamples.
BOOTSTRAP_SEEDS = 8
_RESAMPLES = 9999

# Metrics are fractions of examples: a spread below this is the rounding error of their differences.
_NO_SPREAD = 1e-12
_EXACT_SEEDS = 20
_FLIPS = 99_999
_MOST_SEEDS = 10_000


def half_width(n: ArrayLike, sd: ArrayLike, level: float = 0.95) -> NDArray[np.float64]:
    """Return half the width of Student's t interval of a mean of `n` values with sample deviation `sd`, elementwise.

    t(n - 1, (1 + level) / 2) * sd / sqrt(n) (Student 1908); NaN where n is below 2, as one value has no spread.
    """
    n, sd = np.asarray(n, np.float64), np.asarray(sd, np.float64)
    enough = n >= 2
    freedom = np.where(enough, n - 1, 1.0)
    width = stdtrit(freedom, (1 + level) / 2) * sd / np.sqrt(freedom + 1)
    return np.where(enough, width, np.nan)


def spread(differences: Floats) -> float:
    """Return the sample standard deviation of (S,): NaN for one difference, 0 where they differ only by rounding."""
    if len(differences) < 2:
        return float("nan")
    deviation = float(np.std(differences, ddof=1))
    return deviation if deviation > _NO_SPREAD else 0.0


def t_test(differences: Floats) -> float:
    """Return the two-sided p of the paired t test that the mean of (S,) is 0: Student 1908, S - 1 degrees of freedom.

    NaN where the differences have no spread: fewer than two, or all of them equal.
    """
    # Not scipy.stats.ttest_1samp: 0.04 ms against 1.7 ms, and it takes differences equal up to rounding for certain.
    deviation = spread(differences)
    if not deviation > 0:
        return float("nan")
    t = abs(differences.mean()) * np.sqrt(len(differences)) / deviation
    return float(2 * stdtr(len(differences) - 1, -t))


def sign_flip(differences: Floats, two_sided: bool = True) -> float:
    """Return the p of the sign-flip test of (S,): the fraction of sign choices with a sum as extreme as the one seen.

    All 2^S choices are counted up to 20 seeds, which makes p exact whenever the differences are symmetric about 0
    (Fisher 1935, "The Design of Experiments", section 21); no p is then below 2 / 2^S, or 1 / 2^S one-sided. Above 20
    seeds 99,999 random choices and the one seen are counted (the + 1 of Phipson and Smyth 2010). `two_sided` compares
    absolute sums; one-sided the alternative is a mean above 0.
    """
    # Not scipy.stats.permutation_test: 0.13 ms against 2.5 ms for 8 seeds, and it misses ties that differ by rounding,
    # which are common among fractions of examples (one-sided, 0.1, 0.2, -0.3 has p = 5/8; scipy 1.17 gives 4/8).
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
    """Return the smallest number of seeds at which a sign-flip test can have p <= level: 6 at 0.05, 5 one-sided."""
    return int(np.ceil(np.log2((2 if two_sided else 1) / level)))


def holm(values: ArrayLike) -> Floats:
    """Correct the p values (N,) of a family for their number.

    Holm 1979, "A simple sequentially rejective multiple test procedure": the k-th smallest is multiplied by N - k + 1,
    and none is smaller than the one before. A NaN stays NaN and is not counted in N.
    """
    # scipy.stats.false_discovery_control has Benjamini-Hochberg and -Yekutieli, which bound another error, not Holm.
    p = np.asarray(values, np.float64)
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected


def equivalence(differences: Floats, margin: float) -> float:
    """Return the p of the two one-sided tests that the mean of (S,) lies within ± margin.

    It is the largest p of both t tests (Schuirmann 1987, "A comparison of the two one-sided tests procedure") and of
    both exact sign-flip tests; because of the latter, fewer than 5 seeds never show equivalence. 1 for fewer than two
    differences.
    """
    if len(differences) < 2:
        return 1.0
    above, below = differences + margin, margin - differences
    return max(max(_one_sided(side), sign_flip(side, two_sided=False)) for side in (above, below))


def _one_sided(differences: Floats) -> float:
    """Return the p of the t test that the mean is 0 against above 0; without spread, 0 or 1 by the mean's sign."""
    mean, error = differences.mean(), spread(differences) / np.sqrt(len(differences))
    if error == 0:
        return 0.0 if mean > 0 else 1.0
    return float(stdtr(len(differences) - 1, -mean / error))


def interval(differences: Floats, level: float = 1 - LEVEL) -> tuple[float, float]:
    """Return the confidence interval (low, high) of the mean of (S,).

    Student's t interval below 8 seeds. From 8 seeds on the studentised bootstrap, which needs no normal distribution
    (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 12.5); the t interval again where many
    resamples have no spread, as with few values and many ties. NaN where the differences have no spread.
    """
    # Not scipy.stats.bootstrap, which is not studentised: its BCa interval of 8 normal differences held the mean in
    # 878 of 1,000 simulations, this one in 957.
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
    """Draw the resamples (9999, S) of S places, always the same, for intervals that repeat exactly."""
    return np.random.default_rng(0).integers(0, seeds, (_RESAMPLES, seeds))


def seeds_needed(difference: float, deviation: float, margin: float, level: float = LEVEL) -> float:
    """Return the fewest seeds that decide with 80 % power, if the differences have this mean and deviation.

    Deciding is either showing the difference (two-sided t test at `level`) or showing that it lies within ± margin,
    whichever takes fewer seeds. The powers are those of the noncentral t (Cohen 1988, "Statistical Power Analysis",
    chapter 2); that of both one-sided tests together is at least the sum of their powers - 1. NaN where the deviation
    is unknown, and where 10,000 seeds are not enough.
    """
    # statsmodels' TTestPower has the first of both powers, not that of equivalence.
    if not deviation >= 0:
        return float("nan")
    counts = range(_MOST_SEEDS + 1)
    fewest = min(
        bisect_left(
            counts,
            True,
            lo=fewest_seeds(),
            key=lambda n: _power_of_difference(n, difference, deviation, level) >= POWER,
        ),
        bisect_left(
            counts,
            True,
            lo=fewest_seeds(two_sided=False),
            key=lambda n: _power_of_equivalence(n, difference, deviation, margin, level) >= POWER,
        ),
    )
    return float(fewest) if fewest <= _MOST_SEEDS else float("nan")


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
    """Return P(t > critical) for noncentral t with n - 1 degrees of freedom; far from `critical`, 0 or 1."""
    if abs(shift) > 30 + critical:
        return float(shift > 0)
    return float(1 - nctdtr(n - 1, shift, critical))


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided exact p that two trials are right equally often.

    `only_a` and `only_b` count the examples that just one of them has right: binomial with probability 1/2 (McNemar
    1947, "Note on the sampling error of the difference between correlated proportions"; exact as in Fagerland et al.
    2013). 1 where both are 0.
    """
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
    """Bootstrap metric(ours) - metric(theirs), the mean over seeds: labels (N,), predictions (S, N) of each.

    Each resample draws seeds, then examples; the same examples for both strategies and for all seeds, which share one
    validation split (seeds and examples are crossed: Owen 2007, "The pigeonhole bootstrap"). Examples drawn separately
    for each seed would average out a noise that the seeds have in common. S - 1 of the S seeds are drawn, which makes
    the variance over few seeds unbiased (Rao and Wu 1988, "Resampling inference with complex survey data"). The
    interval is Student's, with the degrees of freedom of Satterthwaite (1946) for the two sources of variance:
    percentiles of so few seeds would be far too narrow. With one seed only the examples are resampled.

    Raises ValueError for an unknown metric and for arrays whose shapes do not match.
    """
    # Not scipy.stats.bootstrap: it resamples along one axis, and has no crossed design.
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
    """Return metric(ours) - metric(theirs) per row, (S,); a metric undefined in a resample is 0.0, as everywhere."""
    function = FUNCTIONS[metric]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetric)
        return np.array([function(labels, a) - function(labels, b) for a, b in zip(ours, theirs, strict=True)])


def _freedom(variance: float, seen: Floats, examples: int) -> float:
    """Return Satterthwaite's degrees of freedom of a variance: one part from the seeds, the rest from the examples."""
    by_example = max(1.0, examples - 1.0)
    if len(seen) < 2 or variance <= 0:
        return by_example
    of_seeds = min(float(seen.var(ddof=1)) / len(seen), variance)
    rest = variance - of_seeds
    return float(variance**2 / (of_seeds**2 / (len(seen) - 1) + rest**2 / by_example))
