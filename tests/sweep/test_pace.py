"""How long a launch is expected to take."""

from __future__ import annotations

import pytest
from builders.specs import sweep

from deepcuts.sweep import pace
from deepcuts.sweep.pace import Pace, place_of


@pytest.fixture
def now(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: seconds[0])
    return seconds


def planned(trials, dense=100.0, score=20.0, own=50.0):
    """The same seconds for every fine-tuning, scoring pass and trial; a Dense trial has nothing of its own."""
    seconds = {trial.dense.dense_id: dense for trial in trials}
    seconds |= {trial.score.pass_id: score for trial in trials if trial.score.data != "none"}
    return seconds | {trial.trial_id: own if trial.retrain else 0.0 for trial in trials}


def at(stage, step=0, steps=None):
    return {"stage": stage, "epoch": 0, "step": step, "steps": steps}


def test_trials_wait_for_the_stages_that_others_make_and_then_share_the_slots():
    trials = sweep(strategies=["LayerSNIP", "GlobalSNIP"]).trials()  # Dense, and two of one pass
    for slots, expected in ((1, 100 + 20 + 2 * 50), (2, 100 + 20 + 50), (9, 100 + 20 + 50)):
        assert Pace(trials, planned(trials), slots).seconds_left() == expected
    two = sweep(strategies=["LayerSNIP"], seeds=[0, 1]).trials()
    assert Pace(two, planned(two), 2).seconds_left() == 100 + 20 + 50


def test_what_is_there_is_not_counted():
    trials = sweep(strategies=["LayerSNIP"]).trials()
    seconds = planned(trials)
    del seconds[trials[0].dense.dense_id]
    assert Pace(trials, seconds, 1).seconds_left() == 20 + 50
    assert Pace((), {}, 4).seconds_left() == 0


def test_the_estimate_moves_with_every_step_and_with_the_pace(now):
    trials = sweep(strategies=["LayerSNIP"]).trials()
    launch = Pace(trials, planned(trials))
    launch.started(trials[0])
    now[0] = 30.0  # Ray and torch load: nothing of this is the pace of a step
    launch.heard(trials[0].trial_id, at("dense"))
    assert launch.seconds_left() == 170
    now[0] += 4.0  # too little to believe
    launch.heard(trials[0].trial_id, at("dense", 2, 100))
    assert launch.seconds_left() == 168
    now[0] += 36.0
    launch.heard(trials[0].trial_id, at("dense", 20, 100))
    assert launch.seconds_left() == pytest.approx(2 * 150)
    now[0] += 160.0
    launch.ended(trials[0].trial_id, 200.0, completed=True)
    assert launch.seconds_left() == pytest.approx(2 * 70)
    launch.started(trials[1])
    launch.heard(trials[1].trial_id, at("retrained", 5, 10))
    now[0] += 90.0
    assert launch.seconds_left() == pytest.approx(25 * 290 / 145)


def test_a_failed_trial_is_out_and_its_stages_are_made_by_others(now):
    trials = sweep(strategies=["LayerSNIP"]).trials()
    launch = Pace(trials, planned(trials))
    launch.started(trials[1])
    launch.heard(trials[1].trial_id, at("dense"))
    launch.ended(trials[1].trial_id, 1.0, completed=False)
    assert launch.seconds_left() == 100
    launch.ended(trials[0].trial_id, None, completed=False)  # it never began
    assert launch.seconds_left() == 0


def test_an_interrupted_trial_goes_on_where_it_was(now):
    trials = sweep(strategies=["LayerSNIP"]).trials()
    launch = Pace(trials, planned(trials))
    launch.started(trials[0])
    launch.heard(trials[0].trial_id, at("dense", 5, 10))
    launch.interrupted(trials[0].trial_id)
    assert launch.seconds_left() == 50 + 20 + 50
    launch.heard(trials[0].trial_id, at("dense", 9, 10))  # of nobody who runs
    assert launch.seconds_left() == 50 + 20 + 50


def test_what_another_launch_makes_is_done():
    trials = sweep(strategies=["LayerSNIP"]).trials()
    launch = Pace(trials, planned(trials))
    launch.found([trials[0].dense.dense_id], [trials[1].trial_id])
    assert launch.seconds_left() == 0


def test_a_place_has_the_steps_of_its_stage():
    [dense, snip] = sweep(
        strategies=["LayerSNIP"], max_train_examples=100, finetune={"epochs": 3, "batch_size": 16}
    ).trials()
    examples = {"toy": 4000}
    assert place_of(dense, examples, "dense", 1, 9, 0.5) == {
        "stage": "dense",
        "epoch": 1,
        "epochs": 3,
        "step": 9,
        "steps": 3 * 7,
        "loss": 0.5,
    }
    assert place_of(snip, examples, "retrained", 0, 1, None)["steps"] == snip.retrain.epochs * 7
    assert place_of(snip, examples, "score", 0, 1, None)["steps"] == 7
    assert place_of(snip, examples, "pruned", 0, 0, None)["steps"] is None
    assert place_of(snip, {}, "score", 0, 1, None)["steps"] is None
