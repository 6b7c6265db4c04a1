"""Wanted minus done, and the order in which trials may start: a simulation without Ray."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from rows import trial as row
from rows import write_trial
from specs import sweep

from deepcuts.plan import Queue, chosen, make_plan, partners, snapshots
from deepcuts.store import Store

WIDE = {"strategies": ["LayerMagWeight", "LayerSNIP", "GlobalSNIP", "LayerGradCAM", "RowWanda"], "seeds": [0, 1]}
STAGES = ["load", "dense", "score", "prune", "rewound", "retrained", "done"]


def artifact(store: Store, kind: str, key: str) -> None:
    with store.new_artifact(kind, key, {}) as folder:
        (folder / "x").write_bytes(b"x")


def simulate(queue: Queue, slots: int, fail: frozenset[str] = frozenset()) -> Counter[str]:
    """Run all trials, each a stage per tick; how often each shared stage was made. Asserts single flight."""
    made: Counter[str] = Counter()
    at: dict[str, int] = {}
    while queue.pending or queue.running:
        while len(queue.running) < slots and (trial := queue.next()) is not None:
            at[trial.trial_id] = 0
        assert queue.running, "all wait for each other"
        making = Counter(stage for trial in queue.running.values() for stage in queue._missing(trial))
        assert not making or max(making.values()) == 1
        for trial_id, trial in list(queue.running.items()):
            at[trial_id] += 1
            stage = STAGES[at[trial_id]]
            if stage == "score":
                made[trial.dense.dense_id] += trial.dense.dense_id not in queue.dense_there
            if stage == "prune" and trial.score.data != "none":
                made[trial.score.pass_id] += trial.score.score_id not in queue.scores_there
            if trial_id in fail and stage == "score":
                queue.ended(trial_id)
                continue
            queue.heard(trial_id, stage)
            if stage == "done":
                queue.ended(trial_id)
    return made


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
    artifact(store, "models", trials[1].trial_id)
    assert not make_plan(trials, store, keep_models=True).to_run


def test_a_plan_counts_the_shared_work_that_is_left(tmp_path):
    store = Store(str(tmp_path))
    trials = sweep(**WIDE).trials()
    plan = make_plan(trials, store)
    assert len(plan.fine_tunes()) == 2
    assert plan.passes() == {"plain": 2, "forward": 2}
    artifact(store, "dense", trials[0].dense.dense_id)
    snip = next(trial for trial in trials if trial.strategy == "LayerSNIP")
    artifact(store, "scores", snip.score.score_id)
    plan = make_plan(trials, store)
    assert len(plan.fine_tunes()) == 1
    assert plan.scores_there == {snip.score.score_id}
    assert plan.passes() == {"plain": 2, "forward": 2}  # GradCAM of the same pass is still missing


def test_partners_are_the_scores_of_one_pass_and_snapshots_the_steps_to_rewind_to():
    trials = sweep(**WIDE, rewind=7, datasets=["toy", "sst2"]).trials()
    snip = next(trial for trial in trials if trial.strategy == "LayerSNIP")
    assert [score.criterion for score in partners(snip, trials)] == ["GradCAM", "SNIP"]
    assert {score.dense.dense_id for score in partners(snip, trials)} == {snip.dense.dense_id}
    assert partners(trials[0], trials) == ()
    assert snapshots(trials[0], trials) == {7}
    assert snapshots(trials[0], trials[:1]) == frozenset()


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ({"dataset": "toy"}, 13),
        ({"strategy": "LayerSNIP", "seed": "1"}, 1),
        ({"compression": "2.0"}, 10),
        ({"compression": "1"}, 1),
        ({"strategy": "Dense"}, 2),
    ],
)
def test_only_chooses_trials(only, count):
    trials = sweep(**WIDE).trials()
    trials = [*trials, *sweep(compressions=[1]).trials()[1:]]
    assert len(chosen(trials, only)) == count


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ({"data": "toy"}, "--only: unknown key 'data'; known: trial, dataset, strategy, seed, compression, sparsity"),
        ({"seed": "7"}, "--only seed=7: no trial is left; the sweep has 0, 1"),
        ({"seed": "x"}, "--only seed=x: no trial is left"),
        ({"strategy": "Dense", "compression": "2"}, "--only compression=2: no trial is left"),
    ],
)
def test_only_that_leaves_nothing_is_refused(only, message):
    with pytest.raises(ValueError, match=message):
        chosen(sweep(**WIDE).trials(), only)


@pytest.mark.parametrize("slots", [1, 3, 50])
def test_every_shared_stage_is_made_once_whatever_the_slots(slots):
    trials = sweep(**WIDE, compressions=[2, 3]).trials()
    made = simulate(Queue(list(trials)), slots)
    stages = {trial.dense.dense_id for trial in trials}
    stages |= {trial.score.pass_id for trial in trials if trial.score.data != "none"}
    assert made == dict.fromkeys(stages, 1)


def test_no_trial_starts_that_would_wait():
    queue = Queue(sweep(**WIDE).trials())
    started = [queue.next(), queue.next(), queue.next()]
    assert [trial and (trial.strategy, trial.dense.seed) for trial in started] == [("Dense", 0), ("Dense", 1), None]
    queue.heard(started[0].trial_id, "dense")
    assert queue.next() is None
    queue.heard(started[0].trial_id, "done")
    assert queue.next().strategy == "LayerSNIP"  # three trials of the seed want its plain pass: it unblocks most
    assert queue.next().strategy == "RowWanda"
    assert queue.next().strategy == "LayerMagWeight"
    assert queue.next() is None


def test_what_failed_is_made_by_the_next_that_needs_it():
    trials = sweep(**WIDE).trials()
    first, second = trials[0].trial_id, next(t.trial_id for t in trials if t.strategy == "LayerMagWeight")
    made = simulate(Queue(list(trials)), 4, frozenset({first, second}))
    assert set(made) >= {trial.dense.dense_id for trial in trials}


def test_the_limit_is_kept():
    queue = Queue(sweep(seeds=[0, 1, 2, 3]).trials(), limit=2)
    assert queue.next() is not None
    assert queue.next() is not None
    assert queue.next() is None
    queue.ended(next(iter(queue.running)))
    assert queue.next() is not None


def test_what_another_launch_is_at_work_on_is_left_to_it(tmp_path):
    store, trials = Store(str(tmp_path)), sweep(**WIDE).trials()
    dense = [trials[0].dense.dense_id, trials[-1].dense.dense_id]
    queue = Queue(list(trials))
    queue.learn({dense[0]}, store)
    assert queue.next().dense.dense_id == dense[1]
    assert queue.next() is None
    artifact(store, "dense", dense[0])
    write_trial(store, row(trials[0].trial_id))
    snip = next(trial for trial in trials if trial.strategy == "LayerSNIP")
    queue.learn({dense[0], snip.score.pass_id}, store)
    assert trials[0] not in queue.pending
    started = [trial for trial in iter(queue.next, None) if trial.dense.seed == 0]
    assert {trial.strategy for trial in started} == {"LayerMagWeight", "RowWanda"}
    queue.learn(set(), store)
    assert queue.next().score.pass_id == snip.score.pass_id


def test_a_trial_that_another_launch_runs_is_not_started(tmp_path):
    trials = sweep().trials()
    queue = Queue(list(trials), dense_there={trials[0].dense.dense_id})
    queue.learn({trials[1].trial_id}, Store(str(tmp_path)))
    assert queue.next() == trials[0]
    assert queue.next() is None
    assert queue.pending == trials[1:]


def test_a_completed_trial_that_is_wanted_again_stays_pending(tmp_path):
    store, trials = Store(str(tmp_path)), sweep().trials()
    for trial in trials:
        write_trial(store, row(trial.trial_id))
    queue = Queue(list(trials), again=frozenset({trials[1].trial_id}))
    queue.learn({"other"}, store)
    assert queue.pending == trials[1:]


def test_a_thousand_trials_are_queued_fast():
    names = ["LayerMagWeight", "LayerSNIP", "GlobalSNIP", "RowWanda", "LayerSmoothGrad"]
    trials = sweep(strategies=names, compressions=[2, 3, 4, 5], seeds=list(range(50))).trials()
    assert len(trials) == 1050
    began = time.perf_counter()
    simulate(Queue(list(trials)), 8)
    assert time.perf_counter() - began < 20
