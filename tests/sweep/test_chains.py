"""Trials that build on trials, in the queue, the plan and what is said of a launch; without Ray."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders.rows import row_of, write_trial
from builders.specs import sweep
from builders.stores import write_artifact

from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.networks import NETWORK_FILE
from deepcuts.store.store import Store
from deepcuts.sweep.launched import launched
from deepcuts.sweep.pace import Pace
from deepcuts.sweep.plan import Plan, make_plan
from deepcuts.sweep.planned import SweepPlan
from deepcuts.sweep.queue import Queue
from deepcuts.wording import STEPS

CHAIN = {"sparsities": [0.36, 0.488], "rounds": {"keep": 0.8}}


def chains(**changes: Any) -> list[TrialSpec]:
    return sweep(**(CHAIN | changes)).trials()


def drained(queue: Queue, slots: int, fails: frozenset[str] = frozenset()) -> list[list[str]]:
    """Run all trials, each for one tick; the ids of each tick. Nothing starts before what it builds on has ended."""
    ticks, done = [], set(queue.left_there)
    while len(queue):
        while len(queue.running) < slots and (trial := queue.next()) is not None:
            assert trial.builds_on is None or trial.builds_on.trial_id in done
        assert queue.running, "all wait for each other"
        ticks.append(list(queue.running))
        for trial_id in ticks[-1]:
            if trial_id not in fails:
                for stage in STEPS:
                    queue.heard(trial_id, stage)
                done.add(trial_id)
            queue.ended(trial_id)
    return ticks


def test_chains_run_side_by_side_and_a_slot_is_empty_only_where_nothing_is_ready() -> None:
    trials = chains(seeds=[0, 1, 2, 3])
    ticks = drained(Queue(trials), 2)
    assert sum(map(len, ticks)) == len(trials) == 4 * 4
    assert [len(tick) for tick in ticks] == [2] * 8
    assert len(drained(Queue(trials), 100)) == 3  # first rounds fine-tune, and Dense runs beside the second ones


def test_the_longest_rest_of_a_chain_goes_first() -> None:
    trials = [*chains(strategies=["LayerRandom"], rounds=None, sparsities=[0.1, 0.3, 0.4]), *chains()]
    trials = list({trial.trial_id: trial for trial in trials}.values())
    queue = Queue(trials, dense_there={trials[0].dense.dense_id})
    started = [trial for trial in iter(queue.next, None)]
    assert [trial.round for trial in started if trial.chain] == [1]
    assert started[0].chain is not None


def test_what_waits_for_a_trial_that_fails_is_dropped_and_the_rest_runs() -> None:
    trials = chains(seeds=[0, 1])
    first = next(trial for trial in trials if trial.prunes)
    queue = Queue(trials)
    ran = [each for tick in drained(queue, 3, frozenset({first.trial_id})) for each in tick]
    second, third = (t for t in trials if t.dense.seed == 0 and t.round > 1)
    assert queue.stranded == {second.trial_id: first.trial_id, third.trial_id: second.trial_id}
    assert set(ran) == {trial.trial_id for trial in trials} - set(queue.stranded)


def leave_network(store: Store, trial_id: str) -> None:
    with store.new_artifact("rounds", trial_id, {}) as folder:
        (folder / NETWORK_FILE).write_bytes(b"x")


def test_a_round_that_another_launch_makes_is_waited_for(tmp_path: Path) -> None:
    store, trials = Store(str(tmp_path)), chains()
    dense, first, second, third = trials
    queue = Queue(trials[1:], dense_there={dense.dense.dense_id})
    queue.learn({first.trial_id}, store)
    assert queue.next() is None
    assert len(queue) == 3
    write_trial(store, row_of(first))
    leave_network(store, first.trial_id)
    queue.learn(set(), store)
    assert queue.next() == second
    assert queue.next() is None
    assert queue.pending == [third]


def test_a_round_that_another_launch_gave_up_is_made_here_or_strands_what_waits(tmp_path: Path) -> None:
    store, trials = Store(str(tmp_path)), chains()
    dense, first, second, third = trials
    queue = Queue([second, third], dense_there={dense.dense.dense_id})
    queue.learn({first.trial_id}, store)
    assert (queue.next(), queue.stranded) == (None, {})
    queue.learn(set(), store)  # it has ended, and left nothing
    assert len(queue) == 0
    assert queue.stranded == {second.trial_id: first.trial_id, third.trial_id: second.trial_id}


def test_a_thousand_trials_in_chains_are_queued_as_fast_as_independent_ones() -> None:
    def seconds(trials: list[TrialSpec]) -> float:
        assert len(trials) == 1100
        best = []
        for _ in range(2):
            queue, began = Queue(trials), time.process_time()
            drained(queue, 8)
            best.append(time.process_time() - began)
        return min(best)

    levels = [round(1 - 0.8**number, 12) for number in range(1, 11)]
    alone = seconds(sweep(sparsities=levels, seeds=list(range(100))).trials())
    assert seconds(chains(sparsities=levels, seeds=list(range(100)))) < 1.5 * alone + 0.05


# The plan


def test_a_plan_runs_what_is_missing_and_again_what_lost_its_network(tmp_path: Path) -> None:
    store, trials = Store(str(tmp_path)), chains()
    dense, first, second, third = trials
    assert make_plan(trials, store).to_run == tuple(trials)
    write_artifact(store, "dense", dense.dense.dense_id)
    for trial in (dense, first, second):
        write_trial(store, row_of(trial))
    leave_network(store, second.trial_id)
    plan = make_plan(trials, store)
    assert (plan.to_run, plan.left_there, plan.again) == ((third,), {second.trial_id}, frozenset())
    assert Queue(plan.to_run, plan.dense_there, left_there=plan.left_there).next() == third
    store.delete(f"artifacts/rounds/{second.trial_id}/meta.json")
    plan = make_plan(trials, store)
    assert (plan.to_run, plan.again) == ((first, second, third), {first.trial_id, second.trial_id})
    assert [trial.trial_id for trial in plan.steps] == [first.trial_id]
    assert planned(store, plan).counts == (
        "3 of 4 trials to run (2 of them again: their networks are needed, and not in the store), 1 done"
    )


def test_a_mask_needs_its_source_completed_and_no_network(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    trials = sweep(datasets=["toy", "cola"], sparsities=[0.5], mask_from={"dataset": "toy"}).trials()
    source, given = next(t for t in trials if t.prunes), next(t for t in trials if t.mask_of)
    assert len(drained(Queue(trials), 4)) == 2
    write_trial(store, row_of(source))
    plan = make_plan(trials, store)
    assert source not in plan.to_run
    assert plan.left_there == {source.trial_id}
    write_trial(store, row_of(source) | {"status": "failed", "failure": "trial"})
    plan = make_plan(trials, store)
    assert plan.waiting == {given.trial_id: source.trial_id}
    assert make_plan(trials, store, retry_failed=True).waiting == {}


def planned(store: Store, plan: Plan, **seconds: float) -> SweepPlan:
    cost: Any = SimpleNamespace(seconds=seconds)
    return SweepPlan(SimpleNamespace(spec=SimpleNamespace(labels={})), store, plan, 0.0, cost, SimpleNamespace())  # type: ignore[arg-type]


def test_what_waits_is_counted_and_named(tmp_path: Path) -> None:
    store, trials = Store(str(tmp_path)), chains()
    dense, first, second, third = trials
    write_trial(store, row_of(dense))
    write_trial(store, row_of(first) | {"status": "failed", "failure": "trial"})
    told = planned(store, make_plan(trials, store))
    assert told.counts == (
        "0 of 4 trials to run, 1 done, 1 failed before (--retry-failed runs them again), 2 wait for those that failed"
    )
    assert [(row["round"], row["step"], row["state"]) for row in told.rows()] == [
        (None, False, "done"),
        (1, True, "failed before"),
        (2, False, f"waits for {first.trial_id}, which failed"),
        (3, False, f"waits for {first.trial_id}, which failed"),
    ]
    ended = str(launched(told))
    assert f"2 wait for {first.trial_id}, which failed: toy LayerMagWeight 20 % seed 0" in ended
    assert "--retry-failed to try the failed ones again, then those that wait for them" in ended
    assert "go on with what is left" not in ended


def test_the_pace_counts_the_rounds_of_a_chain_one_after_the_other() -> None:
    trials = chains(seeds=[0, 1])
    seconds = Counter({trial.trial_id: 10 for trial in trials if trial.prunes})
    assert Pace(trials, seconds, 1).seconds_left() == 60
    assert Pace(trials, seconds, 2).seconds_left() == 30
    assert Pace(trials, seconds, 50).seconds_left() == 30
    pace = Pace(trials, seconds, 2)
    pace.started(trials[1])
    assert pace.seconds_left() == 30
    pace.ended(trials[1].trial_id, None, True)
    assert pace.seconds_left() == 30  # of the other chain
    passes = chains(strategies=["LayerSNIP"], sparsities=[0.488])
    seconds = Counter({key: 5 for trial in passes for key in (trial.trial_id, *(s.pass_id for s in trial.passes))})
    assert Pace(passes, seconds, 3).seconds_left() == pytest.approx(3 * 10)
