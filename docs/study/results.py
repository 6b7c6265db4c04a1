"""The results of the study: read from what is committed beside this file, and collected there from its stores.

    python -m docs.study.results STORE MACHINE

The study ran on several machines, each with a store of its own, and processors of two kinds train networks of other
bits. So each difference and each overlap is of two trials of one machine: of a seed, those of the first that ran both.
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
    density, the share of the pooler's weights that its mask keeps. All have `machine` besides, the first one first; a
    trial that ran on two has two rows.
    """

    trials: pd.DataFrame
    metrics: pd.DataFrame
    sweeps: pd.DataFrame
    overlap: pd.DataFrame
    pooler: pd.DataFrame

    @cached_property
    def wanted(self) -> pd.DataFrame:
        """What the sweeps want, whichever machine's store says so: sweep, trial_id, arm."""
        return self.sweeps[["sweep", "trial_id", "arm"]].drop_duplicates(["sweep", "trial_id"])

    @cached_property
    def one_each(self) -> pd.DataFrame:
        """A row for each trial: of the first machine that completed it, else of the first."""
        failed = self.trials["status"] != "completed"
        return self.trials.assign(failed=failed).sort_values(["failed", "machine"]).drop_duplicates("trial_id")

    @cached_property
    def _arms(self) -> dict[tuple[object, ...], pd.DataFrame]:
        """Completed trials by seed and machine, of each sweep, arm (by its label in it), dataset and sparsity."""
        done = self.trials[self.trials["status"] == "completed"].drop(columns=["sweep", "arm"])
        rows = self.wanted.merge(done, on="trial_id")
        rows = rows.dropna(subset=["sparsity_asked"])
        groups = rows.groupby(["sweep", "arm", "dataset", "sparsity_asked"])
        return {key: part.set_index(["seed", "machine"]).sort_index() for key, part in groups}

    @cached_property
    def _pairs(self) -> pd.DataFrame:
        """Overlaps, both ways round, by machine and the ids of the pair."""
        turned = self.overlap.rename(columns={"trial_a": "trial_b", "trial_b": "trial_a"})
        keys = ["machine", "trial_a", "trial_b"]
        return pd.concat([self.overlap, turned]).drop_duplicates(keys).set_index(keys)

    def _of(self, arm: Arm, dataset: str, sparsity: float) -> pd.DataFrame:
        index = pd.MultiIndex.from_arrays([[], []], names=["seed", "machine"])
        none = pd.DataFrame({name: [] for name in ("trial_id", *STAGES)}, index=index)
        return self._arms.get((arm.sweep, arm.label, dataset, sparsity), none)

    def metric(self, arm: Arm, dataset: str, sparsity: float, stage: str) -> pd.Series:
        """Return the metric after one of STAGES by seed, in points (hundredths)."""
        return _first_machine(100 * self._of(arm, dataset, sparsity)[stage].astype(float))

    def difference(self, arm: Arm, other: Arm, dataset: str, sparsity: float, stage: str) -> Floats:
        """Return arm - other (S,), in points, over the seeds that both have on one machine."""
        return self._differences(arm, other, dataset, sparsity, stage).to_numpy(np.float64)

    def _differences(self, arm: Arm, other: Arm, dataset: str, sparsity: float, stage: str) -> pd.Series:
        ours, theirs = (self._of(each, dataset, sparsity)[stage].astype(float) for each in (arm, other))
        return _first_machine(100 * ours - 100 * theirs)

    def overlaps(self, arm: Arm, other: Arm, dataset: str, sparsity: float, measure: str = "kept_iou") -> Floats:
        """Return the IoU of kept weights (or kappa) of both arms' masks (S,), over the seeds that both have on one."""
        return self._overlaps(arm, other, dataset, sparsity, measure).to_numpy(np.float64)

    def _overlaps(self, arm: Arm, other: Arm, dataset: str, sparsity: float, measure: str) -> pd.Series:
        ours, theirs = (self._of(each, dataset, sparsity)["trial_id"] for each in (arm, other))
        ids = pd.concat([ours, theirs], axis=1, join="inner")
        if ids.empty:
            return pd.Series([], pd.Index([], name="seed"), dtype=float)
        pairs = ids.set_axis(["trial_a", "trial_b"], axis=1).reset_index()[["machine", "trial_a", "trial_b"]]
        found = self._pairs[measure].reindex(pd.MultiIndex.from_frame(pairs))
        return _first_machine(found.set_axis(ids.index))

    def overlaps_and_gains(
        self, masked: tuple[Arm, Arm], trained: tuple[Arm, Arm], dataset: str, sparsity: float
    ) -> tuple[Floats, Floats]:
        """Return the IoU of two arms' masks, and two arms' difference when retrained (S,), of seeds that have both."""
        shared = self._overlaps(*masked, dataset, sparsity, "kept_iou")
        gains = self._differences(*trained, dataset, sparsity, "retrained")
        seeds = shared.index.intersection(gains.index)
        return shared[seeds].to_numpy(np.float64), gains[seeds].to_numpy(np.float64)

    def pooler_density(self, arm: Arm, dataset: str, sparsity: float) -> Floats:
        """Return the share of the pooler's weights that the masks keep (S,)."""
        ids = self._of(arm, dataset, sparsity)["trial_id"]
        keys = pd.MultiIndex.from_frame(ids.reset_index()[["machine", "trial_id"]])
        density = self.pooler.set_index(["machine", "trial_id"])["density"].reindex(keys)
        return _first_machine(density.set_axis(ids.index)).to_numpy(np.float64)


def _first_machine(values: pd.Series) -> pd.Series:
    """Return by seed, of values by seed and machine, that of the first machine which has one."""
    return values.dropna().sort_index().groupby(level="seed").first()


def read(folder: Path = DATA) -> Results:
    """Read what `collect` wrote, of all machines."""
    found = {
        name: [
            pd.read_parquet(each / f"{name}.parquet").assign(machine=each.name)
            for each in sorted(folder.iterdir(), key=lambda machine: int(machine.name))
        ]
        for name in (*TABLES, *FRAMES)
    }
    return Results(*(pd.concat(parts, ignore_index=True) for parts in found.values()))


def collect(uri: str, folder: Path) -> None:
    """Write the tables of a store, and what its masks say, as a Parquet file each.

    Where the data's files lay is left out; a digest says which they were.
    """
    store = dc.Store(uri)
    frames = {name: dc.query(store, f"select * from {name}") for name in TABLES}
    trials = frames["trials"].drop(columns=["traceback"])
    frames["trials"] = trials.assign(spec=trials["spec"].str.replace(r'"files":\{[^}]*\}', '"files":null', regex=True))
    frames["overlap"], frames["pooler"] = _of_masks(store, _masked(frames["trials"]))
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        frame.reset_index(drop=True).to_parquet(folder / f"{name}.parquet", compression="zstd", index=False)


def _of_masks(store: dc.Store, masked: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the frames `overlap` and `pooler` of the masks of trials, without rows where nothing can be compared."""
    same = ["dataset", "seed", "sparsity_asked"]
    pairs = pd.DataFrame(columns=["trial_a", "trial_b", "layer", "kept_iou", "kappa"])
    density = pd.DataFrame(columns=["trial_id", "kind", "density"])
    if masked.duplicated(same).any():
        pairs = dc.overlap(store, list(masked["trial_id"]), same=same)
    if len(masked):
        density = dc.density(store, list(masked["trial_id"]))
    density = density[density["kind"] == layer_kind("bert.pooler.dense")[1]]
    return (
        pairs.loc[pairs["layer"].isna(), ["trial_a", "trial_b", "kept_iou", "kappa"]],
        density[["trial_id", "density"]],
    )


def _masked(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the trials whose masks are compared: those that were not retrained.

    A trial that was retrained has the mask of the one that was not. Masks that leave out a tensor cover other weights.
    """
    rows = trials[(trials["status"] == "completed") & trials["sparsity_asked"].gt(0)]
    specs = [json.loads(spec) for spec in rows["spec"]]
    return rows[[spec["retrain"]["epochs"] == 0 and not spec["score"].get("exclude") for spec in specs]]


if __name__ == "__main__":
    if len(sys.argv) != 3 or not sys.argv[2].isdigit():
        sys.exit("usage: python -m docs.study.results STORE MACHINE, a number: 1 for the first")
    collect(sys.argv[1], DATA / sys.argv[2])
