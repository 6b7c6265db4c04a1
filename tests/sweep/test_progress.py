"""What a running sweep shows."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest
from builders.specs import sweep
from rich.console import Console

from deepcuts.sweep import progress
from deepcuts.sweep.progress import Progress
from deepcuts.wording import duration

DONE = {"status": "completed", "metric": "accuracy", "dense": 0.9, "retrained": 0.812, "sparsity": 0.5}
ROW = DONE | {"total_seconds": 75.2}


def made(total=4, done=1, terminal=False):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, soft_wrap=True, color_system=None)
    return Progress(console, total, done), sweep(strategies=["LayerSNIP"], seeds=[0, 1]).trials()


def lines(board):
    return board.console.file.getvalue().splitlines()


def test_in_a_pipe_every_trial_that_ends_is_one_plain_line():
    board, trials = made()
    with board:
        for trial in trials[:3]:
            board.started(trial)
        board.heard(trials[1].trial_id, "dense", 0, 5)
        board.ended(trials[1].trial_id, ROW)
        board.ended(trials[0].trial_id, ROW | {"retrained": None})
        failed = {"status": "failed", "error_stage": "dense", "error": "ValueError: [loss] is NaN"}
        board.ended(trials[2].trial_id, failed)
    assert lines(board) == [
        "[2/4] toy LayerSNIP 2x seed 0: accuracy 0.812 (dense 0.900), sparsity 50.0%, 1 min 15 s",
        "[3/4] toy Dense seed 0: accuracy 0.900, 1 min 15 s",
        "[3/4] toy Dense seed 1: failed in fine-tuning: ValueError: [loss] is NaN",
    ]


def test_a_trial_ends_once_and_an_unknown_one_is_nothing():
    board, trials = made()
    board.started(trials[0])
    board.ended(trials[0].trial_id, ROW)
    board.ended(trials[0].trial_id, ROW)
    board.ended("unknown", ROW)
    board.heard("unknown", "dense", 0, 0)
    board.interrupted("unknown")
    assert (len(board.completed), len(board.failed)) == (1, 0)


def test_the_board_shows_where_every_running_trial_is(monkeypatch):
    board, trials = made(terminal=True)
    with board.console.capture() as shown:
        for trial in trials[:3]:
            board.started(trial)
        board.heard(trials[0].trial_id, "dense", 1, 17)
        board.heard(trials[1].trial_id, "score", 0, 3)
        board.console.print(board._board())
        board.heard(trials[1].trial_id, "retrained", 0, 2)
        board.interrupted(trials[2].trial_id)
        board.console.print(board._board())
    text = " ".join(shown.get().split())
    assert "1 of 4 done, 3 running, 0 failed" in text
    assert "time to go not known yet" in text
    assert "toy Dense seed 0 fine-tuning, epoch 2 of 5, step 17" in text
    assert "toy LayerSNIP 2x seed 0 scoring, batch 3 of at most 1000" in text
    assert "toy Dense seed 1 starting" in text
    assert "retraining, epoch 1 of 12, step 2" in text
    assert "1 of 4 done, 2 running" in text


def test_time_to_go_is_at_the_pace_so_far(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    board, trials = made(total=6, done=2)
    assert board.eta_seconds() is None
    for trial, row in ((trials[0], ROW), (trials[1], {"status": "failed"})):
        board.started(trial)
        now[0] += 10
        board.ended(trial.trial_id, row)
    assert board.eta_seconds() == pytest.approx(20)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (4.2, "4.2 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.9, "1 h 00 min"),
        (18180, "5 h 03 min"),
    ],
)
def test_a_duration_is_readable(seconds, text):
    assert duration(seconds) == text


def test_a_notebook_has_one_board_that_changes_and_lines_for_failures_alone(monkeypatch, capsys):
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    def display(data, raw, display_id):
        shown.append(data["text/plain"])
        return Handle()

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=SimpleNamespace(display=display)))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr("deepcuts.sweep.progress.NOTEBOOK_SECONDS", 0)
    board, trials = Progress(Console(force_jupyter=True), 4, 1), sweep(strategies=["LayerSNIP"], seeds=[0, 1]).trials()
    with board:
        for trial in trials[:2]:
            board.started(trial)
        board.heard(trials[0].trial_id, "dense", 0, 5)
        assert "fine-tuning, epoch 1 of 5, step 5" in shown[-1]
        board.ended(trials[0].trial_id, ROW)
        board.ended(trials[1].trial_id, {"status": "failed", "error_stage": "dense", "error": "diverged"})
    assert "2 of 4 done, 0 running, 1 failed" in shown[-1]
    assert "accuracy 0.812" in shown[-1]
    said = capsys.readouterr().out.splitlines()
    assert said == ["[2/4] toy LayerSNIP 2x seed 0: failed in fine-tuning: diverged"]
