"""What a worker of the sweep does: takes a trial of those that it was handed, and says how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import ray
from ray import tune

from deepcuts.experiment.spec import TrialSpec
from deepcuts.experiment.sweepfile import SweepFile
from deepcuts.store.live import Beat, new_launch
from deepcuts.store.store import Store
from deepcuts.sweep.plan import Plan, Shared, shared
from deepcuts.wording import STAGES

REPORT_SECONDS = 1.0
SHOWN = ("status", "metric", *STAGES, "sparsity", "total_seconds", "error", "error_stage")
WAITS_SECONDS = (1, 2, 4, 8, 16, 30)

# A trial's work: the spec, the store, how far it is told to, when to stop; and the row that it published.
RunTrial = Callable[["Launch", TrialSpec, Store, Beat], Mapping[str, Any]]


@dataclass(frozen=True)
class Launch:
    """What every worker is handed once: the trials by id, what they share, and how to run them."""

    trials: Mapping[str, TrialSpec]
    wanted: Sequence[TrialSpec]
    sweep: str
    store_uri: str
    launch: str
    threads: int
    keep_models: bool
    checkpoint_minutes: float
    work: RunTrial

    @cached_property
    def shared(self) -> Shared:
        return shared(self.wanted)


def make_launch(plan: Plan, file: SweepFile, store: Store, threads: int, work: RunTrial) -> Launch:
    """What the workers of a launch of this plan are handed."""
    return Launch(
        trials={trial.trial_id: trial for trial in plan.to_run},
        wanted=plan.wanted,
        sweep=file.name,
        store_uri=store.address,
        launch=new_launch(),
        threads=threads,
        keep_models=file.keep_models,
        checkpoint_minutes=file.checkpoint_minutes,
        work=work,
    )


@lru_cache(maxsize=1)
def _fetched(handed: ray.ObjectRef) -> Launch:
    """What a worker was handed, unpacked once in its life: unpacked for each trial, a sweep would take time that
    grows with the square of its trials."""
    found: Launch = ray.get(handed)
    return found


def run_in_worker(config: dict[str, Any], handed: list[ray.ObjectRef]) -> None:
    """One Tune trial, in its worker: reports how far it is and, at the end, the row that it published."""
    given = _fetched(handed[0])
    trial, store = given.trials[config["trial_id"]], Store(given.store_uri)
    _wait_for(store)
    stages = [trial.dense.dense_id] + ([trial.score.pass_id] if trial.score.data != "none" else [])
    with Beat(store, trial.trial_id, given.launch, stages) as beat:
        row = given.work(given, trial, store, beat)
    tune.report({"stage": "done" if row else "interrupted", "row": {name: row.get(name) for name in SHOWN}})


def _wait_for(store: Store) -> None:
    """Give a store that is away for a while time to come back: a retry at once would be in vain. Raises OSError."""
    for seconds in (*WAITS_SECONDS, None):
        try:
            return store.probe()
        except ValueError as error:
            if seconds is None:
                raise OSError(str(error)) from None
            time.sleep(seconds)


def run_pipeline(handed: Launch, trial: TrialSpec, store: Store, beat: Beat) -> Mapping[str, Any]:
    """The real work of a trial; an empty row when it was asked to stop and has saved."""
    from deepcuts.training.checkpoint import Interrupted
    from deepcuts.trial.context import Context
    from deepcuts.trial.trial import run_trial

    told: dict[str, Any] = {"stage": "", "at": 0.0}

    def on_progress(stage: str, epoch: int, step: int) -> None:
        beat.tell(stage, epoch, step)
        told["step"] = step
        if stage != told["stage"] or time.monotonic() - told["at"] > REPORT_SECONDS:
            told.update(stage=stage, at=time.monotonic())
            tune.report({"stage": stage, "epoch": epoch, "step": step})

    def on_metrics(stage: str, epoch: int, values: Mapping[str, Mapping[str, float]]) -> None:
        named = {f"{stage}/{split}/{name}": value for split, of in values.items() for name, value in of.items()}
        tune.report({"stage": stage, "epoch": epoch, "step": told.get("step", 0), **named})

    context = Context(
        store,
        handed.threads,
        checkpoint_minutes=handed.checkpoint_minutes,
        snapshots=handed.shared.snapshots(trial),
        partners=handed.shared.partners(trial),
        on_progress=on_progress,
        on_metrics=on_metrics,
        stop=beat.stopping,
    )
    try:
        return run_trial(trial, handed.sweep, context, handed.keep_models)
    except Interrupted:
        return {}
