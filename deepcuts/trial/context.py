"""Says where a trial works: its store, how much of the machine it has, and who is told how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from deepcuts.experiment.own_criteria import CriteriaFile
from deepcuts.experiment.settings import ScoringPass, Training
from deepcuts.experiment.spec import ScoreSpec
from deepcuts.store.store import Store
from deepcuts.store.tensors import StoreCheckpoint

_Settings = TypeVar("_Settings", Training, ScoringPass)


@dataclass(frozen=True)
class Context:
    """Where a trial works, how much of the machine it may use, and the hooks that it calls.

    `micro_batch` bounds how many examples run at once (None: nothing does). `capture` lets a GPU record its training
    steps and replay them. `snapshots` (steps of the fine-tuning), `teaches` (the outputs of the fine-tuned network) and
    `partners` (scores of the same pass) are what other trials of the sweep want of the shared stages, if this trial is
    the one that makes them. With `keep_network` a later round prunes the trial's retrained network further. `criteria`
    are the files with the user's own criteria.
    """

    store: Store
    threads: int
    micro_batch: int | None = None
    checkpoint_minutes: float = 5.0
    capture: bool = False
    snapshots: frozenset[int] = frozenset()
    partners: Sequence[ScoreSpec] = ()
    keep_network: bool = False
    teaches: bool = False
    criteria: Sequence[CriteriaFile] = ()
    on_progress: Callable[[str, int, int], None] = lambda stage, epoch, step: None
    on_metrics: Callable[[str, int, Mapping[str, Mapping[str, float]]], None] = lambda stage, epoch, values: None
    on_loss: Callable[[float], None] = lambda loss: None
    stop: Callable[[], bool] = lambda: False

    def checkpoint(self, key: str) -> StoreCheckpoint:
        """Return the place in the store where the work on `key` is saved every `checkpoint_minutes`."""
        return StoreCheckpoint(self.store, key, self.checkpoint_minutes)

    def snapshot_name(self, dense_id: str, step: int) -> str:
        """Return where the weights of a step are kept until the fine-tuning is published."""
        return f"artifacts/_checkpoints/{dense_id}-step-{step}.safetensors"

    def bound(self, settings: _Settings) -> _Settings:
        """Return the settings as they run here: their `micro_batch`, or this context's where that is smaller."""
        sizes = [size for size in (settings.micro_batch, self.micro_batch) if size is not None]
        return settings.model_copy(update={"micro_batch": min(sizes, default=None)})
