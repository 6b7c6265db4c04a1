"""Makes the data of training curves and of densities for the report's script."""

from __future__ import annotations

from typing import Any

import pandas as pd

from deepcuts.analysis.curves import training_curves
from deepcuts.names import layer_kind, natural
from deepcuts.records import records
from deepcuts.store.tables import Row

_GROUP = ["model", "dataset", "arm", "compression", "sparsity_asked"]
_COUNTS = ["rows", "columns", "heads"]


def training(trials: pd.DataFrame, metrics: pd.DataFrame) -> list[list[Any]]:
    """Return a series per trial, stage and measure: [trial id, stage, metric, split, [epochs done, value] ...].

    The measures are the task's main metric on the validation examples, and the training loss. A fine-tuned network
    that trials share is there once, under the first of them.
    """
    parts = [training_curves(trials, metrics).assign(split="validation")]
    if ((metrics["split"] == "train") & (metrics["metric"] == "loss")).any():
        parts.append(training_curves(trials, metrics, "loss", "train").assign(split="train"))
    found: dict[tuple[str, ...], list[list[float]]] = {}
    for frame in parts:
        columns = frame[["trial_id", "stage", "metric", "split", "epochs", "value"]]
        for *key, epochs, value in columns.itertuples(index=False, name=None):
            if value == value:
                found.setdefault(tuple(key), []).append([int(epochs), round(float(value), 5)])
    return [[*key, *points] for key, points in found.items() if len(points) > 1]


def layer_groups(trials: pd.DataFrame, kept: pd.DataFrame) -> list[Row]:
    """Return where the kept weights are: a group per model, dataset, arm and level, its means over seeds by layer.

    `kept` are rows of `density`. A layer is [name, depth, kind, density, share of dead rows, of dead columns, of dead
    heads], its biases included in the density alone; a share is null where nothing was counted.
    """
    known = trials.loc[trials["status"] == "completed", ["trial_id", *_GROUP]]
    sizes = kept.merge(known, on="trial_id")
    matrices = sizes.dropna(subset=["rows"])
    seeds = sizes.groupby(_GROUP, dropna=False)["trial_id"].nunique()
    sums = sizes.groupby([*_GROUP, "layer"], dropna=False, sort=False)[["size", "kept"]].sum()
    names = [*_COUNTS, *(f"dead_{name}" for name in _COUNTS)]
    shares = matrices.groupby([*_GROUP, "layer"], dropna=False)[names].sum(min_count=1) if len(matrices) else None
    whole = sums.join(shares) if shares is not None else sums
    groups: dict[int, Row] = {}
    numbered = whole.reset_index()
    for number, part in numbered.groupby(numbered.groupby(_GROUP, dropna=False, sort=False).ngroup()):
        first = records(part[_GROUP].head(1))[0]
        groups[int(str(number))] = {"layers": [_layer(row) for row in records(part)], **first}
    by_key = {tuple(row[name] for name in _GROUP): row["trial_id"] for row in records(seeds.reset_index())}
    order = sorted(groups.values(), key=lambda group: [_place(group[name]) for name in _GROUP])
    return [{**group, "n": by_key[tuple(group[name] for name in _GROUP)]} for group in order]


def _place(value: Any) -> tuple[bool, Any]:
    return value is not None, natural(value) if isinstance(value, str) else value


def _layer(row: Row) -> list[Any]:
    shares = ((row.get(f"dead_{name}"), row.get(name)) for name in _COUNTS)
    return [
        row["layer"],
        *layer_kind(row["layer"]),
        round(row["kept"] / row["size"], 5),
        *(None if not many or dead is None else round(dead / many, 4) for dead, many in shares),
    ]
