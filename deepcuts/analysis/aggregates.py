"""Summarises values of one arm over datasets and seeds: interquartile mean, probability of improvement, bootstrap.

Arrays in, numbers out. D = datasets, S = seeds (the same number on each dataset), R = resamples.

The measures are those of Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice",
arXiv 2108.13264 (their library is rliable, whose tasks are our datasets and whose runs are our seeds).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deepcuts.analysis.significance import FEWEST_OF_INTERVAL, LEVEL
from deepcuts.experiment.metrics import Floats

Draws = NDArray[np.int64]

_RESAMPLES = 2000


def interquartile_mean(values: Floats) -> Floats:
    """Return the mean of the middle half over the last axis of (..., N), as rliable and scipy's trim_mean do.

    N // 4 values are left out at each end: of 10 values 2 and 2, so that 6 are averaged, and of 3 values none.
    """
    cut = values.shape[-1] // 4
    return np.asarray(np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1))


def improvement(ours: Floats, theirs: Floats) -> float:
    """Return the probability that a trial of `ours` (D, S) is above one of `theirs` (D, S) on the same dataset.

    Per dataset it is the Mann-Whitney U of the seeds over S², ties counting half; then the mean over datasets.
    """
    return float(_wins(ours, theirs).mean())


def _wins(ours: Floats, theirs: Floats) -> Floats:
    """Return 1 where a seed of ours is above one of theirs, 1/2 where equal: (D, S, S)."""
    a, b = ours[:, :, None], theirs[:, None, :]
    return (a > b) + 0.5 * (a == b)


def drawn_seeds(datasets: int, seeds: int) -> Draws:
    """Draw seeds with replacement within each dataset, S - 1 of the S: (R, D, S - 1).

    The draws are the same for all arms, which keeps seeds paired. With S draws, as in rliable, the variance of a mean
    would be (S - 1) / S of the true one, a third too small for 3 seeds; with S - 1 it is right (McCarthy and Snowden
    1985, "The bootstrap and finite population sampling"; Rao and Wu 1988, "Resampling inference with complex survey
    data").
    """
    return np.random.default_rng(0).integers(0, seeds, (_RESAMPLES, datasets, max(1, seeds - 1)))


def percentile_interval(values: Floats, draws: Draws, statistic: Callable[[Floats], Floats]) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic over the last axis of all values (D, S), flattened.

    NaN where there are fewer than 3 seeds.
    """
    datasets, seeds = values.shape
    drawn = values.take(draws + seeds * np.arange(datasets)[:, None])
    return _percentiles(statistic(drawn.reshape(len(draws), -1)), seeds)


def shares_drawn(draws: Draws, seeds: int) -> Floats:
    """Return what share of the draws (R, D, S - 1) each seed is: (R, D, S)."""
    resamples, datasets, drawn = draws.shape
    place = draws + seeds * np.arange(resamples * datasets).reshape(resamples, datasets, 1)
    return np.bincount(place.ravel(), minlength=resamples * datasets * seeds).reshape(resamples, datasets, -1) / drawn


def bootstrap_improvement(ours: Floats, theirs: Floats, times: Floats) -> tuple[float, float]:
    """Return the 95 % percentile interval of `improvement`, NaN where there are fewer than 3 seeds.

    `times` are the `shares_drawn` of the resamples.
    """
    datasets, seeds = ours.shape
    found = np.einsum("rdi,dij,rdj->r", times, _wins(ours, theirs), times, optimize=True) / datasets
    return _percentiles(found, seeds)


def _percentiles(resampled: Floats, seeds: int) -> tuple[float, float]:
    if seeds < FEWEST_OF_INTERVAL:
        return float("nan"), float("nan")
    low, high = np.quantile(resampled, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)
