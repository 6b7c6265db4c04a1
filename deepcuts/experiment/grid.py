"""Lists the trials of a sweep: the product of its axes, each trial once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

from deepcuts.experiment.own_criteria import all_criteria, own_criteria
from deepcuts.experiment.spec import (
    DenseSpec,
    ModelSource,
    ScoreSpec,
    Scoring,
    Training,
    TrialSpec,
    outlier_pass,
    score_spec,
)
from deepcuts.experiment.sweepfile import Settings, SweepFile
from deepcuts.experiment.tasks import Task
from deepcuts.pruning.criteria import Control, Needs, Scope, parse_strategy
from deepcuts.wording import level

Level = tuple[Literal["compression", "sparsity"], float]
Rewind = Literal["init", "none"] | int
Strategy = tuple[str, Scope, Control]


@dataclass(frozen=True)
class SweepSpec:
    """A sweep file with the exact model, datasets and device that its names were found to mean.

    `with_head` has the datasets that a head in the model's weights fits.
    """

    file: SweepFile
    model: ModelSource
    tasks: Mapping[str, Task]
    device: Literal["cpu", "cuda"]
    with_head: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return self.file.name

    def trials(self) -> list[TrialSpec]:
        """Return every wanted trial once: per dataset and seed first Dense, then each strategy at each level."""
        return list({trial.trial_id: trial for trial in self._asked}.values())

    def repeated(self) -> list[str]:
        """Name what the sweep asks for more than once, but for Unpruned, which every strategy at compression 1 is."""
        seen: set[str] = set()
        names = [f"dataset {name}" for name in self.file.repeated_datasets()]
        for trial in self._asked:
            if trial.trial_id in seen and trial.strategy != "Unpruned":
                names.append(describe(trial))
            seen.add(trial.trial_id)
        return list(dict.fromkeys(names))

    @cached_property
    def _asked(self) -> list[TrialSpec]:
        """Make the product of the axes. Trials share the objects that they have in common: each id is made once."""
        found = []
        for dataset, task in self.tasks.items():
            settings = self.file.for_dataset(dataset)
            retrain = settings.retraining()
            for seed in self.file.seeds:
                dense = self._dense(dataset, task, settings, seed)
                excluded = tuple(sorted(set(settings.exclude)))
                whole = ScoreSpec(dense=dense, prune_biases=self.file.prune_biases, exclude=excluded)
                found.append(TrialSpec(score=whole))
                scores = self._scores(dense, settings)
                rewind = settings.rewind or "init"
                for strategy, asked in product(self.file.strategies, self._levels()):
                    parsed = parse_strategy(strategy, self._known)
                    found.append(_pruned(parsed, asked, whole, scores, rewind, retrain, settings.scoring))
        return found

    def _levels(self) -> list[Level]:
        levels: list[Level] = [("compression", value) for value in self.file.compressions or []]
        return levels + [("sparsity", value) for value in self.file.sparsities or []]

    def _scores(self, dense: DenseSpec, settings: Settings) -> dict[str, ScoreSpec]:
        """Return the score specs of the criteria that the strategies use, by criterion."""
        own, biases, exclude = own_criteria(self.file.criteria), self.file.prune_biases, settings.exclude
        criteria = dict.fromkeys(parse_strategy(strategy, self._known)[0] for strategy in self.file.strategies)
        return {name: score_spec(dense, name, settings.scoring, biases, exclude, own.get(name)) for name in criteria}

    @cached_property
    def _known(self) -> Mapping[str, Needs]:
        """The criteria that strategies may name: ours, and the user's own."""
        return all_criteria(self.file.criteria)

    def _dense(self, dataset: str, task: Task, settings: Settings, seed: int) -> DenseSpec:
        return DenseSpec(
            model=self.model,
            dataset=dataset,
            task=task,
            seed=seed,
            head=settings.head,
            keep_head=settings.keep_head,
            head_in_weights=dataset in self.with_head,
            loss=settings.loss,
            max_tokens=settings.max_tokens,
            max_train_examples=settings.max_train_examples,
            length_grouping=self.file.length_grouping,
            precision=self.file.precision,
            tf32=self.file.tf32,
            compile=self.file.compile,
            device=self.device,
            finetune=settings.finetune,
        )


def _pruned(
    strategy: Strategy,
    asked: Level,
    whole: ScoreSpec,
    scores: Mapping[str, ScoreSpec],
    rewind: Rewind,
    retrain: Training,
    scoring: Scoring,
) -> TrialSpec:
    """Make the trial of a strategy at a level; where that prunes nothing it is Unpruned, whatever the strategy."""
    fields: dict[str, Any] = {asked[0]: asked[1], "rewind": rewind, "retrain": retrain}
    if asked in (("compression", 1), ("sparsity", 0)):
        return TrialSpec(score=whole, **fields)
    criterion, scope, control = strategy
    fields |= {"control": control, "outliers": outlier_pass(scope, scoring)}
    return TrialSpec(score=scores[criterion], scope=scope, **fields)


def describe(trial: TrialSpec) -> str:
    """Describe a trial in a few words: dataset, strategy, how much is pruned, seed."""
    asked = f" {level(trial.compression, trial.sparsity)}" if trial.prunes else ""
    return f"{trial.dense.dataset} {trial.strategy}{asked} seed {trial.dense.seed}"


def tracker_labels(trial: TrialSpec) -> dict[str, Any]:
    """Return the labels under which a tracker lists a trial; the trial itself is found by its id alone."""
    asked = {"compression": trial.compression, "sparsity": trial.sparsity}
    known = {name: value for name, value in asked.items() if value is not None}
    return {"dataset": trial.dense.dataset, "strategy": trial.strategy, "seed": trial.dense.seed, **known}
