"""Compares stored predictions example by example: two trials, and strategies with the examples resampled."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from deepcuts.analysis.curves import comparable
from deepcuts.analysis.significance import Floats, Resampled, mcnemar, two_level
from deepcuts.experiment.metrics import FUNCTIONS, in_split, metric_and_split, value_of
from deepcuts.experiment.tasks import METRICS
from deepcuts.names import find_id, nearest
from deepcuts.store.store import Store

Made = tuple[str, str]  # trial_id and stage: what made a set of predictions


def bootstrap(store: Store, ours: Sequence[Made], theirs: Sequence[Made], metric: str) -> Resampled:
    """Estimate a mean difference of a metric, with an interval over other seeds and other validation examples.

    `ours` and `theirs` are the (trial_id, stage) of the trials and of their baselines, one of each per seed, in the
    same order; `significance.two_level` resamples them. A metric of another split (`in_split`) is of its examples.
    Raises ValueError where predictions are missing or were made on other examples.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} trials and {len(theirs)} baselines do not pair up; give one of each per seed")
    metric, split = metric_and_split(metric)
    labels, predictions = _predictions(store, [*ours, *theirs], split)
    return two_level(labels, predictions[: len(ours)], predictions[len(ours) :], metric)


def _predictions(store: Store, made: Sequence[Made], split: str) -> tuple[Floats, Floats]:
    """Read the labels (N,) of a split and the predictions (T, N) of each trial after its stage."""
    where = ds.field("trial_id").isin([trial_id for trial_id, _ in made]) & (ds.field("split") == split)
    where &= ds.field("stage").isin([stage for _, stage in made])
    read = store.read("predictions", ["trial_id", "stage", "example", "label", "prediction"], where)
    rows = read.table.to_pandas()
    found = {key: part.sort_values("example") for key, part in rows.groupby(["trial_id", "stage"])}
    for trial_id, stage in made:
        if (trial_id, stage) not in found:
            named = "".join(f"; {path}: {reason}" for path, reason in read.damaged.items())
            elsewhere = "" if split == "validation" else f" on split {split!r}"
            raise ValueError(
                f"trial {trial_id!r} has no predictions of stage {stage!r}{elsewhere} in {store.uri!r}{named}"
            )
    first = found[made[0]]
    for one in made[1:]:
        if not np.array_equal(found[one][["example", "label"]], first[["example", "label"]]):
            raise ValueError(
                f"trials {made[0][0]!r} and {one[0]!r} were evaluated on other examples or labels;"
                " choose trials of one dataset"
            )
    predictions = np.stack([found[one]["prediction"].to_numpy(np.float64) for one in made])
    return first["label"].to_numpy(np.float64), predictions


def compare_trials(
    store: Store,
    trial_a: str,
    trial_b: str,
    stage: str = "retrained",
    metric: str | None = None,
    split: str = "validation",
) -> pd.DataFrame:
    """Compare two trials (ids, or prefixes of ids) on the examples of a split, as one row.

    `trial_a, trial_b, metric, n` (examples), `value_a, value_b` of the metric (the task's main one by default),
    `difference` = a - b with its 95 % interval over the examples `low, high`, the numbers of examples that only one of
    them has right, `only_a, only_b`, and McNemar's `p_mcnemar` (all three null for a regression).

    Raises ValueError for an unknown trial, a failed one, one without predictions, and two that have other examples.

    >>> dc.compare_trials(store, *trials.dropna(subset="retrained")["trial_id"].iloc[:2])
    """
    rows = store.read("trials", ["trial_id", "status", "metric"]).table.to_pandas()
    metric_of = rows[rows["status"] == "completed"].set_index("trial_id")["metric"]
    a, b = (find_id(each, rows["trial_id"]) for each in (trial_a, trial_b))
    for trial_id in (a, b):
        if trial_id not in metric_of:
            raise ValueError(f"trial {trial_id!r} failed: it has no predictions to compare")
    metric = metric or str(metric_of[a])
    if metric not in FUNCTIONS:
        raise ValueError(f"unknown metric {metric!r}{nearest(metric, FUNCTIONS) or ';'} known: {', '.join(FUNCTIONS)}")
    labels, (ours, theirs) = _predictions(store, [(a, stage), (b, stage)], split)
    found = two_level(labels, ours[None], theirs[None], metric)
    row = {"trial_a": a, "trial_b": b, "metric": in_split(metric, split), "n": len(labels)}
    row |= {"value_a": value_of(metric, labels, ours), "value_b": value_of(metric, labels, theirs)}
    row |= {"difference": found.difference, "low": found.low, "high": found.high}
    return pd.DataFrame([row | _discordant(labels, ours, theirs, str(metric_of[a]))])


def _discordant(labels: Floats, ours: Floats, theirs: Floats, main_metric: str) -> dict[str, float | None]:
    """Count the examples that only one of them has right, with McNemar's p; nulls for a regression."""
    if main_metric not in METRICS["classification"]:
        return {"only_a": None, "only_b": None, "p_mcnemar": None}
    only_a = int(((ours == labels) & (theirs != labels)).sum())
    only_b = int(((ours != labels) & (theirs == labels)).sum())
    return {"only_a": only_a, "only_b": only_b, "p_mcnemar": mcnemar(only_a, only_b)}


def with_examples(store: Store, comparisons: pd.DataFrame, trials: pd.DataFrame, stage: str) -> pd.DataFrame:
    """Return a frame of `compare` with intervals `low, high` that also hold for other validation examples.

    They are those of `bootstrap`, over the same seeds; a row without a pair of seeds has none. Tests and verdicts stay
    as they are, as they are about the seeds. Raises ValueError as `bootstrap` does.

    >>> dc.with_examples(store, dc.compare(trials), trials, stage="retrained")
    """
    completed = comparable(trials)
    frame = comparisons.copy()
    for place, row in enumerate(comparisons.to_dict("records")):
        if not row["n"]:  # its baseline may not even be an arm
            continue
        ours = _by_seed(completed, row, str(row["strategy"]), stage)
        of_baseline = completed.loc[completed["arm"] == row["baseline"], "strategy"]
        theirs = (
            {seed: (trial_id, "dense") for seed, (trial_id, _) in ours.items()}
            if of_baseline.eq("Dense").all()
            else _by_seed(completed, row, str(row["baseline"]), stage)
        )
        seeds = sorted(set(ours) & set(theirs))
        found = bootstrap(store, [ours[s] for s in seeds], [theirs[s] for s in seeds], str(row["metric"]))
        frame.loc[place, ["low", "high"]] = found.low, found.high
    return frame


def _by_seed(trials: pd.DataFrame, row: Mapping[Hashable, Any], arm: str, stage: str) -> dict[int, Made]:
    """Map seeds to the trials of an arm at the place of a comparison's row (of Unpruned at any place)."""
    chosen = trials[(trials["arm"] == arm) & (trials["dataset"] == row["dataset"])]
    anywhere = chosen["strategy"].eq("Unpruned").all()
    if not anywhere and row["compression"] == row["compression"]:
        chosen = chosen[chosen["compression"] == row["compression"]]
    elif not anywhere:
        chosen = chosen[chosen["compression"].isna() & (chosen["sparsity_asked"] == row["sparsity"])]
    chosen = chosen.dropna(subset=[stage])
    return {seed: (trial_id, stage) for seed, trial_id in zip(chosen["seed"], chosen["trial_id"], strict=True)}
