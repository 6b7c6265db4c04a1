"""The trials that a sweep holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deepcuts.criteria import parse_strategy
from deepcuts.spec import DenseSpec, ModelSource, ScoreSpec, TrialSpec, score_spec
from deepcuts.sweepfile import Settings, SweepFile
from deepcuts.tasks import Task


@dataclass(frozen=True)
class SweepSpec:
    """A sweep whose model, datasets and device are exact: the file, and what its names were found to mean."""

    file: SweepFile
    model: ModelSource
    tasks: Mapping[str, Task]
    device: Literal["cpu", "cuda"]

    @property
    def name(self) -> str:
        return self.file.name

    def trials(self) -> list[TrialSpec]:
        """Every wanted trial once: per dataset and seed first Dense, then each strategy at each compression."""
        return list({trial.trial_id: trial for trial in self._all()}.values())

    def repeated(self) -> list[str]:
        """What the sweep asks for more than once (all strategies at compression 1 being Unpruned is no repetition)."""
        seen: set[str] = set()
        names = [f"dataset {name}" for name in self.file.repeated_datasets()]
        for trial in self._all():
            if trial.trial_id in seen and trial.strategy != "Unpruned":
                names.append(describe(trial))
            seen.add(trial.trial_id)
        return list(dict.fromkeys(names))

    def _all(self) -> Iterator[TrialSpec]:
        for dataset, task in self.tasks.items():
            settings = self.file.for_dataset(dataset)
            for seed in self.file.seeds:
                dense = self.dense(dataset, task, settings, seed)
                yield TrialSpec(score=ScoreSpec(dense=dense, prune_biases=self.file.prune_biases))
                for strategy in self.file.strategies:
                    for compression in self.file.compressions or []:
                        yield self.pruned(dense, settings, strategy, compression=compression)
                    for sparsity in self.file.sparsities or []:
                        yield self.pruned(dense, settings, strategy, sparsity=sparsity)

    def dense(self, dataset: str, task: Task, settings: Settings, seed: int) -> DenseSpec:
        return DenseSpec(
            model=self.model,
            dataset=dataset,
            task=task,
            seed=seed,
            head=settings.head,
            loss=settings.loss,
            max_tokens=settings.max_tokens,
            max_train_examples=settings.max_train_examples,
            precision=self.file.precision,
            tf32=self.file.tf32,
            device=self.device,
            finetune=settings.finetune,
        )

    def pruned(
        self,
        dense: DenseSpec,
        settings: Settings,
        strategy: str,
        compression: float | None = None,
        sparsity: float | None = None,
    ) -> TrialSpec:
        criterion, scope, control = parse_strategy(strategy)
        rewind = "init" if settings.rewind == 0 else settings.rewind
        if compression == 1 or sparsity == 0:
            whole = ScoreSpec(dense=dense, prune_biases=self.file.prune_biases)
            return TrialSpec(
                score=whole, compression=compression, sparsity=sparsity, rewind=rewind, retrain=settings.retraining()
            )
        return TrialSpec(
            score=score_spec(dense, criterion, settings.scoring, self.file.prune_biases),
            scope=scope,
            control=control,
            compression=compression,
            sparsity=sparsity,
            rewind=rewind,
            retrain=settings.retraining(),
        )


def describe(trial: TrialSpec) -> str:
    """A trial in a few words: dataset, strategy, how much is pruned, seed."""
    asked = ""
    if trial.score.criterion is not None:
        asked = f" {trial.compression:g}x" if trial.compression is not None else f" {trial.sparsity:.4g}"
    return f"{trial.dense.dataset} {trial.strategy}{asked} seed {trial.dense.seed}"


def labels(trial: TrialSpec) -> dict[str, Any]:
    """What a tracker files a trial under; the trial itself is found by its id alone."""
    asked = {"compression": trial.compression, "sparsity": trial.sparsity}
    known = {name: value for name, value in asked.items() if value is not None}
    return {"dataset": trial.dense.dataset, "strategy": trial.strategy, "seed": trial.dense.seed, **known}
