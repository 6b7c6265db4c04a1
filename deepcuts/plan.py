"""Wanted minus done: which trials share what, in which order they start, and what they will cost (no Ray)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from deepcuts.spec import ScoreSpec, TrialSpec
from deepcuts.store import Store

# How far a trial must be for others to find what it shares.
_SCORING = ("score", "prune", "rewound", "retrained", "done")
_SCORED = ("prune", "rewound", "retrained", "done")


@dataclass(frozen=True)
class Plan:
    """The wanted trials, and what the store holds of them. `to_run` is in the order of the sweep."""

    wanted: tuple[TrialSpec, ...]
    statuses: Mapping[str, str]
    to_run: tuple[TrialSpec, ...]
    dense_there: frozenset[str] = frozenset()
    scores_there: frozenset[str] = frozenset()

    @property
    def done(self) -> list[TrialSpec]:
        return [trial for trial in self.wanted if self.statuses.get(trial.trial_id) == "completed"]

    @property
    def failed(self) -> list[TrialSpec]:
        """Those that failed for reasons of their own, and run again only when asked for."""
        return [trial for trial in self.wanted if self.statuses.get(trial.trial_id) == "trial"]

    @property
    def again(self) -> frozenset[str]:
        """Ids of those that are completed and run once more, for the network that was not kept."""
        return frozenset(trial.trial_id for trial in self.to_run if self.statuses.get(trial.trial_id) == "completed")

    def fine_tunes(self) -> set[str]:
        """Fine-tunings that are still to be made, by dense id."""
        return {trial.dense.dense_id for trial in self.to_run} - self.dense_there

    def passes(self) -> Counter[str]:
        """Passes over scoring batches that are still to be made: how many of each kind."""
        missing = {
            trial.score.pass_id: trial.score.data
            for trial in self.to_run
            if trial.score.data != "none" and trial.score.score_id not in self.scores_there
        }
        return Counter(missing.values())


def make_plan(
    trials: Sequence[TrialSpec],
    store: Store,
    retry_failed: bool = False,
    keep_models: bool = False,
) -> Plan:
    """What is left to run: all that is not completed, and of what failed by itself only what may be retried.

    With `keep_models` a completed trial whose network was not kept runs again.
    """
    statuses = store.statuses()
    to_run = []
    for trial in trials:
        status = statuses.get(trial.trial_id)
        kept = not keep_models or trial.retrain is None or store.artifact("models", trial.trial_id) is not None
        if (status == "completed" and kept) or (status == "trial" and not retry_failed):
            continue
        to_run.append(trial)
    dense = {trial.dense.dense_id for trial in to_run}
    scores = {trial.score.score_id for trial in to_run if trial.score.data != "none"} - {None}
    return Plan(
        tuple(trials),
        statuses,
        tuple(to_run),
        frozenset(key for key in dense if store.artifact("dense", key)),
        frozenset(key for key in scores if key and store.artifact("scores", key)),
    )


def chosen(trials: Sequence[TrialSpec], only: Mapping[str, str]) -> list[TrialSpec]:
    """The trials that `--only key=value,...` names. Raises ValueError for an unknown key or when none is left."""
    known: dict[str, Callable[[TrialSpec], object]] = {
        "trial": lambda trial: trial.trial_id,
        "dataset": lambda trial: trial.dense.dataset,
        "strategy": lambda trial: trial.strategy,
        "seed": lambda trial: trial.dense.seed,
        "compression": lambda trial: trial.compression,
        "sparsity": lambda trial: trial.sparsity,
    }
    left = list(trials)
    for key, value in only.items():
        if key not in known:
            raise ValueError(f"--only: unknown key {key!r}; known: {', '.join(known)}")
        there = {str(known[key](trial)) for trial in trials}
        left = [trial for trial in left if _same(known[key](trial), value)]
        if not left:
            raise ValueError(f"--only {key}={value}: no trial is left; the sweep has {', '.join(sorted(there)[:12])}")
    return left


def _same(value: object, text: str) -> bool:
    try:
        return value == text or (isinstance(value, int | float) and float(value) == float(text))
    except ValueError:
        return False


def partners(trial: TrialSpec, trials: Iterable[TrialSpec]) -> tuple[ScoreSpec, ...]:
    """The scores, its own among them, that one pass over the batches can make with the trial's."""
    if trial.score.data == "none":
        return ()
    same = {other.score.score_id: other.score for other in trials if other.score.pass_id == trial.score.pass_id}
    return tuple(sorted(same.values(), key=lambda score: str(score.criterion)))


def snapshots(trial: TrialSpec, trials: Iterable[TrialSpec]) -> frozenset[int]:
    """The steps of the fine-tuning that some trial will rewind to."""
    same = (other for other in trials if other.dense.dense_id == trial.dense.dense_id)
    return frozenset(other.rewind for other in same if isinstance(other.rewind, int))


@dataclass
class Queue:
    """Which trial starts next: no trial starts that would wait for, or repeat, what a running one is making.

    A trial is ready when each shared stage that it needs exists or nobody is making it. Of the ready ones the one
    that unblocks most goes first. `busy` are trials and stages that another launch is at work on just now, `again`
    trials that are completed and yet wanted once more.
    """

    pending: list[TrialSpec]
    dense_there: set[str] = field(default_factory=set)
    scores_there: set[str] = field(default_factory=set)
    running: dict[str, TrialSpec] = field(default_factory=dict)
    limit: int | None = None
    busy: set[str] = field(default_factory=set)
    again: frozenset[str] = frozenset()

    def next(self) -> TrialSpec | None:
        """The trial to start now, taken from the pending ones; None when none is ready."""
        if self.limit is not None and len(self.running) >= self.limit:
            return None
        wanting = Counter(stage for trial in self.pending for stage in self._missing(trial)[:1])
        best: tuple[int, int] | None = None
        making = {stage for trial in self.running.values() for stage in self._missing(trial)}
        for place, trial in enumerate(self.pending):
            missing = self._missing(trial)
            if trial.trial_id in self.busy or any(stage in making or stage in self.busy for stage in missing):
                continue
            unblocks = wanting[missing[0]] if missing else 0
            if best is None or unblocks > best[0]:
                best = unblocks, place
        if best is None:
            return None
        trial = self.pending.pop(best[1])
        self.running[trial.trial_id] = trial
        return trial

    def _missing(self, trial: TrialSpec) -> list[str]:
        """The shared stages that the trial would make itself: the fine-tuning, then its scoring pass."""
        missing = []
        if trial.dense.dense_id not in self.dense_there:
            missing.append(trial.dense.dense_id)
        if trial.score.data != "none" and trial.score.score_id not in self.scores_there:
            missing.append(trial.score.pass_id)
        return missing

    def heard(self, trial_id: str, stage: str) -> None:
        """A running trial has come to a stage, and so has published those before it."""
        trial = self.running.get(trial_id)
        if trial is None:
            return
        if stage in _SCORING:
            self.dense_there.add(trial.dense.dense_id)
        if stage in _SCORED and trial.score.data != "none":
            pass_id = trial.score.pass_id
            known = [*self.pending, *self.running.values()]
            same = {other.score.score_id for other in known if other.score.pass_id == pass_id}
            self.scores_there |= {key for key in same if key}

    def learn(self, busy: set[str], store: Store) -> None:
        """Take in what other launches are at work on, and what the store has of theirs by now. Raises OSError."""
        statuses = store.statuses()
        self.busy = busy
        done = {key for key, status in statuses.items() if status == "completed"} - self.again
        self.pending = [trial for trial in self.pending if trial.trial_id not in done]
        self.dense_there |= {key for key in {t.dense.dense_id for t in self.pending} if store.artifact("dense", key)}
        scores = {t.score.score_id for t in self.pending if t.score.data != "none"} - {None}
        self.scores_there |= {key for key in scores if key and store.artifact("scores", key)}

    def ended(self, trial_id: str) -> None:
        self.running.pop(trial_id, None)
