"""The trials that a sweep holds."""

from __future__ import annotations

from collections import Counter

import pytest
from builders.specs import sweep

from deepcuts.experiment.grid import describe, tracker_labels
from deepcuts.experiment.spec import _digest


def ids(trials, strategy=None):
    return {trial.trial_id for trial in trials if strategy in (None, trial.strategy)}


def test_a_sweep_is_dense_and_the_product_of_its_axes():
    made = sweep(datasets=["sst2", "toy"], strategies=["LayerMagWeight", "RowWanda"], compressions=[2, 3], seeds=[0, 1])
    trials = made.trials()
    assert len(trials) == 2 * 2 * (1 + 2 * 2)
    assert [trial.strategy for trial in trials[:5]] == ["Dense", "LayerMagWeight", "LayerMagWeight", *["RowWanda"] * 2]
    assert len({trial.dense.dense_id for trial in trials}) == 4
    assert made.repeated() == []


def test_names_and_resources_enter_no_id():
    plain = sweep()
    other = sweep(
        name="other", resources={"cpus": 1, "max_concurrent": 3}, checkpoint_minutes=1, keep_models=True, capture=True
    )
    assert ids(plain.trials()) == ids(other.trials())


def test_a_wider_sweep_holds_the_trials_of_a_narrower_one():
    wide = sweep(strategies=["LayerSNIP", "LayerMagWeight"], compressions=[4, 2], seeds=[5, 0])
    assert ids(sweep().trials()) < ids(wide.trials())


def test_dense_and_unpruned_are_shared_by_sweeps_of_compressions_and_of_sparsities():
    one, other = sweep(compressions=[1, 2]).trials(), sweep(sparsities=[0, 0.5]).trials()
    for strategy in ("Dense", "Unpruned"):
        assert len(ids(one, strategy)) == 1
        assert ids(one, strategy) == ids(other, strategy)
    assert not ids(one, "LayerMagWeight") & ids(other, "LayerMagWeight")


@pytest.mark.parametrize("axis", [{"compressions": [1]}, {"sparsities": [0]}, {"compressions": [1.0, 1]}])
def test_nothing_pruned_is_one_trial_whatever_the_strategies(axis):
    made = sweep(strategies=["LayerMagWeight", "GlobalSNIP", "LayerRandom+shuffle"], **axis)
    assert [trial.strategy for trial in made.trials()] == ["Dense", "Unpruned"]
    assert made.repeated() == []
    assert made.trials()[1].retrain.epochs == 12


def test_what_is_asked_for_twice_is_named_and_dropped():
    made = sweep(
        datasets=["sst2", "SST2DATA"], strategies=["LayerSNIP", "LayerSNIP"], compressions=[2, 2.0], seeds=[3, 3]
    )
    assert len(made.trials()) == 2
    assert made.repeated() == ["dataset sst2", "sst2 LayerSNIP 2x seed 3", "sst2 Dense seed 3"]


def test_a_rewind_to_step_0_is_the_rewind_to_the_start():
    assert ids(sweep(rewind=0).trials()) == ids(sweep(rewind="init").trials())
    assert ids(sweep(rewind=1).trials(), "LayerMagWeight") != ids(sweep().trials(), "LayerMagWeight")
    assert ids(sweep(rewind=1).trials(), "Dense") == ids(sweep().trials(), "Dense")


def test_retraining_leaves_dense_and_scores_shared():
    one, other = sweep(strategies=["LayerSNIP"]), sweep(strategies=["LayerSNIP"], retrain={"epochs": 1})
    assert ids(one.trials(), "Dense") == ids(other.trials(), "Dense")
    assert {trial.score.score_id for trial in one.trials()} == {trial.score.score_id for trial in other.trials()}
    assert not ids(one.trials(), "LayerSNIP") & ids(other.trials(), "LayerSNIP")


def test_scopes_and_controls_share_the_scores():
    made = sweep(strategies=["LayerSNIP", "GlobalSNIP", "RowSNIP+shuffle"]).trials()
    assert len({trial.score.score_id for trial in made if trial.score.criterion}) == 1
    assert len(ids(made)) == 4


def test_overrides_reach_the_trials_of_their_dataset_alone():
    made = sweep(datasets=["sst2", "stsb"], overrides={"STSBDATA": {"max_tokens": 9, "loss": "mse_sum"}})
    assert {trial.dense.dataset: trial.dense.max_tokens for trial in made.trials()} == {"sst2": 128, "stsb": 9}
    assert {trial.dense.dataset: trial.dense.loss for trial in made.trials()} == {"sst2": "mean", "stsb": "mse_sum"}


def test_a_trial_in_a_few_words():
    words = [describe(trial) for trial in sweep(compressions=[1, 3.5]).trials()]
    assert words == ["toy Dense seed 0", "toy Unpruned seed 0", "toy LayerMagWeight 3.5x seed 0"]
    assert describe(sweep(sparsities=[0.5]).trials()[-1]) == "toy LayerMagWeight 50 % seed 0"


def test_a_trial_is_called_by_its_arm_in_words_and_by_trackers():
    trial = sweep(compressions=[4], strategies={"mine": {"use": "LayerSNIP"}}).trials()[1]
    assert describe(trial, "mine") == "toy mine 4x seed 0"
    told = {"dataset": "toy", "arm": "mine", "strategy": "LayerSNIP", "seed": 0, "compression": 4}
    assert tracker_labels(trial, "mine") == told
    assert tracker_labels(trial)["arm"] == "LayerSNIP"


def test_each_id_of_a_sweep_is_computed_once(monkeypatch):
    made: Counter[str] = Counter()
    digest = _digest
    monkeypatch.setattr(
        "deepcuts.experiment.spec._digest", lambda stage, fields: made.update([stage]) or digest(stage, fields)
    )
    names = ["LayerMagWeight", "LayerSNIP", "GlobalSNIP", "RowSNIP+shuffle", "LayerGradCAM"]
    some = sweep(strategies=names, compressions=[2, 3, 4, 5], seeds=[0, 1, 2])
    trials = some.trials()
    assert len(trials) == 3 * (1 + 5 * 4)
    assert [trial.trial_id for trial in trials] == [trial.trial_id for trial in some.trials()]
    assert some.repeated() == []
    for trial in trials:
        assert (trial.score.score_id is None) == (trial.strategy == "Dense")
        assert trial.score.pass_id
    scores = 3 * 3  # MagWeight, SNIP and GradCAM of each seed
    assert made == {"dense": 3, "trial": len(trials), "score": scores + scores + 3}  # ids of passes too, Dense's among
