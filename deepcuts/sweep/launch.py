"""Reads, plans and runs a sweep: what a notebook and the command line call."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from rich.console import Console

from deepcuts.experiment.chain import is_step
from deepcuts.experiment.grid import SweepSpec
from deepcuts.experiment.reading import parse_sweep, read_sweep_file
from deepcuts.experiment.spec import TrialSpec
from deepcuts.experiment.sweepfile import SweepFile
from deepcuts.names import Selection, nearest
from deepcuts.store.cache import remove_checkpoints
from deepcuts.store.checksums import seal_text
from deepcuts.store.code import keep_code
from deepcuts.store.compact import compact_many
from deepcuts.store.store import Store
from deepcuts.sweep.cost import Cost, check_disk, estimate
from deepcuts.sweep.devices import ELSEWHERE
from deepcuts.sweep.launched import Launched, launched
from deepcuts.sweep.machines import (
    MOST_CPUS,
    Machines,
    check_cpus,
    choose_gpus,
    local_gpus,
    ray_address,
    resources_text,
    this_machine,
)
from deepcuts.sweep.pace import Pace
from deepcuts.sweep.plan import Plan, make_plan, no_longer_wanted, only_those
from deepcuts.sweep.planned import SweepPlan
from deepcuts.sweep.preflight import check_trials
from deepcuts.sweep.prepare import Prepared, prepare_sweep
from deepcuts.sweep.progress import Progress


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read and checked. What its names mean (model, data, device) is looked up by `prepared`."""

    file: SweepFile

    @property
    def name(self) -> str:
        return self.file.name

    def prepared(self, device: Literal["cpu", "cuda"]) -> Prepared:
        """The sweep with its model and data found. Raises ValueError for the first thing that could not run."""
        return prepare_sweep(self.file, device)

    def trials(self) -> list[TrialSpec]:
        """Every trial that the sweep wants, as this machine would run it: Dense first, then each arm.

        Raises ValueError for the first thing that could not run: a model or data that is not there, a GPU asked for
        where there is none.
        """
        return self.here().trials()

    def here(self) -> SweepSpec:
        """The sweep as this machine would run it: `trials()`, and `labels` of their arms. Raises as `trials` does."""
        gpus = choose_gpus(self.file.resources.gpus, local_gpus())
        return self.prepared("cuda" if gpus else "cpu").spec


def read_sweep(source: str | Path | Mapping[str, Any], changes: Sequence[str] = (), **keys: Any) -> Sweep:
    """Read a sweep from a YAML file, or from a dict of the same keys.

    `keys` replace keys of the file (`seeds=[0, 1, 2]`; a dict changes what it names: `retrain={"epochs": 3}`), and
    `changes` do so as the command line's `--set` (`["retrain.epochs=3"]`). Raises ValueError for everything that is
    wrong in it, with the line and the nearest known key. Files of `criteria` are read now, which runs them.

    >>> sweep = dc.read_sweep("sweeps/quickstart.yaml", seeds=[0, 1, 2])
    >>> print(dc.plan(sweep, store))
    """
    if changes and keys:
        raise ValueError(f"give changes either as keywords or as key=value, not both: {keys!r} and {list(changes)!r}")
    wanted = keys or changes
    return Sweep(parse_sweep(source, wanted) if isinstance(source, Mapping) else read_sweep_file(Path(source), wanted))


def plan(
    sweep: Sweep,
    store: Store,
    *,
    only: Selection | None = None,
    retry_failed: bool = False,
    address: str | None = None,
    on: str | None = None,
) -> SweepPlan:
    """Say what `run` would do with the same arguments. Nothing is written or launched.

    `on` plans for a machine that is not here, of four CPU cores (`cpu`) or one GPU (`gpu`, or a kind of it as in
    `a100`). Neither the cores and GPUs nor the disk of this one are checked then.

    Raises ValueError for the first thing that could not run: a model, dataset or folder that is not there, more
    resources than there are, a compression beyond the model's ceiling, a disk that is too small, a model that fails on
    two texts. Weights that are still on the Hub are not downloaded for it, so they are not checked.

    >>> print(dc.plan(sweep, store, only={"seed": "0"}))
    """
    if on is None:
        with _cluster(address) as cluster:
            return _plan(sweep, store, only or {}, retry_failed, cluster, download=False)
    if address:
        raise ValueError(f"give either address {address!r}, a cluster to plan for, or on {on!r}, another machine")
    if on not in ELSEWHERE:
        raise ValueError(f"on: unknown machine {on!r}{nearest(on, ELSEWHERE) or ';'} known: {', '.join(ELSEWHERE)}")
    gpus = 0.0 if on == "cpu" else sweep.file.resources.gpus or 1.0
    name = f"one {on.upper()} that is not here" if gpus else f"{MOST_CPUS} CPU cores that are not here"
    there = Machines(name, ({"CPU": 1024 if gpus else MOST_CPUS, "GPU": math.ceil(gpus)},))
    prepared, todo = _todo(sweep, store, only or {}, retry_failed, gpus)
    cost = _cost(todo, prepared, store, gpus, there, on)
    return SweepPlan(prepared, store, todo, gpus, cost, there, check_trials(todo.to_run, False, sweep.file.criteria))


def _plan(
    sweep: Sweep, store: Store, only: Selection, retry_failed: bool, cluster: str | None, *, download: bool
) -> SweepPlan:
    file = sweep.file
    machines = this_machine()
    if cluster or _has_ray():
        from deepcuts.sweep.cluster import machines_of_cluster

        machines = machines_of_cluster(cluster)
    else:
        check_cpus(file.resources.cpus)
    gpus = choose_gpus(file.resources.gpus, machines.gpus)
    prepared, todo = _todo(sweep, store, only, retry_failed, gpus)
    cost = _cost(todo, prepared, store, gpus, machines, "gpu")
    check_disk(store, cost)
    store.check_writable()
    forgotten = no_longer_wanted(prepared.spec.name, prepared.spec.trials(), store)
    facts = (*check_trials(todo.to_run, download, file.criteria), *forgotten)
    return SweepPlan(prepared, store, todo, gpus, cost, machines, facts)


def _todo(sweep: Sweep, store: Store, only: Selection, retry_failed: bool, gpus: float) -> tuple[Prepared, Plan]:
    prepared = sweep.prepared("cuda" if gpus else "cpu")
    trials = only_those(prepared.spec.trials(), only, prepared.spec.labels)
    return prepared, make_plan(trials, store, retry_failed, sweep.file.keep_models)


def _cost(todo: Plan, prepared: Prepared, store: Store, gpus: float, machines: Machines, on: str) -> Cost:
    file = prepared.spec.file
    cpus = file.resources.cpus or min(MOST_CPUS, machines.cpus)
    slots = min(file.resources.max_concurrent or 10**6, machines.slots(cpus, gpus))
    return estimate(
        todo,
        prepared.counts,
        prepared.texts,
        store,
        gpus=gpus,
        cpus=cpus,
        slots=slots,
        keep_models=file.keep_models,
        on=on,
    )


def run(
    sweep: Sweep,
    store: Store,
    *,
    only: Selection | None = None,
    retry_failed: bool = False,
    address: str | None = None,
    max_hours: float | None = None,
    on_plan: Callable[[SweepPlan], None] = lambda planned: None,
) -> Launched:
    """Run what is missing of a sweep on Ray, with live progress. Calling it again resumes where it stopped.

    Works on the command line, in a notebook's cell, in a thread and under asyncio. An interrupt (Ctrl-C, the
    notebook's stop button) lets the running trials save, and ends; so does `max_hours`. `address` is that of a Ray
    cluster (default: RAY_ADDRESS); without one, or with `local`, Ray is started here for as long as it takes, unless
    the process has one already. Raises RayNotStarted where it does not start; a Ray that dies under a sweep takes the
    process with it, with exit code 3.

    `only` picks trials as in `plan`; `retry_failed` runs those again that failed for reasons of their own; `on_plan`
    hears what is planned before anything is written. Raises ValueError, before anything is written, for all that `plan`
    raises it for, and while this process is running another sweep.

    >>> print(dc.run(dc.read_sweep("sweeps/quickstart.yaml"), store))
    """
    if max_hours is not None and not 0 < max_hours < 1e6:
        raise ValueError(f"max_hours {max_hours!r} must be a number of hours above 0")
    with _cluster(address) as cluster:
        planned = _plan(sweep, store, only or {}, retry_failed, cluster, download=True)
        on_plan(planned)
        if not planned.todo.to_run:
            store.probe()
            _write_sweep(store, planned.prepared.spec)
            compact_many(store, print)
            return _tidied(launched(planned))
        with _alone(), nullcontext() if cluster else _ray_at(None, ""):
            cpus = _trial_cpus(planned)  # Ray may refuse too, and nothing is written by then
            store.probe()
            _write_sweep(store, planned.prepared.spec)
            return _tidied(_launch(planned, cpus, max_hours))


def _tidied(result: Launched) -> Launched:
    with suppress(OSError):  # which costs disk alone, and the next launch tries again
        remove_checkpoints(result.plan.store, {trial.trial_id for trial in result.completed})
    return result


_RUNNING = Lock()


@contextmanager
def _alone() -> Iterator[None]:
    """Let one sweep run at a time in a process: the first to end would stop the Ray of the other."""
    if not _RUNNING.acquire(blocking=False):
        raise ValueError("this process is running a sweep already; wait for it, or run this one in another process")
    try:
        yield
    finally:
        _RUNNING.release()


def _has_ray() -> bool:
    """Whether this process is connected to a Ray already, found without loading it."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


@contextmanager
def _cluster(given: str | None) -> Iterator[str | None]:
    """Connect to a cluster, where --address or RAY_ADDRESS names one, and yield its address.

    A process that is connected to a Ray already uses that one, whatever RAY_ADDRESS says.
    """
    address, source = ray_address(given)
    if address is None or (_has_ray() and not given):
        yield None
        return
    with _ray_at(address, source):
        there = f"auto, at {sys.modules['ray'].get_runtime_context().gcs_address}" if address == "auto" else address
        yield f"{there} ({source})"


def _ray_at(address: str | None, source: str) -> AbstractContextManager[None]:
    """Use a Ray for a while; loading it takes a second, which a plan for this machine does without."""
    from deepcuts.sweep.cluster import use_ray

    return use_ray(address, source)


def _trial_cpus(planned: SweepPlan) -> int:
    """The CPU cores of a trial. Raises ValueError where no node has them, or where a node cannot use the store."""
    from deepcuts.sweep.cluster import check_nodes, choose_cpus

    cpus = choose_cpus(planned.file.resources.cpus, planned.gpus)
    check_nodes(planned.store, planned.store.address)
    return cpus


def _launch(planned: SweepPlan, cpus: int, max_hours: float | None) -> Launched:
    from deepcuts.sweep.trackers import tracker_callbacks
    from deepcuts.sweep.tune import run_plan
    from deepcuts.sweep.worker import make_launch, run_pipeline

    file, todo, store = planned.file, planned.todo, planned.store
    done = len(todo.done) - len(todo.again)
    pace = Pace(todo.to_run, planned.cost.seconds, planned.cost.slots)
    progress = Progress(Console(soft_wrap=True), done + len(todo.to_run), done, pace, planned.labels)
    where = planned.machines.name
    progress.say(f"sweep {file.name}: {planned.counts}; {resources_text(cpus, planned.gpus)} per trial, on {where}")
    for fact in planned.facts:
        progress.say(fact)
    with progress:
        outcome = run_plan(
            todo,
            make_launch(todo, file, store, cpus, run_pipeline, planned.prepared.train_examples, planned.labels),
            store,
            progress,
            gpus=planned.gpus,
            max_concurrent=file.resources.max_concurrent,
            max_failures=file.resources.max_failures,
            deadline=time.monotonic() + max_hours * 3600 if max_hours else None,
            callbacks=tracker_callbacks(file.trackers, file.name, store, progress.say) if file.trackers else [],
        )
        if outcome.signal is None or outcome.late:
            compact_many(store, progress.say)
    return launched(planned, outcome.signal, tuple(outcome.errors), outcome.outside)


def _write_sweep(store: Store, spec: SweepSpec) -> None:
    """Keep what is wanted, the sweep as it was resolved and the files with its own criteria, beside each other."""
    import yaml

    for file in spec.file.criteria:
        keep_code(store, file.text)
    rows = [
        {
            "sweep": spec.name,
            "trial_id": trial.trial_id,
            "dataset": trial.dense.dataset,
            "strategy": trial.strategy,
            **trial.level_columns,
            "seed": trial.dense.seed,
            "step": is_step(trial),
            "builds_on": trial.builds_on and trial.builds_on.trial_id,
            "arm": spec.labels.get(trial.trial_id, trial.strategy),
        }
        for trial in spec.trials()
    ]
    store.write("sweeps", spec.name, rows)
    text = yaml.safe_dump(spec.file.resolved(), sort_keys=False, allow_unicode=True)
    store.write_bytes(f"sweeps/{spec.name}.yaml", seal_text(text))
