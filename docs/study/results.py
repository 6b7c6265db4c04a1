"""The results of the study: read from what is committed beside this file, and collected there from its store.

python -m docs.study.results STORE
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

import deepcuts as dc
from deepcuts.experiment.metrics import Floats
from deepcuts.names import layer_kind

DATA = Path(__file__).parent / "data"
DATASETS = ("sst2", "cola", "stsb")
# Tables of the store's whole contents, and frames of what no table holds without the masks.
TABLES = ("trials", "metrics", "sweeps")
FRAMES = ("overlap", "pooler")
STAGES = ("dense", "pruned", "rewound", "retrained")


@dataclass(frozen=True)
class Arm:
    """An arm of one of the sweeps in `sweeps/study`, by its label there."""

    sweep: str
    label: str


@dataclass(frozen=True)
class Results:
    """Frames as `deepcuts query` shows the tables (`trials`, `metrics`, `sweeps`), and two made from the masks.

    `overlap`: trial_a, trial_b, kept_iou, kappa of pairs that share dataset, seed and sparsity; `pooler`: trial_id and
    density, the share of the pooler's weights that its mask keeps.
    """

    trials: pd.DataFrame
    metrics: pd.DataFrame
    sweeps: pd.DataFrame
    overlap: pd.DataFrame
    pooler: pd.DataFrame

    @cached_property
    def _arms(self) -> dict[tuple[object, ...], pd.DataFrame]:
        """Completed trials by seed, of each sweep, arm (by its label in that sweep), dataset and sparsity."""
        done = self.trials[self.trials["status"] == "completed"].drop(columns=["sweep", "arm"])
        rows = self.sweeps[["sweep", "trial_id", "arm"]].merge(done, on="trial_id")
        rows = rows.dropna(subset=["sparsity_asked"])
        groups = rows.groupby(["sweep", "arm", "dataset", "sparsity_asked"])
        return {key: part.set_index("seed").sort_index() for key, part in groups}

    @cached_property
    def _pairs(self) -> pd.DataFrame:
        """Overlaps, both ways round, by the ids of the pair."""
        turned = self.overlap.rename(columns={"trial_a": "trial_b", "trial_b": "trial_a"})
        both = pd.concat([self.overlap, turned]).drop_duplicates(["trial_a", "trial_b"])
        return both.set_index(["trial_a", "trial_b"])

    def _of(self, arm: Arm, dataset: str, sparsity: float) -> pd.DataFrame:
        none = pd.DataFrame({name: [] for name in ("trial_id", *STAGES)}, index=pd.Index([], name="seed"))
        return self._arms.get((arm.sweep, arm.label, dataset, sparsity), none)

    def metric(self, arm: Arm, dataset: str, sparsity: float, stage: str) -> pd.Series:
        """Return the metric after one of STAGES by seed, in points (hundredths)."""
        return 100 * self._of(arm, dataset, sparsity)[stage].dropna().astype(float)

    def difference(self, arm: Arm, other: Arm, dataset: str, sparsity: float, stage: str) -> Floats:
        """Return arm - other (S,), in points, over the seeds that both have."""
        ours, theirs = (self.metric(each, dataset, sparsity, stage) for each in (arm, other))
        return (ours - theirs).dropna().to_numpy(np.float64)

    def overlaps(self, arm: Arm, other: Arm, dataset: str, sparsity: float, measure: str = "kept_iou") -> Floats:
        """Return the IoU of kept weights (or kappa) of both arms' masks (S,), over the seeds that both have."""
        ours, theirs = (self._of(each, dataset, sparsity)["trial_id"] for each in (arm, other))
        if ours.empty or theirs.empty:
            return np.empty(0)
        ids = pd.concat([ours, theirs], axis=1, join="inner")
        pairs = pd.MultiIndex.from_frame(ids.set_axis(["trial_a", "trial_b"], axis=1))
        return self._pairs[measure].reindex(pairs).dropna().to_numpy(np.float64)

    def pooler_density(self, arm: Arm, dataset: str, sparsity: float) -> Floats:
        """Return the share of the pooler's weights that the masks keep (S,)."""
        ids = self._of(arm, dataset, sparsity)["trial_id"]
        return self.pooler.set_index("trial_id")["density"].reindex(ids).dropna().to_numpy(np.float64)


def read(folder: Path = DATA) -> Results:
    """Read what `collect` wrote."""
    return Results(*(pd.read_parquet(folder / f"{name}.parquet") for name in (*TABLES, *FRAMES)))


def collect(uri: str, folder: Path = DATA) -> None:
    """Write the tables of a store, and what its masks say, as a Parquet file each.

    Where the data's files lay is left out; a digest says which they were.
    """
    store = dc.Store(uri)
    frames = {name: dc.query(store, f"select * from {name}") for name in TABLES}
    trials = frames["trials"].drop(columns=["traceback"])
    frames["trials"] = trials.assign(spec=trials["spec"].str.replace(r'"files":\{[^}]*\}', '"files":null', regex=True))
    masked = _masked(frames["trials"])
    pairs = dc.overlap(store, masked, same=["dataset", "seed", "sparsity_asked"])
    frames["overlap"] = pairs.loc[pairs["layer"].isna(), ["trial_a", "trial_b", "kept_iou", "kappa"]]
    density = dc.density(store, masked)
    frames["pooler"] = density[density["kind"] == layer_kind("bert.pooler.dense")[1]][["trial_id", "density"]]
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        frame.reset_index(drop=True).to_parquet(folder / f"{name}.parquet", compression="zstd", index=False)


def _masked(trials: pd.DataFrame) -> list[str]:
    """Return the ids of the trials whose masks are compared: those that were not retrained.

    A trial that was retrained has the mask of the one that was not. Masks that leave out a tensor cover other weights.
    """
    rows = trials[(trials["status"] == "completed") & trials["sparsity_asked"].gt(0)]
    specs = [json.loads(spec) for spec in rows["spec"]]
    return list(
        rows["trial_id"][[spec["retrain"]["epochs"] == 0 and not spec["score"].get("exclude") for spec in specs]]
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m docs.study.results STORE")
    collect(sys.argv[1])
