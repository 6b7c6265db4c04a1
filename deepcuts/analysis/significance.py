"""Computes tests and intervals for few seeds: of a mean, of paired differences, of resampled predictions.

Arrays in, numbers out. S = seeds: one difference per seed, between two strategies that share everything else.
N = validation examples, the same for all seeds. R = resamples of these.

`docs/statistics.md` explains the rule of the verdicts and `benchmarks/verdicts.py` simulates it.

The distributions are scipy's. The functions of scipy.stats that wrap them are the references in the tests and not
called here, but for the binomial test and the studentized range: importing scipy.stats takes 0.9 s, which every table
and curve would pay, and per call they are many times slower, as noted beside each (`compare` makes a thousand calls for
a large sweep).
statsmodels (equivalence, power) would be a new dependency for a few lines, without the exact sign-flip forms.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, gammaincinv, ndtr, stdtr, stdtrit

from deepcuts.experiment.metrics import BOUNDS, FUNCTIONS, Floats, UndefinedMetric, metric_and_split

LEVEL = 0.05
POWER = 0.8

# No verdict is given with fewer seeds: differences symmetric about 0 all have the same sign in 2 of 2^S sweeps, which
# is more than 5 % below 6 seeds, and so few values cannot show whether a t test may be used.
FEWEST_SEEDS = 6

# A mean of fewer values has no interval in tables and figures, which show the values: that of two is ± 12.7 times
# their distance from the mean.
FEWEST_OF_INTERVAL = 3

# Metrics are fractions of examples: a spread below this is the rounding error of their differences.
_NO_SPREAD = 1e-12
_EXACT_SEEDS = 20
_FLIPS = 99_999
_AT_ONCE = 5_000_000  # sums of sign flips, which take 40 MB
_MOST_SEEDS = 10_000
# Metrics that are the mean of a score of each example: labels (N,), predictions (S, N) -> (S, N).
_SCORES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "accuracy": lambda labels, predictions: np.asarray(labels == predictions, np.float64),
    "mse": lambda labels, predictions: (labels - predictions) ** 2,
}
# The sample deviations over which a power is averaged: it is exact to 0.0002.
_DEVIATIONS = 512
_POWERS_AT_ONCE = 250  # each of them takes 4 * 512 numbers


def half_width(n: ArrayLike, sd: ArrayLike, level: float = 0.95) -> NDArray[np.float64]:
    """Return half the width of Student's t interval of a mean of `n` values with sample deviation `sd`, elementwise.

    t(n - 1, (1 + level) / 2) * sd / sqrt(n) (Student 1908); NaN where n is below 2, as one value has no spread.
    """
    n, sd = np.asarray(n, np.float64), np.asarray(sd, np.float64)
    enough = n >= 2
    freedom = np.where(enough, n - 1, 1.0)
    width = stdtrit(freedom, (1 + level) / 2) * sd / np.sqrt(freedom + 1)
    return np.where(enough, width, np.nan)


def within_bounds(
    metrics: Iterable[str], low: ArrayLike, high: ArrayLike, differences: bool = False
) -> tuple[Floats, Floats]:
    """Cut intervals (N,) of means of these metrics (N,), or of their `differences`, at the bounds of what can be.

    The true mean is within the bounds, so that what is left of an interval holds it as often as the whole did.
    """
    names = [metric_and_split(metric)[0] for metric in metrics]
    bounds = np.array([BOUNDS.get(name, (-np.inf, np.inf)) for name in names], np.float64).reshape(-1, 2)
    lowest, highest = bounds.T
    if differences:
        lowest, highest = lowest - highest, highest - lowest
    return np.maximum(low, lowest), np.minimum(high, highest)


def spread(differences: Floats) -> Floats:
    """Return the sample standard deviation over the last axis of (..., S).

    NaN for one difference, 0 where they differ only by rounding.
    """
    if differences.shape[-1] < 2:
        return np.full(differences.shape[:-1], np.nan)
    deviation = np.std(differences, axis=-1, ddof=1)
    return np.where(deviation > _NO_SPREAD, deviation, 0.0)


def t_test(differences: Floats) -> Floats:
    """Return the two-sided p of the paired t test that the mean over the last axis of (..., S) is 0.

    Student 1908, S - 1 degrees of freedom. Differences without spread are taken as certain: p is 1 where they are 0
    and else 0. NaN for fewer than two.
    """
    # Not scipy.stats.ttest_1samp: 0.04 ms against 1.7 ms, and it takes differences equal up to rounding for certain.
    return 2 * _p_above(np.abs(_mean(differences)), differences)


def equivalence(differences: Floats, margin: float) -> Floats:
    """Return the p of the two one-sided t tests that the mean over the last axis of (..., S) lies within ± margin.

    The larger of both (Schuirmann 1987, "A comparison of the two one-sided tests procedure"). Differences without
    spread are taken as certain: p is 0 where they are within the margin. NaN for fewer than two.
    """
    return _p_above(margin - np.abs(_mean(differences)), differences)


def _mean(differences: Floats) -> Floats:
    return np.asarray(differences.mean(axis=-1) if differences.shape[-1] else np.full(differences.shape[:-1], np.nan))


def _p_above(mean: Floats, differences: Floats) -> Floats:
    """Return the one-sided p of the t test that a mean with the spread of `differences` (..., S) is above 0."""
    seeds, deviation = differences.shape[-1], spread(differences)
    certain = np.where(mean > _NO_SPREAD, np.inf, np.where(mean < -_NO_SPREAD, -np.inf, 0.0))
    t = np.divide(mean * np.sqrt(seeds), deviation, out=certain, where=deviation != 0)
    return np.asarray(stdtr(max(1, seeds - 1), -t))


def corrected(p: ArrayLike, rows: int) -> Floats:
    """Correct p values for the number of rows that are compared: each is multiplied by it (Bonferroni).

    This bounds the chance of any false verdict, of both kinds together: a row whose true difference is 0 can only be
    wrong by showing a difference, one whose true difference is the margin or more only by showing equivalence. Holm's
    procedure for each kind would bound only its own; both together could be wrong in up to 10 % of all sweeps.
    """
    return np.minimum(1.0, np.asarray(p, np.float64) * rows)


def is_shown(p_corrected: ArrayLike, seeds: ArrayLike) -> NDArray[np.bool_]:
    """Return where a corrected p value decides: at most 0.05, from at least 6 seeds. The rule of every verdict."""
    return (np.asarray(p_corrected) <= LEVEL) & (np.asarray(seeds) >= FEWEST_SEEDS)


def sign_flip(differences: Floats, two_sided: bool = True) -> Floats:
    """Return the p of the sign-flip test over the last axis of (..., S): how many sign choices are as extreme.

    It is the fraction of choices with a sum as extreme as the one seen. All 2^S choices are counted up to 20 seeds,
    which makes p exact whenever the differences are symmetric about 0 (Fisher 1935, "The Design of Experiments",
    section 21); no p is then below 2 / 2^S, or 1 / 2^S one-sided. Above 20 seeds 99,999 random choices and the one seen
    are counted (the + 1 of Phipson and Smyth 2010). `two_sided` compares absolute sums; one-sided the alternative is a
    mean above 0. NaN for no differences.
    """
    # Not scipy.stats.permutation_test: 0.13 ms against 2.5 ms for 8 seeds, and it misses ties that differ by rounding,
    # which are common among fractions of examples (one-sided, 0.1, 0.2, -0.3 has p = 5/8; scipy 1.17 gives 4/8).
    if not differences.shape[-1]:
        return np.full(differences.shape[:-1], np.nan)
    rows = differences.reshape(-1, differences.shape[-1])
    seen = rows.sum(axis=1)
    slack = 1e-9 * np.maximum(1e-300, np.abs(rows).sum(axis=1))
    least = (np.abs(seen) if two_sided else seen) - slack
    if rows.shape[1] <= _EXACT_SEEDS:
        count, choices = _exact_flips(rows, least, two_sided), 2 ** rows.shape[1]
    else:
        count, choices = 1 + _random_flips(rows, least, two_sided), _FLIPS + 1
    return np.asarray(count / choices).reshape(differences.shape[:-1])


def _exact_flips(rows: Floats, least: Floats, two_sided: bool) -> NDArray[np.int64]:
    """Count for each row (R, S) the sign choices whose sum, or absolute sum, is at least `least` (R,).

    The sums of half of the seeds are sorted, so that those which reach `least` with a sum of the others are found by
    bisection: 2^(S/2) steps, where all sums are 2^S (13 ms a row for 20 seeds).
    """
    half = rows.shape[1] // 2
    few, others = np.sort(_sums(rows[:, :half])), _sums(rows[:, half:])
    counts = [
        few.shape[1] * others.shape[1] - np.searchsorted(some, at - rest).sum()
        for some, rest, at in zip(few, others, least, strict=True)
    ]
    above = np.array(counts, np.int64)
    if not two_sided:
        return above
    return np.where(least <= 0, few.shape[1] * others.shape[1], 2 * above)  # each sum has its negative


def _sums(rows: Floats) -> Floats:
    """Return the sums (R, 2^S) of all sign choices of rows (R, S)."""
    sums = np.zeros((len(rows), 1))
    for column in rows.T[:, :, None]:
        sums = np.concatenate([sums + column, sums - column], axis=1)
    return sums


def _random_flips(rows: Floats, least: Floats, two_sided: bool) -> NDArray[np.int64]:
    """Count for each row (R, S) those of _FLIPS random choices whose sum, or absolute sum, is at least `least` (R,)."""
    signs = np.random.default_rng(0).integers(0, 2, (_FLIPS, rows.shape[1]), np.int8) * 2 - 1
    count = np.zeros(len(rows), np.int64)
    for some in np.array_split(signs, 1 + _FLIPS * len(rows) // _AT_ONCE):
        sums = some.astype(np.float64) @ rows.T
        count += ((np.abs(sums) if two_sided else sums) >= least).sum(axis=0)
    return count


def interval(differences: Floats) -> tuple[Floats, Floats]:
    """Return Student's 95 % interval (low, high) of the mean over the last axis of (..., S): that of the t test.

    NaN where the differences have no spread.
    """
    deviation, mean = spread(differences), _mean(differences)
    half = half_width(differences.shape[-1], np.where(deviation > 0, deviation, np.nan), 1 - LEVEL)
    return mean - half, mean + half


def seeds_needed(difference: ArrayLike, deviation: ArrayLike, margin: float, rows: int = 1) -> Floats:
    """Return, elementwise, the fewest seeds with which a row gets a verdict in at least 80 % of all sweeps.

    That is, if its differences are normal with this true mean and deviation, and it is one of `rows` rows; the other
    rows do not matter, as the correction is the same whatever they show. A verdict is one of either kind, by the rule
    of `is_shown`. NaN where the deviation is unknown, and where 10,000 seeds are not enough.
    """
    means, deviations = np.broadcast_arrays(np.abs(difference), np.asarray(deviation, np.float64))
    fewest = np.where(deviations == 0, float(FEWEST_SEEDS), np.nan)
    asked = np.flatnonzero(deviations > 0)
    low, high = np.full(len(asked), FEWEST_SEEDS), np.full(len(asked), _MOST_SEEDS + 1)
    effect, within = (each / deviations.flat[asked] for each in (means.flat[asked], margin))
    while (left := np.flatnonzero(low < high)).size:  # one bisection for all rows together
        for at in np.array_split(left, 1 + len(left) // _POWERS_AT_ONCE):
            middle = (low[at] + high[at]) // 2
            enough = power(middle, effect[at], within[at], rows) >= POWER
            high[at], low[at] = np.where(enough, middle, high[at]), np.where(enough, low[at], middle + 1)
    fewest.flat[asked] = np.where(low <= _MOST_SEEDS, low, np.nan)
    return fewest


def power(seeds: ArrayLike, difference: ArrayLike, margin: ArrayLike, rows: int = 1) -> Floats:
    """Return, elementwise, how often a row gets a verdict; `difference` and `margin` are in units of the deviation.

    Mean and sample deviation s of normal differences are independent. Given s, the t test shows a difference where the
    mean is beyond a = t(1 - 0.025 / rows) s / sqrt(S), and both one-sided tests show equivalence where it is below
    b = margin - t(1 - 0.05 / rows) s / sqrt(S). The chance of either is averaged over s: S - 1 times its square has a
    chi-squared distribution (as Owen 1965, "A special case of a bivariate non-central t-distribution").
    """
    seeds, difference, margin = (np.asarray(each)[..., None] for each in (seeds, difference, margin))
    s = np.stack([_deviations(int(each)) for each in seeds.flat]).reshape(*seeds.shape[:-1], -1) / np.sqrt(seeds)
    beyond = stdtrit(seeds - 1, 1 - LEVEL / 2 / rows) * s
    below = np.clip(margin - stdtrit(seeds - 1, 1 - LEVEL / rows) * s, 0, beyond)
    ends = (np.stack([beyond, -beyond, below, -below]) - difference) * np.sqrt(seeds)
    above_a, under_a, under_b, beneath_b = ndtr(ends)
    return np.asarray(np.mean(1 - above_a + under_a + under_b - beneath_b, axis=-1))


@cache
def _deviations(seeds: int) -> Floats:
    """Return equally likely sample deviations of normal values with deviation 1: quantiles of chi (512,)."""
    places = (np.arange(_DEVIATIONS) + 0.5) / _DEVIATIONS
    return np.asarray(np.sqrt(gammaincinv((seeds - 1) / 2, places) * 2 / (seeds - 1)))


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided exact p that two trials are right equally often.

    `only_a` and `only_b` count the examples that just one of them has right: binomial with probability 1/2 (McNemar
    1947, "Note on the sampling error of the difference between correlated proportions"; exact as in Fagerland et al.
    2013). 1 where both are 0.
    """
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def friedman(ranks: Floats) -> float:
    """Return the p of Friedman's test that A arms do equally well, from their ranks (D, A) on each of D datasets.

    Friedman 1937, "The use of ranks to avoid the assumption of normality"; chi-squared with A - 1 degrees of freedom,
    corrected for ties. 1 where all are tied on every dataset, and NaN for fewer than two arms.
    """
    # Not scipy.stats.friedmanchisquare: it wants three arms or more, and fails where all are tied.
    datasets, arms = ranks.shape
    if arms < 2:
        return float("nan")
    middle = (arms + 1) / 2
    within = float(((ranks - middle) ** 2).sum()) / (datasets * (arms - 1))
    between = datasets * float(((ranks.mean(axis=0) - middle) ** 2).sum())
    return float(chdtrc(arms - 1, between / within)) if within else 1.0


@cache
def critical_difference(arms: int, datasets: int) -> float:
    """Return by how much mean ranks over datasets must differ to tell two of these arms apart at 5 % (Nemenyi 1963).

    q sqrt(A (A + 1) / (6 D)) with q = the studentized range of A means over sqrt(2) (Demšar 2006, "Statistical
    comparisons of classifiers over multiple data sets", section 3.2.2). NaN for fewer than two arms.
    """
    from scipy.stats import studentized_range

    if arms < 2:
        return float("nan")
    q = float(studentized_range.ppf(1 - LEVEL, arms, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(arms * (arms + 1) / (6 * datasets)))


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
    """Estimate metric(ours) - metric(theirs), the mean over seeds: labels (N,), predictions (S, N) of each.

    Seeds and examples are crossed, as all seeds share one validation split. The variance of the mean is that between
    the seeds' differences over S, which holds what seeds and examples make only together, and the variance that all
    seeds have in common because of the examples: the mean covariance of two seeds' differences, over resamples of the
    examples, drawn for all seeds and both strategies alike. (Resampling both as in Owen 2007, "The pigeonhole
    bootstrap", counts what they make only together three times.) The interval is Student's, with the degrees of
    freedom of `_freedom`, within the bounds of the metric's differences. With one seed it is about the examples alone.
    The covariance of a mean over the examples (accuracy, mean squared error) is known without resampling.

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
    if metric in _SCORES:
        score = _SCORES[metric]
        covariances = np.atleast_2d(np.cov(score(labels, ours) - score(labels, theirs))) / examples
    else:
        covariances = _resampled(labels, ours, theirs, metric, resamples)
    of_seeds = float(seen.var(ddof=1)) / seeds if seeds > 1 else 0.0
    of_examples = _in_common(covariances)
    error = float(np.sqrt(of_seeds + of_examples))
    half = stdtrit(_freedom(of_seeds, of_examples, seeds, examples), (1 + level) / 2) * error
    mean = float(seen.mean())
    [low], [high] = within_bounds([metric], mean - half, mean + half, differences=True)
    return Resampled(mean, error, float(low), float(high))


def _resampled(labels: Floats, ours: Floats, theirs: Floats, metric: str, resamples: int) -> Floats:
    """Return the covariances (S, S) of the seeds' differences over resamples of the examples."""
    generator = np.random.default_rng(0)
    drawn = np.empty((resamples, len(ours)))  # R S
    for row in drawn:
        places = generator.integers(0, len(labels), len(labels))
        row[:] = _metric_differences(labels[places], ours[:, places], theirs[:, places], metric)
    return np.atleast_2d(np.cov(drawn, rowvar=False))


def _in_common(covariances: Floats) -> float:
    """Return the mean of (S, S) off its diagonal, at least 0: the variance that seeds share; of (1, 1) its value."""
    seeds = len(covariances)
    if seeds == 1:
        return float(covariances[0, 0])
    return max(0.0, float(covariances.sum() - covariances.trace()) / (seeds * (seeds - 1)))


def _metric_differences(labels: Floats, ours: Floats, theirs: Floats, metric: str) -> Floats:
    """Return metric(ours) - metric(theirs) per row, (S,); a metric undefined in a resample is 0.0, as everywhere."""
    function = FUNCTIONS[metric]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetric)
        return np.array([function(labels, a) - function(labels, b) for a, b in zip(ours, theirs, strict=True)])


def _freedom(of_seeds: float, of_examples: float, seeds: int, examples: int) -> float:
    """Return Satterthwaite's degrees of freedom (1946) of the sum of two variances, of the seeds and of the examples.

    The first is inflated by (S + 1) / (S - 1), the expectation of its square in units of the true one: few seeds
    underestimate it more often than not, and the interval would hold the truth 92 times in 100 with 3 seeds.
    """
    by_example = max(1, examples - 1)
    if of_seeds == 0:
        return float(by_example)
    inflated = of_seeds * (seeds + 1) / (seeds - 1)
    return float((inflated + of_examples) ** 2 / (inflated**2 / (seeds - 1) + of_examples**2 / by_example))
