"""How far a metric would have come out otherwise, with other seeds and other examples, from stored predictions.

S = seeds, N = validation examples, which all seeds share.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from deepcuts.metrics import FUNCTIONS, UndefinedMetric

Floats = NDArray[np.float64]


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
    seen = _differences(labels, ours, theirs, metric)
    generator = np.random.default_rng(0)
    drawn = np.empty(resamples)
    for i in range(resamples):
        some = generator.integers(0, seeds, max(1, seeds - 1)) if seeds > 1 else np.zeros(1, np.int64)
        which, repeats = np.unique(some, return_counts=True)
        places = generator.integers(0, examples, examples)
        values = _differences(labels[places], ours[which][:, places], theirs[which][:, places], metric)
        drawn[i] = values @ repeats / repeats.sum()
    error = float(drawn.std(ddof=1))
    half = stdtrit(_freedom(error**2, seen, examples), (1 + level) / 2) * error
    mean = float(seen.mean())
    return Resampled(mean, error, float(mean - half), float(mean + half))


def _differences(labels: Floats, ours: Floats, theirs: Floats, metric: str) -> Floats:
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
