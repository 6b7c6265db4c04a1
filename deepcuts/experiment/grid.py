"""Lists the trials of a sweep: the product of its axes, each trial once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, Literal

from deepcuts.experiment.arms import Arm, differing_text
from deepcuts.experiment.chain import (
    MaskFrom,
    in_rounds,
    scoring_rounds,
    with_mask_in,
    with_mask_of,
    with_what_they_need,
)
from deepcuts.experiment.own_criteria import own_criteria
from deepcuts.experiment.settings import Scoring
from deepcuts.experiment.spec import (
    DenseSpec,
    MaskFile,
    ModelSource,
    OwnCriterion,
    ScoreSpec,
    TrialSpec,
    outlier_pass,
    score_spec,
)
from deepcuts.experiment.sweepfile import Settings, SweepFile
from deepcuts.experiment.tasks import Task
from deepcuts.experiment.yaml_errors import unknown
from deepcuts.names import names_tensor
from deepcuts.pruning.compression import Counts, fraction_to_keep
from deepcuts.pruning.criteria import parse_strategy
from deepcuts.wording import level

Level = tuple[Literal["compression", "sparsity"], float]
# Levels that prune nothing, whatever the strategy.
_PRUNES_NOTHING: tuple[Level, ...] = (("compression", 1), ("sparsity", 0))
# What a score follows from, besides the fine-tuned network: the criterion, its settings, and the excluded tensors.
_Scored = tuple[str, Scoring, tuple[str, ...]]


@dataclass(frozen=True)
class SweepSpec:
    """A sweep file with the exact model, datasets and device that its names were found to mean.

    `with_head` has the datasets that a head in the model's weights fits, `counts` the parameters of the network by
    dataset (needed where compressions are reached in rounds), and `mask_files` what each `mask_from` with a file means.
    """

    file: SweepFile
    model: ModelSource
    tasks: Mapping[str, Task]
    device: Literal["cpu", "cuda"]
    with_head: frozenset[str] = frozenset()
    counts: Mapping[str, Counts] = field(default_factory=dict)
    mask_files: Mapping[MaskFrom, MaskFile] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.file.name

    def trials(self) -> list[TrialSpec]:
        """Return every wanted trial once: per dataset and seed first Dense, then each arm at each level.

        A trial that builds on others comes after them; those are wanted too.
        """
        return with_what_they_need(trial for _, trial in self._asked)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Map the ids of the trials to the labels of their arms; of several labels, the first that the sweep has.

        Rounds of an arm that no level asks for have its label too, and trials that are wanted for their masks alone.
        """
        found: dict[str, str] = {}
        for label, trial in self._asked:
            found.setdefault(trial.trial_id, label)
        for label, trial in self._asked:
            while trial.builds_on is not None:
                trial = trial.builds_on
                found.setdefault(trial.trial_id, label)
        return found

    def repeated(self) -> list[str]:
        """Name what the sweep asks for more than once, but for Unpruned, which every strategy at compression 1 is.

        Of two arms that agree in a part of their trials alone, it says in which.
        """
        seen: set[str] = set()
        names = [f"dataset {name}" for name in self.file.repeated_datasets()]
        same: dict[tuple[str, str], list[TrialSpec]] = {}
        for label, trial in self._asked:
            if trial.trial_id in seen and trial.strategy != "Unpruned":
                if (first := self.labels[trial.trial_id]) == label:
                    names.append(describe(trial, label))
                else:
                    same.setdefault((label, first), []).append(trial)
            seen.add(trial.trial_id)
        for (label, first), trials in same.items():
            names.append(f"arm {label!r}, which is the same experiment as {first!r}{self._part(trials)}")
        return list(dict.fromkeys(names))

    def _part(self, trials: Iterable[TrialSpec]) -> str:
        """Say on which datasets, at which levels and for which seeds trials are, where that is not all of the sweep."""
        trials, words = list(trials), ""
        pruning = [asked for asked in self._levels() if asked not in _PRUNES_NOTHING]
        for word, found, count in (
            (" on", [trial.dense.dataset for trial in trials], len(self.tasks)),
            (" at", [level(trial.compression, trial.sparsity) for trial in trials], len(set(pruning))),
            (" with seed", [str(trial.dense.seed) for trial in trials], len(set(self.file.seeds))),
        ):
            some = list(dict.fromkeys(found))
            words += f"{word} {', '.join(some)}" if len(some) < count else ""
        return words

    @cached_property
    def _asked(self) -> list[tuple[str, TrialSpec]]:
        """Make the product of the axes, each trial with the name of its arm.

        Trials share the objects that they have in common: each id is made once.
        """
        found = []
        rows = _Rows(self)
        for dataset in self.tasks:
            for seed in self.file.seeds:
                whole = rows.whole(dataset, seed)
                found.append(("Dense", TrialSpec(score=whole)))
                plain = TrialSpec(score=whole, **_after_scoring(self.file.for_dataset(dataset)))
                for arm, asked in product(self.file.arms, self._levels()):
                    trial = rows.trial(dataset, seed, arm, asked)
                    found.append((arm.label if trial.prunes else _unpruned_label(trial, plain), trial))
        return found

    def _levels(self) -> list[Level]:
        levels: list[Level] = [("compression", value) for value in self.file.compressions or []]
        return levels + [("sparsity", value) for value in self.file.sparsities or []]

    @cached_property
    def own(self) -> Mapping[str, OwnCriterion]:
        """The user's own criteria, by their names."""
        return own_criteria(self.file.criteria)

    def dense(self, dataset: str, task: Task, settings: Settings, seed: int) -> DenseSpec:
        return DenseSpec(
            model=self.model,
            dataset=dataset,
            task=task,
            seed=seed,
            head=settings.head,
            keep_head=settings.keep_head,
            head_in_weights=dataset in self.with_head,
            loss=settings.loss,
            class_weights=settings.class_weights,
            max_tokens=settings.max_tokens,
            max_train_examples=settings.max_train_examples,
            length_grouping=self.file.length_grouping,
            precision=self.file.precision,
            tf32=self.file.tf32,
            compile=self.file.compile,
            device=self.device,
            finetune=settings.finetune,
        )


class _Rows:
    """Makes the trials of a sweep, with what they have in common made once."""

    def __init__(self, spec: SweepSpec) -> None:
        self._spec = spec
        self._whole: dict[tuple[str, int], ScoreSpec] = {}
        self._scores: dict[tuple[str, int, _Scored], ScoreSpec] = {}
        self._rounds: dict[tuple[str, int, str], dict[Any, TrialSpec]] = {}
        self._settings = {
            (dataset, arm.label): spec.file.for_arm(dataset, arm) for dataset in spec.tasks for arm in spec.file.arms
        }

    def whole(self, dataset: str, seed: int) -> ScoreSpec:
        """The score spec of Dense and Unpruned, which has the fine-tuned network."""
        if (dataset, seed) not in self._whole:
            settings, biases = self._spec.file.for_dataset(dataset), self._spec.file.prune_biases
            dense = self._spec.dense(dataset, self._spec.tasks[dataset], settings, seed)
            excluded = tuple(sorted(set(settings.exclude)))
            self._whole[dataset, seed] = ScoreSpec(dense=dense, prune_biases=biases, exclude=excluded)
        return self._whole[dataset, seed]

    def trial(self, dataset: str, seed: int, arm: Arm, asked: Level) -> TrialSpec:
        """Make the trial of an arm at a level."""
        given = self._settings[dataset, arm.label].mask_from
        if given is None:
            return self._own(dataset, seed, arm, asked)
        single = self._single(dataset, seed, arm, asked)
        if given.file is not None:
            return with_mask_in(single, self._spec.mask_files[given])
        source = self._spec.file.row_name(given.dataset or dataset)
        if source not in self._spec.tasks:
            raise ValueError(f"mask_from: {unknown('dataset', source, list(self._spec.tasks))}")
        return with_mask_of(single, self._own(source, seed if given.seed is None else given.seed, arm, asked))

    def _own(self, dataset: str, seed: int, arm: Arm, asked: Level) -> TrialSpec:
        """Make the trial that finds its own mask, in rounds where the settings say so."""
        single = self._single(dataset, seed, arm, asked)
        known = self._rounds.setdefault((dataset, seed, arm.label), {})
        rounds = self._settings[dataset, arm.label].rounds
        return in_rounds(single, rounds, lambda: self._density(dataset, single), known)

    def _density(self, dataset: str, trial: TrialSpec) -> float:
        if trial.sparsity is not None:
            return 1 - trial.sparsity
        counts, globs = self._spec.counts[dataset], trial.score.exclude
        excluded = [shape for name, shape in counts.tensors.items() if any(names_tensor(glob, name) for glob in globs)]
        prunable = counts.prunable - sum(map(math.prod, excluded))
        return fraction_to_keep(trial.compression, None, counts.parameters, prunable)

    def _single(self, dataset: str, seed: int, arm: Arm, asked: Level) -> TrialSpec:
        """Make the trial that prunes at once; where the level prunes nothing it is Unpruned, whatever the arm."""
        whole, settings = self.whole(dataset, seed), self._settings[dataset, arm.label]
        fields: dict[str, Any] = {asked[0]: asked[1], **_after_scoring(settings)}
        if asked in _PRUNES_NOTHING:
            return TrialSpec(score=whole, **fields)
        known = self._spec.file.known_criteria
        criterion, scope, control = parse_strategy(arm.strategy, known)
        key = dataset, seed, (criterion, settings.scoring, tuple(settings.exclude))
        if key not in self._scores:
            about = whole.prune_biases, settings.exclude, self._spec.own.get(criterion)
            self._scores[key] = score_spec(whole.dense, criterion, settings.scoring, *about)
        rounds = scoring_rounds(arm.strategy, scope, known[criterion], settings.scoring.rounds)
        fields |= {"control": control, "outliers": outlier_pass(scope, settings.scoring), "scoring_rounds": rounds}
        return TrialSpec(score=self._scores[key], scope=scope, **fields)


def _after_scoring(settings: Settings) -> dict[str, Any]:
    """Return the fields of a trial that say what is done with its mask."""
    return {"rewind": settings.rewind or "init", "start": settings.start, "retrain": settings.retraining()}


def _unpruned_label(trial: TrialSpec, plain: TrialSpec) -> str:
    """Return `Unpruned`, and what differs from the one that has the settings of the sweep itself."""
    of_masks = {"score", "scope", "control", "compression", "sparsity"}
    differing = differing_text(trial.model_dump(exclude=of_masks), plain.model_dump(exclude=of_masks))
    return f"Unpruned ({differing})" if differing else "Unpruned"


def describe(trial: TrialSpec, arm: str | None = None) -> str:
    """Describe a trial in a few words: dataset, arm (by default its strategy), how much is pruned, seed."""
    asked = f" {level(trial.compression, trial.sparsity)}" if trial.prunes else ""
    round_ = f" round {trial.round}" if trial.previous else ""
    return (
        f"{trial.dense.dataset} {arm or trial.strategy}{asked}{round_} seed {trial.dense.seed}{_mask_in_words(trial)}"
    )


def _mask_in_words(trial: TrialSpec) -> str:
    if trial.mask_file is not None:
        return f" with the mask of {trial.mask_file.trial} in {trial.mask_file.name}"
    return "" if trial.mask_of is None else f" with the mask of {describe(trial.mask_of)}"


def tracker_labels(trial: TrialSpec, arm: str | None = None) -> dict[str, Any]:
    """Return the labels under which a tracker lists a trial; the trial itself is found by its id alone."""
    asked = {"compression": trial.compression, "sparsity": trial.sparsity}
    known = {name: value for name, value in asked.items() if value is not None}
    named = {"arm": arm or trial.strategy, "strategy": trial.strategy}
    return {"dataset": trial.dense.dataset, **named, "seed": trial.dense.seed, **known}
