"""Live state in the store: how far each running trial is, who makes which shared stage, and requests to stop.

All of it is advice: losing it costs repeated work, never a result. A beat is a number that its owner raises; whoever
watches it takes its owner for dead when it stands still for STALE_SECONDS of the watcher's own clock.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from deepcuts.store.store import Store

STALE_SECONDS = 60.0
PERIOD_SECONDS = 3.0


class Beat:
    """While it is entered, tells the store how far a trial is, and hears whether its launch is asked to stop."""

    def __init__(self, store: Store, trial_id: str, launch: str, stages: Sequence[str]) -> None:
        self._store = store
        self._names = [f"running/{trial_id}.json", *(f"claims/{stage}.json" for stage in stages)]
        self._state: dict[str, Any] = {"launch": launch, "host": socket.gethostname(), "pid": os.getpid(), "beat": 0}
        self._state |= {"stage": "load", "epoch": 0, "step": 0}
        self._stop_name = f"running/stop-{launch}.json"
        self._ended = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"beat-{trial_id}")

    def tell(self, stage: str, epoch: int, step: int) -> None:
        self._state |= {"stage": stage, "epoch": epoch, "step": step}

    def stopping(self) -> bool:
        return self._stopping.is_set()

    def __enter__(self) -> Beat:
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        for name in self._names:
            try:
                self._store.delete(name)
            except OSError:  # advice that cannot be taken back grows stale by itself
                continue

    def _run(self) -> None:
        while not self._ended.wait(PERIOD_SECONDS):
            self._beat()

    def _beat(self) -> None:
        self._state["beat"] += 1
        try:
            for name in self._names:
                self._store.write_json(name, self._state)
            if self._store.exists(self._stop_name):
                self._stopping.set()
        except OSError:  # the next beat tries again; the trial itself finds out when it publishes
            return


def request_stop(store: Store, launch: str) -> None:
    """Ask the running trials of a launch to save and end. Raises OSError."""
    store.write_json(f"running/stop-{launch}.json", {"launch": launch})


def withdraw_stop(store: Store, launch: str) -> None:
    store.delete(f"running/stop-{launch}.json")


class Watch:
    """Sees which trials and shared stages other launches are at work on."""

    def __init__(self, store: Store, launch: str) -> None:
        self._store = store
        self._launch = launch
        self._seen: dict[str, tuple[Any, float]] = {}

    def busy(self) -> set[str]:
        """Ids of trials and stages with a live beat of another launch."""
        busy = set()
        for folder in ("running", "claims"):
            for name in self._store.names(folder, ".json"):
                state = self._store.read_json(f"{folder}/{name}")
                if state is None or name.startswith("stop-") or state.get("launch") == self._launch:
                    continue
                if _died_here(state):
                    continue
                key, beat = f"{folder}/{name}", (state.get("launch"), state.get("beat"))
                if key not in self._seen or self._seen[key][0] != beat:
                    self._seen[key] = beat, time.monotonic()
                if time.monotonic() - self._seen[key][1] < STALE_SECONDS:
                    busy.add(name.removesuffix(".json"))
        return busy

    def seen(self) -> dict[str, Any]:
        """The last beat of each that was seen, by its path in the store."""
        return {key: beat for key, (beat, _) in self._seen.items()}


def at_work(store: Store) -> set[str]:
    """Ids of trials and stages whose beats move while we look: who is really at work. Takes seconds if any may be."""
    watch = Watch(store, "")
    if not watch.busy():
        return set()
    before = watch.seen()
    time.sleep(2 * PERIOD_SECONDS + 1)
    watch.busy()
    return {key for key, beat in watch.seen().items() if before.get(key) != beat}


def _died_here(state: dict[str, Any]) -> bool:
    """Whether the owner of a beat was a process of this machine that is gone: nobody need wait for it."""
    if state.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(state["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, KeyError, ValueError, TypeError, OverflowError):
        return False
    return False


def new_launch_id() -> str:
    """A name for one launch, to tell its beats from those of others."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
