"""Decides which trial starts next, so that shared stages are made once and no trial waits in a worker (no Ray)."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from itertools import chain

from deepcuts.experiment.sharing import shared
from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.networks import left_behind
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

    A trial that builds on another one is not ready before that one has left what it needs, and it never will be where
    that one has ended without: then it is dropped, and `stranded` has it with the trial that ended. The trials of a
    chain that wait for a trial count as unblocked by it.
    """

    def __init__(
        self,
        trials: Sequence[TrialSpec],
        dense_there: Iterable[str] = (),
        scores_there: Iterable[str] = (),
        limit: int | None = None,
        again: frozenset[str] = frozenset(),
        left_there: Iterable[str] = (),
    ) -> None:
        self.dense_there, self.scores_there = set(dense_there), set(scores_there)
        self.left_there = set(left_there)  # trials that have left what others build on
        self.limit, self.again = limit, again
        self.running: dict[str, TrialSpec] = {}
        self.busy: set[str] = set()  # ids of trials and stages that another launch is making
        self.stranded: dict[str, str] = {}
        rests = _rests(trials)
        self._trials = tuple(sorted(trials, key=lambda trial: -rests.get(trial.trial_id, 0)))
        self._rest = [rests.get(trial.trial_id, 0) for trial in self._trials]
        self._rounds_before = {trial.previous.trial_id for trial in trials if trial.previous is not None}
        self._shared = shared(trials)
        self._lacking: dict[str, list[int]] = {}  # by the first stage that is lacking: places of pending trials
        self._waiting: dict[str, list[int]] = {}  # by the trial that they build on: places of pending trials
        self._file(range(len(trials)))

    @property
    def pending(self) -> list[TrialSpec]:
        return [self._trials[place] for place in sorted(self._places())]

    def __len__(self) -> int:
        return sum(map(len, chain(self._lacking.values(), self._waiting.values())))

    def _places(self) -> list[int]:
        return [place for places in chain(self._lacking.values(), self._waiting.values()) for place in places]

    def _file(self, places: Iterable[int]) -> None:
        """File pending trials under the trial that they wait for, or else under the first stage that they lack now."""
        for place in places:
            source = self._trials[place].builds_on
            if source is not None and source.trial_id not in self.left_there:
                self._waiting.setdefault(source.trial_id, []).append(place)
                continue
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
            if stage in taken or (best is not None and (-unblocks - self._rest[places[0]], places[0]) > best[:2]):
                continue
            ready = next((place for place in places if self._ready(self._trials[place], taken)), None)
            if ready is not None and (best is None or (-unblocks - self._rest[ready], ready) < best[:2]):
                best = -unblocks - self._rest[ready], ready, stage
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
        if stage == "done":
            self.left_there.add(trial_id)
            self._file(self._waiting.pop(trial_id, ()))

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
        sources = {source.trial_id for trial in left.values() if (source := trial.builds_on)} - self.left_there
        self.left_there |= left_behind(store, sources & done, self._rounds_before)
        self._lacking, self._waiting = {}, {}
        self._file(left)
        self._drop_stranded()

    def ended(self, trial_id: str) -> None:
        self.running.pop(trial_id, None)
        if trial_id in self._waiting:  # it has not left what they wait for
            self._drop_stranded()

    def _drop_stranded(self) -> None:
        """Drop the trials that wait for one that nobody runs or will run, and those that wait for these."""
        coming = {*self.running, *self.busy, *(self._trials[place].trial_id for place in self._places())}
        ended = [source for source in self._waiting if source not in coming]
        while ended:
            source = ended.pop()
            for place in self._waiting.pop(source, ()):
                self.stranded[self._trials[place].trial_id] = source
                ended.append(self._trials[place].trial_id)


def _rests(trials: Sequence[TrialSpec]) -> dict[str, int]:
    """Return how long the chain of trials is that wait for a trial, one after the other, by its id, where there is one.

    Those that a trial builds on come before it.
    """
    rests: dict[str, int] = {}
    for trial in reversed(trials):
        if trial.builds_on is not None:
            source = trial.builds_on.trial_id
            rests[source] = max(rests.get(source, 0), 1 + rests.get(trial.trial_id, 0))
    return rests
