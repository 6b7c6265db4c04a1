"""The simulations of `benchmarks/verdicts.py`, small: what docs/statistics.md says of verdicts and intervals."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.verdicts import NULLS, decided, false_differences, false_equivalences, false_verdicts, held, verdicts
from deepcuts.analysis.significance import POWER, power, seeds_needed

SWEEPS = 3000
# Three standard errors of 5 % in as many sweeps.
SLACK = 0.012

NEAR_NORMAL = [name for name in NULLS if name.startswith(("normal", "t,", "Laplace", "Cauchy", "whole", "both fail"))]


@pytest.mark.parametrize("name", NEAR_NORMAL)
def test_at_most_five_sweeps_in_100_have_a_false_verdict(name: str) -> None:
    for rows, seeds in ((1, 6), (10, 6), (10, 10)):
        assert false_differences(NULLS[name], rows, seeds, SWEEPS) < 0.05 + SLACK
        assert false_equivalences(NULLS[name], rows, seeds, SWEEPS) < 0.05 + SLACK


def test_normal_differences_err_in_five_sweeps_of_100() -> None:
    for error in (false_differences, false_equivalences):
        assert error(NULLS["normal"], 10, 6, SWEEPS) == pytest.approx(0.05, abs=SLACK)


@pytest.mark.parametrize("as_large", [0.0, 0.5, 1.0])
def test_both_kinds_of_verdict_share_the_five_sweeps_in_100(as_large: float) -> None:
    assert false_verdicts(as_large, 10, 8, SWEEPS) == pytest.approx(0.05, abs=SLACK)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_fewer_than_six_seeds_show_nothing(seeds: int) -> None:
    draws = np.random.default_rng(0).normal(0.05, 1e-5, (100, 1, seeds))
    assert not np.any(verdicts(draws, 0.01))
    assert not np.any(verdicts(draws, 0.1))


@pytest.mark.parametrize("rows", [1, 4, 24])
@pytest.mark.parametrize("difference", [0.0, 0.003, 0.005, 0.008, 0.012, 0.02])
def test_the_seeds_advised_decide_in_80_of_100_sweeps_and_one_fewer_in_less(difference: float, rows: int) -> None:
    for deviation in (0.005, 0.015):
        seeds = int(seeds_needed(difference, deviation, 0.01, rows))
        found = decided(difference, deviation, rows, seeds, SWEEPS)
        assert found == pytest.approx(power(seeds, difference / deviation, 0.01 / deviation, rows), abs=0.025)
        assert found > POWER - 0.025
        assert decided(difference, deviation, rows, seeds - 1, SWEEPS) < POWER + 0.025


@pytest.mark.parametrize("seeds", [3, 6])
@pytest.mark.parametrize("shares", [(0, 0, 1), (0, 0.5, 0.5), (0.1, 0.9, 0), (0.9, 0.1, 0)])
def test_intervals_hold_the_truth_over_new_seeds_and_new_examples(
    shares: tuple[float, float, float], seeds: int
) -> None:
    # the pigeonhole bootstrap's held it in 99 to 100 of 100 splits of the first two kinds
    assert 0.925 <= held(seeds, 100, shares, splits=1200) <= 0.967
