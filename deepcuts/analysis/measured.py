"""Puts another metric, or another split, into the columns of the stages, so that every view can show it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from deepcuts.analysis import frames
from deepcuts.analysis.arms import with_arms
from deepcuts.analysis.curves import with_metric
from deepcuts.experiment.metrics import in_split, majority_score, value_of
from deepcuts.experiment.tasks import METRICS, ON_REQUEST
from deepcuts.names import nearest
from deepcuts.store.store import Store


def measured(store: Store, trials: pd.DataFrame, metric: str | None = None, split: str = "validation") -> pd.DataFrame:
    """Return the trials with another metric (their main one by default) or split in the columns of the stages.

    It is the value at the last epoch of each stage, and `majority` is that of the same metric and split. `metric` then
    says the split where that is not validation: `accuracy (test)`. `table`, `curves` and `compare` take the frame as
    they take that of `trials(store)`. Metrics that no trial records, such as macro_f1, are computed from the
    predictions. Completed trials without the metric or the split are left out.

    Raises ValueError for a split or a metric that none of the trials has.

    >>> dc.table(dc.measured(store, trials, metric="macro_f1"))
    """
    if metric is None and split == "validation":
        return trials
    known = sorted(set(frames.metrics(store, ["split"])["split"]) - {"train"})
    if split not in (*known, "validation"):
        raise ValueError(f"unknown split {split!r}{nearest(split, known) or ';'} the store has {', '.join(known)}")
    values = frames.metrics(store, split=split)
    if metric in ON_REQUEST:
        values = pd.concat([values, _computed(store, trials, values, metric, split)], ignore_index=True)
    facts = frames.trials(store, ["trial_id", "data_facts"]).set_index("trial_id")["data_facts"]
    parts = []
    for name, part in trials.groupby("metric", sort=False):
        shown = metric or str(name)
        if metric is None and shown not in set(values["metric"]):
            continue
        found = with_metric(part, values, shown, split)
        levels = {each: _majority(each, shown, split) for each in facts[found["trial_id"]].unique()}
        majority = facts[found["trial_id"]].map(levels).to_numpy()
        failed = part[part["status"] == "failed"]
        parts += [each.assign(metric=in_split(shown, split)) for each in (found.assign(majority=majority), failed)]
    parts = [each for each in parts if len(each)]
    frame = pd.concat(parts, ignore_index=True) if parts else trials.head(0)
    if not (frame["status"] == "completed").any():
        raise ValueError(f"no completed trial has {metric or 'its metric'} on split {split!r}")
    frame.attrs = trials.attrs
    return frame


def holdouts_in_words(trials: pd.DataFrame) -> list[str]:
    """Say, a line per dataset, which trials were measured on a part of the training split, not on validation."""
    settings = with_arms(trials)["settings"]
    shares = settings.map({text: json.loads(text).get("data.holdout") for text in settings.unique()})
    lines = []
    for dataset, some in shares.groupby(trials["dataset"]):
        held = some.dropna()
        if len(held):
            of = "" if len(held) == len(some) else f"{len(held)} of {len(some)} trials: "
            parts = " or ".join(f"{100 * share:g} %" for share in sorted(set(held)))
            lines.append(f"{dataset}: {of}validation is a holdout of {parts} of the training split")
    return lines


def _computed(store: Store, trials: pd.DataFrame, recorded: pd.DataFrame, metric: str, split: str) -> pd.DataFrame:
    """Return rows as of the table `metrics`, from the predictions of the classifications that did not record it."""
    there = recorded.loc[recorded["metric"] == metric, "trial_id"]
    lacking = trials[trials["metric"].isin(METRICS["classification"]) & ~trials["trial_id"].isin(there)]
    where = ds.field("trial_id").isin(list(lacking["trial_id"])) & (ds.field("split") == split)
    rows = store.read("predictions", ["trial_id", "stage", "label", "prediction"], where).table.to_pandas()
    found = [
        (*key, value_of(metric, part["label"].to_numpy(np.float64), part["prediction"].to_numpy(np.float64)))
        for key, part in rows.groupby(["trial_id", "stage"])
    ]
    frame = pd.DataFrame(found, columns=["trial_id", "stage", "value"])
    return frame.assign(epoch=0, step=0, split=split, metric=metric)


def _majority(facts: object, metric: str, split: str) -> float:
    """Return the metric of always predicting the most frequent class, from the facts of the trial's data; else NaN."""
    counts: Sequence[int] = [*json.loads(facts)[split]["labels"].values()] if isinstance(facts, str) else []
    if not sum(counts) or metric not in METRICS["classification"]:
        return float("nan")
    return majority_score(metric, np.repeat(np.arange(len(counts), dtype=np.float64), counts))
