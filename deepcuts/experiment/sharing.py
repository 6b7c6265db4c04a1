"""Finds what the trials of a sweep can make for each other: scores of one pass, and steps of one fine-tuning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from deepcuts.experiment.spec import ScoreSpec, TrialSpec


def snapshot_file(step: int) -> str:
    """Return the name of the file in which a fine-tuned network keeps the weights of a step."""
    return f"step-{step}.safetensors"


@dataclass(frozen=True)
class Shared:
    """What trials make for each other.

    `scores` has the scores that each pass over the batches can make, by the pass's id; `steps` has, by dense id, the
    steps of the fine-tuning that some trial rewinds to.
    """

    scores: Mapping[str, tuple[ScoreSpec, ...]]
    steps: Mapping[str, frozenset[int]]

    def partners(self, trial: TrialSpec) -> tuple[ScoreSpec, ...]:
        """Return the scores that the trial's passes over the batches can make, its own included."""
        keys = dict.fromkeys(score.pass_id for score in trial.passes)
        return tuple(score for key in keys for score in self.scores[key])

    def snapshots(self, trial: TrialSpec) -> frozenset[int]:
        """Return the steps of the trial's fine-tuning that some trial rewinds to."""
        return self.steps.get(trial.dense.dense_id, frozenset())


def shared(trials: Iterable[TrialSpec]) -> Shared:
    """Collect what the trials share."""
    scores: dict[str, dict[str | None, ScoreSpec]] = {}
    steps: dict[str, set[int]] = {}
    for trial in trials:
        for score in trial.passes:
            scores.setdefault(score.pass_id, {})[score.score_id] = score
        if isinstance(trial.rewind, int):
            steps.setdefault(trial.dense.dense_id, set()).add(trial.rewind)
    return Shared(
        {key: tuple(sorted(same.values(), key=lambda score: score.label)) for key, same in scores.items()},
        {key: frozenset(found) for key, found in steps.items()},
    )
