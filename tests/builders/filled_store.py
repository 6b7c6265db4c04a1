"""A small store that has a bit of everything that the report shows, and names that try to break out of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from builders.rows import mask_rows, random_masks, trial

from deepcuts.store.store import Store

HOSTILE = "</script><img src=x onerror=\"console.error('broken out')\"><b>&amp;'`${1}"


def filled_store(store: Store, seeds: int = 3, **fields: Any) -> Store:
    """Two strategies at two sparsities, the levels beside them, and one trial that failed."""
    number = 0
    for seed in range(seeds):
        for strategy in ("Dense", "Unpruned", "LayerMagWeight", "LayerSNIP"):
            for asked in (0.5, 0.9) if strategy.startswith("Layer") else (0.0,):
                number += 1
                value = 0.85 - 0.2 * asked + (0.02 if strategy == "LayerSNIP" else 0) + 0.01 * seed
                made = trial(f"{number:016x}", strategy, seed, sparsity_asked=asked, sparsity=asked, **fields)
                made |= {"total_seconds": 60.0, "finished_at": datetime(2026, 1, 2, tzinfo=UTC), "device": "cpu"}
                made |= {"retrained": None if strategy == "Dense" else value}
                write_trial(store, made, seed)
    failed = trial(f"{number + 1:016x}", "LayerSNIP", 9, status="failed", failure="trial", error_stage="retrained")
    failed |= {"error": HOSTILE, "traceback": f"Traceback: {HOSTILE}", "dense": None, "retrained": None, **fields}
    store.write("trials", failed["trial_id"], [failed | {"pruned": None, "rewound": None}])
    return store


def write_trial(store: Store, row: dict[str, Any], seed: int) -> None:
    key = row["trial_id"]
    stages = {name: row[name] for name in ("dense", "pruned", "rewound", "retrained") if row.get(name) is not None}
    store.write("metrics", key, [_metric(key, stage, value) for stage, value in stages.items()])
    if row["strategy"].startswith("Layer"):
        store.write("masks", key, mask_rows(key, random_masks(seed, 1 - row["sparsity"])))
    store.write("trials", key, [row])


def _metric(key: str, stage: str, value: float) -> dict[str, Any]:
    at = {"trial_id": key, "stage": stage, "epoch": 0, "step": 0, "split": "validation", "seconds": 0.0}
    return at | {"metric": "accuracy", "value": value}
