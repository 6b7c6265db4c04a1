"""Paired comparisons of strategies with a baseline over seeds (frames in, frames out)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from deepcuts import paired
from deepcuts.curves import LEVELS, STAGES, Stage, comparable, with_metric
from deepcuts.names import nearest
from deepcuts.paired import LEVEL, Floats
from deepcuts.verdicts import LOWER_IS_BETTER

COLUMNS = [
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
    """Every strategy against the baseline, per dataset and what was asked, paired by seed: a row of COLUMNS each.

    `difference` is strategy - baseline, the mean over the `n` seeds that both have, in the metric's own unit, with
    its 95 % interval `low, high` (`paired.interval`). `p_holm` corrects `p_t` (`p_signflip`, where the differences
    are all the same) for all rows of the frame. The verdict is
    - equivalent: both one-sided tests, corrected over the frame, say that the difference lies within ± `margin`;
    - better, worse: p_holm and the exact p_signflip are both at most 0.05, and the interval agrees;
    - else undecided, always so below 5 seeds: neither test can show anything then.
    `seeds_needed` would decide with 80 % power, were these the true difference and spread (null: unknown, or above
    10,000); its t test is at 0.05 over the number of rows. Baseline Dense (the fine-tuned network) and Unpruned
    (the unpruned one, retrained) stand against every compression.

    Raises ValueError for an unknown stage, metric or baseline, a margin that is not above 0, and several models.
    """
    rows = _rows(trials, stage, metric, metrics)
    if not margin > 0:
        raise ValueError(f"margin {margin!r} must be above 0: it is the difference that does not matter")
    pairs = _paired(rows, baseline, stage)
    groups = [(key, _differences(part)) for key, part in pairs.groupby([*_KEY, "strategy"], dropna=False)]
    level = LEVEL / max(1, len(groups))
    tested = pd.DataFrame([_tested(differences, margin, level) for _, differences in groups])
    if tested.empty:
        return pd.DataFrame(columns=COLUMNS)
    keys = pd.DataFrame([key for key, _ in groups], columns=[*_KEY, "strategy"])
    frame = pd.concat([keys, tested], axis=1).assign(baseline=baseline)
    frame = frame.merge(_places(pairs), on=_KEY)
    frame["p_holm"] = paired.holm(frame["p_t"].fillna(frame["p_signflip"]))
    within = paired.holm(frame.pop("p_within")) <= LEVEL
    frame["verdict"] = [_verdict(row, same) for row, same in zip(frame.to_dict("records"), within, strict=True)]
    return frame.sort_values(["dataset", "sparsity", "strategy"], ignore_index=True)[COLUMNS]


def _rows(trials: pd.DataFrame, stage: Stage, metric: str | None, metrics: pd.DataFrame | None) -> pd.DataFrame:
    """The completed trials of one model, in the metric that was asked for."""
    if stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r}{nearest(stage, STAGES)}; known: {', '.join(STAGES)}")
    if metric is not None:
        if metrics is None:
            raise ValueError(f"metric {metric!r} is looked up in the metrics table: give metrics=metrics(store)")
        trials = with_metric(trials, metrics, metric)
    rows = comparable(trials)
    models = sorted(rows["model"].unique())
    if len(models) > 1:
        raise ValueError(f"trials of {len(models)} models are not paired: {', '.join(models)}; choose one of them")
    return rows


def _paired(rows: pd.DataFrame, baseline: str, stage: Stage) -> pd.DataFrame:
    """Every pruned trial with `ours` and, where the baseline has its seed, `theirs`."""
    known = sorted(rows["strategy"].unique())
    if baseline not in known and not (baseline == "Dense" and len(rows)):
        raise ValueError(
            f"unknown baseline {baseline!r}{nearest(baseline, known)}; the store has {', '.join(known) or 'no trials'}"
        )
    pruned = rows[~rows["strategy"].isin((*LEVELS, baseline))].assign(ours=lambda each: each[stage])
    if baseline in LEVELS:
        key, column = ["dataset", "metric", "seed"], "dense" if baseline == "Dense" else stage
        those = rows if baseline == "Dense" else rows[rows["strategy"] == baseline]
    else:
        key, column = [*_KEY, "metric", "seed"], stage
        those = rows[rows["strategy"] == baseline]
    theirs = those.dropna(subset=[column]).drop_duplicates(key).rename(columns={column: "theirs"})
    return pruned[[*_KEY, "sparsity", "metric", "strategy", "seed", "ours"]].merge(
        theirs[[*key, "theirs"]], on=key, how="left"
    )


def _differences(part: pd.DataFrame) -> Floats:
    part = part.sort_values("seed")
    return (part["ours"] - part["theirs"]).dropna().to_numpy(np.float64)


def _tested(differences: Floats, margin: float, level: float) -> dict[str, float]:
    mean = float(differences.mean()) if len(differences) else float("nan")
    low, high = paired.interval(differences)
    return {
        "n": len(differences),
        "difference": mean,
        "low": low,
        "high": high,
        "p_t": paired.t_test(differences),
        "p_signflip": paired.sign_flip(differences) if len(differences) else float("nan"),
        "p_within": paired.equivalence(differences, margin),
        "seeds_needed": paired.seeds_needed(mean, paired.spread(differences), margin, level),
    }


def _places(pairs: pd.DataFrame) -> pd.DataFrame:
    """The metric of each dataset, and the sparsity asked or else the mean achieved, per place."""
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
