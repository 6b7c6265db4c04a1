"""Compares arms with a baseline, paired by seed, and puts the result in words (frames in, frames out)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepcuts.analysis.arms import agree, arms_called, differences, in_order, of_dense, replaced, with_arms
from deepcuts.analysis.curves import comparable, in_metric
from deepcuts.analysis.significance import (
    FEWEST_SEEDS,
    Floats,
    corrected,
    equivalence,
    interval,
    is_shown,
    seeds_needed,
    sign_flip,
    spread,
    t_test,
    within_bounds,
)
from deepcuts.experiment.metrics import metric_and_split
from deepcuts.names import nearest
from deepcuts.pruning.criteria import NOT_PRUNED
from deepcuts.wording import Stage, level

COMPARISON_COLUMNS = [
    *("dataset", "compression", "sparsity", "strategy", "baseline", "metric", "n", "mixed", "difference"),
    *("low", "high", "p_t", "p_signflip", "p_differs", "p_within", "verdict", "seeds_needed"),
]

# The largest difference that does not matter, in the metric's own unit, unless another is given.
MARGIN = 0.01

# The baselines that are looked for where none is named, in this order.
BASELINES = ("LayerMagWeight", "GlobalMagWeight", "LayerRandom", "GlobalRandom")

# Fewer differences have no spread, and so no test.
FEWEST_TESTED = 2

_KEY = ["dataset", "metric", "compression", "sparsity_asked"]

# What changes the bits of a trial and is no setting of it.
_RAN_ON = ["device", "torch", "transformers"]


def compare(
    trials: pd.DataFrame,
    baseline: str = "LayerMagWeight",
    stage: Stage = "retrained",
    margin: float = MARGIN,
    metric: str | None = None,
    metrics: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Compare every arm with the baseline, paired by seed, per dataset and compression or sparsity asked.

    `baseline` is the `arm` or `label` of `with_arms`, or a strategy that one label has. `strategy` and `baseline` of a
    row are arms. Both start from the same fine-tuned network; arms whose label is their strategy agree in all settings
    that both have, unless the baseline is named as the very arm. An arm with a label of its own differs on purpose: it
    is compared with the arms of the baseline from which it differs in the fewest settings. Trials of older code are
    left out where today's have replaced them.

    `trials` are the rows of `trials(store)`. A row of COMPARISON_COLUMNS per arm and place: `difference` is
    strategy - baseline, the mean over the `n` seeds that both have, in the metric's own unit, with its 95 % interval
    `low, high` (`significance.interval`). `mixed` of these pairs ran on two kinds of device, or with two versions of
    torch or transformers, which has a part in their differences. One rule gives every verdict: a t test over at least
    6 seeds, with p times the number of rows that share 2 seeds or more at most 0.05 (docs/statistics.md).
    - equivalent: `p_within` (both one-sided tests) says that the difference lies within ± `margin`;
    - better, worse: `p_differs` (two-sided; uncorrected `p_t`) says that there is a difference;
    - undecided otherwise. Where both are shown, the verdict is equivalent, and `in_words` says which one is higher.
    `p_signflip` needs no normal distribution; it is a check and no part of the rule. `seeds_needed` give a verdict in
    80 % of all sweeps if these are the true difference and spread (null: unknown, or above 10,000). The baselines
    Dense (the fine-tuned network) and Unpruned (the unpruned network, retrained) are compared with everywhere.

    `metric` is the task's main one by default; another needs `metrics`, the rows of `metrics(store)`.
    Raises ValueError for an unknown stage, metric or baseline, a margin that is not above 0, and several models.

    >>> dc.compare(trials, baseline="LayerMagWeight")[["strategy", "difference", "low", "high", "verdict"]]
    """
    known = rows_of_one_model(trials, stage, metric, metrics)
    check_margin(margin)
    pairs = _paired(known, baseline, stage)
    arms = ["strategy", "baseline"]
    if pairs.empty:
        return pd.DataFrame(columns=COMPARISON_COLUMNS)
    groups = pairs.groupby([*_KEY, *arms], dropna=False)
    tested = _tested(np.asarray(groups.ngroup(), np.int64), pairs, margin)
    found = groups["mixed"].sum().reset_index()
    frame = pd.concat([found, tested], axis=1).merge(_places(pairs), on=_KEY)
    frame["low"], frame["high"] = within_bounds(frame["metric"], frame["low"], frame["high"], differences=True)
    frame["verdict"] = [verdict_of(row) for row in frame.to_dict("records")]
    return in_order(frame, ["dataset", "sparsity", *arms])[COMPARISON_COLUMNS]


def check_margin(margin: float) -> None:
    """Raise ValueError for a margin that is not above 0, or is not finite."""
    if not 0 < margin < math.inf:
        raise ValueError(
            f"margin {margin!r} must be above 0 and finite: it is the largest difference that does not matter"
        )


def usual_baseline(trials: pd.DataFrame) -> str:
    """Return the label that others are compared with unless another is named: the first of BASELINES that is there."""
    rows = with_arms(trials)
    rows = rows[(rows["status"] == "completed") & ~rows["strategy"].isin(NOT_PRUNED)]
    for column in ("label", "strategy"):
        found = [rows.loc[rows[column] == name, "label"] for name in BASELINES]
        if known := [labels.iloc[0] for labels in found if labels.nunique() == 1]:
            return str(known[0])
    return str(min(rows["label"], default=BASELINES[0]))


def rows_of_one_model(
    trials: pd.DataFrame, stage: Stage, metric: str | None, metrics: pd.DataFrame | None
) -> pd.DataFrame:
    """Return the completed trials of one model, with the metric that was asked for, without those of older code.

    Raises ValueError where the trials are of several models.
    """
    rows = comparable(in_metric(trials, stage, metric, metrics))
    rows = rows[~replaced(rows)]
    models = sorted(rows["model"].unique())
    if len(models) > 1:
        raise ValueError(
            f"trials of {len(models)} models are not paired: {', '.join(models)}; choose one (--only model=NAME)"
        )
    return rows


def of_arm(rows: pd.DataFrame, name: str) -> pd.Series:
    """Tell which rows of `with_arms` a name means: as `arms_called` does, else a strategy that one label has.

    Raises ValueError for an unknown name, naming the nearest, and for a strategy that several labels have.
    """
    if arms := arms_called(rows, name):
        return rows["arm"].isin(arms)
    found = rows["strategy"] == name
    known = sorted(rows["arm"].unique())
    if not found.any():
        raise ValueError(
            f"unknown baseline {name!r}{nearest(name, known) or ';'} the store has {', '.join(known) or 'no trials'}"
        )
    if len(labels := sorted(rows.loc[found, "label"].unique())) > 1:
        raise ValueError(f"baseline {name!r} is the strategy of {', '.join(labels)}; choose one of them")
    return found


def _paired(rows: pd.DataFrame, baseline: str, stage: Stage) -> pd.DataFrame:
    """Return every pruned trial with its value `ours` and, where the baseline has the same seed, `theirs`."""
    rows = rows.assign(ran_on=_ran_on(rows))
    every_dense = baseline == "Dense" and len(rows) > 0
    chosen = rows["strategy"] == "Dense" if every_dense else of_arm(rows, baseline)
    pruned = rows[~rows["strategy"].isin(NOT_PRUNED) & ~chosen].assign(ours=lambda each: each[stage])
    place, column, those = _KEY, stage, rows[chosen]
    if those["strategy"].isin(NOT_PRUNED).all():
        place = ["dataset", "metric"]
    if those["strategy"].eq("Dense").all():
        column, those = "dense", _dense(rows)
        those = those if every_dense else those[those["arm"] == baseline]
    key = [*place, "settings_b", "seed"]
    those = those.rename(columns={"settings": "settings_b", "arm": "baseline", column: "theirs", "ran_on": "theirs_on"})
    theirs = those.dropna(subset=["theirs"]).drop_duplicates([*key, "baseline"])
    pairs = pruned.rename(columns={"arm": "name"})
    partners = _partners(pairs, theirs, baseline, exact=baseline in set(rows["arm"]))
    pairs = pairs.merge(partners, on=["dataset", "name"]).drop(columns="strategy").rename(columns={"name": "strategy"})
    columns = [*_KEY, "sparsity", "strategy", "baseline", "seed", "ours", "theirs", "mixed"]
    pairs = pairs.merge(theirs[[*key, "baseline", "theirs", "theirs_on"]], on=[*key, "baseline"], how="left")
    known = pairs[["ours", "theirs", "ran_on", "theirs_on"]].notna().all(axis=1)
    return pairs.assign(mixed=(known & (pairs["ran_on"] != pairs["theirs_on"])).astype(bool))[columns]


def _ran_on(rows: pd.DataFrame) -> pd.Series:
    """Return what each trial ran on, in one text; null where a row does not say all of it."""
    device, torch, transformers = (known for _, known in rows.reindex(columns=_RAN_ON).astype("string").items())
    return device + "; " + torch + "; " + transformers


def _dense(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows as those of the fine-tuned networks that they began with, named as Dense is in these settings."""
    settings = rows["settings"].map(of_dense)
    alone = rows["strategy"] == "Dense"
    names = dict(zip(settings[alone], rows.loc[alone, "arm"], strict=True))
    return rows.assign(settings=settings, arm=[names.get(each, "Dense") for each in settings])


def _partners(pairs: pd.DataFrame, theirs: pd.DataFrame, baseline: str, exact: bool) -> pd.DataFrame:
    """Return the arms of the baseline (`baseline, settings_b`) that each arm (`name`) of a dataset is compared with.

    Where there are none, the baseline is named, without settings that would match. `exact`: it was asked for by the
    name of the very arm.
    """
    arm = ["baseline", "settings_b", "label", "strategy"]
    of_dataset: dict[str, list[tuple[str, ...]]] = {}
    for dataset, *one in theirs[["dataset", *arm]].drop_duplicates().itertuples(index=False, name=None):
        of_dataset.setdefault(dataset, []).append(tuple(one))
    found: list[tuple[str, str, str, str | None]] = []
    dense = cache(of_dense)
    ours = pairs[["dataset", "name", "settings", "label", "strategy"]].drop_duplicates()
    for dataset, name, settings, label, strategy in ours.itertuples(index=False, name=None):
        apart: dict[tuple[str, str | None], int] = {}
        for other, others, of, formula in of_dataset.get(dataset, []):
            count = differences(settings, others)
            on_purpose = exact or label != strategy or of != formula
            if agree(dense(settings), dense(others)) and (on_purpose or not count):
                apart[other, others] = count
        fewest = [key for key, count in apart.items() if count == min(apart.values())]
        found += [(dataset, name, *key) for key in fewest] or [(dataset, name, baseline, None)]
    return pd.DataFrame(found, columns=["dataset", "name", "baseline", "settings_b"], dtype=object)


def _tested(group: NDArray[np.int64], pairs: pd.DataFrame, margin: float) -> pd.DataFrame:
    """Return the tests of each group of pairs, in the order of their numbers; groups of one size are tested at once."""
    difference = (pairs["ours"] - pairs["theirs"]).to_numpy(np.float64)
    order = np.lexsort((pairs["seed"], group))
    order = order[~np.isnan(difference[order])]
    sizes = np.bincount(group[order], minlength=group.max() + 1)
    starts = np.cumsum(sizes) - sizes
    rows = max(1, int((sizes >= FEWEST_TESTED).sum()))
    found = []
    for size in np.unique(sizes):
        of_size = np.flatnonzero(sizes == size)
        places = order[starts[of_size, None] + np.arange(size)]
        found.append(pd.DataFrame(tests_of(difference[places], margin, rows), of_size))
    return pd.concat(found).sort_index()


def tests_of(differences: Floats, margin: float, rows: int) -> dict[str, Floats]:
    """Return the tests of the differences (R, S) of R of `rows` rows, called as the columns of `compare`: (R,) each."""
    count, seeds = differences.shape
    mean = differences.mean(axis=1) if seeds else np.full(count, np.nan)
    low, high = interval(differences)
    p = t_test(differences)
    return {
        "n": np.full(count, seeds),
        "difference": mean,
        "low": low,
        "high": high,
        "p_t": p,
        "p_signflip": sign_flip(differences),
        "p_differs": corrected(p, rows),
        "p_within": corrected(equivalence(differences, margin), rows),
        "seeds_needed": seeds_needed(mean, spread(differences), margin, rows),
    }


def _places(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return each place with the sparsity that was asked for, or else the mean achieved."""
    places = pairs.groupby(_KEY, dropna=False)["sparsity"].mean().reset_index()
    return places.assign(sparsity=places["sparsity_asked"].fillna(places["sparsity"]))


def verdict_of(row: Mapping[Any, Any]) -> str:
    """Return the verdict of a row that was tested, by the one rule of all verdicts."""
    if is_shown(row["p_within"], row["n"]):
        return "equivalent"
    if not is_shown(row["p_differs"], row["n"]):
        return "undecided"
    return "better" if (row["difference"] > 0) != lower_is_better(row["metric"]) else "worse"


def lower_is_better(metric: str) -> bool:
    """Whether a metric, of any split, is an error."""
    return metric_and_split(metric)[0] in ("mse", "loss")


def short_verdict(row: Mapping[str, Any]) -> str:
    """Return the verdict of a row of `compare` in a few words.

    It is the verdict itself, but for a difference that is shown and too small to matter: `higher by less than the
    margin` (or `lower`; higher is a larger metric, also where less is better).
    """
    if row["verdict"] == "equivalent" and is_shown(row["p_differs"], row["n"]):
        return f"{_direction(row)} by less than the margin"
    return str(row["verdict"])


def _direction(row: Mapping[str, Any]) -> str:
    return "higher" if row["difference"] > 0 else "lower"


def in_words(row: Mapping[str, Any], margin: float) -> str:
    """Write one row of `compare` as a sentence.

    `LayerSNIP is better than LayerMagWeight on cola at 4x: matthews +0.031 (95 % interval +0.012 to +0.050, 8 seeds,
    corrected p = 0.008).`

    >>> [dc.in_words(row, margin=0.01) for row in dc.compare(trials).to_dict("records")]
    """
    place = f"{row['baseline']} on {row['dataset']} at {level(row['compression'], row['sparsity'])}"
    against, verdict = f"{row['strategy']} against {place}", row["verdict"]
    if row["n"] == 0:
        return f"{against}: undecided, they share no seed in the same settings; run both alike, with the same seeds."
    seen = f"{row['metric']} {row['difference']:+z.3f}"
    if row["n"] == 1:
        return f"{against}: undecided, {seen} with one seed, which says nothing about the spread{_more(row)}"
    known = row["low"] is not None and row["low"] == row["low"]
    same = "the same for both seeds" if row["n"] == 2 else f"the same for all {row['n']} seeds"
    around = f"95 % interval {row['low']:+z.3f} to {row['high']:+z.3f}, {row['n']} seeds" if known else same
    seen += f" ({around}"
    if verdict == "undecided":
        return f"{against}: undecided, {seen}){_more(row)}"
    if verdict != "equivalent":
        return f"{row['strategy']} is {verdict} than {place}: {seen}, {_p(row['p_differs'])})."
    if short_verdict(row) == verdict:
        return f"{row['strategy']} is equivalent to {place}: {seen}, within ± {margin:g}, {_p(row['p_within'])})."
    difference = f"{_direction(row)} by {abs(row['difference']):.2g}, less than the margin of {margin:g}"
    return f"{against}: {difference}: {seen}, {_p(row['p_differs'])})."


def _p(corrected_p: float) -> str:
    return "corrected p < 0.001" if corrected_p < 0.001 else f"corrected p = {corrected_p:.3f}"


def _more(row: Mapping[str, Any]) -> str:
    few = 1 < row["n"] < FEWEST_SEEDS
    return (f"; {row['n']} seeds are too few to show anything" if few else "") + f"; {more_seeds(row)}."


def more_seeds(row: Mapping[str, Any]) -> str:
    """Say how many seeds would decide an undecided row of `compare`, if its difference and spread are the true ones."""
    needed = row["seeds_needed"]
    if needed is None or needed != needed:
        known = row["n"] >= FEWEST_TESTED
        return "no number of seeds up to 10,000 would decide" if known else f"at least {FEWEST_SEEDS} seeds are needed"
    return "as many seeds again may decide" if needed <= row["n"] else f"about {needed:.0f} seeds would decide"
