"""What a launch refuses, and what it says, before anything is launched."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders.toy_sweeps import SWEEP, run_file

import deepcuts
from deepcuts.store.store import Store
from deepcuts.sweep.cluster import use_ray
from deepcuts.sweep.launch import _RUNNING, Sweep
from deepcuts.sweep.planned import SweepPlan
from deepcuts.wording import size_text

TWICE = SWEEP.replace("- LayerGradCAM", "- LayerMagWeight")


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    (tmp_path / "small.yaml").write_text(SWEEP)
    return deepcuts.read_sweep(tmp_path / "small.yaml")


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has a Ray already, of two GPUs."""
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("deepcuts.sweep.cluster._node_kinds", lambda: [{"CPU": 4.0, "GPU": 2.0}])
    monkeypatch.setattr("deepcuts.sweep.lifeline._servers", list)


def test_a_second_sweep_at_once_in_one_process_is_refused_and_writes_nothing(sweep: Sweep, tmp_path: Path) -> None:
    with _RUNNING, pytest.raises(ValueError, match="is running a sweep already"):
        deepcuts.run(sweep, Store(str(tmp_path / "store")))
    assert not (tmp_path / "store").exists()


def test_an_address_is_refused_where_the_process_has_a_ray(sweep: Sweep, tmp_path: Path, connected: None) -> None:
    for launch in (deepcuts.plan, deepcuts.run):
        with pytest.raises(ValueError, match="'auto': this process is connected to a Ray already"):
            launch(sweep, Store(str(tmp_path / "store")), address="auto")
    assert not (tmp_path / "store").exists()


def test_a_process_that_reaches_its_ray_through_a_client_is_refused(
    connected: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.util.client.ray.is_connected", lambda: True)
    with (
        pytest.raises(ValueError, match="by ray://, Ray's client, over which no sweep runs.*ray.shutdown"),
        use_ray(None),
    ):
        pass


def test_gpus_are_those_of_the_ray_that_the_process_has(sweep: Sweep, tmp_path: Path, connected: None) -> None:
    asking = deepcuts.read_sweep(tmp_path / "small.yaml", resources={"gpus": 2})
    assert deepcuts.plan(asking, Store(str(tmp_path / "store"))).gpus == 2
    assert all(trial.dense.device == "cuda" for trial in deepcuts.plan(asking, Store(str(tmp_path))).todo.wanted)


def test_the_handlers_of_tune_stay_off_where_the_process_has_a_ray(
    connected: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune's own handler of Ctrl-C would end a sweep without letting its trials save."""
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "0")
    with use_ray(None):
        assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"


@pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric")
@pytest.mark.usefixtures("torch_state")
def test_what_is_planned_is_heard_before_a_run(sweep: Sweep, tmp_path: Path) -> None:
    store, heard = run_file(tmp_path / "small.yaml", tmp_path / "store"), []

    def hear(planned: SweepPlan) -> None:
        heard.append((planned.prepared.spec.repeated(), store.exists("sweeps/twice.parquet")))

    (tmp_path / "twice.yaml").write_text(TWICE.replace("name: small\n", ""))
    done = deepcuts.run(deepcuts.read_sweep(tmp_path / "twice.yaml"), store, on_plan=hear)
    assert heard == [(["toy LayerMagWeight 50 % seed 0"], False)]
    assert (len(done.completed), len(done.failed), len(done.left)) == (2, 0, 0)
    assert store.exists("sweeps/twice.parquet")


@pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric")
@pytest.mark.usefixtures("torch_state")
def test_what_a_kill_left_of_a_completed_trial_is_removed(sweep: Sweep, tmp_path: Path) -> None:
    store = run_file(tmp_path / "small.yaml", tmp_path / "store")
    done, *_ = store.statuses()
    for key in (done, f"{done}-scoring", "of-a-trial-at-work"):
        store.write_bytes(f"artifacts/_checkpoints/{key}.safetensors", b"")
    deepcuts.run(sweep, store)
    assert store.names("artifacts/_checkpoints", ".safetensors") == ["of-a-trial-at-work.safetensors"]


def test_a_plan_for_a_machine_that_is_not_here_checks_nothing_of_this_one(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcuts.sweep.cost.shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    store = Store(str(tmp_path / "store"))
    asking = deepcuts.read_sweep(tmp_path / "small.yaml", resources={"gpus": 0.25, "cpus": 64})
    there = deepcuts.plan(asking, store, on="a100")
    assert "on one A100 that is not here, 4 trials at a time" in str(there)
    assert {trial.dense.device for trial in there.todo.wanted} == {"cuda"}
    assert "on a GPU like the A100" in str(there)
    cpu = deepcuts.plan(sweep, store, on="cpu")
    assert "on 4 CPU cores that are not here, 4 trials at a time" in str(cpu)
    assert {trial.dense.device for trial in cpu.todo.wanted} == {"cpu"}
    assert "GPU" not in str(cpu)
    assert not (tmp_path / "store").exists()


def test_a_machine_that_nobody_knows_is_refused(sweep: Sweep, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on: unknown machine 'a10'; did you mean 'a100'.*known: cpu, gpu, t4,"):
        deepcuts.plan(sweep, Store(str(tmp_path)), on="a10")
    with pytest.raises(ValueError, match="give either address 'auto', a cluster to plan for, or on 'gpu'"):
        deepcuts.plan(sweep, Store(str(tmp_path)), on="gpu", address="auto")


def test_a_plan_says_the_examples_that_are_used_and_the_disk_at_the_end_and_on_the_way(
    sweep: Sweep, tmp_path: Path
) -> None:
    planned = deepcuts.plan(sweep, Store(str(tmp_path / "store")))
    assert "  toy: 64 of 4,000 train, 500 validation; " in str(planned)
    said = "labels in train 2,000 of class 0, 2,000 of class 1 (of all 4,000; each seed draws 64 of them); in vali"
    assert said in str(planned)
    assert "\n    8 s of it for Ray and its workers to start, on an idle machine\n" in str(planned)
    assert planned.cost.left_bytes < planned.cost.peak_bytes
    left, peak = size_text(planned.cost.left_bytes), size_text(planned.cost.peak_bytes)
    assert f"  {left} of disk at the end, at most {peak} on the way" in str(planned)
    whole = deepcuts.read_sweep(tmp_path / "small.yaml", max_train_examples=None)
    assert "  toy: 4,000 train, 500 validation; " in str(deepcuts.plan(whole, Store(str(tmp_path / "store"))))


def test_a_plan_says_what_the_file_of_the_sweep_leaves_to_the_data(sweep: Sweep, tmp_path: Path) -> None:
    lines = [f"text {row},{row % 2}" for row in range(40)]
    (tmp_path / "reviews.csv").write_text("\n".join(["body,label", *lines]))
    own = {"file": str(tmp_path / "reviews.csv"), "validation": 0.2, "text": "body"}
    asking = deepcuts.read_sweep(tmp_path / "small.yaml", datasets={"reviews": own, "toy": None})
    told = str(deepcuts.plan(asking, Store(str(tmp_path / "store")), on="cpu"))
    assert "  reviews: 32 train, 8 validation; " in told
    assert (
        "    validation is 20 % of reviews.csv, stratified by class, data_seed 0; equal texts stay on one side\n"
        in told
    )
    assert told.count("    classes: [0, 1], inferred from the labels; if they are numbers") == 1
