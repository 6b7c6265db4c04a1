"""Makes the data of training curves, of densities and of what pruning emptied, for the report's script and warnings."""

from __future__ import annotations

from typing import Any

import pandas as pd

from deepcuts.analysis.curves import table, training_curves
from deepcuts.names import layer_kind
from deepcuts.records import records
from deepcuts.store.tables import Row
from deepcuts.wording import level

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
    order = sorted(groups.values(), key=lambda group: [(each is not None, each) for each in map(group.get, _GROUP)])
    return [{**group, "n": by_key[tuple(group[name] for name in _GROUP)]} for group in order]


def _layer(row: Row) -> list[Any]:
    shares = ((row.get(f"dead_{name}"), row.get(name)) for name in _COUNTS)
    return [
        row["layer"],
        *layer_kind(row["layer"]),
        round(row["kept"] / row["size"], 5),
        *(None if not many or dead is None else round(dead / many, 4) for dead, many in shares),
    ]


def emptied(trials: pd.DataFrame, kept: pd.DataFrame) -> list[str]:
    """Say which tensors and heads pruning emptied, and which networks predict the most frequent class alone."""
    known = trials.loc[trials["status"] == "completed", ["trial_id", *_GROUP]]
    rows = kept.merge(known, on="trial_id")
    found = _empty_tensors(rows) + _dead_heads(rows)
    for row in records(table(trials)):
        if "retrained" in (row["at_majority"] or "").split(", "):
            found.append(
                f"{_named(row)}: at least one seed is still exactly at the level of the most frequent class"
                f" ({row['majority']:.3f}) after retraining"
            )
    return found


def _named(row: Row) -> str:
    return f"{row['arm']} at {level(row['compression'], row['sparsity_asked'])} on {row['dataset']}"


def _empty_tensors(counts: pd.DataFrame) -> list[str]:
    trials = counts.groupby(_GROUP, dropna=False)["trial_id"].nunique().rename("trials")
    none = counts[counts["kept"] == 0]
    if none.empty:
        return []
    tensor = none["layer"] + "." + none["parameter"]
    groups = none.assign(tensor=tensor).groupby(_GROUP, dropna=False)
    frame = groups.agg(tensors=("tensor", lambda names: list(dict.fromkeys(names))), of=("trial_id", "nunique"))
    rows = records(frame.join(trials).reset_index())
    return [
        f"{_named(row)}: nothing is left of {_some(row['tensors'])}, in {row['of']} of {row['trials']} trials"
        for row in rows
    ]


def _dead_heads(dead: pd.DataFrame) -> list[str]:
    none = dead[dead["dead_heads"].fillna(0) > 0]
    if none.empty:
        return []
    place = [_place(*layer_kind(name)) for name in none["layer"]]
    groups = none.assign(place=place).groupby(_GROUP, dropna=False)
    frame = groups.agg(most=("dead_heads", "max"), places=("place", lambda names: list(dict.fromkeys(names))))
    return [f"{_named(row)}: {_heads(row['most'])} in {_some(row['places'])}" for row in records(frame.reset_index())]


def _place(depth: int | None, kind: str) -> str:
    return kind if depth is None else f"{kind} of layer {depth}"


def _heads(most: int) -> str:
    return "a head without a weight" if most == 1 else f"up to {most} heads without a weight"


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
