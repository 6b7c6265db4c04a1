"""Runs one trial in this process, without Ray: for a notebook, for debugging, and where there is no Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deepcuts.experiment.grid import describe
from deepcuts.experiment.sharing import shared
from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.networks import find_network
from deepcuts.store.store import Store
from deepcuts.store.tables import Row
from deepcuts.sweep.machines import MOST_CPUS, local_gpus, usable_cpus, wait_passively


def run_trial(
    trial: TrialSpec,
    store: Store,
    *,
    wanted: Sequence[TrialSpec] = (),
    sweep: str | None = None,
    arm: str | None = None,
    threads: int | None = None,
    keep_model: bool = False,
    checkpoint_minutes: float = 5.0,
    capture: bool = False,
    on_progress: Callable[[str, int, int], None] = lambda stage, epoch, step: None,
) -> Row:
    """Run one trial in this process, without Ray, and return its row of the table `trials`.

    What it shares with the `wanted` trials (a scoring pass, the steps to rewind to) is made for all of them at once.
    `sweep` and `arm` are the names that its row gets (default: those of the row it replaces, else "run-one" and the
    strategy), `threads` the CPU threads (default: up to 4), and `on_progress` hears the stage, epoch and step.
    `capture` lets a GPU record its training steps and replay them, with the same bits. A trial that fails leaves a row
    with `status` failed, its `error` and `traceback`.

    Raises ValueError where the trial is for a GPU and there is none, the store cannot be written, or lacks the trial
    that this one builds on; OSError where the store fails on the way.

    >>> row = dc.run_trial(sweep.trials()[1], store)
    >>> row["metric"], row["retrained"]
    """
    wait_passively()
    from deepcuts.trial.context import Context
    from deepcuts.trial.trial import run_stages

    if trial.dense.device == "cuda" and not local_gpus():
        raise ValueError(f"trial {trial.trial_id} is of a sweep on GPUs, and there is no usable GPU here")
    store.probe()
    _check_source(trial, store)
    together = shared([trial, *wanted])
    context = Context(
        store,
        threads or min(MOST_CPUS, usable_cpus()),
        checkpoint_minutes=checkpoint_minutes,
        capture=capture,
        snapshots=together.snapshots(trial),
        partners=together.partners(trial),
        keep_network=trial.trial_id in together.networks,
        teaches=together.teaches(trial),
        on_progress=on_progress,
    )
    before = _names_of(trial, store)
    return run_stages(trial, sweep or before["sweep"] or "run-one", context, keep_model, arm or before["arm"])


def _check_source(trial: TrialSpec, store: Store) -> None:
    """Raise ValueError where the round before, or the source of the mask, has not left what the trial builds on."""
    source = trial.builds_on
    if source is None:
        return
    status = store.statuses().get(source.trial_id, "not run")
    what = "the round before" if trial.previous else "the source of its mask"
    if status != "completed":
        raise ValueError(
            f"trial {trial.trial_id} builds on {source.trial_id}, {what} ({describe(source)}), which is {status} in"
            f" {store.uri!r}; run that one first"
        )
    if trial.previous and find_network(store, source.trial_id) is None:
        raise ValueError(
            f"trial {trial.trial_id} prunes the retrained network of {source.trial_id}, {what} ({describe(source)}),"
            f" which {store.uri!r} does not have any more; run that one again first"
        )


def _names_of(trial: TrialSpec, store: Store) -> Row:
    """Return the sweep and the arm that a trial's row in the store names; None where there is no row."""
    rows = store.read("trials", ["trial_id", "sweep", "arm"]).table.to_pylist()
    return next((row for row in rows if row["trial_id"] == trial.trial_id), {"sweep": None, "arm": None})
