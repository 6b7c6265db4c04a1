"""Compares arms over several datasets: normalised metrics, their aggregates, ranks (frames in, frames out).

A = arms, D = datasets, S = seeds. `docs/statistics.md` explains what is computed, and what it cannot say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from deepcuts.analysis.aggregates import (
    Draws,
    bootstrap_improvement,
    drawn_seeds,
    improvement,
    interquartile_mean,
    percentile_interval,
    shares_drawn,
)
from deepcuts.analysis.compare import (
    FEWEST_TESTED,
    MARGIN,
    check_margin,
    in_words,
    of_arm,
    rows_of_one_model,
    tests_of,
    verdict_of,
)
from deepcuts.analysis.significance import FEWEST_SEEDS, LEVEL, critical_difference, friedman
from deepcuts.experiment.metrics import Floats, metric_and_split
from deepcuts.pruning.criteria import NOT_PRUNED
from deepcuts.records import records
from deepcuts.wording import Stage, counted, first_of, level

OVER_DATASETS_COLUMNS = [
    *("compression", "sparsity", "arm", "baseline", "datasets", "seeds", "mean", "mean_low", "mean_high"),
    *("iqm", "iqm_low", "iqm_high", "difference", "low", "high", "p_t", "p_signflip", "p_differs", "p_within"),
    *("verdict", "seeds_needed", "improvement", "improvement_low", "improvement_high"),
    *("rank", "p_friedman", "critical_difference"),
]

# Fewer datasets decide nothing about ranks: two arms that do equally well are in the same order on all D datasets with
# a chance of 2 in 2^D, more than 5 % below 6, as differences of seeds have the same sign (FEWEST_SEEDS).
FEWEST_DATASETS = FEWEST_SEEDS

# How far the fine-tuned network must be above chance, in the metric's own unit: what is divided by less is noise.
SIGNAL = 0.05
# The metrics that are 0 for predictions that do not depend on the input.
_ZERO_AT_CHANCE = ("matthews", "pearson", "spearman")
_ASKED = ["compression", "sparsity_asked"]
_MOST_NAMED = 3
# What a table shows of an arm, and how the best value is found; being better than the baseline has none.
_MEASURES: dict[str, Callable[[Iterable[float]], float] | None] = {
    "mean": max,
    "iqm": max,
    "improvement": None,
    "rank": min,
}


@dataclass
class _LeftOut:
    """What is left out and why, with the levels at which it is."""

    found: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, what: str, why: str, at: str | None = None) -> None:
        self.found.setdefault((what, why), []).extend([at] if at else [])

    def lines(self) -> list[str]:
        places = {key: f" at {', '.join(at)}" if at else "" for key, at in self.found.items()}
        return [f"{what}{place}: {why}" for (what, why), place in places.items()]


@dataclass(frozen=True)
class _Blocks:
    """The normalised metric (A, D, S) of one level, complete: every arm has every seed on every dataset."""

    compression: float
    sparsity: float
    arms: list[str]
    datasets: list[str]
    seeds: list[int]
    values: Floats


def compare_over_datasets(
    trials: pd.DataFrame,
    baseline: str = "LayerMagWeight",
    stage: Stage = "retrained",
    margin: float = MARGIN,
    metric: str | None = None,
    metrics: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Compare arms over all datasets together, a row of OVER_DATASETS_COLUMNS per compression or sparsity and arm.

    `trials` are the rows of `trials(store)`. The metric after `stage` is normalised, (m - chance) / (dense - chance)
    with the fine-tuned network of the same seed: 0 is chance, 1 the fine-tuned network. Only complete blocks count,
    the `datasets` x `seeds` that all arms of a level have; `frame.attrs["left_out"]` says what was left out, and why.
    - `mean` and `iqm` (interquartile mean), with 95 % intervals of a bootstrap of the seeds within datasets;
    - `difference` from the baseline of the mean over datasets, paired by seed, and its `verdict`: by the rule, and in
      the columns, of `compare`; `margin` is in units of the normalised metric;
    - `improvement`: the probability that a trial of the arm is above one of the baseline on the same dataset;
    - `rank`: the mean over datasets (1 is best), with the p of Friedman's test that all arms of the level do equally
      well and by how much ranks must differ to be told apart (`critical_difference`).

    The baseline has a row of its own, without a comparison. Raises ValueError where no level has two datasets that
    are complete, for several models, an unknown stage, metric or baseline, and a margin that is not above 0.

    >>> dc.compare_over_datasets(trials)[["arm", "iqm", "improvement", "rank", "verdict"]]
    """
    check_margin(margin)
    rows = _pruned(rows_of_one_model(trials, stage, metric, metrics))
    base = _baseline_arm(rows, baseline)
    left_out = _LeftOut()
    rows = _normalised(rows, stage, left_out)
    levels = [_blocks(part, left_out) for _, part in rows.groupby(_ASKED, dropna=False)]
    complete = sorted((blocks for blocks in levels if blocks), key=lambda each: each.sparsity)
    if not complete:
        why = f" Left out: {'; '.join(left_out.lines())}." if left_out.found else ""
        raise ValueError(
            "no level has two datasets on which all arms have trials of the same seeds: run what is missing, leave out"
            f" arms or datasets that lack trials, or compare dataset by dataset.{why}"
        )
    tested = [each for each in complete if base in each.arms and len(each.seeds) >= FEWEST_TESTED]
    family = max(1, sum(len(blocks.arms) - 1 for blocks in tested))
    found = [row for blocks in complete for row in _level_rows(blocks, base, margin, family)]
    frame = pd.DataFrame(found, columns=OVER_DATASETS_COLUMNS)
    frame.attrs = {"left_out": left_out.lines()}
    return frame


def _pruned(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows[~rows["strategy"].isin(NOT_PRUNED)]
    datasets = list(rows["dataset"].unique())
    if len(datasets) < 2:
        what = f"of one dataset, {datasets[0]!r}" if datasets else "not there"
        raise ValueError(
            f"completed trials are {what}: over datasets needs two or more; add datasets to the sweep, or compare"
            " within the dataset"
        )
    return rows


def _baseline_arm(rows: pd.DataFrame, baseline: str) -> str:
    """Return the arm that the baseline names, which may be an arm, a label or a strategy."""
    if baseline in NOT_PRUNED:
        raise ValueError(
            f"baseline {baseline!r}: over datasets the baseline is pruned, as the fine-tuned network is 1 by"
            f" definition; choose {', '.join(sorted(rows['arm'].unique()))}"
        )
    named = sorted(rows.loc[of_arm(rows, baseline), "arm"].unique())
    if len(named) > 1:
        raise ValueError(f"baseline {baseline!r} has {len(named)} arms; choose one: {', '.join(named)}")
    return str(named[0])


def chance_of(rows: pd.DataFrame) -> pd.Series:
    """Return what each trial's metric is by chance, NaN where that is not known: see `docs/statistics.md`."""
    majority = rows["majority"].astype(float) if "majority" in rows else pd.Series(float("nan"), rows.index)
    names = rows["metric"].map(lambda metric: metric_and_split(str(metric))[0])
    return majority.mask(names.isin(_ZERO_AT_CHANCE), 0.0)


def _normalised(rows: pd.DataFrame, stage: Stage, left_out: _LeftOut) -> pd.DataFrame:
    """Return the rows with their normalised metric as `value`; those that have none are left out, and named."""
    chance = chance_of(rows)
    above = rows["dense"].astype(float) - chance
    usable = above >= SIGNAL
    for (dataset, metric), part in rows.assign(above=above)[~usable].groupby(["dataset", "metric"]):
        here = rows["dataset"] == dataset
        seeds = "" if not usable[here].any() else f", seed {first_of(sorted(part['seed'].unique()), _MOST_NAMED)}"
        low = part["above"].dropna()
        why = f"no level of chance is known for its metric, {metric}, in these trials"
        if len(low):
            why = (
                f"the fine-tuned network is {low.min():+z.3f} from chance ({metric}), and is divided by only where it"
                f" is {SIGNAL:g} above"
            )
        left_out.add(f"{dataset}{seeds}", why)
    value = ((rows[stage].astype(float) - chance) / above).round(12)
    columns = [*_ASKED, "sparsity", "dataset", "arm", "seed"]
    kept = rows.assign(value=value)[usable & value.notna()]
    return kept.drop_duplicates([*_ASKED, "dataset", "arm", "seed"])[[*columns, "value"]]


def _blocks(part: pd.DataFrame, left_out: _LeftOut) -> _Blocks | None:
    """Return what is complete at one level; None, and say so, where that is on fewer than two datasets."""
    compression, asked = part[_ASKED].iloc[0].astype(float)
    sparsity = float(asked if asked == asked else part["sparsity"].mean())
    at = level(compression, sparsity)
    arms = sorted(part["arm"].unique())
    table = part.pivot(index="arm", columns=["dataset", "seed"], values="value")
    whole = table.dropna(axis="columns")
    datasets = sorted(whole.columns.unique("dataset"))
    for dataset in sorted(set(table.columns.unique("dataset")) - set(datasets)):
        lacking = [repr(arm) for arm in sorted(set(arms) - set(part.loc[part["dataset"] == dataset, "arm"]))]
        why = f"no trial of {first_of(lacking, _MOST_NAMED)} is there" if lacking else "its arms have no seed in common"
        left_out.add(dataset, why, at)
    if len(datasets) < 2:
        left_out.add(at, "fewer than two datasets are complete")
        return None
    seeds = sorted(set.intersection(*(set(whole[dataset].columns) for dataset in datasets)))
    for seed in sorted(set(part["seed"]) - set(seeds)):
        found = table.reindex(columns=[(dataset, seed) for dataset in datasets]).notna()
        missing = [f"{arm} on {dataset}" for dataset in datasets for arm in arms if not found.at[arm, (dataset, seed)]]
        left_out.add(f"seed {seed}", f"not there for {first_of(missing, _MOST_NAMED)}", at)
    if not seeds:
        left_out.add(at, "no seed is complete on all datasets")
        return None
    columns = pd.MultiIndex.from_product([datasets, seeds])
    values = whole[columns].to_numpy(np.float64).reshape(len(arms), len(datasets), len(seeds))
    return _Blocks(float(compression), sparsity, arms, datasets, seeds, values)


def _level_rows(blocks: _Blocks, baseline: str, margin: float, family: int) -> list[dict[str, Any]]:
    """Return the rows of one level, the best rank first."""
    draws = drawn_seeds(len(blocks.datasets), len(blocks.seeds))
    of_datasets = pd.DataFrame(blocks.values.mean(axis=2).round(9).T, columns=blocks.arms)  # D A
    ranks = of_datasets.rank(axis="columns", ascending=False)
    common = {
        "compression": blocks.compression,
        "sparsity": blocks.sparsity,
        "baseline": baseline,
        "datasets": blocks.datasets,
        "seeds": blocks.seeds,
        "p_friedman": friedman(ranks.to_numpy(np.float64)),
        "critical_difference": critical_difference(len(blocks.arms), len(blocks.datasets)),
    }
    values = dict(zip(blocks.arms, blocks.values, strict=True))
    against = _against(values, baseline, shares_drawn(draws, len(blocks.seeds)), margin, family)
    found = [
        common | {"arm": arm, "rank": float(ranks[arm].mean())} | _aggregates(ours, draws) | against.get(arm, {})
        for arm, ours in values.items()
    ]
    return sorted(found, key=lambda row: (row["rank"], row["arm"]))


def _aggregates(values: Floats, draws: Draws) -> dict[str, float]:
    mean_low, mean_high = percentile_interval(values, draws, lambda drawn: drawn.mean(axis=-1))
    iqm_low, iqm_high = percentile_interval(values, draws, interquartile_mean)
    return {
        "mean": float(values.mean()),
        "mean_low": mean_low,
        "mean_high": mean_high,
        "iqm": float(interquartile_mean(values.ravel())),
        "iqm_low": iqm_low,
        "iqm_high": iqm_high,
    }


def _against(
    values: Mapping[str, Floats], baseline: str, times: Floats, margin: float, family: int
) -> dict[str, dict[str, Any]]:
    """Return the comparison of each other arm with the baseline, which may have no trials at this level.

    All are tested at once: above 20 seeds a sign-flip test spends most of its time on drawing signs.
    """
    others = [arm for arm in values if arm != baseline]
    if baseline not in values or not others:
        return {arm: {"verdict": "undecided"} for arm in others}
    theirs, found = values[baseline], dict[str, dict[str, Any]]()
    tests = tests_of(np.stack([(values[arm] - theirs).mean(axis=0) for arm in others]), margin, family)
    for place, arm in enumerate(others):
        row: dict[str, Any] = {name: of_arms[place].item() for name, of_arms in tests.items()}
        low, high = bootstrap_improvement(values[arm], theirs, times)
        row |= {"improvement": improvement(values[arm], theirs), "improvement_low": low, "improvement_high": high}
        found[arm] = row | {"verdict": verdict_of(row | {"metric": "normalised"})}
    return found


def by_level(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """Split a frame of `compare_over_datasets` by the compression or sparsity asked for, the densest first."""
    return [part for _, part in frame.groupby(["sparsity", "compression"], dropna=False)]


# In words


def difference_in_words(row: Mapping[str, Any], margin: float) -> str:
    """Write one row of `compare_over_datasets` as a sentence, as `in_words` does with a row of `compare`."""
    known = row["difference"] is not None and row["difference"] == row["difference"]
    about = {"strategy": row["arm"], "dataset": f"{len(row['datasets'])} datasets", "metric": "normalised metric"}
    return in_words(dict(row) | about | {"n": len(row["seeds"]) if known else 0}, margin)


def rank_groups(part: pd.DataFrame) -> list[list[str]]:
    """Return the largest groups of arms of one level that their ranks cannot tell apart, the best arms first.

    All are one group where ranks decide nothing: below 6 datasets, and where Friedman's test shows no difference.
    """
    part = part.sort_values(["rank", "arm"])
    arms, ranks = list(part["arm"]), part["rank"].to_numpy(np.float64)
    if not ranks_decide(part.iloc[0]):
        return [arms]
    ends = [int((ranks - first < part["critical_difference"].iloc[0]).sum()) for first in ranks]
    starts = [start for start, end in enumerate(ends) if end - start > 1 and (start == 0 or end > ends[start - 1])]
    return [arms[start : ends[start]] for start in starts]


def ranks_decide(row: Mapping[str, Any] | pd.Series) -> bool:
    """Return whether ranks tell any two arms of the level of this row apart."""
    return len(row["datasets"]) >= FEWEST_DATASETS and row["p_friedman"] <= LEVEL


def ranks_in_words(part: pd.DataFrame) -> str:
    """Say what the ranks of one level of `compare_over_datasets` show."""
    row = part.iloc[0]
    datasets = len(row["datasets"])
    if row["critical_difference"] != row["critical_difference"]:
        return "one arm has no ranks"
    if datasets < FEWEST_DATASETS:
        return f"{counted(datasets, 'dataset')} cannot decide about ranks: at least {FEWEST_DATASETS} are needed"
    p = "p < 0.001" if row["p_friedman"] < 0.001 else f"p = {row['p_friedman']:.3f}"
    if not ranks_decide(row):
        return f"ranks over {datasets} datasets show no difference between the arms (Friedman, {p})"
    return (
        f"ranks over {datasets} datasets differ (Friedman, {p}); two arms are told apart where theirs differ by"
        f" {row['critical_difference']:.2f} or more (Nemenyi, 5 %)"
    )


def cells_of(
    frame: pd.DataFrame, escaped: Callable[[str], str], bold: str, beside: str
) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a frame of `compare_over_datasets` as a person reads it, as escaped text.

    The best values of a level are written by the form `bold`, and an interval by the form `beside`.
    """
    header = ["asked", "strategy", "mean", "IQM", f"P(better than {frame['baseline'].iloc[0]})", "rank"]
    lines = []
    for part in by_level(frame):
        rows = records(part)
        best = {name: extreme and extreme(round(row[name], 3) for row in rows) for name, extreme in _MEASURES.items()}
        for row in rows:
            measured = [_cell(row, name, best[name], escaped, bold, beside) for name in _MEASURES]
            lines.append([escaped(level(row["compression"], row["sparsity"])), escaped(row["arm"]), *measured])
    return [escaped(name) for name in header], lines


def _cell(
    row: dict[str, Any], name: str, best: float | None, escaped: Callable[[str], str], bold: str, beside: str
) -> str:
    value, low, high = row[name], row.get(f"{name}_low"), row.get(f"{name}_high")
    if value is None:
        return escaped("–")
    number = f"{value:.2f}" if name == "rank" else f"{value:z.3f}"
    text = bold % number if round(value, 3) == best else number
    return text + (beside % escaped(f"{low:z.3f} to {high:z.3f}") if low is not None and high is not None else "")
