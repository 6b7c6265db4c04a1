"""Decides which trial starts next, so that shared stages are made once and no trial waits in a worker (no Ray)."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence

from deepcuts.experiment.sharing import shared
from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.store import Store
from deepcuts.sweep.plan import stored_dense
from deepcuts.wording import is_past

_NOTHING = ""  # stands for the stage that a trial lacks, where it lacks none


class Queue:
    """Holds the pending trials, and starts none that would wait for a stage, or repeat one, that a running trial makes.

    A trial is ready when each shared stage that it needs exists, or nobody is making it. Of the ready trials the one
    that unblocks most goes first, then the earlier in the sweep. `again` has the ids of completed trials that shall run
    once more. Pending trials are kept by the first stage that they lack: the time of a start grows with the number of
    stages, not of trials.
    """

    def __init__(
        self,
        trials: Sequence[TrialSpec],
        dense_there: Iterable[str] = (),
        scores_there: Iterable[str] = (),
        limit: int | None = None,
        again: frozenset[str] = frozenset(),
    ) -> None:
        self.dense_there, self.scores_there = set(dense_there), set(scores_there)
        self.limit, self.again = limit, again
        self.running: dict[str, TrialSpec] = {}
        self.busy: set[str] = set()  # ids of trials and stages that another launch is making
        self._trials = tuple(trials)
        self._shared = shared(trials)
        self._lacking: dict[str, list[int]] = {}  # by the first stage that is lacking: places of pending trials
        self._file(range(len(trials)))

    @property
    def pending(self) -> list[TrialSpec]:
        return [self._trials[place] for place in sorted(self._places())]

    def __len__(self) -> int:
        return sum(map(len, self._lacking.values()))

    def _places(self) -> list[int]:
        return [place for places in self._lacking.values() for place in places]

    def _file(self, places: Iterable[int]) -> None:
        """File pending trials under the first stage that they lack now."""
        for place in places:
            missing = self._missing(self._trials[place])
            insort(self._lacking.setdefault(missing[0] if missing else _NOTHING, []), place)

    def _found(self, stage: str) -> None:
        """Note that a stage exists now: the trials that waited for it are filed under what else they lack."""
        self._file(self._lacking.pop(stage, ()))

    def next(self) -> TrialSpec | None:
        """Take the trial to start now from the pending ones; None when none is ready."""
        if self.limit is not None and len(self.running) >= self.limit:
            return None
        taken = self.busy.union(*(self._missing(trial) for trial in self.running.values()))
        best: tuple[int, int, str] | None = None  # smallest first: minus how many it unblocks, its place
        for stage, places in self._lacking.items():
            unblocks = len(places) if stage != _NOTHING else 0
            if stage in taken or (best is not None and (-unblocks, places[0]) > best[:2]):
                continue
            ready = next((place for place in places if self._ready(self._trials[place], taken)), None)
            if ready is not None and (best is None or (-unblocks, ready) < best[:2]):
                best = -unblocks, ready, stage
        return None if best is None else self._start(*best[1:])

    def _ready(self, trial: TrialSpec, taken: set[str]) -> bool:
        return trial.trial_id not in self.busy and taken.isdisjoint(self._missing(trial))

    def _start(self, place: int, stage: str) -> TrialSpec:
        trial = self._trials[place]
        self._lacking[stage].remove(place)
        if not self._lacking[stage]:
            del self._lacking[stage]
        self.running[trial.trial_id] = trial
        return trial

    def _missing(self, trial: TrialSpec) -> list[str]:
        """Return the shared stages that the trial would make itself: the fine-tuning, then its scoring passes."""
        missing = []
        if trial.dense.dense_id not in self.dense_there:
            missing.append(trial.dense.dense_id)
        missing += [score.pass_id for score in trial.passes if score.score_id not in self.scores_there]
        return missing

    def heard(self, trial_id: str, stage: str) -> None:
        """Note that a running trial has come to a stage, and so has published the stages before it."""
        trial = self.running.get(trial_id)
        if trial is None:
            return
        if is_past(stage, "dense") and trial.dense.dense_id not in self.dense_there:
            self.dense_there.add(trial.dense.dense_id)
            self._found(trial.dense.dense_id)
        if is_past(stage, "score"):
            self.scores_there |= {key for score in self._shared.partners(trial) if (key := score.score_id)}
            for score in trial.passes:
                self._found(score.pass_id)

    def learn(self, busy: set[str], store: Store) -> None:
        """Note what other launches are making, and what they have stored by now. Raises OSError."""
        statuses = store.statuses()
        self.busy = busy
        done = {key for key, status in statuses.items() if status == "completed"} - self.again
        left = {place: self._trials[place] for place in self._places() if self._trials[place].trial_id not in done}
        dense = {trial.dense.dense_id for trial in left.values()} - self.dense_there
        scores = {score.score_id for trial in left.values() for score in trial.passes} - self.scores_there
        self.dense_there |= stored_dense(store, dense, self._shared)
        self.scores_there |= {key for key in scores if key and store.artifact("scores", key)}
        self._lacking = {}
        self._file(left)

    def ended(self, trial_id: str) -> None:
        self.running.pop(trial_id, None)
