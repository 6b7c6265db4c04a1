"""Sweeps on a real, local Ray: what is run, where, and what survives."""

import asyncio
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import ray
from builders.ray_sweeps import launch, one_strategy, write_row
from builders.toy_sweeps import numbers, toy_sweep
from ray import tune
from ray.exceptions import ActorDiedError, ObjectLostError, RaySystemError, RayTaskError, WorkerCrashedError
from ray.tune.utils import flatten_dict
from rich.console import Console

from deepcuts.experiment.grid import tracker_labels
from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.live import Watch
from deepcuts.store.store import Store
from deepcuts.sweep.cluster import _check_answers, choose_cpus, machines_of_cluster
from deepcuts.sweep.pace import Pace
from deepcuts.sweep.plan import make_plan
from deepcuts.sweep.progress import Progress
from deepcuts.sweep.queue import Queue
from deepcuts.sweep.tune import Outcome, _ending_early, _last_error, _Listener, _Searcher, run_plan
from deepcuts.sweep.worker import Launch, make_launch, run_pipeline

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test module
pytestmark = pytest.mark.filterwarnings(
    "default::DeprecationWarning", "default::FutureWarning", "default::ResourceWarning"
)


def stay_a_while(given: Launch, trial: TrialSpec, store: Store, beat: Any) -> Mapping[str, Any]:
    """A trial that notes which GPU it sees and when it ran; the first ones wait until four run."""
    began = time.time()
    store.write_json(f"started/{trial.trial_id}.json", {})
    while len(store.names("started", ".json")) < 4 and time.time() < began + 60:
        time.sleep(0.1)
    time.sleep(0.5)
    seen = {"began": began, "ended": time.time(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
    store.write_json(f"notes/{trial.trial_id}.json", seen)
    return write_row(store, trial)


def test_four_logical_gpus_run_four_trials_at_a_time_each_seeing_one_of_its_own(
    four_gpus: None, tmp_path: Path
) -> None:
    # Each seed has its own fine-tuning and runs only Dense: 8 trials that wait for nobody.
    spec = one_strategy(seeds=list(range(8)))
    dense = [trial for trial in spec.trials() if trial.strategy == "Dense"]
    store = Store(str(tmp_path))
    plan = make_plan(dense, store)
    given = Launch(
        {t.trial_id: t for t in dense}, dense, "test", store.root, "launch", 1, False, 5, False, stay_a_while
    )
    run_plan(plan, given, store, Progress(Console(quiet=True), 8, 0, Pace(dense, {})), gpus=1)
    notes = [store.read_json(f"notes/{name}") for name in store.names("notes", ".json")]
    assert len(notes) == 8
    assert {note["gpu"] for note in notes if note} == {"0", "1", "2", "3"}
    for one, other in combinations([note for note in notes if note], 2):
        apart = one["ended"] <= other["began"] or other["ended"] <= one["began"]
        assert apart or one["gpu"] != other["gpu"], "two trials at a time on one GPU"
    most = max(sum(bool(n and m and n["began"] <= m["began"] < n["ended"]) for n in notes) for m in notes)
    assert most == 4


def test_a_request_that_no_node_can_meet_is_refused_at_once(four_gpus: None) -> None:
    with pytest.raises(ValueError, match="no node can ever give"):
        choose_cpus(64, 0)
    with pytest.raises(ValueError, match=r"5 GPUs on one node.*4 CPU cores and 4 GPUs"):
        choose_cpus(None, 5)
    assert choose_cpus(None, 0.5) == 4
    _check_answers(ray.get_runtime_context().gcs_address, "--address")  # as one that can be reached
    there = machines_of_cluster(None)
    assert there.name == "the Ray cluster of this process: 1 node, 4 CPU cores and 4 GPUs"
    assert (there.gpus, there.slots(1, 1), there.slots(2, 1)) == (4, 4, 2)


def count_own_trials(given: Launch, trial: TrialSpec, store: Store, beat: Any) -> Mapping[str, Any]:
    """Count the trials that were given this very copy of the launch, and note the count."""
    seen: Any = given.__dict__.setdefault("seen", [])
    seen.append(trial.trial_id)
    assert given.shared.partners(trial) == ()
    store.write_json(f"notes/{trial.trial_id}.json", {"pid": os.getpid(), "count": len(seen)})
    return write_row(store, trial)


def test_a_worker_unpacks_its_launch_once_for_all_its_trials(four_gpus: None, tmp_path: Path) -> None:
    spec, store = one_strategy(seeds=list(range(6))), Store(str(tmp_path))
    launch(spec, store, count_own_trials)
    notes = [store.read_json(f"notes/{name}") or {} for name in store.names("notes", ".json")]
    assert len(notes) == 12
    workers = {note["pid"] for note in notes}
    assert len(workers) < 12
    assert sum(max(note["count"] for note in notes if note["pid"] == pid) for pid in workers) == 12


def test_nothing_starts_for_a_trial_that_is_done_before_tune_has_its_worker_back(tmp_path: Path) -> None:
    spec, store = one_strategy(), Store(str(tmp_path))
    [dense, pruned] = spec.trials()
    queue, progress = Queue([dense, pruned]), Progress(Console(quiet=True), 2, 0, Pace((), {}))
    given = make_launch(make_plan(spec.trials(), store), spec.file, store, 1, count_own_trials)
    searcher = _Searcher(queue, Watch(store, given.launch_id), store, progress, {pruned.trial_id: "mine"})
    listener = _Listener(queue, given, store, progress, Outcome())
    assert searcher.suggest("tune's") == {"trial_id": dense.trial_id, **tracker_labels(dense)}
    assert searcher.suggest("next") is None
    row = {"status": "completed", "metric": "accuracy", "dense": 1.0, "total_seconds": 0.0}
    result = {"stage": "done", "row": row}
    listener.on_trial_result(1, [], SimpleNamespace(config={"trial_id": dense.trial_id}), result)
    assert searcher.suggest("next") is None
    searcher.on_trial_complete("tune's", flatten_dict(result))
    assert searcher.suggest("next") == {"trial_id": pruned.trial_id, **tracker_labels(pruned, "mine")}


def die_once(given: Launch, trial: TrialSpec, store: Store, beat: Any) -> Mapping[str, Any]:
    """A trial whose worker dies the first time, as on a lost node."""
    if not store.exists(f"notes/{trial.trial_id}.json"):
        store.write_json(f"notes/{trial.trial_id}.json", {})
        os._exit(1)
    return write_row(store, trial)


def test_a_worker_that_dies_is_retried_by_itself(four_gpus: None, tmp_path: Path) -> None:
    spec, store = one_strategy(), Store(str(tmp_path))
    launch(spec, store, die_once, max_failures=2)
    assert set(store.statuses().values()) == {"completed"}
    assert len(store.statuses()) == 2


def lose_everything(given: Launch, trial: TrialSpec, store: Store, beat: Any) -> Mapping[str, Any]:
    """A trial that never ends: Dense loses the store while it scores, the other its worker, the last time at once."""
    tries = f"notes/{trial.trial_id}.json"
    if trial.strategy == "Dense" or not store.exists(tries):
        store.write_json(tries, {})
        tune.report({"stage": "score"})
    if trial.strategy == "Dense":
        raise OSError("the store is away")
    os._exit(1)


def test_infrastructure_failures_that_outlast_the_retries_run_again_with_the_next_launch(
    four_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, store, looked = one_strategy(), Store(str(tmp_path)), Mock()
    monkeypatch.setattr("deepcuts.sweep.tune.end_if_ray_died", looked)
    outcome = launch(spec, store, lose_everything, max_failures=1)
    assert [each.lasting for each in outcome.outside.values()] == [False, False]
    looked.assert_called_once_with()  # whether they come of the death of Ray
    dense, pruned = sorted(store.read("trials").table.to_pylist(), key=lambda row: row["strategy"])
    assert [(row["status"], row["failure"]) for row in (dense, pruned)] == [("failed", "infrastructure")] * 2
    assert (dense["compression"], dense["sparsity_asked"], dense["error_stage"]) == (1.0, 0.0, "score")
    assert dense["error"] == "OSError: the store is away"
    assert "in lose_everything" in dense["traceback"]
    assert (pruned["compression"], pruned["sparsity_asked"], pruned["error_stage"]) == (None, 0.5, "load")
    assert pruned["error"].startswith("ActorDiedError: The actor died")
    launch(spec, store, lambda given, trial, store, beat: write_row(store, trial))
    assert set(store.statuses().values()) == {"completed"}
    looked.assert_called_once()


def fail_by_itself(given: Launch, trial: TrialSpec, store: Store, beat: Any) -> Mapping[str, Any]:
    if trial.strategy == "Dense":
        return write_row(store, trial)
    return write_row(store, trial, status="failed", failure="trial", error="diverged", error_stage="retrained")


def test_a_trial_that_failed_by_itself_runs_again_only_when_asked(four_gpus: None, tmp_path: Path) -> None:
    spec, store = one_strategy(), Store(str(tmp_path))
    launch(spec, store, fail_by_itself)
    assert sorted(store.statuses().values()) == ["completed", "failed"]
    assert make_plan(spec.trials(), store).to_run == ()
    launch(spec, store, lambda given, trial, store, beat: write_row(store, trial), retry_failed=True)
    assert set(store.statuses().values()) == {"completed"}


def stop_when_asked(given: Launch, trial: TrialSpec, store: Store, beat: Any) -> Mapping[str, Any]:
    """Complete Dense; anything else saves and ends once it is asked to."""
    if trial.strategy == "Dense":
        return write_row(store, trial)
    store.write_json("notes/waits.json", {})
    while not beat.stopping():
        time.sleep(0.1)
    return {}


def test_a_sweep_runs_in_a_thread_and_ends_at_its_deadline(
    four_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, store = one_strategy(), Store(str(tmp_path))

    class AfterTheTrialBegan(threading.Timer):  # however long a busy machine takes to begin it
        def run(self) -> None:
            while not (store.exists("notes/waits.json") or self.finished.wait(0.1)):
                pass
            super().run()

    monkeypatch.setattr(threading, "Timer", AfterTheTrialBegan)
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(launch, spec, store, stop_when_asked, deadline=time.monotonic() + 1).result()
    assert outcome == Outcome(signal.SIGINT, late=True)
    assert store.exists("notes/waits.json")
    assert store.statuses() == {spec.trials()[0].trial_id: "completed"}
    assert store.names("running", ".json") == []


def complete_at_once(given: Launch, trial: TrialSpec, store: Store, beat: Any) -> Mapping[str, Any]:
    return write_row(store, trial)


def test_a_sweep_runs_inside_a_running_event_loop_as_in_a_cell_of_a_notebook(four_gpus: None, tmp_path: Path) -> None:
    spec, store = one_strategy(), Store(str(tmp_path))

    async def cell() -> Outcome:
        later = asyncio.get_running_loop().create_task(asyncio.sleep(0, "the loop goes on"))
        outcome = launch(spec, store, complete_at_once)
        assert await later == "the loop goes on"
        return outcome

    assert asyncio.run(cell()) == Outcome()
    assert store.statuses() == {trial.trial_id: "completed" for trial in spec.trials()}


def test_a_signal_ends_a_launch_and_a_second_one_interrupts_an_interactive_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, outcome = Store(str(tmp_path)), Outcome()
    searcher: Any = SimpleNamespace(ending=False)
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with _ending_early(outcome, searcher, store, "mine", None):
        signal.raise_signal(signal.SIGINT)
        assert (outcome.signal, searcher.ending) == (signal.SIGINT, True)
        assert store.exists("running/stop-mine.json")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert not store.exists("running/stop-mine.json")
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric")
def test_trials_in_worker_processes_give_the_bits_of_a_trial_run_alone(four_gpus: None, tmp_path: Path) -> None:
    from deepcuts.trial.context import Context
    from deepcuts.trial.trial import run_stages

    spec = toy_sweep(strategies=["LayerMagWeight", "LayerGradCAM", "GlobalSmoothGrad"])
    together, alone = Store(str(tmp_path / "together")), Store(str(tmp_path / "alone"))
    launch(spec, together, run_pipeline)
    assert set(together.statuses().values()) == {"completed"}
    for trial in spec.trials():
        run_stages(trial, "alone", Context(alone, 1))
    assert numbers(together) == numbers(alone)


@pytest.mark.parametrize(
    ("error", "said"),
    [(TimeoutError(), "TimeoutError"), (OSError("the store is away\nfor long"), "OSError: the store is away")],
)
def test_an_error_without_a_word_is_said_by_its_name(error: Exception, said: str, tmp_path: Path) -> None:
    """An exception in here would end the whole sweep."""
    (tmp_path / "error.pkl").write_bytes(ray.cloudpickle.dumps(error))
    assert _last_error(SimpleNamespace(pickled_error_file=str(tmp_path / "error.pkl")))[0] == said


def in_worker(cause: Exception) -> Exception:
    return RayTaskError("run_in_worker", f"Traceback\n{cause}", cause).as_instanceof_cause()


def at_birth(cause: Exception) -> Exception:
    error = RayTaskError("__init__", f"Traceback\nImportError: {cause}", cause, actor_id="a" * 32)
    return ActorDiedError(error)


@pytest.mark.parametrize(
    ("error", "said", "lasting"),
    [
        (in_worker(ModuleNotFoundError("No module named 'gone'")), "ModuleNotFoundError: No module named 'gone'", True),
        (in_worker(KeyError("Gone")), "KeyError: 'Gone'", True),
        (in_worker(RaySystemError("No module named 'gone'")), "RaySystemError: System error: No module", True),
        (in_worker(OSError(errno.ENOSPC, "disk full")), "OSError: [Errno 28] disk full", True),
        (in_worker(OSError("the store is away")), "OSError: the store is away", False),
        (in_worker(ObjectLostError("a" * 40, "", "")), "ObjectLostError: ", False),
        (WorkerCrashedError(), "WorkerCrashedError: ", False),
        (ActorDiedError(), "ActorDiedError: The actor died unexpectedly", False),
        (at_birth(ImportError("no numpy")), "ImportError: no numpy", True),
    ],
)
def test_an_error_of_what_the_workers_run_on_lasts_and_a_lost_worker_or_store_does_not(
    error: Exception, said: str, lasting: bool, tmp_path: Path
) -> None:
    (tmp_path / "error.pkl").write_bytes(ray.cloudpickle.dumps(error))
    text, _, found = _last_error(SimpleNamespace(pickled_error_file=str(tmp_path / "error.pkl")))
    assert text.startswith(said)
    assert found is lasting
