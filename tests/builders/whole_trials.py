"""Trials that have rows in every table, which agree with each other, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builders.rows import mask_rows, random_masks, trial

from deepcuts.store.checksums import seal_text
from deepcuts.store.compact import compact
from deepcuts.store.store import Store

STAGES = ("dense", "pruned", "rewound", "retrained")
LABELS, PREDICTIONS = [0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]  # an accuracy of 0.75


def whole_trial(store: Store, key: str, seed: int = 0, masks: int | None = None, **fields: Any) -> None:
    """Write a completed trial; `masks` is the seed of its masks, if another than that of the trial."""
    made = mask_rows(key, random_masks(seed if masks is None else masks))
    row = trial(key, seed=seed, **dict.fromkeys(STAGES, 0.75)) | fields
    row |= {"kept": sum(each["kept"] for each in made), "prunable": sum(each["size"] for each in made)}
    at = {"trial_id": key, "split": "validation"}
    store.write(
        "metrics",
        key,
        [
            {**at, "stage": stage, "epoch": 0, "step": 1, "metric": "accuracy", "value": 0.75, "seconds": float(seed)}
            for stage in STAGES
        ],
    )
    numbered = list(enumerate(zip(LABELS, PREDICTIONS, strict=True)))
    store.write(
        "predictions",
        key,
        [
            {**at, "stage": stage, "example": number, "label": label, "prediction": found, "logits": [0.1, found]}
            for stage in STAGES
            for number, (label, found) in numbered
        ],
    )
    store.write("masks", key, made)
    store.write("trials", key, [row])


def partly_compacted(store: Store, keys: Sequence[str]) -> None:
    """Write trials, all but the last one compacted, and the sweep that wants them, whose text has a checksum."""
    for seed, key in enumerate(keys):
        whole_trial(store, key, seed)
        if seed == len(keys) - 2:
            compact(store)
    sweep_of(store, keys)
    store.write_bytes("sweeps/first.yaml", seal_text("name: first\n"))


def sweep_of(store: Store, keys: Sequence[str], name: str = "first") -> None:
    """Write the table and the text of the sweep that wants these trials."""
    rows = [{"sweep": name, "trial_id": key, "dataset": "toy", "strategy": "LayerMagWeight", "seed": 0} for key in keys]
    store.write("sweeps", name, rows)
    store.write_bytes(f"sweeps/{name}.yaml", f"name: {name}\n".encode())
