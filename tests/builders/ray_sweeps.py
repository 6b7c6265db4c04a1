"""Sweeps launched on the Ray that the test has started."""

from __future__ import annotations

import sys
from typing import Any

import ray
from builders.toy_sweeps import toy_sweep
from rich.console import Console

from deepcuts.experiment.grid import SweepSpec
from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.store import Store
from deepcuts.sweep.pace import Pace
from deepcuts.sweep.plan import make_plan
from deepcuts.sweep.progress import Progress
from deepcuts.sweep.tune import Outcome, run_plan
from deepcuts.sweep.worker import RunTrial, make_launch

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import the tests


def one_strategy(**changes: Any) -> SweepSpec:
    """Dense and one strategy, for each seed."""
    return toy_sweep(**{"strategies": ["LayerMagWeight"], **changes})


def launch(
    spec: SweepSpec, store: Store, work: RunTrial, gpus: float = 0, retry_failed: bool = False, **options: Any
) -> Outcome:
    """Run what the store lacks of a sweep, with `work` in place of the pipeline."""
    plan = make_plan(spec.trials(), store, retry_failed)
    given = make_launch(plan, spec.file, store, 1, work)
    progress = Progress(Console(quiet=True), len(plan.wanted), len(plan.done), Pace(plan.to_run, {}))
    with progress:
        return run_plan(plan, given, store, progress, gpus=gpus, **options)


def write_row(store: Store, trial: TrialSpec, **columns: Any) -> dict[str, Any]:
    """Write the row of a completed trial that trained nothing, and return it."""
    row = {"trial_id": trial.trial_id, "status": "completed", "strategy": trial.strategy, "metric": "accuracy"}
    row |= {"dense": 1.0, "total_seconds": 0.0} | columns
    store.write("trials", trial.trial_id, [row])
    return row
