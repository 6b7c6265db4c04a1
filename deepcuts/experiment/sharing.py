"""Finds what the trials of a sweep can make for each other: scores of one pass, steps of one fine-tuning, networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deepcuts.experiment.spec import ScoreSpec, TrialSpec


def snapshot_file(step: int) -> str:
    """Return the name of the file in which a fine-tuned network keeps the weights of a step."""
    return f"step-{step}.safetensors"


@dataclass(frozen=True)
class Shared:
    """What trials make for each other.

    `scores` has the scores that each pass over the batches can make, by the pass's id; `steps` has, by dense id, the
    steps of the fine-tuning that some trial rewinds to, and `teachers` the dense ids that some trial learns from.
    `networks` are the ids of the trials whose retrained network is pruned further by a later round, of these trials or
    of a deeper level.
    """

    scores: Mapping[str, tuple[ScoreSpec, ...]]
    steps: Mapping[str, frozenset[int]]
    networks: frozenset[str] = frozenset()
    teachers: frozenset[str] = frozenset()

    def partners(self, trial: TrialSpec) -> tuple[ScoreSpec, ...]:
        """Return the scores that the trial's passes over the batches can make, its own included."""
        keys = dict.fromkeys(score.pass_id for score in trial.passes)
        return tuple(score for key in keys for score in self.scores[key])

    def snapshots(self, trial: TrialSpec) -> frozenset[int]:
        """Return the steps of the trial's fine-tuning that some trial rewinds to."""
        return self.steps.get(trial.dense.dense_id, frozenset())

    def teaches(self, trial: TrialSpec) -> bool:
        """Return whether some trial learns from the trial's fine-tuned network."""
        return trial.dense.dense_id in self.teachers

    def of_stages(self, trial: TrialSpec) -> dict[str, Any]:
        """Return what others want of the stages that the trial makes, as a `Context` takes it."""
        return {
            "snapshots": self.snapshots(trial),
            "partners": self.partners(trial),
            "keep_network": trial.trial_id in self.networks,
            "teaches": self.teaches(trial),
        }


def shared(trials: Iterable[TrialSpec]) -> Shared:
    """Collect what the trials share."""
    scores: dict[str, dict[str | None, ScoreSpec]] = {}
    steps: dict[str, set[int]] = {}
    networks: set[str] = set()
    teachers: set[str] = set()
    for trial in trials:
        if trial.previous is not None:
            networks.add(trial.previous.trial_id)
        if trial.chain is not None and trial.chain.goes_on:
            networks.add(trial.trial_id)
        for score in trial.passes:
            scores.setdefault(score.pass_id, {})[score.score_id] = score
        if isinstance(trial.rewind, int):
            steps.setdefault(trial.dense.dense_id, set()).add(trial.rewind)
        if trial.distills:
            teachers.add(trial.dense.dense_id)
    return Shared(
        {key: tuple(sorted(same.values(), key=lambda score: score.label)) for key, same in scores.items()},
        {key: frozenset(found) for key, found in steps.items()},
        frozenset(networks),
        frozenset(teachers),
    )
