"""Compares strategies with a baseline, paired by seed, and puts the result in words (frames in, frames out)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from deepcuts.analysis.arms import agree, of_dense
from deepcuts.analysis.curves import comparable, in_metric
from deepcuts.analysis.significance import (
    LEVEL,
    Floats,
    equivalence,
    fewest_seeds,
    holm,
    interval,
    seeds_needed,
    sign_flip,
    spread,
    t_test,
)
from deepcuts.names import nearest
from deepcuts.pruning.criteria import NOT_PRUNED
from deepcuts.wording import Stage, level

COMPARISON_COLUMNS = [
    *("dataset", "compression", "sparsity", "strategy", "baseline", "metric", "n", "difference", "low", "high"),
    *("p_t", "p_signflip", "p_holm", "verdict", "seeds_needed"),
]

_KEY = ["dataset", "compression", "sparsity_asked"]


def compare(
    trials: pd.DataFrame,
    baseline: str = "LayerMagWeight",
    stage: Stage = "retrained",
    margin: float = 0.01,
    metric: str | None = None,
    metrics: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Compare every strategy with the baseline, paired by seed, per dataset and compression or sparsity asked.

    A pair agrees in all settings that both have. Where trials of a dataset differ in settings, `strategy` and
    `baseline` say in what, as the `arm` of `with_arms` does, and each arm has rows of its own.

    `trials` are the rows of `trials(store)`. A row of COMPARISON_COLUMNS per strategy and place: `difference` is
    strategy - baseline, the mean over the `n` seeds that both have, in the metric's own unit, with its 95 % interval
    `low, high` (`significance.interval`). `p_holm` is `p_t` corrected for the number of rows of the frame (or
    `p_signflip`, where all differences are equal and the t test is undefined). The verdict is
    - equivalent: both one-sided tests, corrected over the frame, say that the difference lies within ± `margin`;
    - better, worse: p_holm and the exact p_signflip are both at most 0.05, and the interval agrees;
    - undecided otherwise, and always below 5 seeds: neither test can show anything then.
    `seeds_needed` would decide with 80 % power if these were the true difference and spread (null: unknown, or above
    10,000); its t test is at level 0.05 / number of rows. The baselines Dense (the fine-tuned network) and Unpruned
    (the unpruned network, retrained) are compared with at every compression.

    `metric` is the task's main one by default; another needs `metrics`, the rows of `metrics(store)`.
    Raises ValueError for an unknown stage, metric or baseline, a margin that is not above 0, and several models.

    >>> dc.compare(trials, baseline="LayerMagWeight")[["strategy", "difference", "low", "high", "verdict"]]
    """
    rows = _rows(trials, stage, metric, metrics)
    if not margin > 0:
        raise ValueError(f"margin {margin!r} must be above 0: it is the largest difference that does not matter")
    pairs = _paired(rows, baseline, stage)
    arms = ["strategy", "baseline"]
    groups = [(key, _differences(part)) for key, part in pairs.groupby([*_KEY, *arms], dropna=False)]
    level = LEVEL / max(1, len(groups))
    tested = pd.DataFrame([_tested(differences, margin, level) for _, differences in groups])
    if tested.empty:
        return pd.DataFrame(columns=COMPARISON_COLUMNS)
    frame = pd.concat([pd.DataFrame([key for key, _ in groups], columns=[*_KEY, *arms]), tested], axis=1)
    frame = frame.merge(_places(pairs), on=_KEY)
    frame["p_holm"] = holm(frame["p_t"].fillna(frame["p_signflip"]))
    within = holm(frame.pop("p_within")) <= LEVEL
    frame["verdict"] = [_verdict(row, same) for row, same in zip(frame.to_dict("records"), within, strict=True)]
    return frame.sort_values(["dataset", "sparsity", *arms], ignore_index=True)[COMPARISON_COLUMNS]


def _rows(trials: pd.DataFrame, stage: Stage, metric: str | None, metrics: pd.DataFrame | None) -> pd.DataFrame:
    """Return the completed trials of one model, with the metric that was asked for."""
    rows = comparable(in_metric(trials, stage, metric, metrics))
    models = sorted(rows["model"].unique())
    if len(models) > 1:
        raise ValueError(f"trials of {len(models)} models are not paired: {', '.join(models)}; choose one model")
    return rows


def _paired(rows: pd.DataFrame, baseline: str, stage: Stage) -> pd.DataFrame:
    """Return every pruned trial with its value `ours` and, where the baseline has the same seed, `theirs`."""
    known = sorted(rows["strategy"].unique())
    if baseline not in known and not (baseline == "Dense" and len(rows)):
        raise ValueError(
            f"unknown baseline {baseline!r}{nearest(baseline, known)}; the store has {', '.join(known) or 'no trials'}"
        )
    pruned = rows[~rows["strategy"].isin((*NOT_PRUNED, baseline))].assign(ours=lambda each: each[stage])
    place, column, those = _KEY, stage, rows[rows["strategy"] == baseline]
    if baseline in NOT_PRUNED:
        place = ["dataset"]
    if baseline == "Dense":
        column, those = "dense", _dense(rows)
    key = [*place, "metric", "settings_b", "seed"]
    those = those.rename(columns={"settings": "settings_b", "arm": "baseline", column: "theirs"})
    theirs = those.dropna(subset=["theirs"]).drop_duplicates(key)
    pairs = pruned.drop(columns="strategy").rename(columns={"arm": "strategy"})
    pairs = pairs.merge(_partners(pairs, theirs, baseline), on=["dataset", "settings"])
    columns = [*_KEY, "sparsity", "metric", "strategy", "baseline", "seed", "ours", "theirs"]
    return pairs.merge(theirs[[*key, "theirs"]], on=key, how="left")[columns]


def _dense(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows as those of the fine-tuned networks that they began with, named as Dense is in these settings."""
    settings = rows["settings"].map(of_dense)
    alone = rows["strategy"] == "Dense"
    names = dict(zip(settings[alone], rows.loc[alone, "arm"], strict=True))
    return rows.assign(settings=settings, arm=[names.get(each, "Dense") for each in settings])


def _partners(pairs: pd.DataFrame, theirs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return the arms of the baseline (`baseline, settings_b`) that each `settings` of a dataset may be compared with.

    Where there are none, the baseline is named, without settings that would match.
    """
    of_dataset = dict(list(theirs[["dataset", "settings_b", "baseline"]].drop_duplicates().groupby("dataset")))
    found = []
    for dataset, settings in pairs[["dataset", "settings"]].drop_duplicates().itertuples(index=False, name=None):
        there = of_dataset.get(dataset, theirs.head(0))
        alike = [row for row in zip(there["settings_b"], there["baseline"], strict=True) if agree(settings, row[0])]
        found += [(dataset, settings, *row) for row in alike or [(None, baseline)]]
    return pd.DataFrame(found, columns=["dataset", "settings", "settings_b", "baseline"], dtype=object)


def _differences(part: pd.DataFrame) -> Floats:
    part = part.sort_values("seed")
    return (part["ours"] - part["theirs"]).dropna().to_numpy(np.float64)


def _tested(differences: Floats, margin: float, level: float) -> dict[str, float]:
    mean = float(differences.mean()) if len(differences) else float("nan")
    low, high = interval(differences)
    return {
        "n": len(differences),
        "difference": mean,
        "low": low,
        "high": high,
        "p_t": t_test(differences),
        "p_signflip": sign_flip(differences) if len(differences) else float("nan"),
        "p_within": equivalence(differences, margin),
        "seeds_needed": seeds_needed(mean, spread(differences), margin, level),
    }


def _places(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return each place's metric, and the sparsity that was asked for or else the mean achieved."""
    means = pairs.groupby(_KEY, dropna=False).agg(sparsity=("sparsity", "mean"), metric=("metric", "first"))
    places = means.reset_index()
    return places.assign(sparsity=places["sparsity_asked"].fillna(places["sparsity"]))


def _verdict(row: Mapping[Hashable, Any], within: bool) -> str:
    if within:
        return "equivalent"
    shown = row["p_holm"] <= LEVEL and row["p_signflip"] <= LEVEL and not row["low"] <= 0 <= row["high"]
    if not shown:
        return "undecided"
    above = row["difference"] > 0
    return "better" if above != (row["metric"] in LOWER_IS_BETTER) else "worse"


LOWER_IS_BETTER = ("mse", "loss")


def in_words(row: Mapping[str, Any], margin: float) -> str:
    """Write one row of `compare` as a sentence.

    `LayerSNIP is better than LayerMagWeight on cola at 4x: matthews +0.031 (95 % interval +0.012 to +0.050, 8 seeds,
    p = 0.008 after Holm's correction).`

    >>> [dc.in_words(row, margin=0.01) for row in dc.compare(trials).to_dict("records")]
    """
    place = f"{row['baseline']} on {row['dataset']} at {level(row['compression'], row['sparsity'])}"
    against, verdict = f"{row['strategy']} against {place}", row["verdict"]
    if row["n"] == 0:
        return f"{against}: undecided, they share no seed in the same settings; run both alike, with the same seeds."
    seen = f"{row['metric']} {row['difference']:+.3f}"
    if row["n"] == 1:
        return f"{against}: undecided, {seen} with one seed, which says nothing about the spread{_more(row)}"
    known = row["low"] is not None and row["low"] == row["low"]
    around = f"95 % interval {row['low']:+.3f} to {row['high']:+.3f}, " if known else "the same for all "
    seen += f" ({around}{row['n']} seeds"
    if verdict == "undecided":
        return f"{against}: undecided, {seen}){_more(row)}"
    if verdict == "equivalent":
        return f"{row['strategy']} is no different from {place}: {seen}, within ± {margin:g})."
    p = "p < 0.001" if row["p_holm"] < 0.001 else f"p = {row['p_holm']:.3f}"
    return f"{row['strategy']} is {verdict} than {place}: {seen}, {p} after Holm's correction)."


def _more(row: Mapping[str, Any]) -> str:
    """Say how many seeds would decide."""
    few = row["n"] < fewest_seeds(two_sided=False)
    why = f"; {row['n']} seeds can show nothing" if few and row["n"] > 1 else ""
    needed = row["seeds_needed"]
    if needed is None or needed != needed:
        enough = f"at least {fewest_seeds()} are needed" if few else "no number of seeds up to 10,000 would decide"
    elif needed <= row["n"]:
        enough = "as many again may decide"
    else:
        enough = f"about {needed:.0f} would decide"
    return f"{why}; {enough}."
