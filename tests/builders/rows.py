"""Small hand-made rows for stores of trials."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcuts.experiment.spec import TrialSpec, canonical
from deepcuts.pruning.bits import pack
from deepcuts.store.store import Store

LAYERS = {"encoder.layer.0.attention.self.query": (8, 8), "encoder.layer.1.output.dense": (5, 13)}


def trial(trial_id: str, strategy: str = "LayerMagWeight", seed: int = 0, **fields: Any) -> dict[str, Any]:
    """A completed trial of a sweep in sparsities; a level has no curve and its stages are null (Dense)."""
    row = {
        "trial_id": trial_id,
        "sweep": "first",
        "model": "tiny",
        "dataset": "toy",
        "strategy": strategy,
        "seed": seed,
        "status": "completed",
        "metric": "accuracy",
        "dense_id": f"dense-{seed}",
        "dense": 0.9,
    }
    if strategy in ("Dense", "Unpruned"):
        row |= {"compression": 1.0, "sparsity_asked": 0.0, "sparsity": 0.0, "compression_achieved": 1.0}
    else:
        row |= {"sparsity_asked": 0.5, "sparsity": 0.5, "compression_achieved": 1.8}
    if strategy != "Dense":
        row |= {"pruned": 0.6, "rewound": 0.55, "retrained": 0.8}
    return row | fields


def row_of(spec: TrialSpec, **fields: Any) -> dict[str, Any]:
    """A completed trial of a spec, as `trial` makes it, with the columns that follow from the spec."""
    row = trial(spec.trial_id, spec.strategy, spec.dense.seed, dataset=spec.dense.dataset, **spec.level_columns)
    return row | {"dense_id": spec.dense.dense_id, "spec": canonical(spec.model_dump(mode="json"))} | fields


def write_trial(store: Store, row: dict[str, Any]) -> None:
    store.write("trials", row["trial_id"], [row])


def mask_rows(trial_id: str, masks: dict[tuple[str, str], np.ndarray]) -> list[dict[str, Any]]:
    """Rows of the masks table from boolean arrays by (layer, parameter)."""
    return [
        {
            "trial_id": trial_id,
            "layer": layer,
            "parameter": parameter,
            "shape": list(mask.shape),
            "size": mask.size,
            "kept": int(mask.sum()),
            "bits": pack(mask),
        }
        for (layer, parameter), mask in masks.items()
    ]


def random_masks(seed: int, keep: float = 0.3) -> dict[tuple[str, str], np.ndarray]:
    """Masks of two layers, the first with a bias."""
    generator = np.random.default_rng(seed)
    shapes = {(layer, "weight"): shape for layer, shape in LAYERS.items()}
    shapes |= {(next(iter(LAYERS)), "bias"): (8,)}
    return {key: generator.random(shape) < keep for key, shape in shapes.items()}
