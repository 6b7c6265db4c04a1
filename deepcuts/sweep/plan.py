"""Wanted minus done, and which trials share what (no Ray)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from deepcuts.experiment.spec import ScoreSpec, TrialSpec
from deepcuts.store.store import Store


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
        return [trial for trial in self.wanted if self.statuses.get(trial.trial_id) == "failed"]

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
        if (status == "completed" and kept) or (status == "failed" and not retry_failed):
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


def only_those(trials: Sequence[TrialSpec], only: Mapping[str, str]) -> list[TrialSpec]:
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


@dataclass(frozen=True)
class Shared:
    """What trials make for each other: the scores of every pass by its id, and by the id of every fine-tuning the
    steps that some trial will rewind to."""

    scores: Mapping[str, tuple[ScoreSpec, ...]]
    steps: Mapping[str, frozenset[int]]

    def partners(self, trial: TrialSpec) -> tuple[ScoreSpec, ...]:
        """The scores, its own among them, that one pass over the batches can make with the trial's."""
        return () if trial.score.data == "none" else self.scores[trial.score.pass_id]

    def snapshots(self, trial: TrialSpec) -> frozenset[int]:
        """The steps of the fine-tuning that some trial will rewind to."""
        return self.steps.get(trial.dense.dense_id, frozenset())


def shared(trials: Iterable[TrialSpec]) -> Shared:
    scores: dict[str, dict[str | None, ScoreSpec]] = {}
    steps: dict[str, set[int]] = {}
    for trial in trials:
        if trial.score.data != "none":
            scores.setdefault(trial.score.pass_id, {})[trial.score.score_id] = trial.score
        if isinstance(trial.rewind, int):
            steps.setdefault(trial.dense.dense_id, set()).add(trial.rewind)
    return Shared(
        {key: tuple(sorted(same.values(), key=lambda score: str(score.criterion))) for key, same in scores.items()},
        {key: frozenset(found) for key, found in steps.items()},
    )


def partners(trial: TrialSpec, trials: Iterable[TrialSpec]) -> tuple[ScoreSpec, ...]:
    """As `Shared.partners`, for one trial alone."""
    return shared(trials).partners(trial)


def snapshots(trial: TrialSpec, trials: Iterable[TrialSpec]) -> frozenset[int]:
    """As `Shared.snapshots`, for one trial alone."""
    return shared(trials).snapshots(trial)
