"""Runs trials in the workers of a sweep, and reports how far they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import ray
from ray import tune

from deepcuts.experiment.own_criteria import CriteriaFile
from deepcuts.experiment.sharing import Shared, shared
from deepcuts.experiment.spec import TrialSpec
from deepcuts.experiment.sweepfile import SweepFile
from deepcuts.store.live import Beat, new_launch_id
from deepcuts.store.store import Store
from deepcuts.sweep.machines import wait_passively
from deepcuts.sweep.pace import place_of
from deepcuts.sweep.plan import Plan
from deepcuts.wording import STAGES

REPORT_SECONDS = 1.0
SHOWN = ("status", "metric", *STAGES, "sparsity", "total_seconds", "error", "error_stage")
WAITS_SECONDS = (1, 2, 4, 8, 16, 30)

# Does the work of a trial and returns the row that it published, or an empty one once it was asked to stop and has
# saved. The beat tells the store how far the trial is, and the trial when to stop.
RunTrial = Callable[["Launch", TrialSpec, Store, Beat], Mapping[str, Any]]


@dataclass(frozen=True)
class Launch:
    """What every worker gets once: the trials to run by id, all that the sweep wants, and how to run them."""

    trials: Mapping[str, TrialSpec]
    wanted: Sequence[TrialSpec]
    sweep: str
    store_uri: str
    launch_id: str
    threads: int
    keep_models: bool
    checkpoint_minutes: float
    capture: bool
    work: RunTrial
    examples: Mapping[str, int] = field(default_factory=dict)  # of the training splits, by dataset
    criteria: Sequence[CriteriaFile] = ()
    labels: Mapping[str, str] = field(default_factory=dict)  # of the arms, by trial

    @cached_property
    def shared(self) -> Shared:
        return shared(self.wanted)


def make_launch(
    plan: Plan,
    file: SweepFile,
    store: Store,
    threads: int,
    work: RunTrial,
    examples: Mapping[str, int] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Launch:
    """Put together what the workers need to run the plan."""
    return Launch(
        trials={trial.trial_id: trial for trial in plan.to_run},
        wanted=plan.wanted,
        sweep=file.name,
        store_uri=store.address,
        launch_id=new_launch_id(),
        threads=threads,
        keep_models=file.keep_models,
        checkpoint_minutes=file.checkpoint_minutes,
        capture=file.capture,
        work=work,
        examples=examples or {},
        criteria=file.criteria,
        labels=labels or {},
    )


@lru_cache(maxsize=1)
def _fetched(launch: ray.ObjectRef) -> Launch:
    """Fetch and unpack the launch once in a worker's life.

    Unpacked for each trial, it would take time that grows with the square of the number of trials.
    """
    found: Launch = ray.get(launch)
    return found


def run_in_worker(config: dict[str, Any], reference: list[ray.ObjectRef]) -> None:
    """Run one Tune trial in its worker; report how far it is and, at the end, the row that it published.

    The reference to the launch comes in a list, for Ray unpacks references that are arguments themselves.
    """
    launch = _fetched(reference[0])
    trial, store = launch.trials[config["trial_id"]], Store(launch.store_uri)
    _wait_for(store)
    stages = [trial.dense.dense_id, *dict.fromkeys(score.pass_id for score in trial.passes)]
    with Beat(store, trial.trial_id, launch.launch_id, stages) as beat:
        row = launch.work(launch, trial, store, beat)
    tune.report({"stage": "done" if row else "interrupted", "row": {name: row.get(name) for name in SHOWN}})


def _wait_for(store: Store) -> None:
    """Wait for an unreachable store to come back: a retry at once would fail again. Raises OSError if it does not."""
    for seconds in (*WAITS_SECONDS, None):
        try:
            return store.probe()
        except ValueError as error:
            if seconds is None:
                raise OSError(str(error)) from None
            time.sleep(seconds)


def run_pipeline(launch: Launch, trial: TrialSpec, store: Store, beat: Beat) -> Mapping[str, Any]:
    """Run a trial in full. Returns its row, or an empty one once it was asked to stop and has saved."""
    wait_passively()
    from deepcuts.training.checkpoint import Interrupted
    from deepcuts.trial.context import Context
    from deepcuts.trial.trial import run_stages

    told: dict[str, Any] = {"stage": "", "at": 0.0}

    def on_progress(stage: str, epoch: int, step: int) -> None:
        new = stage != told["stage"]
        if new:
            told["loss"] = None
        loss = told["loss"]
        beat.tell(place_of(trial, launch.examples, stage, epoch, step, loss))
        told["step"] = step
        if new or time.monotonic() - told["at"] > REPORT_SECONDS:
            told.update(stage=stage, at=time.monotonic())
            tune.report({"stage": stage, "epoch": epoch, "step": step} | ({} if loss is None else {"loss": loss}))

    def on_metrics(stage: str, epoch: int, values: Mapping[str, Mapping[str, float]]) -> None:
        named = {f"{stage}/{split}/{name}": value for split, of in values.items() for name, value in of.items()}
        tune.report({"stage": stage, "epoch": epoch, "step": told.get("step", 0), **named})

    def on_loss(loss: float) -> None:
        told["loss"] = loss

    context = Context(
        store,
        launch.threads,
        checkpoint_minutes=launch.checkpoint_minutes,
        capture=launch.capture,
        **launch.shared.of_stages(trial),
        criteria=launch.criteria,
        on_progress=on_progress,
        on_metrics=on_metrics,
        on_loss=on_loss,
        stop=beat.stopping,
    )
    try:
        return run_stages(trial, launch.sweep, context, launch.keep_models, launch.labels.get(trial.trial_id))
    except Interrupted:
        return {}
