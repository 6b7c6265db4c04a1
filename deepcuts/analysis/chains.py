"""Follows iterative pruning from round to round."""

from __future__ import annotations

import pandas as pd

from deepcuts.names import find_id
from deepcuts.store.store import Store

_COLUMNS = ["round", "trial_id", "compression", "sparsity_asked", "sparsity", "pruned", "rewound", "retrained", "step"]


def rounds(store: Store, trial: str) -> pd.DataFrame:
    """Return the rounds of iterative pruning before a trial, itself, and those that build on it, a row each, in order.

    `trial` is an id or a unique prefix of one. A row has `round, trial_id`, what was asked and achieved, the metric
    after each stage, `step` (no level asks for it) and `status`. Empty for a trial that is no round and has none after
    it. Raises ValueError for an unknown trial.

    >>> dc.rounds(store, trials["trial_id"].iloc[1])
    """
    read = store.read("trials", [*_COLUMNS, "previous", "status"])
    rows = {row["trial_id"]: row for row in read.table.to_pylist()}
    key: str | None = find_id(trial, rows)
    line: list[str] = []
    while key in rows:
        line.insert(0, str(key))
        key = rows[key]["previous"]
    after = [line[-1]]
    while after:
        after = [each for each, row in rows.items() if row["previous"] in after]
        line += after
    found = [dict.fromkeys([*_COLUMNS, "status"]) | rows[each] | {"round": _place(rows, each)} for each in line]
    frame = pd.DataFrame(found if len(found) > 1 else [], columns=[*_COLUMNS, "status"])
    frame.attrs["damaged"] = read.damaged
    return frame.sort_values("round", kind="stable", ignore_index=True)


def _place(rows: dict[str, dict[str, object]], trial_id: str) -> int:
    """Return which round a trial is: one more than the rounds before it that the rows have."""
    number, before = 1, rows[trial_id]["previous"]
    while before is not None:
        number, before = number + 1, rows[str(before)]["previous"] if before in rows else None
    return number
