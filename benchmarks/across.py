"""Simulates comparisons over datasets with a known truth: what intervals hold, and how often ranks differ by chance.

    python -m benchmarks.across [--sweeps 2000]

Intervals and tests are the package's own. `docs/statistics.md` has the tables. Datasets lie one unit apart, and the
seeds of a dataset have a spread of half a unit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import numpy as np

from deepcuts.analysis.aggregates import (
    Draws,
    bootstrap_improvement,
    drawn_seeds,
    interquartile_mean,
    percentile_interval,
    shares_drawn,
)
from deepcuts.analysis.significance import LEVEL, critical_difference, friedman
from deepcuts.experiment.metrics import Floats

SPREAD = 0.5


def held(datasets: int, seeds: int, sweeps: int, every_seed: bool = False) -> Floats:
    """Return how many intervals hold the truth: of the mean, the IQM, and the improvement of equal arms.

    `every_seed` draws as many seeds as there are, as rliable does, in place of one fewer.
    """
    generator = np.random.default_rng(0)
    levels = np.arange(float(datasets))[:, None]
    many = levels + SPREAD * generator.normal(size=(datasets, 100_000))
    truths = levels.mean(), interquartile_mean(many.ravel()), 0.5
    drawn = drawn_seeds(datasets, seeds)
    if every_seed:
        drawn = generator.integers(0, seeds, (len(drawn), datasets, seeds))
    hits = np.zeros(3)
    for _ in range(sweeps):
        ours, theirs = levels + SPREAD * generator.normal(size=(2, datasets, seeds))
        for place, ((low, high), truth) in enumerate(zip(_intervals(ours, theirs, drawn), truths, strict=True)):
            hits[place] += low <= truth <= high
    return hits / sweeps


def _intervals(ours: Floats, theirs: Floats, drawn: Draws) -> Iterable[tuple[float, float]]:
    yield percentile_interval(ours, drawn, lambda values: np.asarray(values.mean(axis=-1)))
    yield percentile_interval(ours, drawn, interquartile_mean)
    yield bootstrap_improvement(ours, theirs, shares_drawn(drawn, ours.shape[1]))


def told_apart(arms: int, datasets: int, sweeps: int) -> float:
    """Return how often ranks tell any two arms apart that do equally well on every dataset."""
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(sweeps):
        ranks = (generator.random((datasets, arms)).argsort(axis=1) + 1).astype(np.float64)
        found += friedman(ranks) <= LEVEL and np.ptp(ranks.mean(axis=0)) >= critical_difference(arms, datasets)
    return found / sweeps


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--sweeps", type=int, default=2000, help="simulated sweeps per number (default: 2000)")
    sweeps = parser.parse_args().sweeps
    print("| datasets | seeds | mean | IQM | P(better) | mean, every seed | IQM, every seed | P(better), every seed |")
    print(f"|{' --- |' * 8}")
    for datasets in (2, 5, 10):
        for seeds in (3, 5, 10):
            found = [*held(datasets, seeds, sweeps), *held(datasets, seeds, sweeps, every_seed=True)]
            print(f"| {datasets} | {seeds} | {' | '.join(f'{100 * each:.1f}' for each in found)} |", flush=True)
    print(f"\n| arms | {' | '.join(f'{datasets} datasets' for datasets in (6, 8, 12, 20))} |\n|{' --- |' * 5}")
    for arms in (2, 3, 5, 10):
        found = [told_apart(arms, datasets, 5 * sweeps) for datasets in (6, 8, 12, 20)]
        print(f"| {arms} | {' | '.join(f'{100 * each:.1f}' for each in found)} |", flush=True)


if __name__ == "__main__":
    main()
