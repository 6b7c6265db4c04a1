"""What a trial's own input causes is a failure of the trial; what may be back the next time is none."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from builders.bert_folder import bert_folder
from builders.toy_trials import context, dense, rows, trial

from deepcuts.data.hub import Unreachable
from deepcuts.experiment.metrics import UndefinedMetric
from deepcuts.experiment.spec import ModelSource
from deepcuts.store.store import Store
from deepcuts.trial.trial import run_stages

pytestmark = [
    pytest.mark.usefixtures("torch_state", "few_sentences"),
    pytest.mark.filterwarnings(f"ignore::{UndefinedMetric.__module__}.UndefinedMetric"),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def raising(error: Exception) -> Any:
    def fail(*arguments: Any) -> None:
        raise error

    return fail


def test_a_shard_that_is_missing_fails_the_trial_once_and_for_all(tmp_path: Path, store: Store) -> None:
    folder = bert_folder(tmp_path / "m", vocab_size=200)
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        '{"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    )
    spec = trial("Dense", of=dense().model_copy(update={"model": ModelSource(name=str(folder), digest="0")}))
    row = run_stages(spec, "test", context(store))
    assert (row["status"], row["failure"], row["error_stage"]) == ("failed", "trial", "load")
    assert "model-2.safetensors" in row["error"]
    assert store.statuses() == {spec.trial_id: "failed"}
    assert "Traceback" in rows(store, "trials", spec)[0]["traceback"]


@pytest.mark.parametrize("reader", ["load_model", "load_tokenizer", "load_split"])
def test_an_input_that_is_not_there_fails_the_trial(monkeypatch: Any, store: Store, reader: str) -> None:
    monkeypatch.setattr(f"deepcuts.trial.loading.{reader}", raising(FileNotFoundError(errno.ENOENT, "not there")))
    row = run_stages(trial("Dense"), "test", context(store))
    assert (row["status"], row["failure"], row["error_stage"]) == ("failed", "trial", "load")
    assert row["error"].startswith("ValueError: cannot read the ")
    assert "not there" in row["error"]


@pytest.mark.parametrize(
    "error", [ConnectionError("away"), Unreachable("the Hub is away"), OSError(errno.EIO, "the disk is away")]
)
@pytest.mark.parametrize("reader", ["load_model", "load_tokenizer", "load_split"])
def test_a_hub_or_a_disk_that_is_away_is_no_failure_of_the_trial(
    monkeypatch: Any, store: Store, reader: str, error: Exception
) -> None:
    monkeypatch.setattr(f"deepcuts.trial.loading.{reader}", raising(error))
    with pytest.raises(OSError, match="away"):
        run_stages(trial("Dense"), "test", context(store))
    assert store.statuses() == {}


def test_a_store_that_lost_a_file_is_no_failure_of_the_trial(monkeypatch: Any, store: Store) -> None:
    monkeypatch.setattr("deepcuts.trial.shared_stages.load_artifact", raising(FileNotFoundError("artifact gone")))
    assert run_stages(trial("Dense"), "test", context(store))["status"] == "completed"
    with pytest.raises(FileNotFoundError, match="artifact gone"):
        run_stages(trial("Dense"), "test", context(store))
