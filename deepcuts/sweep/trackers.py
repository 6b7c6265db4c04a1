"""Mirrors a sweep to TensorBoard, MLflow or Weights & Biases, by Ray Tune's own callbacks, kept at arm's length.

Tune aborts a sweep when a callback raises, and waits when it hangs. So each tracker works in a thread of its own; when
it fails it is left out from there on, and that is said once.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.logger import TBXLoggerCallback

from deepcuts.store.store import Store

HOOKS = ("setup", "on_trial_start", "on_trial_result", "on_trial_complete", "on_trial_error", "on_experiment_end")
MOST_WAITING = 10_000
END_SECONDS = 60.0

Say = Callable[[str], None]


def tracker_callbacks(names: Sequence[str], sweep: str, store: Store, say: Say) -> list[tune.Callback]:
    """Make a guarded callback for each tracker, which calls `say` when it fails.

    TensorBoard's files go to `tensorboard/<sweep>/<trial_id>` in the store's folder, or for a remote store in the
    working directory.
    """
    root = Path(store.root) if store.local else Path.cwd()
    makers: dict[str, Callable[[], tune.Callback]] = {
        "tensorboard": lambda: _TensorBoard(root / "tensorboard" / sweep),
        "mlflow": lambda: _mlflow(sweep),
        "wandb": lambda: _wandb(sweep),
    }
    return [Guarded(name, makers[name], say) for name in names]


def _mlflow(sweep: str) -> tune.Callback:
    """Log to where MLflow's own setting MLFLOW_TRACKING_URI says; a plain folder needs MLFLOW_ALLOW_FILE_STORE too."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    return MLflowLoggerCallback(experiment_name=sweep)


def _wandb(sweep: str) -> tune.Callback:
    """Log to the account and server of W&B's own settings: `wandb login`, WANDB_MODE, ..."""
    from ray.air.integrations.wandb import WandbLoggerCallback

    return WandbLoggerCallback(project=sweep)


class _TensorBoard(TBXLoggerCallback):
    """Ray's own callback, with its files in a folder that stays: Tune's is temporary."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def log_trial_start(self, trial: Any) -> None:
        if trial in self._trial_writer:
            self._trial_writer[trial].close()
        folder = self.folder / trial.config["trial_id"]
        self._trial_writer[trial] = self._summary_writer_cls(str(folder), flush_secs=30)
        self._trial_result[trial] = {}


class Guarded(tune.Callback):
    """Passes every event to a tracker's own thread. Nothing that happens there reaches the sweep."""

    def __init__(self, name: str, make: Callable[[], tune.Callback], say: Say) -> None:
        self.name = name
        self._make, self._say = make, say
        self._events: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue(MOST_WAITING)
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"tracker-{name}")
        self._thread.start()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks to restore a sweep; we never restore."""
        return {}

    def queue_event(self, hook: str, info: dict[str, Any]) -> None:
        """Queue an event; at the last one give the tracker a while to write all that is queued."""
        if self._failed.is_set():
            return
        try:
            self._events.put_nowait((hook, {key: dict(v) if key == "result" else v for key, v in info.items()}))
        except queue.Full:
            self._fail(f"is {MOST_WAITING:,} events behind")
        if hook == "on_experiment_end":
            self._thread.join(END_SECONDS)
            if self._thread.is_alive():
                self._fail(f"has not written everything after {END_SECONDS:.0f} s")

    def _run(self) -> None:
        try:
            tracker = self._make()
            hook = ""
            while hook != "on_experiment_end" and not self._failed.is_set():
                hook, info = self._events.get()
                getattr(tracker, hook)(**info)
        except (Exception, SystemExit) as error:  # whatever a tracker does, the sweep goes on
            self._fail(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}")

    def _fail(self, reason: str) -> None:
        if not self._failed.is_set():
            self._failed.set()
            self._say(f"tracker {self.name} failed and is left out from here on, the sweep goes on: {reason}")


def _passing(hook: str) -> Callable[..., None]:
    def passing(self: Guarded, **info: Any) -> None:
        self.queue_event(hook, info)

    return passing


for _hook in HOOKS:
    setattr(Guarded, _hook, _passing(_hook))
