"""Runs one trial in this process, without Ray: for a notebook, for debugging, and where there is no Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from deepcuts.experiment.grid import describe
from deepcuts.experiment.own_criteria import CriteriaFile, read_criteria
from deepcuts.experiment.sharing import shared
from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.code import keep_code, kept_code
from deepcuts.store.networks import find_network
from deepcuts.store.store import Store
from deepcuts.store.tables import Row
from deepcuts.sweep.machines import MOST_CPUS, local_gpus, usable_cpus, wait_passively
from deepcuts.sweep.preflight import check_criteria


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
    criteria: Sequence[str | Path | CriteriaFile] = (),
    on_progress: Callable[[str, int, int], None] = lambda stage, epoch, step: None,
) -> Row:
    """Run one trial in this process, without Ray, and return its row of the table `trials`.

    What it shares with the `wanted` trials (a scoring pass, the steps to rewind to) is made for all of them at once.
    `sweep` and `arm` are the names that its row gets (default: those of the row it replaces, else "run-one" and the
    strategy), `threads` the CPU threads (default: up to 4), and `on_progress` hears the stage, epoch and step.
    `capture` lets a GPU record its training steps and replay them, with the same bits. `criteria` are your files of
    criteria (`sweep.file.criteria`). A trial that fails leaves a row with `status` failed, `error` and `traceback`.

    Raises ValueError where the trial is for a GPU and there is none, its criterion is in none of the files or breaks a
    law, the store cannot be written, or lacks the trial that this one builds on; OSError where the store fails on the
    way.

    >>> row = dc.run_trial(sweep.trials()[1], store)
    >>> row["metric"], row["retrained"]
    """
    wait_passively()
    from deepcuts.trial.context import Context
    from deepcuts.trial.trial import run_stages

    if trial.dense.device == "cuda" and not local_gpus():
        raise ValueError(f"trial {trial.trial_id} is of a sweep on GPUs, and there is no usable GPU here")
    files = criteria_files(trial, criteria, store)
    _keep_texts(files, store)
    _check_source(trial, store)
    context = Context(
        store,
        threads or min(MOST_CPUS, usable_cpus()),
        checkpoint_minutes=checkpoint_minutes,
        capture=capture,
        **shared([trial, *wanted]).of_stages(trial),
        criteria=files,
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


def criteria_files(
    trial: TrialSpec, criteria: Sequence[str | Path | CriteriaFile], store: Store
) -> tuple[CriteriaFile, ...]:
    """Read the files of criteria, and check what the trial needs of them.

    The text that the store has is never run: whoever may write the store could have put anything there. Raises
    ValueError where the file of the trial's criterion is not given or breaks a law.
    """
    files, own = tuple(read_criteria(each) for each in criteria), trial.score.own
    if own is not None:
        mine = [file for file in files if file.digest == own.digest]
        if not mine:
            given = "; ".join(f"{file.path!r} has {file.digest}" for file in files) or "no file was given"
            there = kept_code(store, own.digest) is not None
            kept = f"; the store keeps its text, to read, as sweeps/{own.digest}.py" if there else ""
            raise ValueError(
                f"trial {trial.trial_id} scores by {trial.score.criterion!r} of your own file {own.file!r} with digest"
                f" {own.digest}, and {given}: give the file as it was then, with --criteria or criteria=[...]{kept}"
            )
        check_criteria(mine, trial.score.prune_biases)
    return files


def _keep_texts(files: Sequence[CriteriaFile], store: Store) -> None:
    """Keep the texts of files of criteria in the store. Raises ValueError where it cannot be written."""
    store.probe()
    for file in files:
        keep_code(store, file.text)


def _names_of(trial: TrialSpec, store: Store) -> Row:
    """Return the sweep and the arm that a trial's row in the store names; None where there is no row."""
    rows = store.read("trials", ["trial_id", "sweep", "arm"]).table.to_pylist()
    return next((row for row in rows if row["trial_id"] == trial.trial_id), {"sweep": None, "arm": None})
