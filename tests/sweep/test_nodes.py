"""Several Ray nodes: real raylets on this machine, one of which is lost in mid-sweep."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
from builders.ray_sweeps import launch, one_strategy, write_row
from builders.toy_sweeps import numbers
from ray.cluster_utils import Cluster

from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.store import Store
from deepcuts.sweep.cluster import check_nodes, ray_options, start_ray
from deepcuts.sweep.worker import Launch, run_pipeline

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.filterwarnings(
    "default::DeprecationWarning", "default::FutureWarning", "default::ResourceWarning"
)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head that runs nothing and two nodes with one CPU each."""
    ray.shutdown()  # of the tests before
    options = ray_options()
    often = {"health_check_period_ms": 1000}  # the loss of a node is noticed by five missing answers
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": often})
    for _ in range(2):
        made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, **options)
    yield made
    ray.shutdown()
    made.shutdown()


def living_nodes() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def waits_on_its_node(given: Launch, trial: TrialSpec, store: Store, beat: Any) -> Mapping[str, Any]:
    """A trial that notes its node and, the first time, waits to be killed with it."""
    node = ray.get_runtime_context().get_node_id()
    first = not store.names("nodes", ".json")
    store.write_json(f"nodes/{trial.trial_id}-{os.getpid()}.json", {"node": node, "waits": first})
    if first:
        time.sleep(120)
    return write_row(store, trial)


def test_a_node_that_is_lost_in_mid_sweep_costs_only_its_trials_a_retry(nodes: Cluster, tmp_path: Path) -> None:
    store = Store(str(tmp_path))

    def lose_the_waiting_node() -> None:
        while not (found := [store.read_json(f"nodes/{name}") for name in store.names("nodes", ".json")]):
            time.sleep(0.2)
        time.sleep(1)
        lost = next(each["node"] for each in found if each and each["waits"])
        node = next(node for node in nodes.worker_nodes if node.node_id == lost)
        nodes.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=lose_the_waiting_node)
    killer.start()
    spec = one_strategy(seeds=[0, 1, 2])
    launch(spec, store, waits_on_its_node, max_failures=3)
    killer.join()
    assert len(store.statuses()) == 6
    assert set(store.statuses().values()) == {"completed"}
    deadline = time.monotonic() + 60
    while living_nodes() != 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert living_nodes() == 2
    nodes.add_node(num_cpus=1)  # for the tests after this one


@pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric")
def test_trials_on_several_nodes_give_the_bits_of_trials_run_alone(nodes: Cluster, tmp_path: Path) -> None:
    from deepcuts.trial.context import Context
    from deepcuts.trial.trial import run_stages

    spec = one_strategy(seeds=[0, 1])
    together, alone = Store(str(tmp_path / "together")), Store(str(tmp_path / "alone"))
    launch(spec, together, run_pipeline)
    for trial in spec.trials():
        run_stages(trial, "alone", Context(alone, 1))
    assert len(together.statuses()) == 4
    assert numbers(together) == numbers(alone)


def test_a_node_that_cannot_reach_the_store_is_named_before_the_first_trial(
    nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "store"))
    check_nodes(store, store.address)
    assert store.names("running", "") == []

    elsewhere = str(tmp_path / "not-shared")  # what the same path is on a node without the shared folder
    with pytest.raises(ValueError, match=r"node \S+ \(\S+\) cannot use it.*is the folder shared"):
        check_nodes(store, elsewhere)


def test_without_an_address_ray_starts_here_whatever_cluster_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    start_ray(None)
    assert asked["address"] == "local"
