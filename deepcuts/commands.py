"""The verbs that launch and look after a sweep. Each returns the exit code."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from deepcuts.cost import Cost, check_disk, estimate, local_slots, size
from deepcuts.grid import SweepSpec, describe
from deepcuts.names import find_id
from deepcuts.output import print_json, print_records
from deepcuts.plan import Plan, chosen, make_plan, partners, snapshots
from deepcuts.preflight import Prepared, choose_gpus, local_gpus, prepare
from deepcuts.progress import Progress, duration
from deepcuts.spec import TrialSpec
from deepcuts.store import Store
from deepcuts.sweepfile import SweepFile, read_sweep

DONE, INCOMPLETE = 0, 1


def default_store() -> str:
    return os.environ.get("DEEPCUTS_STORE") or "results"


def run(args: argparse.Namespace) -> int:
    """Run what is missing of a sweep."""
    if args.dry_run:
        return plan(args)
    file = read_sweep(Path(args.sweep), args.set)
    store = Store(args.store)
    available: float = local_gpus()
    if args.address:
        from deepcuts import sweep

        sweep.start_ray(args.address)
        available = sweep.gpus_of_cluster()
    gpus = choose_gpus(file.resources.gpus, available)
    prepared = prepare(file, "cuda" if gpus else "cpu")
    wanted = chosen(prepared.spec.trials(), args.only)
    todo = make_plan(wanted, store, args.retry_failed, file.keep_models)
    _say_repeated(prepared.spec)
    cost = _cost(todo, prepared, store, gpus, available)
    check_disk(store, cost)
    store.probe()
    _write_sweep(store, prepared.spec)
    if not todo.to_run:
        return _summary(store, prepared.spec, wanted, None)
    return _launch(args, prepared, todo, store, gpus)


def _launch(args: argparse.Namespace, prepared: Prepared, todo: Plan, store: Store, gpus: float) -> int:
    from deepcuts import sweep

    file = prepared.spec.file
    if not args.address:
        sweep.start_ray(None)
    cpus = sweep.choose_cpus(file.resources.cpus, gpus)
    handed = sweep.Handed(
        trials={trial.trial_id: trial for trial in todo.to_run},
        wanted=todo.wanted,
        sweep=file.name,
        store_uri=store.uri if "://" in store.uri else store.root,
        launch=sweep.new_launch(),
        threads=cpus,
        keep_models=file.keep_models,
        checkpoint_minutes=file.checkpoint_minutes,
        work=sweep.pipeline,
    )
    limit = file.resources.max_concurrent
    print(f"sweep {file.name}: {_counts(todo)}; {cpus} cpus and {gpus:g} gpus a trial", flush=True)
    progress = Progress(Console(soft_wrap=True), len(todo.wanted), len(todo.done), limit or 1)
    deadline = time.monotonic() + args.max_hours * 3600 if args.max_hours else None
    with progress:
        outcome = sweep.run_plan(
            todo,
            handed,
            store,
            progress,
            gpus=gpus,
            max_concurrent=limit,
            max_failures=file.resources.max_failures,
            deadline=deadline,
        )
    for error in outcome.errors:
        print(f"deepcuts: {error}", file=sys.stderr)
    return _summary(store, prepared.spec, todo.wanted, outcome.signal)


def _summary(store: Store, spec: SweepSpec, wanted: Sequence[TrialSpec], signal: int | None) -> int:
    """Say what there is now and how to go on; 0 when every wanted trial is completed."""
    from deepcuts.analysis import trials
    from deepcuts.curves import table
    from deepcuts.views import shown

    statuses = store.statuses()
    completed = [trial for trial in wanted if statuses.get(trial.trial_id) == "completed"]
    failed = [trial for trial in wanted if statuses.get(trial.trial_id) == "trial"]
    left = len(wanted) - len(completed) - len(failed)
    if completed:
        ids = {trial.trial_id for trial in completed}
        frame = trials(store)
        print_records(shown(table(frame[frame.trial_id.isin(ids)])))
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
    text = yaml.safe_dump(spec.file.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    store.write_bytes(f"sweeps/{spec.name}.yaml", text.encode())


def _say_repeated(spec: SweepSpec) -> None:
    for name in spec.repeated():
        print(f"deepcuts: asked for more than once, run once: {name}", file=sys.stderr)


def _counts(todo: Plan) -> str:
    text = f"{len(todo.to_run)} of {len(todo.wanted)} trials to run, {len(todo.done)} done"
    if skipped := [trial for trial in todo.failed if trial not in todo.to_run]:
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
    file = read_sweep(Path(args.sweep), args.set)
    store = Store(args.store)
    available = local_gpus()
    gpus = choose_gpus(file.resources.gpus, available)
    prepared = prepare(file, "cuda" if gpus else "cpu")
    todo = make_plan(chosen(prepared.spec.trials(), args.only), store, args.retry_failed, file.keep_models)
    _say_repeated(prepared.spec)
    cost = _cost(todo, prepared, store, gpus, available)
    if args.json:
        print_json(_planned(todo))
        return DONE
    print(f"sweep {file.name}, model {file.model}, store {store.uri}")
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
        f" {size(cost.bytes)} of disk"
    )
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


def run_one(args: argparse.Namespace) -> int:
    """One trial in this process, without Ray."""
    source = Path(args.source)
    if source.suffix in (".yaml", ".yml"):
        file = read_sweep(source, args.set)
        gpus = choose_gpus(file.resources.gpus, local_gpus())
        trials: Sequence[TrialSpec] = prepare(file, "cuda" if gpus else "cpu").spec.trials()
        store, name = Store(args.store), file.name
    else:
        store = Store(args.source)
        file, name, trials = None, "run-one", _recorded(store)
    by_id = {trial.trial_id: trial for trial in trials}
    trial = by_id[find_id(args.trial, by_id)]
    store.probe()
    return _run_here(trial, trials, store, name, file)


def _recorded(store: Store) -> list[TrialSpec]:
    rows = store.read("trials", ["spec"]).table.to_pylist()
    return [TrialSpec.model_validate_json(row["spec"]) for row in rows if row["spec"]]


def _run_here(trial: TrialSpec, trials: Sequence[TrialSpec], store: Store, name: str, file: SweepFile | None) -> int:
    from deepcuts.bench import Bench
    from deepcuts.trial import run_trial

    told: dict[str, tuple[int, float]] = {}

    def on_progress(stage: str, epoch: int, step: int) -> None:
        last = told.get(stage, (-1, 0.0))
        if epoch != last[0] or time.monotonic() - last[1] > 10:
            told[stage] = epoch, time.monotonic()
            print(f"  {stage}: epoch {epoch}, step {step}", flush=True)

    print(f"{trial.trial_id}: {describe(trial)}", flush=True)
    threads = (file.resources.cpus if file else None) or min(4, os.cpu_count() or 1)
    bench = Bench(
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


def status(args: argparse.Namespace) -> int:
    """How far every sweep of a store is."""
    store = Store(args.store_uri)
    if args.watch:
        from deepcuts.watch import watch

        watch(store, Console())
        return DONE
    read = store.read("sweeps", ["sweep", "trial_id"])
    statuses = store.statuses()
    running = {name.removesuffix(".json") for name in store.names("running", ".json")}
    wanted: dict[str, list[str]] = {}
    for row in read.table.to_pylist():
        wanted.setdefault(row["sweep"], []).append(row["trial_id"])
    rows = [_state(sweep, ids, statuses, running) for sweep, ids in sorted(wanted.items())]
    if args.json:
        print_json(rows)
    elif rows:
        print_records(rows)
    else:
        print(f"store {store.uri} holds no sweep yet")
    return INCOMPLETE if say_damaged(store.read("trials", ["trial_id"]).damaged | read.damaged) else DONE


def _state(sweep: str, ids: Sequence[str], statuses: Mapping[str, str], running: set[str]) -> dict[str, Any]:
    states = [statuses.get(key) for key in ids]
    done, failed = states.count("completed"), states.count("trial")
    at_work = sum(key in running and statuses.get(key) != "completed" for key in ids)
    return {
        "sweep": sweep,
        "trials": len(ids),
        "completed": done,
        "failed": failed,
        "running": at_work,
        "left": len(ids) - done - failed,
    }


def say_damaged(damaged: Mapping[str, str]) -> bool:
    """Name the files that could not be read, on stderr; true when there are any."""
    for path, reason in damaged.items():
        print(f"deepcuts: damaged and left out: {path}: {reason}", file=sys.stderr)
    return bool(damaged)


def show(args: argparse.Namespace) -> int:
    """Everything about one trial."""
    store = Store(args.store_uri)
    rows = {row["trial_id"]: row for row in store.read("trials").table.to_pylist()}
    row = rows[find_id(args.trial, rows)]
    if args.json:
        print_json([row])
        return DONE
    width = max(len(name) for name in row)
    for name, value in row.items():
        if value is not None and name != "traceback":
            print(f"{name:<{width}}  {value}")
    if row["traceback"]:
        print(f"\n{row['traceback']}")
    print(f"\nrun it again: deepcuts run-one {args.store_uri} {row['trial_id']}")
    return DONE
