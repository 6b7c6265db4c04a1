"""The transfer matrix of trials that really ran: two datasets with each other's masks, without Ray."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from builders.toy_sweeps import KEYS
from builders.transfers import arms_of

import deepcuts
from deepcuts.data.toy import sentences
from deepcuts.experiment.grid import SweepSpec
from deepcuts.experiment.reading import read_sweep_file
from deepcuts.experiment.spec import ModelSource
from deepcuts.experiment.tasks import TASKS
from deepcuts.store.store import Store

SWEEP = Path(__file__).parents[2] / "sweeps" / "transfer.yaml"

pytestmark = pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric")


def write(path: Path, first: int, turned: bool) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows((text, label != turned) for text, label in sentences("train")[first : first + 48])


@pytest.mark.usefixtures("torch_state")
def test_two_datasets_with_each_others_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    datasets = {}
    for number, name in enumerate(("plain", "turned")):
        write(Path(f"{name}.csv"), 48 * number, bool(number))
        file = {"train": f"{name}.csv", "validation": f"{name}.csv", "same_data": True}
        datasets[name] = {**file, "text": "text", "label": "label", "classes": [False, True]}
    keys = KEYS | {"datasets": datasets, "strategies": arms_of("LayerSNIP", list(datasets)), "max_train_examples": None}
    keys |= {"scoring": {"batches": 1}, "seeds": [0]}
    store = Store(str(tmp_path / "store"))
    wanted = deepcuts.read_sweep(keys).trials()
    assert len(wanted) == 2 * (1 + 2 + 2)
    for trial in wanted:
        row = deepcuts.run_trial(trial, store, threads=1, wanted=wanted)
        assert row["status"] == "completed", row["traceback"]
    trials = deepcuts.trials(store)
    frame = deepcuts.transfer(trials)
    assert frame.groupby("control").size().to_dict() == {"none": 4, "shuffle": 4}
    assert frame.attrs["missing"] == []
    rows = trials.set_index("trial_id")
    for cell in frame.to_dict("records"):
        of = trials[(trials["dataset"] == cell["target"]) & trials["strategy"].str.endswith("+shuffle")]
        if cell["control"] == "none":
            of = trials[(trials["dataset"] == cell["target"]) & (trials["strategy"] == "LayerSNIP")]
        (one,) = of[of["mask_trial"].isna() == (cell["source"] == cell["target"])].to_dict("records")
        assert cell["values"] == [one["retrained"]]
        if not cell["own"]:
            source = rows.loc[one["mask_trial"]]
            assert (source["dataset"], source["seed"]) == (cell["source"], 0)
            ours, theirs = (deepcuts.masks(store, each) for each in (one["trial_id"], one["mask_trial"]))
            assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_the_ready_sweep_asks_for_each_others_masks_and_for_all_of_them_shuffled() -> None:
    file = read_sweep_file(SWEEP)
    spec = SweepSpec(file, ModelSource(name="minilm"), {name: TASKS[name] for name in file.dataset_rows()}, "cpu")
    pruned = [trial for trial in spec.trials() if trial.prunes]
    assert len(pruned) == len({trial.trial_id for trial in pruned}) == 2 * 2 * 2 * 3
    given = {(t.dense.dataset, t.mask_of.dense.dataset, t.control, t.dense.seed) for t in pruned if t.mask_of}
    assert given == {
        (target, source, control, seed)
        for target, source in (("sst2", "cola"), ("cola", "sst2"))
        for control in ("none", "shuffle")
        for seed in (0, 1, 2)
    }
    assert {trial.sparsity for trial in pruned} == {0.64}
