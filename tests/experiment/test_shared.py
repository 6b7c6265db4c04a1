"""What the trials of a sweep make for each other."""

from __future__ import annotations

from builders.specs import WIDE, sweep

from deepcuts.experiment.sharing import shared


def test_partners_are_the_scores_of_one_pass_and_snapshots_the_steps_to_rewind_to():
    trials = sweep(**WIDE, rewind=7, datasets=["toy", "sst2"]).trials()
    snip = next(trial for trial in trials if trial.strategy == "LayerSNIP")
    assert [score.criterion for score in shared(trials).partners(snip)] == ["GradCAM", "SNIP"]
    assert {score.dense.dense_id for score in shared(trials).partners(snip)} == {snip.dense.dense_id}
    assert shared(trials).partners(trials[0]) == ()
    assert shared(trials).snapshots(trials[0]) == {7}
    assert shared(trials[:1]).snapshots(trials[0]) == frozenset()
