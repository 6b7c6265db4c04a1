"""Starts or finds the Ray that a sweep runs on, and checks that its nodes are large enough and reach the store."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import services
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deepcuts.store.store import Store
from deepcuts.sweep.lifeline import ending_if_ray_dies_early, ending_with_ray
from deepcuts.sweep.machines import MOST_CPUS, Machines, RayNotStarted, resources_text, this_machine
from deepcuts.wording import counted


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


def start_ray(address: str | None, source: str = "--address") -> None:
    """Connect to a running cluster, or start Ray on this machine with the cores and GPUs that this process may use.

    `source` says who named the address. Raises ValueError where no cluster answers there, or where Ray has nowhere to
    keep its files, and RayNotStarted where it does not start for another reason.
    Without an address, Ray itself would connect to the last cluster of this machine, even to one that is gone.
    """
    options = ray_options() | {"log_to_driver": False}
    if address:
        if address == "auto":
            address = _found(source)
        _check_answers(address, source)
        try:
            ray.init(address=address, **options)
        except Exception as error:  # Ray raises plain ones too
            raise ValueError(
                f"{source} {address!r}: Ray cannot connect to it: {_first_line(error)}; {_LIKE_OURS}; {_OWN}"
            ) from None
        return
    here = this_machine().nodes[0]
    folder = temporary_folder()
    sys.stderr.write("starting Ray on this machine ...\n")  # seconds, and minutes where it is busy
    try:
        with ending_if_ray_dies_early(folder):
            ray.init(
                address="local",
                include_dashboard=False,
                num_cpus=int(here["CPU"]),
                num_gpus=int(here["GPU"]),
                _temp_dir=folder,
                **options,
            )
    except (PermissionError, ValueError) as error:
        raise ValueError(f"Ray cannot start on this machine, in {folder!r}: {error}") from None
    except Exception as error:  # Ray raises plain ones too, where a server of its own is not up in time
        ray.shutdown()
        raise RayNotStarted(
            f"Ray did not start on this machine: {_first_line(error)}; nothing was written. Run the same command again:"
            " a machine that is very busy, or short of memory, may need another try (its logs:"
            f" {folder}/session_latest/logs)"
        ) from None


def _first_line(error: Exception) -> str:
    """The first sentences of an error of Ray, which may go on with logs and tracebacks."""
    return str(error).strip().partition("\n")[0].rstrip(". ") or type(error).__name__


_NOBODY, _OWN = "no Ray cluster answers", "give --address local to start a Ray of your own, or unset RAY_ADDRESS"
_LIKE_OURS = (
    f"see that the cluster has this version of Ray ({ray.__version__}), and where it asks for a token, set"
    " RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
)
_NO_CLIENT = "Ray's client, over which no sweep runs: run it on a machine of the cluster"
ANSWER_SECONDS = 5.0
# For a process that loads Ray, which takes a busy machine ten seconds, and asks; Ray itself asks without end.
CLUSTER_SECONDS = 30.0
_ASK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"


def _found(source: str) -> str:
    """Return the address of the Ray cluster of this machine, which Ray means by `auto`. Raises ValueError.

    That is the one that was started here last, or that this machine joined; where it is gone, the one that runs here.
    """
    running, latest = services.find_gcs_addresses(), services.find_bootstrap_address(None)
    if latest and (latest in running or not running):
        return latest
    if not running:
        raise ValueError(f"{source} 'auto': {_NOBODY} on this machine: `ray start` was not run here; {_OWN}")
    if len(running) > 1:
        raise ValueError(f"{source} 'auto': several Rays run here, {', '.join(sorted(running))}: name one; {_OWN}")
    return min(running)


def _check_answers(address: str, source: str) -> None:
    """Find out whether a Ray cluster answers at HOST:PORT, for Ray itself keeps trying. Raises ValueError."""
    if address.startswith("ray://"):
        raise ValueError(f"{source} {address!r} is the address of {_NO_CLIENT}, with its HOST:PORT or auto; {_OWN}")
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"{source} {address!r} is the address of a dashboard, which takes jobs; give that of the cluster, HOST:PORT"
            f" as `ray status` prints it (6379 is its usual port); {_OWN}"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{source} {address!r} is not HOST:PORT, such as 10.0.0.1:6379, nor auto; {_OWN}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"{source} {address!r}: {_NOBODY} there: {error}; {_OWN}") from None
    ask = [sys.executable, "-c", _ASK, address]
    try:
        subprocess.run(ask, timeout=CLUSTER_SECONDS, capture_output=True, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{source} {address!r}: {_NOBODY} there within {CLUSTER_SECONDS:g} s, though something listens: give"
            f" HOST:PORT as `ray status` prints it (6379 is its usual port), and {_LIKE_OURS}; {_OWN}"
        ) from None


# Ray's sockets lie in FOLDER/session_DATE_TIME_MICROSECONDS_PROCESS/sockets/, and Linux allows their paths 107 bytes.
LONGEST_FOLDER = 107 - len("/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store")


def temporary_folder() -> str:
    """Return the folder for Ray's files: below RAY_TMPDIR, TMPDIR or /tmp, the first that is short enough and writable.

    Raises ValueError where none is.
    """
    why = []
    for name, parent in (
        ("RAY_TMPDIR", os.environ.get("RAY_TMPDIR")),
        ("TMPDIR", os.environ.get("TMPDIR")),
        ("the default", "/tmp"),
        ("the default", "/var/tmp"),
    ):
        if not parent:
            continue
        for folder in (os.path.join(parent, "ray"), os.path.join(parent, f"ray-{os.getuid()}")):
            if problem := _unusable(folder):
                why.append(f"{folder!r} ({name}) {problem}")
            else:
                return folder
    raise ValueError(
        f"Ray has nowhere to keep its files: {'; '.join(why)}; set RAY_TMPDIR to a folder of at most"
        f" {LONGEST_FOLDER - len('/ray')} characters that you may write"
    )


def _unusable(folder: str) -> str | None:
    """Say what keeps Ray from using a folder; None where nothing does. Makes the folder, open to other users."""
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        return f"is longer than the {LONGEST_FOLDER} bytes that leave room for the names of sockets"
    try:
        if not os.path.isdir(folder):
            os.mkdir(folder)
            os.chmod(folder, 0o1777)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"deepcuts")
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    return None


@contextmanager
def use_ray(address: str | None, source: str = "--address") -> Iterator[None]:
    """Use the Ray of this process, or one that is started (or connected to) for a while.

    Raises ValueError for an address where the process is connected to a Ray already, and all that `start_ray` raises.
    """
    if ray.is_initialized():
        if address:
            raise ValueError(
                f"{source} {address!r}: this process is connected to a Ray already; call ray.shutdown() first, or give"
                " no address to use that one"
            )
        if ray.util.client.ray.is_connected():
            raise ValueError(f"this process is connected to Ray by ray://, {_NO_CLIENT}; call ray.shutdown() first")
        ray_options()
        with ending_with_ray():
            yield
        return
    start_ray(address, source)
    try:
        with ending_with_ray():
            yield
    finally:
        ray.shutdown()


def machines_of_cluster(cluster: str | None) -> Machines:
    """Return the nodes of the Ray that this process is connected to, and of a kind that its autoscaler may start.

    `cluster` is the address and who gave it; None where the process was connected already.
    """
    nodes = tuple(_node_kinds())
    cpus, gpus = (sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU"))
    size = f"{counted(len(nodes), 'node')}, {resources_text(cpus, gpus)}"
    return Machines(f"the Ray cluster {cluster or 'of this process'}: {size}", nodes)


def choose_cpus(asked: int | None, gpus: float) -> int:
    """Return the CPU cores (and threads) of a trial: as asked, else min(4, cores of the smallest node that can run it).

    Raises ValueError for a request that no node of the cluster, or of its autoscaler, can ever meet.
    """
    usable = [kind for kind in _node_kinds() if kind.get("GPU", 0) >= gpus and kind.get("CPU", 0) >= 1]
    cores = [int(kind["CPU"]) for kind in usable]
    if not usable or (asked is not None and asked > max(cores)):
        kinds = "; ".join(resources_text(kind.get("CPU", 0), kind.get("GPU", 0)) for kind in _node_kinds())
        raise ValueError(
            f"resources: a trial asks for {resources_text(asked or 1, gpus)} on one node, and no node can ever give"
            f" that; the nodes of the cluster have {kinds or 'no resources at all'}"
        )
    return asked if asked is not None else min(MOST_CPUS, *cores)


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
            try:
                problem = ray.get(reach.remote(uri, token))
            except RayError as error:  # the node was lost, or cannot run our code
                problem = _first_line(error)
            if problem:
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
