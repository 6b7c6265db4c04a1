"""What pruning has broken, the densities of layers and the curves of training, as the report shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import specs
from builders.filled_store import write_trial
from builders.rows import mask_rows, row_of, trial

from deepcuts.analysis.arms import with_arms
from deepcuts.analysis.degenerate import degenerate, degenerate_in_words
from deepcuts.analysis.density import density
from deepcuts.analysis.frames import metrics, trials
from deepcuts.experiment.settings import Training
from deepcuts.publish.layerdata import layer_groups, training
from deepcuts.publish.report import report
from deepcuts.publish.webdata import trial_settings
from deepcuts.store.store import Store

POOLER, KEY = "bert.pooler.dense", "bert.encoder.layer.0.attention.self.key"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two seeds; in the second one the pooler is empty and one of two heads of the keys is dead."""
    store = Store(str(tmp_path / "store"))
    for seed in (0, 1):
        row = trial(f"{seed:016x}", seed=seed, model="toy", majority=0.8, retrained=(0.9, 0.8)[seed])
        masks = {(POOLER, "weight"): np.full((4, 4), seed == 0), (KEY, "weight"): np.ones((8, 4), np.bool_)}
        if seed:
            masks[KEY, "weight"][:4] = False
        write_trial(store, row, seed)
        store.write("masks", row["trial_id"], mask_rows(row["trial_id"], masks))
    return store


def _frames(store: Store) -> tuple[pd.DataFrame, pd.DataFrame]:
    return with_arms(trials(store)), density(store, heads=2)


def test_the_warnings_of_the_page_are_those_of_the_table_and_read_no_mask_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, kept = _frames(store)
    reads = degenerate(store, rows).sort_values(["kind", "what"], ignore_index=True)
    monkeypatch.setattr("deepcuts.analysis.degenerate.density", None)
    found = degenerate(store, rows, kept)
    where = "LayerMagWeight 50 % on toy"
    assert degenerate_in_words(found, rows) == [
        f"{where}: attention heads without a weight, at most 1 of 2 in {KEY} (1 of 2 trials); no weight is left of"
        f" {POOLER}.weight (1 of 2 trials)"
    ]
    text = report(store).text
    assert f"no weight is left of {POOLER}.weight (1 of 2 trials)" in text
    assert set(reads["kind"]) <= set(found["kind"]) == {"dead heads", "emptied"}


def test_each_thing_that_is_broken_has_its_own_number_of_trials() -> None:
    rows = pd.DataFrame([trial(name, seed=seed, compression=None) for seed, name in enumerate("abc")])
    broken = [("a", "dead heads", "1 of 2 in x"), *((name, "one class", "retrained") for name in "bc")]
    broken += [("c", "one class", "pruned")]
    found = degenerate_in_words(pd.DataFrame(broken, columns=["trial_id", "kind", "what"]), rows)
    assert found == [
        "LayerMagWeight 50 % on toy: attention heads without a weight, at most 1 of 2 in x (1 of 3 trials);"
        " predicts one class alone when retrained (2 of 3 trials)"
    ]


def test_a_network_that_is_never_retrained_may_predict_one_class() -> None:
    broken = pd.DataFrame(columns=["trial_id", "kind", "what"])
    for epochs, said in ((0, []), (1, ["LayerMagWeight 2x on toy: predicts one class alone when retrained"])):
        row = row_of(specs.trial(retrain=Training(epochs=epochs)))
        broken.loc[0] = [row["trial_id"], "one class", "retrained"]
        assert degenerate_in_words(broken, pd.DataFrame([row])) == said


def test_layers_have_the_mean_density_and_shares_of_a_group(store: Store) -> None:
    (group,) = layer_groups(*_frames(store))
    assert group["n"] == 2
    assert (group["arm"], group["sparsity_asked"]) == ("LayerMagWeight", 0.5)
    assert group["layers"] == [[POOLER, None, "pooler", 0.5, 0.5, 0.5, None], [KEY, 0, "key", 0.75, 0.25, 0.0, 0.25]]


def test_training_has_a_series_per_stage_and_measure_and_shared_networks_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    at: dict[str, Any] = {"seconds": 0.0}
    for number in (0, 1):
        row = trial(f"{number:016x}", seed=0, dense_id="one", compression=2.0 + number)
        store.write("trials", row["trial_id"], [row])
        rows = [
            at
            | {"trial_id": row["trial_id"], "stage": stage, "epoch": epoch, "step": 5, "value": 0.1 * epoch + number}
            | {"split": split, "metric": metric}
            for stage in ("dense", "retrained")
            for epoch in (0, 1)
            for split, metric in (("validation", "accuracy"), ("train", "loss"))
        ]
        store.write("metrics", row["trial_id"], rows)
    found = training(with_arms(trials(store)), metrics(store))
    assert sorted(each[:4] for each in found if each[1] == "dense") == [
        [f"{0:016x}", "dense", "accuracy", "validation"],
        [f"{0:016x}", "dense", "loss", "train"],
    ]
    retrained = [each for each in found if each[1] == "retrained" and each[2] == "accuracy"]
    assert [each[4:] for each in retrained] == [[[1, 0.0], [2, 0.1]], [[1, 1.0], [2, 1.1]]]


def test_settings_that_differ_are_told_from_those_that_are_the_same(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    rows = [row_of(specs.trial(retrain=Training(epochs=epochs))) for epochs in (2, 3)]
    for row in rows:
        store.write("trials", row["trial_id"], [row])
    found = trial_settings(trials(store))
    assert found["differ"] == ["retrain.epochs"]
    assert found["same"]["retrain.batch_size"] == str(Training().batch_size)
    assert [found["values"][0][found["trials"][row["trial_id"]][0]] for row in rows] == ["2", "3"]
