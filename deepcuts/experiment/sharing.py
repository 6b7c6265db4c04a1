"""Finds what the trials of a sweep can make for each other: scores of one pass, and steps of one fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from deepcuts.experiment.spec import ScoreSpec, TrialSpec


@dataclass(frozen=True)
class Shared:
    """What trials make for each other.

    `scores` has the scores that each pass over the batches can make, by the pass's id; `steps` has, by dense id, the
    steps of the fine-tuning that some trial rewinds to, and `teachers` the dense ids that some trial learns from.
    """

    scores: Mapping[str, tuple[ScoreSpec, ...]]
    steps: Mapping[str, frozenset[int]]
    teachers: frozenset[str] = frozenset()

    def partners(self, trial: TrialSpec) -> tuple[ScoreSpec, ...]:
        """Return the scores that the trial's pass over the batches can make, its own included."""
        return () if trial.score.data == "none" else self.scores[trial.score.pass_id]

    def snapshots(self, trial: TrialSpec) -> frozenset[int]:
        """Return the steps of the trial's fine-tuning that some trial rewinds to."""
        return self.steps.get(trial.dense.dense_id, frozenset())

    def teaches(self, trial: TrialSpec) -> bool:
        """Return whether some trial learns from the trial's fine-tuned network."""
        return trial.dense.dense_id in self.teachers


def shared(trials: Iterable[TrialSpec]) -> Shared:
    """Collect what the trials share."""
    scores: dict[str, dict[str | None, ScoreSpec]] = {}
    steps: dict[str, set[int]] = {}
    teachers: set[str] = set()
    for trial in trials:
        if trial.score.data != "none":
            scores.setdefault(trial.score.pass_id, {})[trial.score.score_id] = trial.score
        if isinstance(trial.rewind, int):
            steps.setdefault(trial.dense.dense_id, set()).add(trial.rewind)
        if trial.distills:
            teachers.add(trial.dense.dense_id)
    return Shared(
        {key: tuple(sorted(same.values(), key=lambda score: str(score.criterion))) for key, same in scores.items()},
        {key: frozenset(found) for key, found in steps.items()},
        frozenset(teachers),
    )
