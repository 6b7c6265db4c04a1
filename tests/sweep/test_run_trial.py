"""One trial in this process, as `run-one` and a notebook run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders.toy_sweeps import toy_sweep
from builders.toy_trials import trial

import deepcuts
from deepcuts.cli.main import main
from deepcuts.experiment.sharing import shared
from deepcuts.store.store import Store
from deepcuts.sweep.launch import _write_sweep
from deepcuts.sweep.plan import make_plan
from deepcuts.sweep.worker import make_launch, run_pipeline
from deepcuts.trial.context import Context


@pytest.mark.usefixtures("torch_state")
def test_a_trial_that_runs_again_keeps_the_names_of_its_sweep_and_arm(tmp_path: Path) -> None:
    store, asked = Store(str(tmp_path)), trial()
    for names in ({"sweep": "ablation", "arm": "mine"}, {}):
        again = deepcuts.run_trial(asked, store, **names)
        assert (again["sweep"], again["arm"]) == ("ablation", "mine")
    other = deepcuts.run_trial(trial("LayerRandom"), store)
    assert (other["sweep"], other["arm"]) == ("run-one", "LayerRandom")
    assert set(deepcuts.trials(store)["sweep"]) == {"ablation", "run-one"}


@pytest.mark.usefixtures("torch_state")
def test_the_verb_says_where_the_trial_is_as_a_sweep_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = deepcuts.run_trial(trial(), Store(str(tmp_path)))
    assert main(["run-one", str(tmp_path), row["trial_id"]]) == 0
    assert "\n  retraining, epoch 1, step " in capsys.readouterr().out


THREADS = """
import os, sys
import deepcuts.sweep.single, deepcuts.sweep.worker
from deepcuts.sweep.machines import wait_passively
assert "torch" not in sys.modules, "its threads have read their settings by then"
wait_passively()
import torch
print(os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_the_environment_says_otherwise(monkeypatch, given, expected) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_a_trial_asks_for_sleeping_threads_and_captures_where_it_is_told_to_here_and_in_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str | None, bool]] = []

    def run_stages(trial: Any, sweep: str, context: Context, keep_model: bool, arm: str | None) -> None:
        ran.append((os.environ.get("OMP_WAIT_POLICY"), context.capture))

    monkeypatch.setattr("deepcuts.trial.trial.run_stages", run_stages)
    together = shared([trial()])
    about = {"threads": 1, "checkpoint_minutes": 1.0, "capture": True, "sweep": "some", "keep_models": False}
    about["criteria"] = ()
    launch = SimpleNamespace(**about, labels={}, shared=together)
    for run in (
        lambda: deepcuts.run_trial(trial(), Store(str(tmp_path))),
        lambda: deepcuts.run_trial(trial(), Store(str(tmp_path)), capture=True),
        lambda: run_pipeline(launch, trial(), Store(str(tmp_path)), SimpleNamespace(stopping=lambda: False)),  # type: ignore[arg-type]
    ):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        run()
    assert ran == [("PASSIVE", False), ("PASSIVE", True), ("PASSIVE", True)]


def test_a_worker_hands_a_trial_the_label_of_its_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[object] = []
    monkeypatch.setattr("deepcuts.trial.trial.run_stages", lambda *given: heard.append(given[-1]))
    spec = toy_sweep(strategies={"mine": {"use": "LayerMagWeight"}, "LayerRandom": None})
    store = Store(str(tmp_path))
    launch = make_launch(make_plan(spec.trials(), store), spec.file, store, 1, run_pipeline, labels=spec.labels)
    for each in spec.trials():
        run_pipeline(launch, each, store, SimpleNamespace(stopping=lambda: False))  # type: ignore[arg-type]
    assert heard == ["Dense", "mine", "LayerRandom"]
    _write_sweep(store, spec)
    assert [row["arm"] for row in store.read("sweeps").table.to_pylist()] == heard
