"""A store of one strategy in several settings, of six arms that a sweep file labels, and of rows without a label."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from builders.rows import mask_rows, row_of
from builders.specs import dense, trial

from deepcuts.experiment.settings import Scoring, Training
from deepcuts.experiment.spec import ScoreSpec, TrialSpec
from deepcuts.store.store import Store

ONCE = Training(epochs=1)
QUERY, OUTPUT = "encoder.layer.0.attention.self.query", "encoder.layer.1.output.dense"
LEVELS = (2.0, 4.0)
# Dropout, shift and rewind differ; a label may hold what file names, mathematics and tables would interpret.
LABELLED: dict[str, dict[str, Any]] = {
    "dropout": {"criterion": "SmoothGrad"},
    "no dropout": {"criterion": "SmoothGrad", "scoring": Scoring(dropout=False)},
    "LayerGradCAMShift shift=0.1": {"criterion": "GradCAMShift", "scoring": Scoring(shift=0.1)},
    "LayerGradCAMShift shift=10": {"criterion": "GradCAMShift", "scoring": Scoring(shift=10)},
    "rewound late (é_2)": {"rewind": 100},
    "not rewound": {"rewind": "none"},
}
EPOCHS = (1, 3, 12)


def armed_store(store: Store, seeds: int = 2) -> Store:
    """Fill a store with the sweeps `labelled` (LABELLED) and `edited` (LayerMagWeight, retrained for EPOCHS).

    The rows of `edited` are of an earlier version: they have no label.
    """
    wanted: dict[str, list[tuple[TrialSpec, str | None]]] = {"labelled": [], "edited": []}
    for seed in range(seeds):
        of = dense(seed=seed)
        wanted["labelled"] += [(TrialSpec(score=ScoreSpec(dense=of)), "Dense")]
        for level in LEVELS:
            for label, fields in LABELLED.items():
                wanted["labelled"].append((trial(of=of, compression=level, **{"retrain": ONCE, **fields}), label))
            edited = [trial(of=of, compression=level, retrain=Training(epochs=epochs)) for epochs in EPOCHS]
            wanted["edited"] += [(each, None) for each in edited]
    for sweep, made in wanted.items():
        for place, (spec, label) in enumerate(made):
            write_arm(store, spec, label, 0.9 - 0.01 * (place % 9), sweep=sweep)
        write_sweep(store, sweep, made)
    return store


def write_arm(store: Store, spec: TrialSpec, label: str | None, value: float, **fields: Any) -> None:
    """Write a completed trial with its metrics and masks, which follow from the label and the seed."""
    key = spec.trial_id
    known = {"arm": label, "total_seconds": 60.0, "device": "cpu", "majority": 0.5, **fields}
    known["finished_at"] = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(seconds=spec.dense.seed)
    row = row_of(spec, **known, **({} if not spec.prunes else {"retrained": value}))
    stages = {name: row[name] for name in ("dense", "pruned", "rewound", "retrained") if row.get(name) is not None}
    at = {"trial_id": key, "step": 0, "split": "validation", "metric": "accuracy", "seconds": 0.0}
    metrics = [at | {"stage": name, "epoch": 0, "value": found} for name, found in stages.items()]
    metrics += [
        at | {"stage": name, "epoch": 1, "value": stages[name]} for name in ("dense", "retrained") if name in stages
    ]
    store.write("metrics", key, metrics)
    if spec.prunes:
        keep = 1 / (spec.compression or 2)
        random = np.random.default_rng(int(key, 16))
        masks = {(QUERY, "weight"): random.random((8, 8)) < keep, (OUTPUT, "weight"): random.random((5, 13)) < keep / 2}
        store.write("masks", key, mask_rows(key, masks))
    store.write("trials", key, [row])


def write_sweep(store: Store, name: str, wanted: list[tuple[TrialSpec, str | None]]) -> None:
    """Write what a sweep wants, and how it calls it."""
    rows = [
        {
            "sweep": name,
            "trial_id": spec.trial_id,
            "dataset": spec.dense.dataset,
            "strategy": spec.strategy,
            "arm": label,
        }
        | {**spec.level_columns, "seed": spec.dense.seed}
        for spec, label in wanted
    ]
    store.write("sweeps", name, rows)
