"""The live view of a store: what it counts, what it says of beats, and how it ends."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from builders.rows import trial
from rich.console import Console

from deepcuts.cli.main import main
from deepcuts.cli.watch import Seen, Watcher, watch_board
from deepcuts.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A sweep of five: one completed, one failed, two at work, one waiting."""
    store = Store(str(tmp_path / "store"))
    wanted = [{"sweep": "paper", "trial_id": each * 16, "dataset": "cola", "strategy": "LayerSNIP"} for each in "abcde"]
    arms = [None, None, None, "no dropout", None]  # older versions wrote none
    rows = [
        row | {"compression": 4.0, "seed": i, "arm": arm} for i, (row, arm) in enumerate(zip(wanted, arms, strict=True))
    ]
    store.write("sweeps", "paper", rows)
    ended: dict[str, Any] = {"finished_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "dataset": "cola"}
    store.write("trials", "a" * 16, [trial("a" * 16, "LayerSNIP", 0, total_seconds=100.0, compression=4.0, **ended)])
    failed = trial("b" * 16, "LayerSNIP", 1, status="failed", failure="trial", error_stage="score", **ended)
    store.write("trials", "b" * 16, [failed | {"error": "ValueError: [red]nan[/red]\nsecond line"}])
    for each in "cd":
        state = {"stage": "retrained", "epoch": 3, "step": 41, "host": "node7", "pid": 1, "beat": 5, "launch": "x"}
        store.write_json(f"running/{each * 16}.json", state | {"epochs": 12, "steps": 120, "loss": 0.25})
    store.write_json("running/stop-x.json", {"launch": "x"})
    say_to_go(store, 1, 150.0)
    return store


def say_to_go(store: Store, beat: int, seconds: float) -> None:
    """Write what a launch on another machine writes of itself."""
    state = {"launch": "x", "host": "node7", "pid": 1, "beat": beat, "sweep": "paper", "to_go": seconds}
    store.write_json("running/launch-x.json", state)


def _shown(seen: Seen, store: Store) -> str:
    text = StringIO()
    Console(file=text, width=200).print(watch_board(seen, store.uri))
    return text.getvalue()


def test_it_counts_each_sweep_and_names_what_is_at_work_and_what_ended(store: Store) -> None:
    text = _shown(Watcher(store).look(), store)
    assert "1 of 5 done, 2 running, 1 failed, 1 waiting, about 2 min 30 s to go" in text
    assert text.count("node7") == 2
    assert text.count("retraining, epoch 4 of 12, step 41 of 120, loss 0.25") == 2
    assert "cola LayerSNIP 4x seed 2" in text
    assert "cola no dropout 4x seed 3" in text
    assert "accuracy 0.800" in text
    assert "failed in scoring: ValueError: [red]nan[/red]" in text
    assert "second line" not in text
    assert "stop-" not in text
    assert "launch-" not in text


def test_a_completed_trial_that_runs_again_is_done_and_nothing_waits_for_less_than_0(store: Store) -> None:
    state = {"stage": "load", "host": "node7", "pid": 1, "beat": 5, "launch": "x"}
    store.write_json(f"running/{'a' * 16}.json", state)
    for key in "cde":
        store.write("trials", key * 16, [trial(key * 16, "LayerSNIP", 2)])
    assert "4 of 5 done, 0 running, 1 failed, 0 waiting" in _shown(Watcher(store).look(), store)


def test_the_time_to_go_is_the_launch_s_own_counted_down(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watcher = Watcher(store)
    assert "about 2 min 30 s to go" in _shown(watcher.look(), store)
    now[0] += 20
    assert "about 2 min 10 s to go" in _shown(watcher.look(), store)
    say_to_go(store, 2, 200.0)
    assert "about 3 min 20 s to go" in _shown(watcher.look(), store)
    store.delete("running/launch-x.json")
    assert "1 waiting, time to go not known" in _shown(watcher.look(), store)


def test_where_the_launch_and_its_trials_are_gone_nobody_is_at_work(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watcher = Watcher(store)
    watcher.look()
    now[0] += 61
    assert "0 running, 1 failed, 3 waiting, nobody is at work on them" in _shown(watcher.look(), store)
    say_to_go(store, 2, 80.0)  # between two trials
    assert "0 running, 1 failed, 3 waiting, about 1 min 20 s to go" in _shown(watcher.look(), store)


def test_a_beat_that_does_not_move_is_called_so_and_one_that_moves_is_alive(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watcher = Watcher(store)
    assert _shown(watcher.look(), store).count("alive") == 2
    now[0] += 61
    store.write_json("running/" + "c" * 16 + ".json", {"beat": 6, "launch": "x", "stage": "score"})
    text = _shown(watcher.look(), store)
    assert text.count("alive") == 1
    assert text.count("no beat for 1 min 01 s") == 1
    assert "1 of 5 done, 1 running, 1 failed, 2 waiting" in text


def test_a_store_that_is_away_for_a_moment_keeps_the_last_view(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher(store)
    watcher.look()
    monkeypatch.setattr(store, "read", lambda *_: (_ for _ in ()).throw(OSError("no route to host")))
    text = _shown(watcher.look(), store)
    assert "no route to host" in text
    assert "1 of 5 done" in text


def test_piped_it_prints_what_has_changed_and_ends_with_the_last_trial(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [["c"], [], ["d", "e"]]

    def go_on(seconds: float) -> None:
        for each in left.pop(0):
            store.write("trials", each * 16, [trial(each * 16, "LayerSNIP", 2, dataset="cola", compression=4.0)])

    monkeypatch.setattr(time, "sleep", go_on)
    assert main(["status", store.uri, "--watch", "--json", "--by-arm"]) == 2
    assert "without --json and --by-arm" in capsys.readouterr().err
    assert main(["status", store.uri, "--watch"]) == 0
    out = capsys.readouterr().out
    assert [f"{done} of 5 done" in out for done in (1, 2, 3, 4)] == [True, True, False, True]
    assert out.count("of 5 done") == 3
    assert "\x1b" not in out
    assert not left


def test_piped_it_ends_where_nobody_is_at_work(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in Path(store.root).glob("running/*.json"):
        path.unlink()
    monkeypatch.setattr("deepcuts.cli.watch.STALE_SECONDS", 0.0)
    assert main(["status", store.uri, "--watch"]) == 0
    assert "1 of 5 done" in capsys.readouterr().out


def test_piped_it_waits_for_a_run_that_has_not_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, waits = Store(str(tmp_path / "new")), []

    def begin(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            store.write("sweeps", "paper", [{"sweep": "paper", "trial_id": "a" * 16}])
        if len(waits) == 3:
            store.write("trials", "a" * 16, [trial("a" * 16)])

    monkeypatch.setattr(time, "sleep", begin)
    assert main(["status", store.uri, "--watch"]) == 0
    out, err = capsys.readouterr()
    assert err == f"no run has begun in {store.uri} yet: waiting for it, until Ctrl-C\n"
    assert "0 of 1 done" in out
    assert "1 of 1 done" in out
    assert len(waits) == 3


def test_on_a_terminal_it_goes_on_until_ctrl_c_and_exits_0(store: Store) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "deepcuts.cli.main", "status", store.uri, "--watch"]
    running = subprocess.Popen(
        command,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell's background jobs ignore
    )
    os.close(theirs)
    seen = b""
    while b"done" not in seen:
        seen += os.read(ours, 4096)
    time.sleep(0.3)
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 0
    os.close(ours)
