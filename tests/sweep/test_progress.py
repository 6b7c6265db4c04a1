"""What a running sweep shows."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest
from builders.specs import sweep
from rich.console import Console

from deepcuts.sweep import progress
from deepcuts.sweep.pace import Pace
from deepcuts.sweep.progress import Progress
from deepcuts.wording import duration

DONE = {"status": "completed", "metric": "accuracy", "dense": 0.9, "retrained": 0.812, "sparsity": 0.5}
ROW = DONE | {"total_seconds": 75.2}


def made(total=4, done=1, terminal=False):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, soft_wrap=True, color_system=None)
    return Progress(console, total, done, Pace((), {})), sweep(strategies=["LayerSNIP"], seeds=[0, 1]).trials()


def lines(board):
    return board.console.file.getvalue().splitlines()


def test_in_a_pipe_every_trial_that_ends_is_one_plain_line():
    board, trials = made()
    with board:
        for trial in trials[:3]:
            board.started(trial)
        board.heard(trials[1].trial_id, {"stage": "dense", "epoch": 0, "step": 5, "steps": 10})
        board.ended(trials[1], ROW)
        board.ended(trials[0], ROW | {"retrained": None})
        failed = {"status": "failed", "error_stage": "dense", "error": "ValueError: [loss] is NaN"}
        board.ended(trials[2], failed)
    assert lines(board) == [
        "[2/4] toy LayerSNIP 2x seed 0: accuracy 0.812 (dense 0.900), sparsity 50.0%, 1 min 15 s",
        "[3/4] toy Dense seed 0: accuracy 0.900, 1 min 15 s",
        "[4/4] toy Dense seed 1: failed in fine-tuning: ValueError: [loss] is NaN",
    ]


def test_a_trial_is_called_by_its_arm():
    console = Console(file=io.StringIO(), width=200, soft_wrap=True, color_system=None)
    trials = sweep(strategies=["LayerSNIP"]).trials()
    board = Progress(console, 2, 0, Pace((), {}), {trials[1].trial_id: "no dropout"})
    board.ended(trials[1], ROW)
    assert lines(board)[0].startswith("[1/2] toy no dropout 2x seed 0: accuracy")


def test_a_trial_ends_once_even_if_it_never_began_and_an_unknown_one_is_nothing():
    board, trials = made()
    board.ended(trials[0], ROW)
    board.ended(trials[0], ROW)
    board.heard("unknown", {"stage": "dense", "epoch": 0, "step": 0, "steps": None})
    board.interrupted("unknown")
    assert (len(board.completed), len(board.failed)) == (1, 0)


def test_the_board_shows_where_every_running_trial_is(monkeypatch):
    board, trials = made(terminal=True)
    with board.console.capture() as shown:
        for trial in trials[:2]:
            board.started(trial)
        at = {"stage": "dense", "epoch": 1, "epochs": 5, "step": 17, "steps": 40, "loss": 0.41234}
        board.heard(trials[0].trial_id, at)
        board.console.print(board._board())
        board.started(trials[2])
        board.heard(trials[1].trial_id, {"stage": "score", "epoch": 0, "step": 3, "steps": 50})
        board.console.print(board._board())
        board.interrupted(trials[2].trial_id)
        board.console.print(board._board())
    text = " ".join(shown.get().split())
    assert "1 of 4 done, 2 running, 0 failed, 1 waiting" in text
    assert "toy Dense seed 0 fine-tuning, epoch 2 of 5, step 17 of 40, loss 0.412" in text
    assert "toy LayerSNIP 2x seed 0 starting" in text
    assert "1 of 4 done, 3 running, 0 failed, 0 waiting" in text
    assert "toy LayerSNIP 2x seed 0 scoring, batch 3 of 50" in text
    assert text.count("1 of 4 done, 2 running") == 2


def test_the_estimate_is_counted_down_between_two_of_them(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    trials = sweep(strategies=["LayerSNIP"]).trials()
    seconds = {trials[0].dense.dense_id: 20.0, trials[0].trial_id: 0.0, trials[1].trial_id: 30.0}
    board = Progress(Console(file=io.StringIO()), 2, 0, Pace(trials, seconds))
    assert board.seconds_left() == 50
    now[0] = 4.0
    assert board.seconds_left() == 46
    board.started(trials[0])
    board.heard(trials[0].trial_id, {"stage": "dense", "epoch": 0, "step": 1, "steps": 2})
    now[0] = 14.0  # half of the fine-tuning took 10 s, as planned
    board.heard(trials[0].trial_id, {"stage": "dense", "epoch": 0, "step": 1, "steps": 2})
    assert board.seconds_left() == pytest.approx(40)
    now[0] = 100.0  # nothing was heard for long: that is no reason to say that the end is near
    assert board.seconds_left() == pytest.approx(20)


def test_what_another_launch_has_finished_is_done():
    board, trials = made()
    board.found([], [trials[0].trial_id])
    assert "2 of 4 done, 0 running, 0 failed, 2 waiting" in str(board._board().renderables[0])


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
    board, trials = Progress(Console(force_jupyter=True), 4, 1, Pace((), {})), made()[1]
    with board:
        for trial in trials[:2]:
            board.started(trial)
        board.heard(trials[0].trial_id, {"stage": "dense", "epoch": 0, "epochs": 5, "step": 5, "steps": 9})
        assert "fine-tuning, epoch 1 of 5, step 5 of 9" in shown[-1]
        board.ended(trials[0], ROW)
        board.ended(trials[1], {"status": "failed", "error_stage": "dense", "error": "diverged"})
    assert "2 of 4 done, 0 running, 1 failed" in shown[-1]
    assert "accuracy 0.812" in shown[-1]
    said = capsys.readouterr().out.splitlines()
    assert said == ["[3/4] toy LayerSNIP 2x seed 0: failed in fine-tuning: diverged"]
