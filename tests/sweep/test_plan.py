"""Wanted minus done."""

from __future__ import annotations

import pytest
from builders.rows import trial as row
from builders.rows import write_trial
from builders.specs import WIDE, sweep
from builders.stores import write_artifact

from deepcuts.store.store import Store
from deepcuts.sweep.plan import make_plan, no_longer_wanted, only_those
from deepcuts.sweep.planned import _arms_in_words
from deepcuts.sweep.queue import Queue

LATE = {"use": "LayerMagWeight", "rewind": 100}


def test_a_plan_is_wanted_minus_done_in_the_order_of_the_sweep(tmp_path):
    store = Store(str(tmp_path))
    trials = sweep(**WIDE).trials()
    for trial, fields in zip(
        trials, [{}, {"status": "failed", "failure": "trial"}, {"status": "failed", "failure": "infrastructure"}],
        strict=False,
    ):  # fmt: skip
        write_trial(store, row(trial.trial_id, **fields))
    plan = make_plan(trials, store)
    assert (plan.done, plan.failed) == ([trials[0]], [trials[1]])
    assert list(plan.to_run) == trials[2:]
    assert list(make_plan(trials, store, retry_failed=True).to_run) == trials[1:]


def test_a_completed_trial_whose_network_was_not_kept_runs_again_when_it_is_wanted(tmp_path):
    store = Store(str(tmp_path))
    trials = sweep().trials()
    for trial in trials:
        write_trial(store, row(trial.trial_id))
    assert not make_plan(trials, store).to_run
    plan = make_plan(trials, store, keep_models=True)
    assert [trial.strategy for trial in plan.to_run] == ["LayerMagWeight"]
    assert plan.again == {trials[1].trial_id}
    write_artifact(store, "models", trials[1].trial_id)
    assert not make_plan(trials, store, keep_models=True).to_run


def test_a_plan_counts_the_shared_work_that_is_left(tmp_path):
    store = Store(str(tmp_path))
    trials = sweep(**WIDE).trials()
    plan = make_plan(trials, store)
    assert len(plan.fine_tunes()) == 2
    assert plan.passes() == {"plain": 2, "forward": 2}
    write_artifact(store, "dense", trials[0].dense.dense_id)
    snip = next(trial for trial in trials if trial.strategy == "LayerSNIP")
    write_artifact(store, "scores", snip.score.score_id)
    plan = make_plan(trials, store)
    assert len(plan.fine_tunes()) == 1
    assert plan.scores_there == {snip.score.score_id}
    assert plan.passes() == {"plain": 2, "forward": 2}  # GradCAM of the same pass is still missing


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ({"dataset": "toy"}, 13),
        ({"strategy": "LayerSNIP", "seed": "1"}, 1),
        ({"compression": "2.0"}, 10),
        ({"compression": "1"}, 1),
        ({"strategy": "Dense"}, 2),
        ({"strategy": ["Dense", "LayerSNIP"]}, 4),
        ({"strategy": ["Dense", "LayerSNIP"], "seed": ["0"]}, 2),
        ({"seed": ["0", "1"], "compression": ["2", "1.0"]}, 11),
    ],
)
def test_only_chooses_trials(only, count):
    trials = sweep(**WIDE).trials()
    trials = [*trials, *sweep(compressions=[1]).trials()[1:]]
    assert len(only_those(trials, only)) == count


def test_only_chooses_arms_by_their_labels():
    spec = sweep(strategies={"mine": {"use": "LayerSNIP"}, "LayerGradCAMShift": None}, axes={"scoring.shift": [0, 0.1]})
    for label in ("mine", "LayerGradCAMShift shift=0.1", "Dense"):
        (chosen,) = only_those(spec.trials(), {"arm": label}, spec.labels)
        assert spec.labels[chosen.trial_id] == label
    assert len(only_those(spec.trials(), {"strategy": "LayerGradCAMShift"}, spec.labels)) == 2
    with pytest.raises(ValueError, match=r"--only arm=LayerSNIP: no trial has it; the trials have Dense, LayerGradCAM"):
        only_those(spec.trials(), {"arm": "LayerSNIP"}, spec.labels)
    with pytest.raises(ValueError, match=r"did you mean 'LayerGradCAMShift shift=0'\?"):
        only_those(spec.trials(), {"arm": "LayerGradCAMShift"}, spec.labels)


def test_a_fine_tuning_that_lacks_a_step_to_rewind_to_is_made_again(tmp_path):
    store, trials = Store(str(tmp_path)), sweep(strategies={"LayerSNIP": None, "late": LATE}).trials()
    (key,) = {trial.dense.dense_id for trial in trials}
    write_artifact(store, "dense", key)
    assert make_plan(trials[:2], store).fine_tunes() == set()
    assert make_plan(trials, store).fine_tunes() == {key}
    queue = Queue(trials, scores_there=[trials[1].score.score_id])
    queue.learn(set(), store)
    assert queue.dense_there == set()
    write_artifact(store, "dense", key, "step-100.safetensors")
    queue.learn(set(), store)
    assert queue.dense_there == {key}
    assert make_plan(trials, store).fine_tunes() == set()


def test_a_plan_says_of_each_arm_which_passes_it_adds_and_shares(tmp_path):
    spec = sweep(
        strategies={
            "LayerSNIP": None,
            "LayerGradCAMShift": None,
            "no dropout": {"use": "LayerSNIP", "scoring": {"dropout": False}},
            "late": LATE,
        },
        axes={"scoring.shift": [0, 10]},
        compressions=[2, 4],
        seeds=[0, 1],
    )
    store, trials = Store(str(tmp_path)), spec.trials()
    write_trial(store, row(next(trial.trial_id for trial in trials if spec.labels[trial.trial_id] == "late")))
    others = "LayerGradCAMShift shift=0 and 1 more"
    assert _arms_in_words(make_plan(trials, store), spec.labels) == [
        "  arms, which all prune the same fine-tuned networks:",
        f"    LayerSNIP                   4 of 4 to run, scoring passes: 2 plain, shared with {others}",
        "    LayerGradCAMShift shift=0   4 of 4 to run, scoring passes: 2 plain, shared with LayerSNIP and 1 more",
        "    LayerGradCAMShift shift=10  4 of 4 to run, scoring passes: 2 plain, shared with LayerSNIP and 1 more",
        "    no dropout                  4 of 4 to run, scoring passes: 2 plain, for it alone",
        "    late                        3 of 4 to run, no scoring pass to make",
    ]


def test_only_chooses_a_trial_by_the_beginning_of_its_id():
    trials = sweep(**WIDE).trials()
    assert only_those(trials, {"trial": trials[3].trial_id[:6]}) == [trials[3]]


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (
            {"data": "toy"},
            "--only: unknown key 'data'; did you mean 'dataset'. known: trial, dataset, arm, strategy, seed",
        ),
        ({"seed": "7"}, "--only seed=7: no trial has it; the trials have 0, 1"),
        ({"seed": ["0", "x"]}, "--only seed=x: no trial has it"),
        ({"strategy": "LayerMagWeigth"}, "no trial has it; did you mean 'LayerMagWeight'?"),
        ({"strategy": "Dense", "compression": "2"}, "--only strategy=Dense,compression=2: no trial of the sweep has"),
        ({"trial": "ffff"}, "unknown trial 'ffff'"),
    ],
)
def test_only_that_leaves_nothing_is_refused(only, message):
    with pytest.raises(ValueError, match=message):
        only_those(sweep(**WIDE).trials(), only)


def test_what_a_sweep_of_the_same_name_wanted_before_is_said(tmp_path):
    store, trials = Store(str(tmp_path)), sweep(**WIDE).trials()
    about = {"strategy": "LayerSNIP", "dataset": "toy"}
    for name in ("mine", "other"):
        store.write("sweeps", name, [about | {"sweep": name, "trial_id": trial.trial_id} for trial in trials])
    assert no_longer_wanted("mine", trials, store) == no_longer_wanted("new", trials[:1], store) == []
    (said,) = no_longer_wanted("mine", trials[2:], store)
    assert said.startswith("sweep 'mine' no longer wants 2 trials that it wanted before: what is done stays")
    (said,) = no_longer_wanted("mine", trials[1:], store)
    assert "no longer wants 1 trial that" in said
