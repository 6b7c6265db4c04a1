"""Lists the trials of a sweep: the product of its axes, each trial once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

from deepcuts.experiment.arms import differing_text
from deepcuts.experiment.own_criteria import own_criteria
from deepcuts.experiment.spec import (
    DenseSpec,
    ModelSource,
    OwnCriterion,
    ScoreSpec,
    Scoring,
    TrialSpec,
    outlier_pass,
    score_spec,
)
from deepcuts.experiment.sweepfile import Settings, SweepFile
from deepcuts.experiment.tasks import Task
from deepcuts.pruning.criteria import parse_strategy
from deepcuts.wording import level

Level = tuple[Literal["compression", "sparsity"], float]
# What a score follows from, besides the fine-tuned network: the criterion, its settings, and the excluded tensors.
_Scored = tuple[str, Scoring, tuple[str, ...]]


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
        """Return every wanted trial once: per dataset and seed first Dense, then each arm at each level."""
        return list({trial.trial_id: trial for _, trial in self._asked}.values())

    @cached_property
    def labels(self) -> dict[str, str]:
        """Map the ids of the trials to the labels of their arms; of several labels, the first that the sweep has."""
        found: dict[str, str] = {}
        for label, trial in self._asked:
            found.setdefault(trial.trial_id, label)
        return found

    def repeated(self) -> list[str]:
        """Name what the sweep asks for more than once, but for Unpruned, which every strategy at compression 1 is."""
        seen: set[str] = set()
        names = [f"dataset {name}" for name in self.file.repeated_datasets()]
        same: dict[tuple[str, str], set[str]] = {}
        for label, trial in self._asked:
            if trial.trial_id in seen and trial.strategy != "Unpruned":
                if (first := self.labels[trial.trial_id]) == label:
                    names.append(describe(trial, label))
                else:
                    same.setdefault((label, first), set()).add(trial.dense.dataset)
            seen.add(trial.trial_id)
        for (label, first), datasets in same.items():
            where = f" on {', '.join(sorted(datasets))}" if len(datasets) < len(self.tasks) else ""
            names.append(f"arm {label!r}, which is the same experiment as {first!r}{where}")
        return list(dict.fromkeys(names))

    @cached_property
    def _asked(self) -> list[tuple[str, TrialSpec]]:
        """Make the product of the axes, each trial with the name of its arm.

        Trials share the objects that they have in common: each id is made once.
        """
        found = []
        for dataset, task in self.tasks.items():
            settings = self.file.for_dataset(dataset)
            arms = [(arm, self.file.for_arm(dataset, arm)) for arm in self.file.arms]
            for seed in self.file.seeds:
                dense = self._dense(dataset, task, settings, seed)
                excluded = tuple(sorted(set(settings.exclude)))
                whole = ScoreSpec(dense=dense, prune_biases=self.file.prune_biases, exclude=excluded)
                found.append(("Dense", TrialSpec(score=whole)))
                plain = TrialSpec(score=whole, **_after_scoring(settings))
                scores: dict[_Scored, ScoreSpec] = {}
                for (arm, own), level_asked in product(arms, self._levels()):
                    trial = self._trial(arm.strategy, own, level_asked, whole, scores)
                    found.append((arm.label if trial.prunes else _unpruned_label(trial, plain), trial))
        return found

    def _levels(self) -> list[Level]:
        levels: list[Level] = [("compression", value) for value in self.file.compressions or []]
        return levels + [("sparsity", value) for value in self.file.sparsities or []]

    @cached_property
    def _own(self) -> Mapping[str, OwnCriterion]:
        return own_criteria(self.file.criteria)

    def _trial(
        self,
        strategy: str,
        settings: Settings,
        asked: Level,
        whole: ScoreSpec,
        scores: dict[_Scored, ScoreSpec],
    ) -> TrialSpec:
        """Make the trial of a strategy at a level; where that prunes nothing it is Unpruned, whatever the strategy.

        `scores` has the specs of scores that were made so far, and gets this one.
        """
        fields: dict[str, Any] = {asked[0]: asked[1], **_after_scoring(settings)}
        if asked in (("compression", 1), ("sparsity", 0)):
            return TrialSpec(score=whole, **fields)
        criterion, scope, control = parse_strategy(strategy, self.file.known_criteria)
        key = criterion, settings.scoring, tuple(settings.exclude)
        if key not in scores:
            scores[key] = score_spec(
                whole.dense, criterion, settings.scoring, whole.prune_biases, settings.exclude, self._own.get(criterion)
            )
        fields |= {"control": control, "outliers": outlier_pass(scope, settings.scoring)}
        return TrialSpec(score=scores[key], scope=scope, **fields)

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


def _after_scoring(settings: Settings) -> dict[str, Any]:
    """Return the fields of a trial that say what is done with its mask."""
    return {"rewind": settings.rewind or "init", "retrain": settings.retraining()}


def _unpruned_label(trial: TrialSpec, plain: TrialSpec) -> str:
    """Return `Unpruned`, and what differs from the one that has the settings of the sweep itself."""
    of_masks = {"score", "scope", "control", "compression", "sparsity"}
    differing = differing_text(trial.model_dump(exclude=of_masks), plain.model_dump(exclude=of_masks))
    return f"Unpruned ({differing})" if differing else "Unpruned"


def describe(trial: TrialSpec, arm: str | None = None) -> str:
    """Describe a trial in a few words: dataset, arm (by default its strategy), how much is pruned, seed."""
    asked = f" {level(trial.compression, trial.sparsity)}" if trial.prunes else ""
    return f"{trial.dense.dataset} {arm or trial.strategy}{asked} seed {trial.dense.seed}"


def tracker_labels(trial: TrialSpec, arm: str | None = None) -> dict[str, Any]:
    """Return the labels under which a tracker lists a trial; the trial itself is found by its id alone."""
    asked = {"compression": trial.compression, "sparsity": trial.sparsity}
    known = {name: value for name, value in asked.items() if value is not None}
    named = {"arm": arm or trial.strategy, "strategy": trial.strategy}
    return {"dataset": trial.dense.dataset, **named, "seed": trial.dense.seed, **known}
