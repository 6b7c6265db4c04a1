"""Ends a sweep in our own words when the Ray under it dies. Ray ends the process too, up to a minute later, in its own.

Two servers of Ray keep a driver alive: the cluster's gcs_server, and the raylet of the driver's node. Ray's library
ends the process from C++ when it misses one of them, so nothing that Python would do at its end is done.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import ray

RAY_DIED = 3  # the exit code

RAY_WAITS = "RAY_gcs_rpc_server_reconnect_timeout_s"  # how long Ray's library waits for a gcs_server, as it reads it
TRY_SECONDS = 2.0
TRIES_HERE = 2
CONNECT_SECONDS = 1.0


@dataclass
class _Server:
    """A server of Ray, how many tries in a row may find nobody there, and how many have."""

    name: str
    host: str
    port: int
    tries: int
    missed: int = 0

    def answers(self) -> bool:
        """Whether anybody listens there; also true where we cannot try, as with too many open files."""
        try:
            socket.create_connection((self.host, self.port), CONNECT_SECONDS).close()
        except (ConnectionError, TimeoutError):
            return False
        except OSError:
            return True
        return True

    def is_dead(self) -> bool:
        self.missed = 0 if self.answers() else self.missed + 1
        return self.missed >= self.tries


# A process has one Ray, so these are the process's: its servers while they are watched, what to do before it ends
# because one died, and who ends it.
_WATCHED: list[_Server] = []
_CLEAN_UPS: list[Callable[[], None]] = []
_ENDING = threading.Lock()


@contextmanager
def ending_with_ray() -> Iterator[None]:
    """End the process with words and RAY_DIED once a server of Ray is gone.

    A server on this machine is gone when nobody listens at its port. One of another machine may be restarted, so it
    is given two thirds of the time that Ray waits for it.
    """
    _WATCHED[:] = [server for server in _servers() if server.answers()]
    over = threading.Event()

    def watch() -> None:
        began = time.monotonic()
        while not over.wait(max(0.0, TRY_SECONDS - (time.monotonic() - began))):
            began = time.monotonic()
            for server in _WATCHED:
                if server.is_dead():
                    _end(server)

    thread = threading.Thread(target=watch, daemon=True, name="lifeline")
    thread.start()
    try:
        yield
    except Exception:
        end_if_ray_died()  # that is what the exception comes from
        raise
    finally:
        over.set()
        thread.join()
        _WATCHED.clear()


def end_if_ray_died() -> None:
    """End the process as `ending_with_ray` does, without waiting, where errors may come of a server that is gone."""
    for server in _WATCHED:
        if not server.answers():
            _end(server)


@contextmanager
def cleaning_up(clean_up: Callable[[], None]) -> Iterator[None]:
    """Call `clean_up` before the process ends because a server of Ray died in this block."""
    _CLEAN_UPS.append(clean_up)
    try:
        yield
    finally:
        _CLEAN_UPS.remove(clean_up)


@contextmanager
def ending_if_ray_dies_early(folder: str) -> Iterator[None]:
    """End the process with words and RAY_DIED where a server of a Ray that starts here, in `folder`, dies meanwhile.

    Ray would wait for it for a minute, end the process with code 1 and leave what it had started. Seen on Linux alone.
    """
    over = threading.Event()
    before = set(_servers_started())  # of a Ray that this process had earlier, and that left zombies

    def watch() -> None:
        known: set[tuple[int, str]] = set()
        missed = 0
        while not over.wait(TRY_SECONDS / 2):
            alive = _servers_started()
            known |= set(alive) - before
            dead = {name for pid, name in known if not alive.get((pid, name))}
            missed = missed + 1 if dead else 0
            if missed >= TRIES_HERE:
                _end_early(" and ".join(sorted(dead)), folder)

    thread = threading.Thread(target=watch, daemon=True, name="lifeline of the start")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _servers_started() -> dict[tuple[int, str], bool]:
    """Return the ids and names of the servers of Ray that this process has started, and whether each is alive."""
    return {(pid, name): alive for pid, name, alive in _children() if name in ("gcs_server", "raylet")}


def _children() -> Iterator[tuple[int, str, bool]]:
    """Yield the id and name of each child of this process, and whether it is alive, and not a zombie."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):  # it may end while we look
            pid, _, rest = path.read_text().partition(" (")
            name, _, fields = rest.rpartition(") ")
            state, parent = fields.split()[:2]
            if int(parent) == os.getpid():
                yield int(pid), name, state != "Z"


def _end_early(dead: str, folder: str) -> None:
    for pid, _, alive in _children():
        with suppress(OSError):
            if alive and folder.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():  # Ray's, and of this launch
                os.kill(pid, signal.SIGTERM)
    sys.stderr.write(
        f"deepcuts: Ray died while it started: its {dead} is gone (was it killed, was memory short, or was the machine"
        f" too busy to start it in time, with a load of {os.getloadavg()[0]:.0f}? its logs:"
        f" {folder}/session_latest/logs)\n"
        "deepcuts: nothing that was saved is lost: run the same command again to go on\n"
    )
    sys.stderr.flush()
    os._exit(RAY_DIED)


def _servers() -> list[_Server]:
    """The servers that this driver cannot live without."""
    context = ray.get_runtime_context()
    [node] = [node for node in ray.nodes() if node["NodeID"] == context.get_node_id()]
    here = node["NodeManagerAddress"]
    host, _, port = context.gcs_address.rpartition(":")
    host = host.strip("[]")
    waits = float(os.environ.get(RAY_WAITS, "60"))
    tries = TRIES_HERE if host in (here, "127.0.0.1", "localhost") else int(waits * 2 / 3 / TRY_SECONDS)
    return [_Server("gcs_server", host, int(port), tries), _Server("raylet", here, node["NodeManagerPort"], TRIES_HERE)]


def _end(server: _Server) -> None:
    _ENDING.acquire()  # for good: whoever else sees the death waits here, and says nothing
    for clean_up in reversed(_CLEAN_UPS):
        with suppress(Exception):
            clean_up()
    logs = ray._private.worker._global_node.get_logs_dir_path()
    sys.stderr.write(
        f"deepcuts: Ray died under the sweep: its {server.name} at {server.host}:{server.port} no longer answers"
        f" (was it killed, or out of memory? its logs: {logs})\n"
        "deepcuts: nothing that was saved is lost: run the same command again to go on\n"
    )
    sys.stderr.flush()
    os._exit(RAY_DIED)
