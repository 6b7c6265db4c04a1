"""The verbs that plan and launch a sweep or a trial. Each returns the exit code."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from deepcuts.cli.printing import DONE, INCOMPLETE, for_people, print_json, print_records
from deepcuts.experiment.grid import SweepSpec, describe
from deepcuts.experiment.spec import TrialSpec
from deepcuts.experiment.sweepfile import SweepFile, read_sweep_file
from deepcuts.store.store import Store
from deepcuts.sweep.cost import Cost, check_disk, estimate, local_slots, recommended
from deepcuts.sweep.plan import Plan, make_plan, only_those
from deepcuts.sweep.prepare import Prepared, check_cpus, choose_gpus, local_gpus, prepare_sweep
from deepcuts.sweep.progress import Progress
from deepcuts.wording import duration, size_text


@dataclass(frozen=True)
class Ready:
    """A sweep that passed every check which can be made before anything is written."""

    prepared: Prepared
    store: Store
    todo: Plan
    gpus: float
    cost: Cost

    @property
    def file(self) -> SweepFile:
        return self.prepared.spec.file


def _ready(args: argparse.Namespace) -> Ready:
    """Check all that `run` and `plan` need; nothing is written. Raises ValueError for the first thing wrong."""
    file = read_sweep_file(Path(args.sweep), args.set)
    store = Store(args.store)
    available: float = local_gpus()
    if args.address:
        from deepcuts.sweep.cluster import gpus_of_cluster, start_ray

        start_ray(args.address)
        available = gpus_of_cluster()
    else:
        check_cpus(file.resources.cpus)
    gpus = choose_gpus(file.resources.gpus, available)
    prepared = prepare_sweep(file, "cuda" if gpus else "cpu")
    wanted = only_those(prepared.spec.trials(), args.only)
    todo = make_plan(wanted, store, args.retry_failed, file.keep_models)
    _say_repeated(prepared.spec)
    cost = _cost(todo, prepared, store, gpus, available)
    check_disk(store, cost)
    store.check_writable()
    return Ready(prepared, store, todo, gpus, cost)


def run(args: argparse.Namespace) -> int:
    """Run what is missing of a sweep."""
    if args.dry_run:
        return plan(args)
    if args.json:
        raise ValueError("--json prints a plan: give --dry-run with it, or `deepcuts table STORE --json` after the run")
    ready = _ready(args)
    cpus = _start(args, ready) if ready.todo.to_run else 0  # Ray may refuse too, and nothing is written by then
    ready.store.probe()
    _write_sweep(ready.store, ready.prepared.spec)
    if not ready.todo.to_run:
        return _summary(ready.store, ready.prepared.spec, ready.todo.wanted, None)
    return _launch(args, ready, cpus)


def _start(args: argparse.Namespace, ready: Ready) -> int:
    """Start Ray where it is to run here; the CPU cores of a trial. Raises ValueError where no node has them."""
    from deepcuts.sweep.cluster import check_nodes, choose_cpus, start_ray

    if not args.address:
        start_ray(None)
    cpus = choose_cpus(ready.file.resources.cpus, ready.gpus)
    check_nodes(ready.store, ready.store.address)
    return cpus


def _launch(args: argparse.Namespace, ready: Ready, cpus: int) -> int:
    from deepcuts.sweep.trackers import tracker_callbacks
    from deepcuts.sweep.tune import run_plan
    from deepcuts.sweep.worker import make_launch, run_pipeline

    file, todo, store, gpus = ready.file, ready.todo, ready.store, ready.gpus
    handed = make_launch(todo, file, store, cpus, run_pipeline)
    limit = file.resources.max_concurrent
    print(f"sweep {file.name}: {_counts(todo)}; {cpus} cpus and {gpus:g} gpus a trial", flush=True)
    done = len(todo.done) - len(todo.again)
    progress = Progress(Console(soft_wrap=True), done + len(todo.to_run), done)
    deadline = time.monotonic() + args.max_hours * 3600 if args.max_hours else None
    tracking = tracker_callbacks(file.trackers, file.name, store, progress.console.print) if file.trackers else []
    with progress:
        outcome = run_plan(
            todo,
            handed,
            store,
            progress,
            gpus=gpus,
            max_concurrent=limit,
            max_failures=file.resources.max_failures,
            deadline=deadline,
            callbacks=tracking,
        )
    for error in outcome.errors:
        print(f"deepcuts: {error}", file=sys.stderr)
    return _summary(store, ready.prepared.spec, todo.wanted, outcome.signal)


def _summary(store: Store, spec: SweepSpec, wanted: Sequence[TrialSpec], signal: int | None) -> int:
    """Say what there is now and how to go on; 0 when every wanted trial is completed."""
    from deepcuts.analysis.curves import table
    from deepcuts.analysis.frames import trials

    statuses = store.statuses()
    completed = [trial for trial in wanted if statuses.get(trial.trial_id) == "completed"]
    failed = [trial for trial in wanted if statuses.get(trial.trial_id) == "trial"]
    left = len(wanted) - len(completed) - len(failed)
    if completed:
        ids = {trial.trial_id for trial in completed}
        frame = trials(store)
        print_records(for_people(table(frame[frame.trial_id.isin(ids)])))
    print(f"\n{len(completed)} of {len(wanted)} trials completed, {len(failed)} failed, {left} left; store {store.uri}")
    for trial in failed[:10]:
        print(f"  failed: {describe(trial)}: deepcuts show {store.uri} {trial.trial_id}")
    if signal is not None:
        print("stopped early; what was under way is saved: run the same command again to go on")
        return 128 + signal
    if left:
        print("run the same command again to go on with what is left")
    if failed:
        print("run the same command with --retry-failed to try the failed ones again")
    if not left and not failed:
        print(f"next: deepcuts curves {store.uri}   deepcuts iou {store.uri}   deepcuts table {store.uri}")
    return DONE if len(completed) == len(wanted) else INCOMPLETE


def _write_sweep(store: Store, spec: SweepSpec) -> None:
    """What is wanted, and the sweep as it was resolved, beside each other."""
    import yaml

    whole = ("Dense", "Unpruned")
    rows = [
        {
            "sweep": spec.name,
            "trial_id": trial.trial_id,
            "dataset": trial.dense.dataset,
            "strategy": trial.strategy,
            "compression": 1.0 if trial.strategy in whole else trial.compression,
            "sparsity_asked": 0.0 if trial.strategy in whole else trial.sparsity,
            "seed": trial.dense.seed,
        }
        for trial in spec.trials()
    ]
    store.write("sweeps", spec.name, rows)
    text = yaml.safe_dump(spec.file.resolved(), sort_keys=False, allow_unicode=True)
    store.write_bytes(f"sweeps/{spec.name}.yaml", text.encode())


def _say_repeated(spec: SweepSpec) -> None:
    for name in spec.repeated():
        print(f"deepcuts: asked for more than once, run once: {name}", file=sys.stderr)


def _counts(todo: Plan) -> str:
    text = f"{len(todo.to_run)} of {len(todo.wanted)} trials to run, {len(todo.done)} done"
    if skipped := {trial.trial_id for trial in todo.failed} - {trial.trial_id for trial in todo.to_run}:
        text += f", {len(skipped)} failed before (--retry-failed runs them again)"
    return text


def _cost(todo: Plan, prepared: Prepared, store: Store, gpus: float, available: float) -> Cost:
    file = prepared.spec.file
    cpus = file.resources.cpus or min(4, os.cpu_count() or 1)
    slots = min(file.resources.max_concurrent or 10**6, local_slots(cpus, gpus, available))
    return estimate(
        todo,
        prepared.counts,
        prepared.examples,
        store,
        gpus=gpus,
        cpus=cpus,
        slots=slots,
        keep_models=file.keep_models,
    )


def plan(args: argparse.Namespace) -> int:
    """Say what `run` would do."""
    ready = _ready(args)
    file, todo, prepared, cost = ready.file, ready.todo, ready.prepared, ready.cost
    if args.json:
        print_json(_planned(todo))
        return DONE
    print(f"sweep {file.name}, model {file.model}, store {ready.store.uri}")
    print(f"  {_counts(todo)}")
    for dataset, counts in prepared.counts.items():
        ceiling = counts.parameters / (counts.parameters - counts.prunable)
        print(
            f"  {dataset}: {', '.join(f'{n:,} {split}' for split, n in prepared.examples[dataset].items())};"
            f" {counts.prunable:,} of {counts.parameters:,} parameters prunable, largest compression {ceiling:.4f}"
        )
    passes = ", ".join(f"{count} {kind}" for kind, count in sorted(todo.passes().items())) or "none"
    print(f"  shared work still to do: {len(todo.fine_tunes())} fine-tunings; scoring passes: {passes}")
    print(
        f"  about {duration(cost.wall_seconds)} ({cost.gpu_hours:.1f} GPU-hours) on this machine, {cost.basis};"
        f" {size_text(cost.bytes)} of disk"
    )
    if (share := recommended(todo, ready.store)) is not None:
        print(f"  {share}")
    print_records(_planned(todo))
    return DONE


def _planned(todo: Plan) -> list[dict[str, Any]]:
    running = {trial.trial_id for trial in todo.to_run}
    rows = []
    for trial in todo.wanted:
        status = todo.statuses.get(trial.trial_id)
        before = {"completed": "done", "trial": "failed before", "infrastructure": "to run (interrupted before)"}
        state = before.get(status or "", "to run")
        if trial.trial_id in running and status in ("completed", "trial"):
            state = "to run again"
        rows.append(
            {
                "trial_id": trial.trial_id,
                "dataset": trial.dense.dataset,
                "strategy": trial.strategy,
                "compression": trial.compression,
                "sparsity": trial.sparsity,
                "seed": trial.dense.seed,
                "state": state,
            }
        )
    return rows
