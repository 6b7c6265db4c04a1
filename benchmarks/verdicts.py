"""Simulates sweeps with a known truth: how often a verdict is false, how often it is reached, what intervals hold.

    python -m benchmarks.verdicts [--sweeps 20000] [--splits 4000] [--part errors|power|coverage]

The verdicts and intervals are the package's own. `docs/statistics.md` has the tables. A sweep is a family of rows
(strategies at places), each with its differences from the baseline, one per seed; a row's spread is 1 and the margin 3,
unless said otherwise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from deepcuts.analysis.significance import (
    corrected,
    equivalence,
    is_shown,
    seeds_needed,
    t_test,
    two_level,
)
from deepcuts.experiment.metrics import Floats

Shape = tuple[int, int, int]  # sweeps, rows, seeds
FAMILIES = (1, 10, 24)
SEEDS = (6, 8, 10)
Draw = Callable[[np.random.Generator, Shape], Floats]


def _shared_baseline(generator: np.random.Generator, shape: Shape) -> Floats:
    sweeps, _, seeds = shape
    return (generator.normal(size=shape) - generator.normal(size=(sweeps, 1, seeds))) / np.sqrt(2)


def _failing(rate: float) -> Draw:
    """Differences of two strategies that fail in a fraction of their seeds, independently, and lose 20 deviations."""

    def draw(generator: np.random.Generator, shape: Shape) -> Floats:
        ours, theirs = generator.random((2, *shape)) < rate
        return 20.0 * theirs - 20.0 * ours + generator.normal(size=shape)

    return draw


def _two_clusters(generator: np.random.Generator, shape: Shape) -> Floats:
    return generator.choice([-20.0, 20.0], shape) + generator.normal(size=shape)


def _one_fails(generator: np.random.Generator, shape: Shape) -> Floats:
    return 2.0 - 20.0 * (generator.random(shape) < 0.1) + generator.normal(size=shape)


def _lognormal(generator: np.random.Generator, shape: Shape) -> Floats:
    return generator.lognormal(0, 0.5, shape) - np.exp(0.125)


# Differences whose true mean is 0.
NULLS: dict[str, Draw] = {
    "normal": lambda generator, shape: generator.normal(size=shape),
    "normal, all rows with one baseline": _shared_baseline,
    "t, 3 degrees of freedom": lambda generator, shape: generator.standard_t(3, shape),
    "Laplace (both exponential)": lambda generator, shape: generator.laplace(size=shape),
    "Cauchy": lambda generator, shape: generator.standard_cauchy(shape),
    "whole examples, spread of 0.5": lambda generator, shape: np.round(generator.normal(0, 0.5, shape)),
    "whole examples, spread of 1": lambda generator, shape: np.round(generator.normal(size=shape)),
    "whole examples, spread of 3": lambda generator, shape: np.round(generator.normal(0, 3, shape)),
    "both fail in 10 % of seeds": _failing(0.1),
    "both fail in 50 % of seeds": _failing(0.5),
    "triangular (both uniform)": lambda generator, shape: generator.triangular(-1, 0, 1, shape),
    "uniform": lambda generator, shape: generator.uniform(-1, 1, shape),
    "two clusters, nothing between": _two_clusters,
    "lognormal, skewness 1.75": _lognormal,
    "exponential, skewness 2": lambda generator, shape: generator.exponential(size=shape) - 1,
    "one fails in 10 % of seeds, else better": _one_fails,
}


def verdicts(differences: Floats, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where sweeps (..., rows, S) show a difference, and where they show equivalence."""
    rows, seeds = differences.shape[-2:]
    shown = [is_shown(corrected(p, rows), seeds) for p in (t_test(differences), equivalence(differences, margin))]
    return shown[0], shown[1]


def false_differences(draw: Draw, rows: int, seeds: int, sweeps: int) -> float:
    """Return how often a sweep whose differences are all 0 has any `better` or `worse`."""
    shown, _ = verdicts(draw(np.random.default_rng(0), (sweeps, rows, seeds)), 3.0)
    return float(shown.any(axis=-1).mean())


def false_equivalences(draw: Draw, rows: int, seeds: int, sweeps: int) -> float:
    """Return how often a sweep whose differences are all the margin, far beyond their spread, has any `equivalent`.

    Of the two signs of the difference the one that errs more often: they differ for skewed differences.
    """
    draws = draw(np.random.default_rng(0), (sweeps, rows, seeds))
    both = [verdicts(draws + margin, 100.0)[1] for margin in (100.0, -100.0)]
    return float(max(within.any(axis=-1).mean() for within in both))


def false_verdicts(as_large: float, rows: int, seeds: int, sweeps: int) -> float:
    """Return how often any verdict is false where the fraction `as_large` of the rows differ by just the margin.

    Those rows are so precise that their difference is always shown, and the others, which do not differ, less so: the
    worst case for a correction that grows weaker with each verdict, such as Holm's.
    """
    generator = np.random.default_rng(0)
    large = np.arange(rows) < round(as_large * rows)
    spread = np.where(large, 0.01, 1.0)[:, None]
    differences = generator.normal(size=(sweeps, rows, seeds)) * spread + 3.0 * large[:, None]
    differs, within = verdicts(differences, 3.0)
    return float(np.where(large, within, differs).any(axis=-1).mean())


def decided(difference: float, deviation: float, rows: int, seeds: int, sweeps: int) -> float:
    """Return how often a row with this true difference gets a verdict at a margin of 0.01, in a family of `rows`."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(-(-sweeps * seeds // 1_000_000)):
        draws = generator.normal(difference, deviation, (min(sweeps, 1_000_000 // seeds), seeds))
        p = np.minimum(t_test(draws), equivalence(draws, 0.01))
        found.append(np.mean(is_shown(corrected(p, rows), seeds)))
    return float(np.mean(found))


# Shares of the variance of a mean difference: of the seeds, of the examples, of what they make only together.
SHARES = ((0.0, 0.0, 1.0), (0.0, 0.5, 0.5), (0.2, 0.4, 0.4), (0.1, 0.9, 0.0), (0.5, 0.5, 0.0), (0.9, 0.1, 0.0))


def held(seeds: int, examples: int, shares: Sequence[float], splits: int) -> float:
    """Return how often the interval of `--examples` holds the true difference, over new seeds and new examples.

    The metric is the mean squared error, of which each example's part is set to what is wanted.
    """
    generator = np.random.default_rng(0)
    of_seeds, of_examples, of_both = np.sqrt(np.array(shares) * [seeds, examples, seeds * examples])
    labels, theirs, inside = np.zeros(examples), np.full((seeds, examples), 1e3), 0
    for _ in range(splits):
        parts = of_seeds * generator.normal(size=(seeds, 1)) + of_examples * generator.normal(size=examples)
        ours = np.sqrt(1e6 + parts + of_both * generator.normal(size=(seeds, examples)))
        found = two_level(labels, ours, theirs, "mse")
        inside += found.low <= 0 <= found.high
    return inside / splits


def _print(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def print_errors(sweeps: int) -> None:
    """Print how often a sweep has any false verdict, in %."""
    places = [(rows, seeds) for rows in FAMILIES for seeds in SEEDS]
    header = ["%", *(f"{rows} row{'s'[: rows > 1]}, {seeds} seeds" for rows, seeds in places)]
    errors = {
        "Any `better` or `worse` where nothing differs; none below 6 seeds": false_differences,
        "Any `equivalent` where all differ by the margin; none below 6 seeds": false_equivalences,
    }
    for title, error in errors.items():
        found = ([name, *(_percent(error(draw, *place, sweeps)) for place in places)] for name, draw in NULLS.items())
        _print(title, header, found)
    _print(
        "Any false verdict of either kind; normal differences, some of them the margin, the others 0",
        header,
        (
            [f"{share:.0%} of rows", *(_percent(false_verdicts(share, *place, sweeps)) for place in places)]
            for share in (0.0, 0.5, 1.0)
        ),
    )


def print_power(sweeps: int) -> None:
    """Print the seeds that `seeds_needed` advises, and how often these and one fewer decide, in %."""
    rows = []
    for family in (1, 4, 10, 24):
        for deviation in (0.002, 0.005, 0.01, 0.02):
            cells = []
            for difference in (0.0, 0.003, 0.005, 0.008, 0.012, 0.02):
                seeds = int(seeds_needed(difference, deviation, 0.01, family))
                found = [decided(difference, deviation, family, n, sweeps) for n in (seeds, seeds - 1)]
                cells.append(f"{seeds}: {100 * found[0]:.0f} ({100 * found[1]:.0f})")
            rows.append([family, deviation, *cells])
    header = ["rows", "spread", *(f"difference {each:g}" for each in (0.0, 0.003, 0.005, 0.008, 0.012, 0.02))]
    _print("Seeds advised: decided in % (with one fewer); margin 0.01", header, rows)


def print_coverage(splits: int) -> None:
    """Print how often the intervals of `--examples` hold the truth, in %."""
    header = ["seeds", "examples", *(" / ".join(f"{100 * share:.0f}" for share in shares) for shares in SHARES)]
    _print(
        "Intervals that hold the truth, by % of the variance from seeds / examples / both only together",
        header,
        (
            [seeds, examples, *(_percent(held(seeds, examples, shares, splits)) for shares in SHARES)]
            for seeds in (3, 6, 10)
            for examples in (100, 400, 1000)
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--sweeps", type=int, default=20_000, help="simulated sweeps per number (default: 20000)")
    parser.add_argument("--splits", type=int, default=4000, help="simulated validation splits (default: 4000)")
    parser.add_argument("--part", choices=("errors", "power", "coverage"), help="print only this")
    args = parser.parse_args()
    parts = {"errors": print_errors, "power": print_power, "coverage": print_coverage}
    for name, show in parts.items():
        if args.part in (None, name):
            show(args.splits if name == "coverage" else args.sweeps)


if __name__ == "__main__":
    main()
