"""Live state: who is at work on what, and requests to stop."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from deepcuts.store.live import Beat, LaunchBeat, Watch, at_work, request_stop, whereabouts, withdraw_stop
from deepcuts.store.store import Store


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("deepcuts.store.live.time", made)
    return made


def running(store: Store, launch: str, beat: int, name: str = "running/t") -> None:
    store.write_json(f"{name}.json", {"launch": launch, "beat": beat})


def test_a_beat_tells_where_a_trial_is_and_what_it_makes_and_takes_all_back(tmp_path, monkeypatch):
    monkeypatch.setattr("deepcuts.store.live.PERIOD_SECONDS", 0.01)
    store = Store(str(tmp_path))
    with Beat(store, "t", "mine", ["stage1", "stage2"]) as beat:
        first = store.read_json("running/t.json")
        assert (first["launch"], first["stage"], first["epoch"], first["beat"]) == ("mine", "load", 0, 1)
        known = {"launch", "host", "pid", "boot", "namespace", "beat"}
        assert set(first) == known | {"stage", "epoch", "epochs", "step", "steps", "loss"}
        assert store.names("claims", ".json") == ["stage1.json", "stage2.json"]
        beat.tell({"stage": "score", "step": 7})
        waited = threading.Event()
        for _ in range(500):
            now = store.read_json("running/t.json")
            if now and now["stage"] == "score" and now["beat"] > 1:
                break
            waited.wait(0.01)
        assert (now["stage"], now["step"]) == ("score", 7)
        assert not beat.stopping()
    assert store.names("running", ".json") == store.names("claims", ".json") == []


def test_a_trial_hears_of_a_stop_of_its_own_launch_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("deepcuts.store.live.PERIOD_SECONDS", 60)
    store = Store(str(tmp_path))
    request_stop(store, "other")
    with Beat(store, "t", "mine", []) as beat:
        assert not beat.stopping()
    request_stop(store, "mine")
    with Beat(store, "t", "mine", []) as beat:
        assert beat.stopping()
    withdraw_stop(store, "mine")
    withdraw_stop(store, "mine")
    with Beat(store, "t", "mine", []) as beat:
        assert not beat.stopping()


def test_a_store_that_is_away_for_a_moment_stops_no_trial(tmp_path, monkeypatch):
    store = Store(str(tmp_path))

    def away(*given):
        raise OSError("away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", away)
        patch.setattr(store, "delete", away)
        with Beat(store, "t", "mine", ["stage"]) as beat:
            assert not beat.stopping()


def test_an_error_in_a_trial_takes_its_beat_back_and_goes_on_up(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(RuntimeError, match="broken"), Beat(store, "t", "mine", ["stage"]):
        raise RuntimeError("broken")
    assert store.names("running", ".json") == store.names("claims", ".json") == []


def test_another_launch_may_be_at_work_until_its_beat_has_not_moved_for_60_seconds(tmp_path, clock):
    store = Store(str(tmp_path))
    watch = Watch(store, "mine")
    running(store, "other", 1)
    running(store, "other", 1, "claims/stage")
    assert watch.busy() == {"t", "stage"}
    clock.now += 59
    running(store, "other", 2)
    assert watch.busy() == {"t", "stage"}
    clock.now += 2
    assert watch.busy() == {"t"}
    clock.now += 60
    assert watch.busy() == set()
    running(store, "other", 3)
    assert watch.busy() == {"t"}


def test_a_new_owner_of_a_claim_is_alive_whatever_its_count(tmp_path, clock):
    store = Store(str(tmp_path))
    watch = Watch(store, "mine")
    running(store, "dead", 5)
    watch.busy()
    clock.now += 100
    assert watch.busy() == set()
    running(store, "new", 5)
    assert watch.busy() == {"t"}


def test_ones_own_beats_stop_requests_and_broken_files_are_no_work_of_others(tmp_path):
    store = Store(str(tmp_path))
    running(store, "mine", 1)
    request_stop(store, "other")
    store.write_bytes("claims/half.json", b'{"launch": "oth')
    store.write_bytes("claims/_working.json", b'{"launch": "other"}')
    assert Watch(store, "mine").busy() == set()
    assert Watch(Store(str(tmp_path / "none")), "mine").busy() == set()


def leftover(store: Store, name: str, **of_owner: Any) -> None:
    """The beat of a process that is gone, and of which its claim says this (else what is true here)."""
    state = {"launch": "lost", "beat": 7, **whereabouts(), "pid": a_process_that_is_gone()} | of_owner
    store.write_json(f"running/{name}.json", state)


def a_process_that_is_gone() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_at_work_are_those_whose_beats_move_and_no_leftovers(tmp_path, monkeypatch):
    monkeypatch.setattr("deepcuts.store.live.PERIOD_SECONDS", 0.2)
    store = Store(str(tmp_path))
    leftover(store, "elsewhere", host="another-host")
    leftover(store, "here")
    with Beat(store, "live", "other", ["stage"]):
        assert at_work(store) == {"live", "stage"}
    assert at_work(store) == set()


def test_who_is_at_work_is_known_at_once_where_all_are_gone_and_after_one_beat_where_all_live(tmp_path, monkeypatch):
    monkeypatch.setattr("deepcuts.store.live.PERIOD_SECONDS", 0.6)
    store = Store(str(tmp_path))
    leftover(store, "here")
    began = time.monotonic()
    assert at_work(store) == set()
    assert time.monotonic() - began < 0.5
    with Beat(store, "live", "other", []):
        began = time.monotonic()
        assert at_work(store) == {"live"}
        assert time.monotonic() - began < 1.8  # and not the 2.2 s after which a beat is given up


def test_a_launch_is_at_work_also_while_no_trial_of_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("deepcuts.store.live.PERIOD_SECONDS", 0.2)
    store = Store(str(tmp_path))
    with LaunchBeat(store, "mine", "paper", lambda: 60.0):
        assert at_work(store) == {"launch-mine"}
    leftover(store, "launch-lost", host="another-host")
    assert at_work(store) == set()


def test_a_trial_that_ends_while_we_look_was_at_work(tmp_path, monkeypatch):
    monkeypatch.setattr("deepcuts.store.live.PERIOD_SECONDS", 0.6)
    store = Store(str(tmp_path))
    leftover(store, "t", host="another-host")
    ending = threading.Timer(0.2, store.delete, ["running/t.json"])
    ending.start()
    assert at_work(store) == {"t"}
    ending.join()


def test_a_look_tells_for_how_long_each_beat_has_not_moved(tmp_path, clock):
    store = Store(str(tmp_path))
    leftover(store, "elsewhere", host="another-host")
    leftover(store, "here")
    watch = Watch(store, "")
    watch.look()
    clock.now += 7
    beats = watch.look()
    assert {key: state["still"] for key, state in beats.items()} == {
        "running/elsewhere.json": 7,
        "running/here.json": float("inf"),
    }
    assert beats["running/elsewhere.json"]["host"] == "another-host"


@pytest.mark.parametrize("of_owner", [{"boot": "another"}, {"namespace": "pid:[1]"}, {"host": "another"}])
def test_an_owner_in_another_boot_or_pid_namespace_is_judged_by_its_beat_alone(tmp_path, clock, of_owner):
    store, watch = Store(str(tmp_path)), Watch(Store(str(tmp_path)), "mine")
    leftover(store, "t", **of_owner)  # its pid is free here, and may be that of a live process there
    assert watch.busy() == {"t"}
    clock.now += 59
    assert watch.busy() == {"t"}
    clock.now += 2
    assert watch.busy() == set()


def test_a_claim_of_an_older_version_which_tells_no_namespace_is_judged_by_its_beat_alone(tmp_path, clock):
    store, watch = Store(str(tmp_path)), Watch(Store(str(tmp_path)), "mine")
    old = {"launch": "lost", "beat": 7, "host": whereabouts()["host"], "pid": a_process_that_is_gone()}
    store.write_json("claims/stage.json", old)
    assert watch.busy() == {"stage"}
    clock.now += 61
    assert watch.busy() == set()


def test_clocks_that_differ_by_90_seconds_make_no_live_owner_dead_and_no_dead_one_live(tmp_path, clock, monkeypatch):
    """A beat holds no time, and a watcher has the seconds of its own clock alone: in this test there is no other."""
    store = Store(str(tmp_path))
    with Beat(store, "t", "other", []):
        assert not [value for value in store.read_json("running/t.json").values() if isinstance(value, float)]
        os.utime(tmp_path / "running/t.json", (0, 0))  # the clock of the server is wrong as well
        watch = Watch(store, "mine")
        assert watch.busy() == {"t"}
    running(store, "other", 1)
    os.utime(tmp_path / "running/t.json", (2**32, 2**32))
    watch.busy()
    clock.now += 61
    assert watch.busy() == set()
