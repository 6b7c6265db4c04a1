"""Trials that take the masks of others, as a sweep asks for them, with known metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
from builders.rows import row_of, write_trial
from builders.specs import sweep

from deepcuts.records import records
from deepcuts.store.store import Store
from deepcuts.trial.row import identity_columns

DENSE = {"sst2": 0.9, "cola": 0.5, "stsb": 0.8}
CHANCE = {"sst2": 0.5, "cola": 0.0}

# What the metric is of a row of the table `trials`.
Value = Callable[[dict[str, Any]], float]


def arms_of(strategy: str, sources: list[str], **settings: Any) -> dict[str, Any]:
    """An arm with its own masks, one with those of each source, and all of these shuffled."""
    found = {}
    for name, use in (("own", strategy), ("shuffled", f"{strategy}+shuffle")):
        found[name] = {"use": use, **settings}
        found |= {f"{name} of {each}": {"use": use, "mask_from": {"dataset": each}, **settings} for each in sources}
    return found


def value(row: dict[str, Any]) -> float:
    """A tenth of what the fine-tuned network is above chance less for another's mask, two tenths for a shuffled one.

    Each by a hundredth more for a later seed.
    """
    lost = 0.1 * isinstance(row.get("mask_from"), str) + 0.2 * ("+shuffle" in row["strategy"])
    dense, chance = DENSE[row["dataset"]], CHANCE.get(row["dataset"], 0.0)
    return chance + (dense - chance) * (0.9 - lost * (1 + 0.1 * row["seed"]))


def transfers(value: Value = value, **fields: Any) -> pd.DataFrame:
    """The rows of a sweep; by default SST-2 and CoLA, and each other's masks by SNIP at 64 % with three seeds."""
    given = {"strategies": arms_of("LayerSNIP", ["sst2", "cola"]), "datasets": ["sst2", "cola"]}
    spec = sweep(**({**given, "sparsities": [0.64], "seeds": [0, 1, 2]} | fields))
    rows = []
    for trial in spec.trials():
        told = identity_columns(trial, "some", spec.labels.get(trial.trial_id))
        row = row_of(trial) | {key: each for key, each in told.items() if key != "torch"}
        row |= {"dense": DENSE[row["dataset"]], "majority": CHANCE.get(row["dataset"])}
        rows.append(row | ({"retrained": value(row)} if trial.retrain else {}))
    return pd.DataFrame(rows)


def transfer_store(store: Store, trials: pd.DataFrame) -> Store:
    """A store of these rows."""
    for row in records(trials):
        write_trial(store, row)
    return store
