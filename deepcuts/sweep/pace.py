"""Expects how long a launch still takes: the planned seconds of what is left, at the pace of what it has done."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from deepcuts.experiment.spec import TrialSpec
from deepcuts.wording import is_past

# The planned seconds are believed until trials have worked for so long; from then on, the pace that they had counts.
BELIEVED_SECONDS = 5.0


def used_examples(trial: TrialSpec, examples: Mapping[str, int]) -> int:
    """Return how many training examples a trial uses; `examples` has those that there are, by dataset."""
    return int(min(trial.dense.max_train_examples or math.inf, examples[trial.dense.dataset]))


def place_of(
    trial: TrialSpec, examples: Mapping[str, int], stage: str, epoch: int, step: int, loss: float | None
) -> dict[str, Any]:
    """Return where a trial is: `stage, epoch, epochs, step, steps, loss`; `epoch` counts from 0.

    `steps` is how many steps or scoring batches the stage has in all epochs together; `epochs` and `steps` are None
    where that is not known, or the stage has none.
    """
    place = {"stage": stage, "epoch": epoch, "epochs": None, "step": step, "steps": None, "loss": loss}
    training = {"dense": trial.dense.finetune, "retrained": trial.retrain}.get(stage)
    if trial.dense.dataset not in examples:
        return place
    used = used_examples(trial, examples)
    if training is not None:
        steps = training.epochs * math.ceil(used / training.batch_size)
        return place | {"epochs": training.epochs, "steps": steps}
    if stage == "score" and trial.passes:
        first = trial.passes[0]
        return place | {"steps": trial.scoring_rounds * min(first.batches, math.ceil(used / first.batch_size))}
    return place


class Pace:
    """Follows the trials of a launch, and estimates the seconds until the last of them ends.

    `seconds` has those that each stage is planned to take, by the id of the fine-tuning, the scoring pass or the trial
    (its retraining, and all else that it does alone); a stage that is not in it is there already. `slots` trials run
    at a time.
    """

    def __init__(self, trials: Iterable[TrialSpec], seconds: Mapping[str, float], slots: int = 1) -> None:
        self._planned = dict(seconds)
        self._left = dict(seconds)
        self._waiting = {trial.trial_id: trial for trial in trials}
        self._running: dict[str, TrialSpec] = {}
        self._began: dict[str, float] = {}  # when a running trial was first heard of: it had loaded by then
        self._slots = slots
        self._worked = 0.0  # seconds that the trials which ended have worked
        self._done = 0.0  # planned seconds of what is done

    def started(self, trial: TrialSpec) -> None:
        self._waiting.pop(trial.trial_id, None)
        self._running[trial.trial_id] = trial

    def heard(self, trial_id: str, place: Mapping[str, Any]) -> None:
        """Note where a running trial is, by its `place_of`."""
        trial = self._running.get(trial_id)
        if trial is None:
            return
        self._began.setdefault(trial_id, time.monotonic())
        step, steps = place["step"], place["steps"]
        share = min(1.0, step / steps) if steps else 0.0
        for stage, key in _stages(trial):
            if is_past(place["stage"], stage):
                self._advance(key, 1.0)
            elif place["stage"] == stage:
                self._advance(key, share)

    def _advance(self, key: str, share: float) -> None:
        left = self._planned.get(key, 0.0) * (1 - share)
        if left < self._left.get(key, 0.0):
            self._done += self._left[key] - left
            self._left[key] = left

    def ended(self, trial_id: str, seconds: float | None, completed: bool) -> None:
        """Note that a trial has ended, after so many seconds of work (None: as many as we have heard of it)."""
        trial = self._running.pop(trial_id, None) or self._waiting.pop(trial_id, None)
        heard = time.monotonic() - self._began.pop(trial_id, time.monotonic())
        if trial is None:
            return
        self._worked += heard if seconds is None else seconds
        if completed:
            for _, key in _stages(trial):
                self._advance(key, 1.0)
        self._left.pop(trial_id, None)

    def interrupted(self, trial_id: str) -> None:
        """Note that a trial was stopped and waits again. It goes on from its checkpoint, so what it did is done."""
        trial = self._running.pop(trial_id, None)
        self._worked += time.monotonic() - self._began.pop(trial_id, time.monotonic())
        if trial is not None:
            self._waiting[trial_id] = trial

    def found(self, stages: Iterable[str], trials: Iterable[str]) -> None:
        """Note what another launch has made: stages, and whole trials."""
        for key in trials:
            self._waiting.pop(key, None)
        for key in (*stages, *trials):
            self._left.pop(key, None)

    def seconds_left(self) -> float:
        """Estimate the seconds until the last trial ends; 0 where nothing is left."""
        return self._factor() * self._planned_left()

    def _factor(self) -> float:
        """How much longer than planned things have taken so far; 1 before anything was seen."""
        now = time.monotonic()
        worked = self._worked + sum(now - began for began in self._began.values())
        return worked / self._done if self._done > 0 and worked >= BELIEVED_SECONDS else 1.0

    def _planned_left(self) -> float:
        """Give each trial the next free slot, those that make a shared stage first, and return when the last one ends.

        A trial waits for the stages that others make, and for the one that it builds on, as they do in the launch.
        """
        made: dict[str, float] = {}  # by stage: when it will be there
        free = [self._chain(trial, made, 0.0) for trial in self._running.values()]
        free += [0.0] * (self._slots - len(free))
        heapq.heapify(free)
        after: dict[str, list[TrialSpec]] = {}  # by the trial that they build on, where that one is still to come
        can_begin: list[tuple[float, int, TrialSpec]] = []
        for trial in _makers_first(self._waiting.values(), made, self._left):
            source = trial.builds_on.trial_id if trial.builds_on else None
            if source in self._waiting:
                after.setdefault(str(source), []).append(trial)
            else:
                can_begin.append((made.get(str(source), 0.0), len(can_begin), trial))
        heapq.heapify(can_begin)
        number = len(can_begin)
        while can_begin:
            at, _, trial = heapq.heappop(can_begin)
            end = self._chain(trial, made, max(at, free[0]))
            heapq.heapreplace(free, end)
            for follower in after.pop(trial.trial_id, ()):
                heapq.heappush(can_begin, (end, number := number + 1, follower))
        return max(free)

    def _chain(self, trial: TrialSpec, made: dict[str, float], now: float) -> float:
        """Return when a trial that begins `now` ends, and note in `made` when the stages that it makes are there."""
        for _, key in _stages(trial):
            if key in made:
                now = max(now, made[key])
            else:
                now = made[key] = now + self._left.get(key, 0.0)
        return now


def _stages(trial: TrialSpec) -> Sequence[tuple[str, str]]:
    """Return the stages of a trial in their order, each with the key of its planned seconds."""
    passes = [("score", key) for key in dict.fromkeys(score.pass_id for score in trial.passes)]
    return [("dense", trial.dense.dense_id), *passes, ("retrained", trial.trial_id)]


def _makers_first(
    trials: Iterable[TrialSpec], made: Mapping[str, float], left: Mapping[str, float]
) -> Iterator[TrialSpec]:
    """Return the trials that make a fine-tuning, then those that only make a scoring pass, then the others."""
    known = set(made)
    order: tuple[list[TrialSpec], ...] = ([], [], [])
    for trial in trials:
        new = [key not in known and bool(left.get(key)) for _, key in _stages(trial)[:-1]]
        known |= {key for _, key in _stages(trial)[:-1]}
        order[new.index(True) if any(new) else 2].append(trial)
    return chain(*order)
