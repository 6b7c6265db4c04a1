"""A sweep notices that a server of Ray is gone. What it says and how it ends is tried by `test_kill.py`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any
from unittest.mock import Mock

import pytest

from deepcuts.sweep import lifeline
from deepcuts.sweep.lifeline import (
    _Server,
    cleaning_up,
    end_if_ray_died,
    ending_if_ray_dies_early,
    ending_with_ray,
)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def ended(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The servers for which the process would have been ended, while the listener stands for the raylet."""
    servers = [_Server("raylet", *listener.getsockname(), 2), _Server("gcs_server", "127.0.0.1", 9, 2)]
    names: list[str] = []
    monkeypatch.setattr(lifeline, "_servers", lambda: servers)
    monkeypatch.setattr(lifeline, "TRY_SECONDS", 0.05)
    monkeypatch.setattr(lifeline, "_end", lambda server: names.append(server.name))
    return names


def test_a_server_is_dead_when_it_misses_all_its_tries_in_a_row(listener: socket.socket) -> None:
    server = _Server("raylet", *listener.getsockname(), 3)
    assert not server.is_dead()
    listener.close()
    assert [server.is_dead() for _ in range(2)] == [False, False]
    with socket.create_server((server.host, server.port)):
        assert not server.is_dead()  # restarted: it has all its tries again
    assert [server.is_dead() for _ in range(3)] == [False, False, True]


def test_too_many_open_files_are_not_the_death_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert _Server("raylet", "127.0.0.1", 9, 1).answers()


def test_the_process_ends_when_a_server_that_answered_is_gone(listener: socket.socket, ended: list[str]) -> None:
    with ending_with_ray():
        time.sleep(0.3)
        assert ended == []  # the other one never answered, as one behind a wall that lets Ray alone through
        listener.close()
        until = time.monotonic() + 10
        while not ended and time.monotonic() < until:
            time.sleep(0.02)
    assert set(ended) == {"raylet"}


def lose(server: socket.socket) -> None:
    server.close()
    raise RuntimeError("Ray's")


def test_an_exception_that_comes_of_a_dead_server_is_told_as_that(listener: socket.socket, ended: list[str]) -> None:
    with pytest.raises(RuntimeError, match="mine"), ending_with_ray():
        raise RuntimeError("mine")
    assert ended == []
    with pytest.raises(RuntimeError, match="Ray's"), ending_with_ray():
        lose(listener)
    assert ended[0] == "raylet"


def test_a_sweep_with_errors_may_ask_whether_ray_died(
    listener: socket.socket, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifeline, "TRY_SECONDS", 60)
    with ending_with_ray():
        end_if_ray_died()
        assert ended == []
        listener.close()
        end_if_ray_died()
        assert ended == ["raylet"]
    end_if_ray_died()  # of a Ray that is not used any more
    assert ended == ["raylet"]


def test_what_a_block_leaves_is_cleaned_up_before_the_process_ends(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def fail() -> None:
        done.append("inner")
        raise OSError("gone already")

    monkeypatch.setattr(lifeline, "_ENDING", Lock())
    monkeypatch.setattr(os, "_exit", lambda code: done.append(f"exit {code}"))
    monkeypatch.setattr(lifeline.ray._private.worker, "_global_node", Mock())
    with cleaning_up(lambda: done.append("over")):
        pass
    with cleaning_up(lambda: done.append("outer")), cleaning_up(fail):
        lifeline._end(_Server("raylet", *listener.getsockname(), 2))
    assert done == ["inner", "outer", "exit 3"]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Callable[[str, float], subprocess.Popen[bytes]]]:
    """Starts processes with names of servers of Ray that sleep for some seconds; none outlives the test."""
    for name in ("gcs_server", "raylet"):
        shutil.copy(shutil.which("sleep") or "", tmp_path / name)
    with ExitStack() as stack:

        def start(name: str, seconds: float) -> subprocess.Popen[bytes]:
            process = stack.enter_context(subprocess.Popen([tmp_path / name, str(seconds)]))  # which waits for it
            stack.callback(process.kill)
            return process

        yield start


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the children of a process are listed on Linux alone")
@pytest.mark.parametrize("stays", [True, False])
def test_a_server_that_dies_while_ray_starts_ends_the_process(
    servers: Callable[[str, float], subprocess.Popen[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stays: bool,
) -> None:
    """Whether it is left as a zombie (nobody asked how it ended) or not."""
    said: list[tuple[str, str]] = []
    monkeypatch.setattr(lifeline, "TRY_SECONDS", 0.05)
    monkeypatch.setattr(lifeline, "_end_early", lambda *given: said.append(given))
    zombie = servers("raylet", 0)  # of a Ray before
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    with ending_if_ray_dies_early(str(tmp_path)):
        gcs = servers("gcs_server", 60)
        servers("raylet", 60)
        time.sleep(0.3)
        assert said == []  # nor of the zombie
        gcs.kill()
        if not stays:
            gcs.wait()
        until = time.monotonic() + 60
        while not said and time.monotonic() < until:
            time.sleep(0.02)
    assert said[0] == ("gcs_server", str(tmp_path))
