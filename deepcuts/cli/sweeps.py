"""The verb that runs one trial in this process, without Ray: for debugging. Returns the exit code."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from deepcuts.cli.printing import DONE, INCOMPLETE, print_records
from deepcuts.experiment.grid import describe
from deepcuts.experiment.spec import TrialSpec
from deepcuts.experiment.sweepfile import SweepFile, read_sweep_file
from deepcuts.names import find_id
from deepcuts.store.store import Store
from deepcuts.sweep.plan import partners, snapshots
from deepcuts.sweep.prepare import choose_gpus, local_gpus, prepare_sweep


def run_one(args: argparse.Namespace) -> int:
    """One trial in this process, without Ray."""
    source = Path(args.source)
    if source.suffix in (".yaml", ".yml"):
        file = read_sweep_file(source, args.set)
        gpus = choose_gpus(file.resources.gpus, local_gpus())
        trials: Sequence[TrialSpec] = prepare_sweep(file, "cuda" if gpus else "cpu").spec.trials()
        store, name = Store(args.store), file.name
    else:
        store = Store(args.source)
        file, name, trials = None, "run-one", _recorded(store)
    by_id = {trial.trial_id: trial for trial in trials}
    trial = by_id[find_id(args.trial, by_id)]
    if trial.dense.device == "cuda" and not local_gpus():
        raise ValueError(f"trial {trial.trial_id} is of a sweep on GPUs, and there is no usable GPU here")
    store.probe()
    return _run_here(trial, trials, store, name, file)


def _recorded(store: Store) -> list[TrialSpec]:
    trials = []
    for row in store.read("trials", ["spec"]).table.to_pylist():
        with suppress(ValueError):  # a row that another version wrote
            trials.append(TrialSpec.model_validate_json(row["spec"] or ""))
    return trials


def _run_here(trial: TrialSpec, trials: Sequence[TrialSpec], store: Store, name: str, file: SweepFile | None) -> int:
    from deepcuts.trial.context import Context
    from deepcuts.trial.trial import run_trial

    told: dict[str, tuple[int, float]] = {}

    def on_progress(stage: str, epoch: int, step: int) -> None:
        last = told.get(stage, (-1, 0.0))
        if epoch != last[0] or time.monotonic() - last[1] > 10:
            told[stage] = epoch, time.monotonic()
            print(f"  {stage}: epoch {epoch}, step {step}", flush=True)

    print(f"{trial.trial_id}: {describe(trial)}", flush=True)
    threads = (file.resources.cpus if file else None) or min(4, os.cpu_count() or 1)
    bench = Context(
        store,
        threads,
        checkpoint_minutes=file.checkpoint_minutes if file else 5.0,
        snapshots=snapshots(trial, trials),
        partners=partners(trial, trials),
        on_progress=on_progress,
    )
    row = run_trial(trial, name, bench, keep_model=bool(file and file.keep_models))
    if row["status"] != "completed":
        print(row["traceback"], file=sys.stderr)
        return INCOMPLETE
    shown = ("metric", "dense", "pruned", "rewound", "retrained", "sparsity", "compression_achieved", "total_seconds")
    print_records([{key: row.get(key) for key in shown}])
    return DONE
