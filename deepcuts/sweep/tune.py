"""Runs a plan on Ray Tune: every launch is a fresh Tuner over what is wanted and not done."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import ActorDiedError, RayError, RaySystemError, RayTaskError, RuntimeEnvSetupError
from ray.tune.progress_reporter import ProgressReporter
from ray.tune.search import Searcher

from deepcuts.experiment.grid import tracker_labels
from deepcuts.store.live import LaunchBeat, Watch, request_stop, withdraw_stop
from deepcuts.store.store import Store
from deepcuts.sweep.launched import OutsideError
from deepcuts.sweep.lifeline import cleaning_up, end_if_ray_died
from deepcuts.sweep.pace import place_of
from deepcuts.sweep.plan import Plan
from deepcuts.sweep.progress import Progress
from deepcuts.sweep.queue import Queue
from deepcuts.sweep.worker import Launch, run_in_worker
from deepcuts.trial.row import failure_columns, identity_columns

LOOK_SECONDS = 5.0
# What the system says of a store that it will not let us write to the next time either.
UNWRITABLE = (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


@dataclass
class Outcome:
    """How a launch ended: the signal that ended it early (None: it ran to its end), and errors that no row could hold.

    A launch that reached its deadline has SIGINT, and is `late`. `outside` has, by trial, the errors that stopped some
    from outside.
    """

    signal: int | None = None
    late: bool = False
    errors: list[str] = field(default_factory=list)
    outside: dict[str, OutsideError] = field(default_factory=dict)


def run_plan(
    plan: Plan,
    launch: Launch,
    store: Store,
    progress: Progress,
    *,
    gpus: float,
    max_concurrent: int | None = None,
    max_failures: int = 3,
    deadline: float | None = None,
    callbacks: Sequence[tune.Callback] = (),
) -> Outcome:
    """Run every trial of the plan; its rows are written to the store. Works in any thread.

    `gpus` is how many GPUs, or what share of one, a trial takes. `deadline` is a time of `time.monotonic()` at which
    the launch ends early, as it does at the first SIGINT or SIGTERM in the main thread: running trials save and end.
    """
    outcome = Outcome()
    if not plan.to_run:
        return outcome
    queue = Queue(plan.to_run, plan.dense_there, plan.scores_there, max_concurrent, plan.again, plan.left_there)
    searcher = _Searcher(queue, Watch(store, launch.launch_id), store, progress, launch.labels)
    listener = _Listener(queue, launch, store, progress, outcome)
    trainable = tune.with_parameters(run_in_worker, reference=[ray.put(launch)])
    folder = tempfile.mkdtemp(prefix="deepcuts-tune-")
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": launch.threads, "gpu": gpus}),
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=len(plan.to_run), reuse_actors=True),
        run_config=tune.RunConfig(
            name=launch.launch_id,
            storage_path=folder,
            verbose=0,
            progress_reporter=_Silent(),
            failure_config=tune.FailureConfig(max_failures=max_failures),
            callbacks=[listener, *callbacks],
        ),
    )
    try:
        with (
            LaunchBeat(store, launch.launch_id, launch.sweep, progress.seconds_left),
            _ending_early(outcome, searcher, store, launch.launch_id, deadline),
            cleaning_up(partial(_clean_up, folder, progress)),
        ):
            tuner.fit()
            if outcome.outside:
                end_if_ray_died()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _clean_up(folder: str, progress: Progress) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    progress.__exit__()


class _Silent(ProgressReporter):
    """Reports nothing, as `Progress` does that. Tune's own reporter for notebooks clears the output of the cell."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        return False


class _Unsaved:
    """Leaves nothing to pickle. Tune pickles its searcher and callbacks again and again, to restore a sweep from them.

    We never restore: a sweep goes on from its store, and what these hold (a console, locks) cannot be pickled.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Searcher(_Unsaved, Searcher):
    """Suggests the next ready trial to Tune, by its id; None while all that is left waits for a stage being made."""

    def __init__(
        self, queue: Queue, watch: Watch, store: Store, progress: Progress, labels: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self.labels = labels or {}
        self.queue, self.watch, self.store, self.progress = queue, watch, store, progress
        self.ids: dict[str, str] = {}
        self.ending = False
        self._looked = 0.0

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.ending:
            return str(Searcher.FINISHED)
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._look()
        trial = self.queue.next()
        if trial is None:
            return None if len(self.queue) else str(Searcher.FINISHED)
        self.ids[trial_id] = trial.trial_id
        return {"trial_id": trial.trial_id, **tracker_labels(trial, self.labels.get(trial.trial_id))}

    def _look(self) -> None:
        """Learn what other launches on the same store are making, and what they have finished."""
        self._looked = time.monotonic()
        try:
            before, busy = set(self.queue.busy), self.watch.busy()
            if before or busy:
                waiting = {trial.trial_id for trial in self.queue.pending}
                self.queue.learn(busy, self.store)
                left = self.queue.pending
                passes = {s.pass_id for t in left for s in t.passes if s.score_id in self.queue.scores_there}
                self.progress.found(self.queue.dense_there | passes, waiting - {trial.trial_id for trial in left})
        except OSError:  # an unreachable store: look again later
            return

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tune has the trial's worker back: what waited for this trial may start there.

        Ready any earlier, it would be given a placement group of its own, which Tune removes as soon as it sees the
        worker; and a group that is removed while it is made keeps its cores and GPUs for ever (Ray's issue 64693).
        """
        ours = self.ids.get(trial_id, "")
        if result and result.get("stage") == "done" and result["row/status"] == "completed":
            self.queue.heard(ours, "done")
        self.queue.ended(ours)

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class _Listener(_Unsaved, tune.Callback):
    """Passes on what trials report. Tune aborts a sweep when a callback raises: nothing here does."""

    def __init__(self, queue: Queue, launch: Launch, store: Store, progress: Progress, outcome: Outcome) -> None:
        self.queue, self.launch, self.store, self.progress, self.outcome = queue, launch, store, progress, outcome
        self.stages: dict[str, str] = {}  # the stage that each running trial was last heard to be in

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        trial_id = trial.config["trial_id"]
        self.stages.pop(trial_id, None)  # of an attempt before
        self.progress.started(self.launch.trials[trial_id])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.progress.interrupted(trial.config["trial_id"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        trial_id, stage = trial.config["trial_id"], result.get("stage", "")
        self.stages[trial_id] = stage
        if stage != "done":  # then Tune has not got its worker back yet
            self.queue.heard(trial_id, stage)
        if stage == "done":
            self.progress.ended(self.launch.trials[trial_id], result["row"])
        elif stage == "interrupted":
            self.progress.interrupted(trial_id)
        else:
            at = stage, result.get("epoch", 0), result.get("step", 0), result.get("loss")
            self.progress.heard(trial_id, place_of(self.launch.trials[trial_id], self.launch.examples, *at))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a failure of the infrastructure once the retries have run out; the next launch runs the trial again.

        The row says nothing of a host or a start: the driver does not know them.
        """
        trial_id = trial.config["trial_id"]
        error, traceback, lasting = _last_error(trial)
        self.outcome.outside[trial_id] = OutsideError(error, lasting)
        row = identity_columns(self.launch.trials[trial_id], self.launch.sweep, self.launch.labels.get(trial_id))
        row |= failure_columns("infrastructure", self.stages.get(trial_id, "load"), error, traceback)
        row["finished_at"] = datetime.now(UTC)
        self.progress.ended(self.launch.trials[trial_id], row)
        try:
            if self.store.statuses().get(trial_id) != "completed":
                self.store.write("trials", trial_id, [row])
        except OSError as failure:
            self.outcome.errors.append(f"{trial_id}: {error} (and its row could not be written: {failure})")


def _last_error(trial: Any) -> tuple[str, str, bool]:
    """Return the last error of a Tune trial in one line, with its traceback, and whether it would come again.

    Tune pickles the exception of a task or of a worker that died into the driver's folder of the trial (its own
    `get_pickled_error` looks where that folder is copied to later on); other errors it notes as text alone.
    """
    try:
        error = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # no such file, or a class that the driver cannot import; a callback must not raise
        return *_noted_error(trial), False
    traceback, lasting = str(error), _is_lasting(error)
    if isinstance(error, RayTaskError):
        error = error.cause
    name, lines = type(error).__name__, str(error).strip().splitlines()
    if isinstance(error, ActorDiedError) and lasting:  # it ends with the error that the worker began with
        return lines[-1], traceback, lasting
    return f"{name}: {lines[0]}" if lines else name, traceback, lasting


def _is_lasting(error: BaseException) -> bool:
    """Whether an error would come again: one of Python in the worker, of a full disk, or of a permission.

    A lost worker or object is replaced, and an unreachable store comes back.
    """
    if not isinstance(error, RayTaskError):
        return isinstance(error, RuntimeEnvSetupError) or "creation task" in str(error)
    if isinstance(error.cause, OSError):
        return error.cause.errno in UNWRITABLE
    return not isinstance(error.cause, RayError) or isinstance(error.cause, RaySystemError)  # which is of unpickling


def _noted_error(trial: Any) -> tuple[str, str]:
    """Return the last line of the file in which Tune notes the errors of a trial, and all of it."""
    try:
        text = Path(trial.error_file).read_text("utf-8").strip()
    except (OSError, TypeError):
        text = ""
    return text.rpartition("\n")[2] or "Tune noted no error", text


@contextmanager
def _ending_early(
    outcome: Outcome, searcher: _Searcher, store: Store, launch_id: str, deadline: float | None
) -> Iterator[None]:
    """On SIGINT, SIGTERM and at the deadline, start nothing new and let the running trials save and end.

    Signals are handled in the main thread alone, as Python does; in any other only the deadline ends a launch early.
    A second signal ends the process at once, but for an interactive one (a notebook), where it interrupts the call.
    """

    def end(number: int) -> None:
        outcome.signal = number
        searcher.ending = True
        try:
            request_stop(store, launch_id)
        except OSError:  # the running trials cannot be told: they run to their end
            return

    def handle(number: int, frame: Any) -> None:
        if outcome.signal is None:
            end(number)
        elif hasattr(sys, "ps1"):
            raise KeyboardInterrupt
        else:
            os._exit(128 + number)

    def expire() -> None:
        if outcome.signal is None:
            outcome.late = True
            end(signal.SIGINT)

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, handle) for number in numbers}
    wait = threading.TIMEOUT_MAX if deadline is None else max(deadline - time.monotonic(), 0.0)
    timer = threading.Timer(wait, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for number, handler in before.items():
            signal.signal(number, handler)
        with suppress(OSError):  # a request that stays would ask a launch that is over
            withdraw_stop(store, launch_id)
