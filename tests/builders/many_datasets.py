"""Trials of several arms on several datasets, with a known normalised metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from builders.rows import trial

ARMS = ("LayerMagWeight", "LayerSNIP", "LayerRandom")


def many_datasets(
    value: Callable[[int, int, int], float],
    arms: Sequence[str] = ARMS,
    datasets: int = 3,
    seeds: int = 3,
    **fields: Any,
) -> pd.DataFrame:
    """Trials at 4x whose normalised metric is `value(arm, dataset, seed)`, all by number; the first is Matthews."""
    rows = []
    for dataset in range(datasets):
        chance, metric = (0.5, "accuracy") if dataset else (0.0, "matthews")
        for seed in range(seeds):
            dense = 0.9 + 0.01 * seed
            for arm, name in enumerate(arms):
                found = chance + (dense - chance) * value(arm, dataset, seed)
                made = {"dataset": f"data{dataset}", "metric": metric, "majority": chance, "dense": dense}
                made |= {"retrained": found, "compression": 4.0, "sparsity_asked": None, "sparsity": 0.75}
                rows.append(trial(f"{dataset:04d}{seed:06d}{arm:06d}", name, seed, **made | fields))
    return pd.DataFrame(rows)


def noisy(seed: int, spread: float = 0.02) -> Callable[[int, int, int], float]:
    """Arms a tenth apart, the first the best, with noise."""
    noise = np.random.default_rng(seed).normal(0, spread, (20, 20, 20))
    return lambda arm, dataset, number: float(0.9 - 0.1 * arm + noise[arm, dataset, number])
