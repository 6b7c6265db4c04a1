"""Starts or finds the Ray that a sweep runs on, and checks that its nodes are large enough and reach the store."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deepcuts.store.store import Store


def ray_options() -> dict[str, Any]:
    """Quieten Ray, and set the environment that Tune reads: no files of its own, no handlers for our signals.

    Each trial runs in a thread of its own; with one arena for all (malloc's), it takes the memory of the one before.
    """
    os.environ |= {
        "MALLOC_ARENA_MAX": "1",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    }
    logging.getLogger("ray.widgets").setLevel(logging.ERROR)  # that a notebook could have more of them
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what went wrong is shown, and kept, by us
    return {"logging_level": logging.ERROR}


def start_ray(address: str | None) -> None:
    """Connect to a running cluster, or start Ray on this machine. Raises ValueError where there is no cluster.

    Without an address, Ray itself would connect to the last cluster of this machine, even to one that is gone.
    """
    options = ray_options() | {"log_to_driver": False}
    try:
        if address:
            ray.init(address=address, **options)
        else:
            ray.init(address="local", include_dashboard=False, **options)
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(f"--address {address!r}: no Ray cluster answers there: {error}") from None


@contextmanager
def use_ray(address: str | None) -> Iterator[None]:
    """Use the Ray of this process, or one that is started (or connected to) for a while.

    Raises ValueError for an address where the process is connected to a Ray already, and as `start_ray` does.
    """
    if ray.is_initialized():
        if address:
            raise ValueError(
                f"--address {address!r}: this process is connected to a Ray already; call ray.shutdown() first, or give"
                " no address to use that one"
            )
        ray_options()
        yield
        return
    start_ray(address)
    try:
        yield
    finally:
        ray.shutdown()


def gpus_of_cluster() -> float:
    """Return the most GPUs that a node of the cluster has, or that one which its autoscaler may start would have."""
    return max((resources.get("GPU", 0.0) for resources in _node_kinds()), default=0.0)


def choose_cpus(asked: int | None, gpus: float) -> int:
    """Return the CPU cores (and threads) of a trial: as asked, else min(4, cores of the smallest node that can run it).

    Raises ValueError for a request that no node of the cluster, or of its autoscaler, can ever meet.
    """
    usable = [kind for kind in _node_kinds() if kind.get("GPU", 0) >= gpus and kind.get("CPU", 0) >= 1]
    cores = [int(kind["CPU"]) for kind in usable]
    if not usable or (asked is not None and asked > max(cores)):
        kinds = ", ".join(f"{kind.get('CPU', 0):g} CPUs and {kind.get('GPU', 0):g} GPUs" for kind in _node_kinds())
        raise ValueError(
            f"resources: a trial asks for {asked or 1} cpus and {gpus:g} gpus on one node, and no node can ever give"
            f" that; the cluster has nodes of {kinds or 'no resources at all'}"
        )
    return asked if asked is not None else min(4, *cores)


def _node_kinds() -> list[dict[str, float]]:
    """Return the resources of every living node, and of every kind of node that the autoscaler may start."""
    kinds = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    config = ray._private.state.state.get_cluster_config()
    for group in config.node_group_configs if config else []:
        if group.max_count != 0:
            kinds.append(dict(group.resources))
    return kinds


def check_nodes(store: Store, uri: str) -> None:
    """Check from every node that a trial may run on that the node reads and writes this very store.

    Raises ValueError that names the first node which does not, as where a folder is not shared or credentials lack.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:
        return
    token = f"running/_token-{secrets.token_hex(8)}"
    store.write_bytes(token, b"deepcuts")
    try:
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            reach = ray.remote(_reach).options(num_cpus=0, scheduling_strategy=there)
            if problem := ray.get(reach.remote(uri, token)):
                name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
                raise ValueError(
                    f"store {store.uri!r}: node {name} cannot use it: {problem}; give a store that all nodes share"
                )
    finally:
        store.delete(token)


def _reach(uri: str, token: str) -> str | None:
    """Return, in a worker, what keeps its node from using the store; None when all is well."""
    try:
        store = Store(uri)
        if not store.exists(token):
            return "what the driver writes is not there (is the folder shared?)"
        store.probe()
    except (OSError, ValueError) as error:
        return str(error)
    return None
