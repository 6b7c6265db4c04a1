"""The plan onto Ray Tune (the only Ray): every launch is a fresh Tuner over what is wanted and not done."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.search import Searcher

from deepcuts.experiment.grid import tracker_labels
from deepcuts.store.live import Watch, request_stop, withdraw_stop
from deepcuts.store.store import Store
from deepcuts.sweep.plan import Plan
from deepcuts.sweep.progress import Progress
from deepcuts.sweep.queue import Queue
from deepcuts.sweep.worker import Launch, run_in_worker
from deepcuts.trial.row import failure_columns, identity_columns

LOOK_SECONDS = 5.0


@dataclass
class Outcome:
    """What a launch came to: the signal that ended it early (None: it ran to its end)."""

    signal: int | None = None
    errors: list[str] = field(default_factory=list)


def run_plan(
    plan: Plan,
    handed: Launch,
    store: Store,
    progress: Progress,
    *,
    gpus: float,
    max_concurrent: int | None = None,
    max_failures: int = 3,
    deadline: float | None = None,
    callbacks: Sequence[tune.Callback] = (),
) -> Outcome:
    """Run every trial of the plan; what the trials say lands in the store. Nothing new starts after `deadline`."""
    outcome = Outcome()
    if not plan.to_run:
        return outcome
    queue = Queue(plan.to_run, plan.dense_there, plan.scores_there, max_concurrent, plan.again)
    searcher = _Searcher(queue, Watch(store, handed.launch), store, progress)
    listener = _Listener(queue, handed, store, progress, outcome)
    trainable = tune.with_parameters(run_in_worker, handed=[ray.put(handed)])
    folder = tempfile.mkdtemp(prefix="deepcuts-tune-")
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": handed.threads, "gpu": gpus}),
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=len(plan.to_run), reuse_actors=True),
        run_config=tune.RunConfig(
            name=handed.launch,
            storage_path=folder,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=max_failures),
            callbacks=[listener, *callbacks],
        ),
    )
    try:
        with _signals(outcome, searcher, store, handed.launch, deadline):
            tuner.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


class _Unsaved:
    """Tune pickles what it is given, to restore a sweep; we never do, the store is what a sweep goes on from."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Searcher(_Unsaved, Searcher):
    """Hands Tune the next ready trial, by id; None while all that is left waits for a stage being made."""

    def __init__(self, queue: Queue, watch: Watch, store: Store, progress: Progress) -> None:
        super().__init__()
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
        self.progress.started(trial)
        return {"trial_id": trial.trial_id, **tracker_labels(trial)}

    def _look(self) -> None:
        """Learn what other launches on the same store are making, and what they have finished."""
        self._looked = time.monotonic()
        try:
            before, busy = set(self.queue.busy), self.watch.busy()
            if before or busy:
                self.queue.learn(busy, self.store)
        except OSError:  # a store that is away for a moment: look again later
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

    def __init__(self, queue: Queue, handed: Launch, store: Store, progress: Progress, outcome: Outcome) -> None:
        self.queue, self.handed, self.store, self.progress, self.outcome = queue, handed, store, progress, outcome
        self.stages: dict[str, str] = {}  # the stage that each running trial was last heard to be in

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.stages.pop(trial.config["trial_id"], None)  # of an attempt before

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        trial_id, stage = trial.config["trial_id"], result.get("stage", "")
        self.stages[trial_id] = stage
        if stage != "done":  # then Tune has not got its worker back yet
            self.queue.heard(trial_id, stage)
        if stage == "done":
            self.progress.ended(trial_id, result["row"])
        elif stage == "interrupted":
            self.progress.interrupted(trial_id)
        else:
            self.progress.heard(trial_id, stage, result.get("epoch", 0), result.get("step", 0))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a failure of the infrastructure once the retries have run out; the next launch runs the trial again.

        The row says nothing of a host or a start: the driver does not know them.
        """
        trial_id = trial.config["trial_id"]
        error, traceback = _last_error(trial)
        row = identity_columns(self.handed.trials[trial_id], self.handed.sweep)
        row |= failure_columns("infrastructure", self.stages.get(trial_id, "load"), error, traceback)
        row["finished_at"] = datetime.now(UTC)
        self.progress.ended(trial_id, row)
        try:
            if self.store.statuses().get(trial_id) != "completed":
                self.store.write("trials", trial_id, [row])
        except OSError as failure:
            self.outcome.errors.append(f"{trial_id}: {error} (and its row could not be written: {failure})")


def _last_error(trial: Any) -> tuple[str, str]:
    """Return the last error of a Tune trial in one line, and with its traceback.

    Tune pickles the exception of a task or of a worker that died into the driver's folder of the trial (its own
    `get_pickled_error` looks where that folder is copied to later on); other errors it notes as text alone.
    """
    try:
        error = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # no such file, or a class that the driver cannot import; a callback must not raise
        return _noted_error(trial)
    traceback = str(error)
    if isinstance(error, RayTaskError):
        error = error.cause
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}", traceback


def _noted_error(trial: Any) -> tuple[str, str]:
    """Return the last line of the file in which Tune notes the errors of a trial, and all of it."""
    try:
        text = Path(trial.error_file).read_text("utf-8").strip()
    except (OSError, TypeError):
        text = ""
    return text.rpartition("\n")[2] or "Tune noted no error", text


@contextmanager
def _signals(
    outcome: Outcome, searcher: _Searcher, store: Store, launch: str, deadline: float | None
) -> Iterator[None]:
    """SIGINT, SIGTERM and the deadline: start nothing new, let running trials save and end; a second one kills."""

    def handle(number: int, frame: Any) -> None:
        if outcome.signal is not None and number != signal.SIGALRM:
            os._exit(128 + number)
        outcome.signal = signal.SIGINT if number == signal.SIGALRM else number
        searcher.ending = True
        try:
            request_stop(store, launch)
        except OSError:  # the running trials cannot be told: they run to their end
            return

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGALRM]
    before = {number: signal.signal(number, handle) for number in numbers}
    if deadline is not None:
        signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        with suppress(OSError):  # a request left behind asks a launch that is over
            withdraw_stop(store, launch)
