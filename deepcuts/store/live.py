"""Keeps live state in the store: how far each running trial is, who makes which shared stage, requests to stop.

All of it is advice: losing it costs repeated work, never a result. A beat is a number that its owner raises every
PERIOD_SECONDS. Whoever watches it takes the owner for dead when it has not moved for STALE_SECONDS of the watcher's
own clock, so clocks of different machines are never compared. An owner whose process is seen to be gone is dead at
once: that takes the same machine, boot and pid namespace.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deepcuts.store.store import Store

STALE_SECONDS = 60.0
PERIOD_SECONDS = 3.0
# In `running/` with the beats of trials: how the names of a launch's own beat and of a request to stop it begin.
_LAUNCH, _STOP = "launch-", "stop-"


class _Pulse:
    """Raises a number in files of the store every PERIOD_SECONDS while it is entered, and removes them at the end."""

    def __init__(self, store: Store, launch: str, names: Sequence[str]) -> None:
        self._store = store
        self._names = names
        self._state: dict[str, Any] = {"launch": launch, **whereabouts(), "beat": 0}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"beat-{launch}")

    def __enter__(self) -> Self:
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        for name in self._names:
            try:
                self._store.delete(name)
            except OSError:  # a beat that cannot be removed becomes stale by itself
                continue

    def _run(self) -> None:
        while not self._ended.wait(PERIOD_SECONDS):
            self._beat()

    def _beat(self) -> None:
        self._state["beat"] += 1
        try:
            for name in self._names:
                self._store.write_json(name, self._state)
        except OSError:  # the next beat tries again; the trial itself finds out when it publishes
            return


class Beat(_Pulse):
    """Tells the store how far a trial is, and hears whether its launch was asked to stop, while it is entered.

    `stages` are the ids of the shared stages that the trial makes, or of what is claimed without a trial (None).
    `launch` names who runs it (`new_launch_id`).
    """

    def __init__(self, store: Store, trial_id: str | None, launch: str, stages: Sequence[str]) -> None:
        own = [f"running/{trial_id}.json"] if trial_id else []
        super().__init__(store, launch, own + [f"claims/{stage}.json" for stage in stages])
        self._state |= {"stage": "load", "epoch": 0, "epochs": None, "step": 0, "steps": None, "loss": None}
        self._stop_name = f"running/{_STOP}{launch}.json"
        self._stopping = threading.Event()

    def tell(self, place: Mapping[str, Any]) -> None:
        """Note where the trial is (`stage`, `epoch`, `step` and so on); the next beat writes it."""
        self._state |= place

    def stopping(self) -> bool:
        """Whether the launch was asked to stop, as of the last beat."""
        return self._stopping.is_set()

    def _beat(self) -> None:
        super()._beat()
        with suppress(OSError):
            if self._store.exists(self._stop_name):
                self._stopping.set()


class LaunchBeat(_Pulse):
    """Tells the store that a launch is at work on a sweep, and the seconds that it has to go, while it is entered.

    `to_go` returns those seconds; it is called in a thread of its own.
    """

    def __init__(self, store: Store, launch: str, sweep: str, to_go: Callable[[], float]) -> None:
        super().__init__(store, launch, [f"running/{_LAUNCH}{launch}.json"])
        self._state["sweep"] = sweep
        self._to_go = to_go

    def _beat(self) -> None:
        self._state["to_go"] = self._to_go()
        super()._beat()


def request_stop(store: Store, launch: str) -> None:
    """Ask the running trials of a launch to save and end. Raises OSError."""
    store.write_json(f"running/{_STOP}{launch}.json", {"launch": launch})


def withdraw_stop(store: Store, launch: str) -> None:
    """Take a request to stop back; one that is not there is no error. Raises OSError."""
    store.delete(f"running/{_STOP}{launch}.json")


class Watch:
    """Sees which trials and shared stages other launches are at work on, and how long their beats have not moved."""

    def __init__(self, store: Store, launch: str) -> None:
        self._store = store
        self._launch = launch
        self._seen: dict[str, tuple[Any, float]] = {}

    def look(self) -> dict[str, dict[str, Any]]:
        """Return every beat of another launch's trials by its path in the store, such as `running/<trial>.json`.

        `still` is added to what its owner wrote: the seconds for which it has not moved since we first looked;
        infinity if its owner was a process of this machine that is gone. Raises OSError.
        """
        names = [f"{folder}/{name}" for folder in ("running", "claims") for name in self._store.names(folder, ".json")]
        return self._beats(key for key in names if not key.startswith((f"running/{_LAUNCH}", f"running/{_STOP}")))

    def launches(self) -> list[dict[str, Any]]:
        """Return the beat of every other launch: its `sweep`, seconds `to_go`, and `still` as in `look`.

        Raises OSError.
        """
        return list(self._of_launches().values())

    def everything(self) -> dict[str, dict[str, Any]]:
        """Return every beat of others, of trials and stages as in `look` and of launches. Raises OSError."""
        return self.look() | self._of_launches()

    def _of_launches(self) -> dict[str, dict[str, Any]]:
        names = self._store.names("running", ".json")
        return self._beats(f"running/{name}" for name in names if name.startswith(_LAUNCH))

    def _beats(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        beats = {}
        for key in keys:
            state = self._store.read_json(key)
            if state is not None and state.get("launch") != self._launch:
                beats[key] = state | {"still": math.inf if _died_here(state) else self._still(key, state)}
        return beats

    def _still(self, key: str, state: dict[str, Any]) -> float:
        beat, now = _beat_of(state), time.monotonic()
        if key not in self._seen or self._seen[key][0] != beat:
            self._seen[key] = beat, now
        return now - self._seen[key][1]

    def busy(self) -> set[str]:
        """Return the ids of trials and stages that may be at work: their beat has moved in the last STALE_SECONDS.

        A beat that is seen for the first time counts as moved, because waiting for a dead owner costs a minute and
        repeating the work of a live one costs more; `at_work` is sure. Raises OSError.
        """
        return {_id_of(key) for key, state in self.look().items() if state["still"] < STALE_SECONDS}


def at_work(store: Store) -> set[str]:
    """Return the ids of the trials and stages that somebody is at work on: their beats move, or end, while we look.

    And `launch-<id>` of launches, which are at work also while no trial of theirs is, as when Ray starts workers.
    Returns as soon as that is known of every beat: at once where there are none, or their owners were processes of
    this machine that are gone; within PERIOD_SECONDS where all are live; after two periods where one never moves,
    as those that a machine left behind when it was lost. Raises OSError.
    """
    watch = Watch(store, "")
    first, moved = watch.everything(), set[str]()
    waiting = {key for key, state in first.items() if state["still"] < STALE_SECONDS}
    until = time.monotonic() + 2 * PERIOD_SECONDS + 1
    while waiting and time.monotonic() < until:
        time.sleep(PERIOD_SECONDS / 12)
        now = watch.everything()
        moved |= {key for key, state in now.items() if _beat_of(state) != _beat_of(first.get(key, {}))}
        moved |= waiting - set(now)  # taken back by its owner: alive, and perhaps about to begin the next trial
        waiting -= moved | {key for key, state in now.items() if state["still"] >= STALE_SECONDS}
    return {_id_of(key) for key in moved}


def _beat_of(state: dict[str, Any]) -> tuple[Any, Any]:
    """Tell apart two beats under one name: by who raised it and how often."""
    return state.get("launch"), state.get("beat")


def _id_of(key: str) -> str:
    """`running/<id>.json` or `claims/<id>.json` is of the trial or stage <id>."""
    return key.rpartition("/")[2].removesuffix(".json")


def whereabouts() -> dict[str, Any]:
    """Return what identifies this process: its host and pid, the boot of the machine and the namespace of the pid.

    The last two are null where there is no /proc. Containers on one machine may share a host's name, and each counts
    its processes from 1: a pid means something only to a process of the same boot and namespace.
    """
    return {"host": socket.gethostname(), "pid": os.getpid(), "boot": _boot(), "namespace": _namespace()}


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None


def _namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _died_here(state: dict[str, Any]) -> bool:
    """Whether the owner of a beat was a process that we could see and that is gone, so nobody needs to wait for it.

    Where it ran in another boot or namespace, or did not say so (an older version), its beat alone tells.
    """
    here = whereabouts()
    if any(name not in state or state[name] != here[name] for name in ("host", "boot", "namespace")):
        return False
    try:
        os.kill(int(state["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError, TypeError, OverflowError):
        return False
    return False


def new_launch_id() -> str:
    """Make a name for one launch, which tells its beats from those of others."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
