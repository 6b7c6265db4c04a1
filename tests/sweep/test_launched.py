"""What is said at the end of a launch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from builders.rows import trial as row
from builders.specs import sweep

from deepcuts.store.store import Store
from deepcuts.sweep.launched import OutsideError, launched

AGAIN = "run the same command again to go on with what is left"
LASTING = "running again will not help until that is mended (packages, code or disk of the workers)"
IMPORT, LOST = OutsideError("ImportError: no numpy", True), OutsideError("ActorDiedError: lost", False)


@pytest.fixture
def said(tmp_path):
    """What a launch says of three trials, of which the first is completed, with some stopped from outside."""
    store, trials = Store(str(tmp_path / "a store")), sweep(strategies=["LayerSNIP", "GlobalSNIP"]).trials()
    store.write("trials", trials[0].trial_id, [row(trials[0].trial_id)])
    planned = SimpleNamespace(labels={}, store=store, todo=SimpleNamespace(wanted=trials))

    def say(*errors):
        outside = {trial.trial_id: error for trial, error in zip(trials, errors, strict=False) if error}
        return str(launched(planned, outside=outside)).splitlines()

    return say


def test_what_was_not_reached_is_run_by_the_same_command(said):
    assert said()[1:] == [AGAIN]
    assert "1 of 3 trials completed, 0 failed, 2 left" in said()[0]


def test_an_error_of_the_workers_is_named_once_and_running_again_is_not_proposed(said):
    [_, named, advice] = said(None, IMPORT, IMPORT)
    assert named.startswith("  2 trials stopped by an error from outside: ImportError: no numpy: deepcuts show '")
    assert advice == LASTING


def test_what_passes_by_itself_is_named_and_run_by_the_same_command(said):
    [_, named, advice] = said(None, LOST)
    assert named.startswith("  1 trial stopped by an error from outside: ActorDiedError: lost: deepcuts show ")
    assert advice == AGAIN
    assert said(None, IMPORT, LOST)[3:] == [LASTING, AGAIN]


def test_a_trial_that_another_launch_has_completed_meanwhile_is_not_named(said):
    assert said(IMPORT)[1:] == [AGAIN]


NAN = "ValueError: the loss of dense step {} (epoch 1) is nan, not finite; lower the learning rate (lr is 0.5)"
RETRY = "run the same command with --retry-failed to try the failed ones again"
HOPELESS = " would fail the same way again, bit for bit: change the settings as the error says"


def fail(store, trial, error):
    store.write(
        "trials",
        trial.trial_id,
        [row(trial.trial_id, status="failed", failure="trial", error_stage="dense", error=error)],
    )


def test_trials_that_failed_alike_are_told_once_and_not_to_be_tried_again(tmp_path):
    store, trials = Store(str(tmp_path / "a store")), sweep(strategies=["LayerSNIP", "GlobalSNIP"]).trials()
    planned = SimpleNamespace(labels={}, store=store, todo=SimpleNamespace(wanted=trials))
    for step, trial in enumerate(trials):
        fail(store, trial, NAN.format(step))
    first, why, see, advice = str(launched(planned)).splitlines()
    assert "0 of 3 trials completed, 3 failed, 0 left" in first
    assert why.startswith("  3 trials failed in fine-tuning: ValueError: the loss of dense step ")
    assert see.startswith(f"    see one: deepcuts show '{tmp_path}/a store' ")
    assert advice == "what failed" + HOPELESS
    fail(store, trials[0], "KeyError: 'x'")
    lines = str(launched(planned)).splitlines()
    assert [line for line in lines if " failed in " in line][1] == "  1 trial failed in fine-tuning: KeyError: 'x'"
    assert lines[-2:] == ["2 of these" + HOPELESS, RETRY]
