"""Trackers: what they are told, and that nothing they do reaches a sweep."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from builders.ray_sweeps import launch, one_strategy
from ray import tune

from deepcuts.experiment.sweepfile import SweepFile
from deepcuts.store.store import Store
from deepcuts.sweep.prepare import prepare_sweep
from deepcuts.sweep.trackers import Guarded, tracker_callbacks
from deepcuts.sweep.worker import run_pipeline

pytestmark = [
    pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning", "default::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric"),
]


class Recording(tune.Callback):
    """A tracker that keeps what it hears, and may fail or hang at its first result."""

    def __init__(self, at_result: str = "") -> None:
        self.at_result = at_result
        self.results: list[dict[str, Any]] = []
        self.configs: list[dict[str, Any]] = []
        self.ended = 0

    def on_trial_start(self, **info: Any) -> None:
        self.configs.append(dict(info["trial"].config))

    def on_trial_result(self, **info: Any) -> None:
        if self.at_result == "fail":
            raise ConnectionError("no tracking server\nsecond line")
        if self.at_result == "exit":
            sys.exit("not logged in")
        if self.at_result == "hang":
            threading.Event().wait(60)
        self.results.append(info["result"])

    def on_experiment_end(self, **info: Any) -> None:
        self.ended += 1


def _guarded(tracker: Recording, said: list[str]) -> Guarded:
    return Guarded("mine", lambda: tracker, said.append)


def _missing() -> tune.Callback:
    raise ModuleNotFoundError("No module named 'mlflow'")


def test_a_sweep_is_mirrored_and_failing_trackers_harm_no_trial(
    four_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcuts.sweep.trackers.END_SECONDS", 2.0)
    said: list[str] = []
    store, good = Store(str(tmp_path / "store")), Recording()
    mirrors = [_guarded(good, said), Guarded("gone", _missing, said.append)]
    mirrors += [_guarded(Recording(how), said) for how in ("fail", "exit", "hang")]
    mirrors += tracker_callbacks(["tensorboard"], "test", store, said.append)
    outcome = launch(one_strategy(), store, run_pipeline, callbacks=mirrors)
    assert outcome.errors == []
    statuses = store.statuses()
    assert list(statuses.values()) == ["completed"] * 2
    assert good.ended == 1
    assert {config["strategy"] for config in good.configs} == {"Dense", "LayerMagWeight"}
    rows = {row["trial_id"]: row for row in store.read("trials").table.to_pylist()}
    for config in good.configs:
        heard = [result for result in good.results if result["config"]["trial_id"] == config["trial_id"]]
        assert heard[-1]["row"]["retrained"] == rows[config["trial_id"]]["retrained"]
    epochs = [result for result in good.results if "retrained/validation/accuracy" in result]
    assert [result["epoch"] for result in epochs] == [0]
    assert sorted(words.split(" failed ")[0] for words in said) == ["tracker gone", *["tracker mine"] * 3]
    assert "ConnectionError: no tracking server" in " ".join(said)
    assert "second line" not in " ".join(said)
    for trial_id in statuses:
        (events,) = (Path(store.root) / "tensorboard" / "test" / trial_id).glob("events.*")
        assert events.stat().st_size > 100


def test_a_tracker_that_falls_behind_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepcuts.sweep.trackers.MOST_WAITING", 5)
    said: list[str] = []
    guarded = _guarded(Recording("hang"), said)
    began = time.monotonic()
    for _ in range(20):
        guarded.on_trial_result(result={})  # type: ignore[call-arg]
    assert time.monotonic() - began < 1
    assert said == ["tracker mine failed and is left out from here on, the sweep goes on: is 5 events behind"]


def test_a_tracker_that_is_not_installed_is_refused_before_launch_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys: dict[str, Any] = {"name": "x", "model": "toy", "datasets": ["toy"], "strategies": ["LayerSNIP"]}
    file = SweepFile(**keys, sparsities=[0.5], max_tokens=32, trackers=["tensorboard", "wandb"])
    monkeypatch.setattr("deepcuts.sweep.prepare.find_spec", lambda package: None if package == "wandb" else object())
    with pytest.raises(ValueError, match="'wandb' needs the package 'wandb'.*`pip install wandb`"):
        prepare_sweep(file, "cpu")


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ValueError, match="tensorboard"):
        SweepFile(name="x", datasets=["toy"], strategies=["LayerSNIP"], sparsities=[0.5], trackers=["comet"])
