"""The order in which trials may start: a simulation without Ray."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from builders.rows import trial as row
from builders.rows import write_trial
from builders.specs import WIDE, sweep
from builders.stores import write_artifact

from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.store import Store
from deepcuts.sweep.queue import Queue
from deepcuts.wording import STEPS


def lacked(queue: Queue, trial: TrialSpec) -> list[str]:
    """The shared stages that a trial would make itself: its fine-tuning and its scoring passes, where not yet there."""
    stages = [] if trial.dense.dense_id in queue.dense_there else [trial.dense.dense_id]
    missing = [score.pass_id for score in trial.passes if score.score_id not in queue.scores_there]
    return [*stages, *dict.fromkeys(missing)]


def simulate(queue: Queue, slots: int, fail: frozenset[str] = frozenset()) -> Counter[str]:
    """Run all trials, each a stage per tick; how often each shared stage was made. Asserts single flight."""
    made: Counter[str] = Counter()
    at: dict[str, int] = {}
    while queue.pending or queue.running:
        while len(queue.running) < slots and (trial := queue.next()) is not None:
            at[trial.trial_id] = 0
        assert queue.running, "all wait for each other"
        making = Counter(stage for trial in queue.running.values() for stage in lacked(queue, trial))
        assert not making or max(making.values()) == 1
        for trial_id, trial in list(queue.running.items()):
            at[trial_id] += 1
            stage = list(STEPS)[at[trial_id]]
            if stage == "score":
                made[trial.dense.dense_id] += trial.dense.dense_id not in queue.dense_there
            if stage == "pruned":
                made.update({score.pass_id for score in trial.passes if score.score_id not in queue.scores_there})
            if trial_id in fail and stage == "score":
                queue.ended(trial_id)
                continue
            queue.heard(trial_id, stage)
            if stage == "done":
                queue.ended(trial_id)
    return made


def first_by_the_rule(queue: Queue) -> str | None:
    """What `Queue.next` means, found by looking at all trials; the id of the trial that it should give."""
    wanting = Counter(stage for trial in queue.pending for stage in lacked(queue, trial)[:1])
    making = {stage for trial in queue.running.values() for stage in lacked(queue, trial)} | queue.busy
    ready = [
        trial for trial in queue.pending if trial.trial_id not in queue.busy and making.isdisjoint(lacked(queue, trial))
    ]
    unblocks = [wanting[lacked(queue, trial)[0]] if lacked(queue, trial) else 0 for trial in ready]
    return ready[unblocks.index(max(unblocks))].trial_id if ready else None


@pytest.mark.parametrize("chance", range(30))
def test_the_next_trial_is_the_one_that_the_rule_names(chance, tmp_path):
    draw, store = random.Random(chance), Store(str(tmp_path))
    names = ["LayerMagWeight", "LayerSNIP", "GlobalSNIP", "LayerGradCAM", "RowWanda", "LayerSmoothGrad"]
    names += ["OwlMagWeight", "OwlSNIP", "OwlWanda", "OwlMagAct"]
    axes = {"compressions": draw.sample([1, 2, 3, 4], 2), "seeds": list(range(draw.randint(1, 4)))}
    trials = sweep(strategies=draw.sample(names, draw.randint(1, 6)), **axes).trials()
    stages = [trial.dense.dense_id for trial in trials] + [trial.score.pass_id for trial in trials]
    queue, at = Queue(trials, dense_there=draw.sample(stages, 2)), {}
    for _ in range(400):
        if draw.random() < 0.5:
            expected, given = first_by_the_rule(queue), queue.next()
            assert (given and given.trial_id) == expected
            if given:
                at[given.trial_id] = 0
        elif queue.running and draw.random() < 0.9:
            trial_id = draw.choice(list(queue.running))
            at[trial_id] += 1
            queue.heard(trial_id, list(STEPS)[at[trial_id]])
            if list(STEPS)[at[trial_id]] == "done" or draw.random() < 0.05:  # some die on the way
                queue.ended(trial_id)
        elif draw.random() < 0.3:
            queue.learn(set(draw.sample(stages + [trial.trial_id for trial in trials], 3)), store)
        else:
            queue.learn(set(), store)
    assert at


@pytest.mark.parametrize("slots", [1, 3, 50])
def test_every_shared_stage_is_made_once_whatever_the_slots(slots):
    trials = sweep(**WIDE, compressions=[2, 3]).trials()
    made = simulate(Queue(list(trials)), slots)
    stages = {trial.dense.dense_id for trial in trials}
    stages |= {trial.score.pass_id for trial in trials if trial.score.data != "none"}
    assert made == dict.fromkeys(stages, 1)


@pytest.mark.parametrize("slots", [1, 3, 50])
@pytest.mark.parametrize("seed", range(3))
def test_the_passes_that_owl_shares_with_others_are_made_once(slots, seed):
    strategies = ["OwlMagWeight", "OwlMagGrad", "LayerMagGrad", "RowWanda", "OwlWanda", "OwlSmoothGrad", "LampMagAct"]
    random.Random(seed).shuffle(strategies)
    trials = sweep(strategies=strategies, compressions=[2, 3], seeds=[0, 1]).trials()
    made = simulate(Queue(list(trials)), slots)
    assert sorted(made.values()) == [1] * (2 + 2 * 3)  # per seed a fine-tuning, and a forward, plain and noisy pass


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
    write_artifact(store, "dense", dense[0])
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


class Asked(set):
    """A set that counts how often it is asked whether something is in it."""

    count = 0

    def __contains__(self, item):
        self.count += 1
        return super().__contains__(item)


def looks(seeds):
    """How often a queue asks what is there until all trials of a sweep have been started, one by one."""
    names = ["LayerMagWeight", "LayerSNIP", "GlobalSNIP", "RowWanda", "LayerSmoothGrad"]
    trials = sweep(strategies=names, compressions=[2, 3, 4, 5], seeds=list(range(seeds))).trials()
    queue = Queue(trials)
    queue.dense_there = asked = Asked()
    while (trial := queue.next()) is not None:
        for stage in STEPS:
            queue.heard(trial.trial_id, stage)
        queue.ended(trial.trial_id)
    assert not len(queue)
    return asked.count


def test_ten_times_the_trials_take_about_ten_times_the_looks():
    assert 0 < looks(50) <= 11 * looks(5)


def test_a_thousand_trials_are_queued_fast():
    names = ["LayerMagWeight", "LayerSNIP", "GlobalSNIP", "RowWanda", "LayerSmoothGrad"]
    trials = sweep(strategies=names, compressions=[2, 3, 4, 5], seeds=list(range(50))).trials()
    assert len(trials) == 1050
    began = time.perf_counter()
    simulate(Queue(list(trials)), 8)
    assert time.perf_counter() - began < 20
