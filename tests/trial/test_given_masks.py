"""Trials with the mask of another trial, or of a file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders.rows import mask_rows, random_masks
from builders.toy_sweeps import run_missing, toy_sweep

from deepcuts.experiment.grid import SweepSpec
from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.compact import compact
from deepcuts.store.masks import masks
from deepcuts.store.store import Store
from deepcuts.sweep.preflight import check_trials
from deepcuts.sweep.single import run_trial

pytestmark = [
    pytest.mark.usefixtures("torch_state", "few_sentences"),
    pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric"),
]

SNIP = {"strategies": ["GlobalSNIP"]}


def spec_with(**changes: Any) -> SweepSpec:
    return toy_sweep(**(SNIP | changes))


def pruned(spec: SweepSpec, seed: int) -> TrialSpec:
    return next(trial for trial in spec.trials() if trial.prunes and trial.dense.seed == seed)


def row_of(store: Store, trial: TrialSpec) -> dict[str, Any]:
    return next(row for row in store.read("trials").table.to_pylist() if row["trial_id"] == trial.trial_id)


def test_the_mask_of_another_seed_is_taken_and_nothing_is_scored(tmp_path: Path) -> None:
    store, spec = Store(str(tmp_path)), spec_with(seeds=[0, 1], mask_from={"seed": 0})
    source, given = pruned(spec, 0), pruned(spec, 1)
    run_missing(store, spec)
    ours, theirs = masks(store, given.trial_id), masks(store, source.trial_id)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert store.artifacts("scores") == [source.score.score_id]
    row = row_of(store, given)
    assert (row["mask_from"], row["mask_trial"], row["score_id"]) == ("toy seed 0", source.trial_id, None)
    assert (row["status"], row["strategy"], row["sparsity"]) == ("completed", "GlobalSNIP", 0.5)
    own = pruned(spec_with(seeds=[1]), 1)
    run_trial(own, store, threads=1)
    assert any((masks(store, own.trial_id)[name] != theirs[name]).any() for name in theirs)
    assert row_of(store, own)["mask_from"] is None


def test_the_mask_of_a_file_is_taken_and_the_file_is_part_of_the_id(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    source = pruned(spec_with(), 0)
    run_missing(store, spec_with())
    file = tmp_path / "masks.parquet"
    shutil.copy(Path(store.path("masks", f"{source.trial_id}.parquet")), file)
    given = pruned(spec_with(strategies=["LayerMagWeight"], mask_from={"file": str(file)}), 0)
    assert run_trial(given, store, threads=1)["status"] == "completed"
    ours, theirs = masks(store, given.trial_id), masks(store, source.trial_id)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    elsewhere = tmp_path / "elsewhere.parquet"
    file.rename(elsewhere)
    again = pruned(spec_with(strategies=["LayerMagWeight"], mask_from={"file": str(elsewhere)}), 0)
    assert again.trial_id == given.trial_id
    rows = pq.read_table(elsewhere)
    pq.write_table(rows.slice(0, len(rows)), elsewhere)  # the same masks in other bytes
    other = pruned(spec_with(strategies=["LayerMagWeight"], mask_from={"file": str(elsewhere)}), 0)
    assert other.trial_id != given.trial_id
    failed = run_trial(again, Store(str(tmp_path / "late")), threads=1)
    assert "has changed since the sweep was planned" in failed["error"]


def test_of_several_trials_in_a_file_one_must_be_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    spec = spec_with(strategies=["GlobalSNIP", "LayerMagWeight"], retrain={"epochs": 0})
    run_missing(store, spec)
    compact(store)
    (file,) = [Path(store.path("masks", name)) for name in store.files("masks")[1]]
    with pytest.raises(ValueError, match=r"mask_from: .* has the masks of 2 trials; say which, as in trial: \w{16}"):
        spec_with(mask_from={"file": str(file)})
    source = pruned(spec, 0)
    given = pruned(spec_with(mask_from={"file": str(file), "trial": source.trial_id[:6]}), 0)
    assert given.mask_file is not None
    assert given.mask_file.trial == source.trial_id


def write_masks(path: Path, rows: list[dict[str, Any]]) -> str:
    store = Store(str(path.parent / "made"))
    store.write("masks", path.stem, rows)
    return store.path("masks", f"{path.stem}.parquet")


def test_masks_of_another_model_and_of_another_density_are_refused_before_anything_runs(
    tmp_path: Path, cache: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    source = pruned(spec_with(), 0)
    run_missing(store, spec_with())
    other = write_masks(tmp_path / "other.parquet", mask_rows("other", random_masks(0)))
    trials = spec_with(mask_from={"file": other}).trials()
    with pytest.raises(ValueError, match=r"masks of trial other in .* are of another model: 'bert.*no mask"):
        check_trials(trials, True)
    file = store.path("masks", f"{source.trial_id}.parquet")
    check_trials(spec_with(mask_from={"file": file}).trials(), True)
    denser = spec_with(sparsities=[0.4], mask_from={"file": file}).trials()
    with pytest.raises(ValueError, match=r"have a sparsity of 0.5, and 0.4 is asked for; ask for the one"):
        check_trials(denser, True)


def test_what_is_no_file_of_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mask_from: cannot read '.*absent.parquet': No such file"):
        spec_with(mask_from={"file": str(tmp_path / "absent.parquet")})
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"mask_from: cannot read the file of masks '.*text.parquet'"):
        spec_with(mask_from={"file": str(tmp_path / "text.parquet")})
    other = Store(str(tmp_path / "other"))
    other.write("metrics", "x", [{"trial_id": "x"}])
    with pytest.raises(ValueError, match=r"mask_from: '.*x.parquet' has no masks; name a file of the folder masks"):
        spec_with(mask_from={"file": other.path("metrics", "x.parquet")})


def test_a_control_with_the_mask_of_a_file_is_refused_because_nothing_would_shuffle_it(tmp_path: Path) -> None:
    file = write_masks(tmp_path / "other.parquet", mask_rows("other", random_masks(0)))
    for control in ("shuffle", "invert"):
        with pytest.raises(ValueError, match=r"mask_from: .* is taken as it is, so that 'GlobalSNIP\+.* no control"):
            spec_with(strategies=[f"GlobalSNIP+{control}"], mask_from={"file": file}).trials()
