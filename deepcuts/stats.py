"""Paired comparisons: strategies with a baseline over seeds, and two trials over examples (frames in, frames out)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from deepcuts import paired
from deepcuts.curves import LEVELS, STAGES, Stage, comparable, with_metric
from deepcuts.metrics import FUNCTIONS
from deepcuts.names import find_id, nearest
from deepcuts.paired import LEVEL, Floats
from deepcuts.resample import Resampled, two_level
from deepcuts.store import Store

COLUMNS = [
    *("dataset", "compression", "sparsity", "strategy", "baseline", "metric", "n", "difference", "low", "high"),
    *("p_t", "p_signflip", "p_holm", "verdict", "seeds_needed"),
]
LOWER_IS_BETTER = ("mse", "loss")

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


# Two levels, from predictions


def two_level_bootstrap(
    store: Store, trial_ids: Iterable[str], baseline_ids: Iterable[str], metric: str, stage: Stage = "retrained"
) -> Resampled:
    """How far the mean difference of a metric may be off when the seeds and the validation examples had been others:
    `resample.two_level` of trials with their baselines, a pair of ids per seed, in the same order.

    Raises ValueError where predictions are missing or were made on other examples.
    """
    ours, theirs = list(trial_ids), list(baseline_ids)
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} trials and {len(theirs)} baselines are no pairs; give one of each per seed")
    labels, predictions = _predictions(store, [*ours, *theirs], stage)
    return two_level(labels, predictions[: len(ours)], predictions[len(ours) :], metric)


def _predictions(store: Store, trial_ids: list[str], stage: Stage) -> tuple[Floats, Floats]:
    """Labels (N,) and predictions (T, N) of the trials on the validation split."""
    where = ds.field("trial_id").isin(trial_ids) & (ds.field("stage") == stage) & (ds.field("split") == "validation")
    read = store.read("predictions", ["trial_id", "example", "label", "prediction"], where)
    rows = read.table.to_pandas().drop_duplicates(["trial_id", "example"])
    found = {str(key): part.sort_values("example") for key, part in rows.groupby("trial_id")}
    for trial_id in trial_ids:
        if trial_id not in found:
            named = "".join(f"; {path}: {reason}" for path, reason in read.damaged.items())
            raise ValueError(f"trial {trial_id!r} has no predictions of stage {stage!r} in {store.uri!r}{named}")
    first = found[trial_ids[0]]
    for trial_id in trial_ids[1:]:
        if not np.array_equal(found[trial_id][["example", "label"]], first[["example", "label"]]):
            raise ValueError(
                f"trials {trial_ids[0]!r} and {trial_id!r} were evaluated on other examples or labels;"
                " choose trials of one dataset"
            )
    predictions = np.stack([found[trial_id]["prediction"].to_numpy(np.float64) for trial_id in trial_ids])
    return first["label"].to_numpy(np.float64), predictions


def compare_trials(store: Store, trial_a: str, trial_b: str, stage: Stage = "retrained") -> pd.DataFrame:
    """Two trials on the examples of their validation split, as one row: `trial_a, trial_b, metric, n` (examples),
    the metric's `value_a, value_b`, `difference` = a - b with its 95 % interval over the examples `low, high`, the
    examples that just one of them has right, `only_a, only_b`, and `p_mcnemar` (null for a regression).

    Raises ValueError for an unknown trial, a failed one, one without predictions, and two that have other examples.
    """
    rows = store.read("trials", ["trial_id", "status", "metric"]).table.to_pandas().drop_duplicates("trial_id")
    metric_of = rows[rows["status"] == "completed"].set_index("trial_id")["metric"]
    a, b = (find_id(each, rows["trial_id"]) for each in (trial_a, trial_b))
    for trial_id in (a, b):
        if trial_id not in metric_of:
            raise ValueError(f"trial {trial_id!r} failed: it has no predictions to compare")
    labels, (ours, theirs) = _predictions(store, [a, b], stage)
    metric = metric_of[a]
    found = two_level(labels, ours[None], theirs[None], metric)
    classes = metric in ("accuracy", "f1", "matthews")
    only_a = int(((ours == labels) & (theirs != labels)).sum())
    only_b = int(((ours != labels) & (theirs == labels)).sum())
    row = {
        "trial_a": a,
        "trial_b": b,
        "metric": metric,
        "n": len(labels),
        "value_a": FUNCTIONS[metric](labels, ours),
        "value_b": FUNCTIONS[metric](labels, theirs),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "only_a": only_a if classes else None,
        "only_b": only_b if classes else None,
        "p_mcnemar": paired.mcnemar(only_a, only_b) if classes else None,
    }
    return pd.DataFrame([row])
