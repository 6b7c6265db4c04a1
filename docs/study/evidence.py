"""What a claim says of means over seeds, and how far the seeds bear it out (arrays in, verdicts out).

A claim is a list of conditions that must all hold. S = seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from deepcuts.analysis.significance import FEWEST_SEEDS, LEVEL, interval, seeds_needed, spread, t_test
from deepcuts.experiment.metrics import Floats

Verdict = Literal["confirmed", "refuted", "undecided", "not run"]
# A margin within which nothing can be shown to lie, for tests of a bound alone.
_NO_MARGIN = 1e-9


@dataclass(frozen=True)
class Condition:
    """That the mean of `values` (S,), one per seed, lies between `low` and `high`, in `unit`."""

    text: str
    values: Floats
    low: float = -math.inf
    high: float = math.inf
    unit: Literal["points", "IoU", "kappa", "share"] = "points"

    @property
    def seeds(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return float(self.values.mean()) if self.seeds else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean (Student 1908), NaN below 3 seeds."""
        if self.seeds < 3:
            return math.nan, math.nan
        low, high = interval(self.values)
        return (float(low), float(high)) if low == low else (self.mean, self.mean)

    @property
    def bounds(self) -> list[float]:
        return [bound for bound in (self.low, self.high) if math.isfinite(bound)]

    @property
    def p_true(self) -> float:
        """The p of the test that the mean is within both bounds: the larger of the one-sided ones (Schuirmann 1987)."""
        return max(self._p_within())

    @property
    def p_false(self) -> float:
        """The p of the test that the mean is outside of a bound: the smallest one-sided one, times their number."""
        found = self._p_within()
        return min(1.0, len(found) * min(1 - p for p in found)) if self.seeds >= FEWEST_SEEDS else math.nan

    def _p_within(self) -> list[float]:
        """Return the one-sided p that the mean is above `low`, and below `high`, where finite; NaN below 6 seeds."""
        if self.seeds < FEWEST_SEEDS:
            return [math.nan]
        above = [self.values - bound for bound in (self.low,) if math.isfinite(bound)]
        below = [bound - self.values for bound in (self.high,) if math.isfinite(bound)]
        return [_p_above_zero(each) for each in above + below]

    def needs(self, claims: int, conditions: int) -> float:
        """Return how many seeds would decide it in 80 % of all studies, if this mean and spread are the true ones.

        NaN: none up to 10,000, as where the mean is on a bound, or unknown. `claims` of its family, and `conditions` by
        which its claim can fail.
        """
        if self.seeds < 2:
            return math.nan
        distance = min((self.mean - bound for bound in self.bounds), key=abs)
        if distance == 0:
            return math.nan
        rows = claims if self.holds else claims * conditions
        return float(seeds_needed(distance, spread(self.values), _NO_MARGIN, rows))

    @property
    def holds(self) -> bool:
        """Whether the mean that was seen lies within the bounds, and not on one of them."""
        return self.low < self.mean < self.high

    @property
    def certain(self) -> bool:
        """Whether all seeds have the same value, enough of them: its p values are then 0 and 1, and come of no test."""
        return self.seeds >= FEWEST_SEEDS and float(np.ptp(self.values)) == 0


def _p_above_zero(values: Floats) -> float:
    p = float(t_test(values)) / 2
    return p if values.mean() > 0 else 1 - p


@dataclass(frozen=True)
class AnyOf:
    """That at least one of several conditions holds."""

    text: str
    conditions: Sequence[Condition]

    @property
    def p_true(self) -> float:
        return min(1.0, len(self.conditions) * min(_known(each.p_true) for each in self.conditions))

    @property
    def p_false(self) -> float:
        return max(_known(each.p_false) for each in self.conditions)


@dataclass(frozen=True)
class Claim:
    """One of the thirteen: what it says, its family, its conditions, and what is reported beside them.

    `commands` are what `deepcuts` has to do, as its arguments, to show the same differences and overlaps.
    """

    number: int
    text: str
    family: Literal["A", "B"]
    conditions: Sequence[Condition | AnyOf]
    notes: Sequence[str] = field(default=())
    commands: Sequence[str] = field(default=())

    def all_conditions(self) -> list[Condition]:
        return [
            each
            for condition in self.conditions
            for each in (condition.conditions if isinstance(condition, AnyOf) else [condition])
        ]

    @property
    def p_confirmed(self) -> float:
        """The largest p of its conditions: all must hold (Berger 1982, intersection-union test). 1 without seeds."""
        return max(_known(each.p_true) for each in self.conditions)

    @property
    def p_refuted(self) -> float:
        """The smallest p that a condition fails, times the number of conditions (Bonferroni)."""
        return min(1.0, len(self.conditions) * min(_known(each.p_false) for each in self.conditions))

    @property
    def p(self) -> float:
        """The p of its verdict. Only one of both can be wrong: a claim is true or false."""
        return min(self.p_confirmed, self.p_refuted)

    @property
    def complete(self) -> bool:
        """Whether each of its conditions has enough seeds."""
        return all(each.seeds >= FEWEST_SEEDS for each in self.all_conditions())

    def seeds_needed(self, claims: int) -> float:
        """Return the seeds that would confirm it, if all it says holds in what was seen, or else refute it."""
        known = self.all_conditions()
        outside = [each for each in known if not each.holds]
        needs = [each.needs(claims, len(self.conditions)) for each in outside or known]
        if any(math.isnan(each) for each in needs) and not outside:
            return math.nan
        return min((each for each in needs if not math.isnan(each)), default=math.nan) if outside else max(needs)


def by_tests_alone(claim: Claim) -> Claim:
    """Return a claim as if no seed had run of the conditions that are `certain`, so that tests alone decide it."""

    def emptied(condition: Condition) -> Condition:
        return replace(condition, values=condition.values[:0]) if condition.certain else condition

    conditions = [
        AnyOf(each.text, [emptied(one) for one in each.conditions]) if isinstance(each, AnyOf) else emptied(each)
        for each in claim.conditions
    ]
    return replace(claim, conditions=conditions)


def _known(p: float) -> float:
    """Return a p value, 1 where too few seeds have run."""
    return 1.0 if math.isnan(p) else p


def holm(p: Sequence[float]) -> list[float]:
    """Return p values of one family, corrected by Holm's procedure (Holm 1979), in their order."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate([p[place] * (len(p) - rank) for rank, place in enumerate(order)])
    found = np.empty(len(p))
    found[order] = np.minimum(1.0, steps)
    return [float(each) for each in found]


def verdicts(claims: Sequence[Claim]) -> list[tuple[Verdict, float]]:
    """Return the verdict of each claim, with its p corrected by Holm's procedure over the claims of its family.

    A claim of which nothing has run yet counts in its family, with p = 1.
    """
    found: dict[int, tuple[Verdict, float]] = {}
    for family in sorted({claim.family for claim in claims}):
        of_family = [claim for claim in claims if claim.family == family]
        for claim, p in zip(of_family, holm([claim.p for claim in of_family]), strict=True):
            found[claim.number] = _verdict(claim, p), p
    return [found[claim.number] for claim in claims]


def _verdict(claim: Claim, corrected: float) -> Verdict:
    if not any(each.seeds for each in claim.all_conditions()):
        return "not run"
    if corrected > LEVEL:
        return "undecided"
    return "confirmed" if claim.p_confirmed < claim.p_refuted else "refuted"
