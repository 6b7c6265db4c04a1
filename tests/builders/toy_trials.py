"""Trials on the embedded dataset and network, so small that each takes a fraction of a second."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from deepcuts.data.toy import VERSION
from deepcuts.experiment.settings import Scoring, Training
from deepcuts.experiment.spec import DenseSpec, ModelSource, ScoreSpec, TrialSpec, outlier_pass, score_spec
from deepcuts.experiment.tasks import TASKS, Task
from deepcuts.model.network import weights_of
from deepcuts.pruning.criteria import parse_strategy
from deepcuts.store.store import Store
from deepcuts.store.tensors import load_artifact
from deepcuts.trial.context import Context
from deepcuts.trial.loading import load_network

TASK = TASKS["toy"].model_copy(update={"digest": VERSION})
TRAINING = Training(epochs=1, batch_size=16, lr=1e-3)
STEPS = 3  # of an epoch: 48 examples
SCORING = Scoring(batches=2, smooth_batches=1, smoothing_passes=2, batch_size=16)
WHEN = {"seconds", "started_at", "finished_at", "total_seconds", "finetune_seconds", "prune_seconds", "retrain_seconds"}
WHEN |= {"score_seconds", "dense_cached", "score_cached", "sweep"}


def dense(task: Task = TASK, seed: int = 0, finetune: Training = TRAINING, **fields: Any) -> DenseSpec:
    model = ModelSource(name="toy", digest=VERSION)
    settings = {"max_tokens": 32, "max_train_examples": 48, **fields}
    return DenseSpec(model=model, dataset="toy", task=task, seed=seed, finetune=finetune, **settings)


def trial(
    strategy: str = "LayerMagWeight",
    of: DenseSpec | None = None,
    sparsity: float | None = 0.5,
    scoring: Scoring = SCORING,
    prune_biases: bool = False,
    exclude: tuple[str, ...] = (),
    retrain: Training | None = TRAINING,
    **fields: Any,
) -> TrialSpec:
    of = of or dense()
    if strategy in ("Dense", "Unpruned"):
        score, retrain = ScoreSpec(dense=of, prune_biases=prune_biases), retrain if strategy == "Unpruned" else None
        return TrialSpec(score=score, retrain=retrain, **fields)
    criterion, scope, control = parse_strategy(strategy)
    score = score_spec(of, criterion, scoring, prune_biases, exclude)
    fields.setdefault("outliers", outlier_pass(scope, scoring))
    if "compression" in fields:
        sparsity = None
    return TrialSpec(score=score, scope=scope, control=control, sparsity=sparsity, retrain=retrain, **fields)


def context(store: Store, **fields: Any) -> Context:
    return Context(store, threads=1, **fields)


def rows(store: Store, table: str, spec: TrialSpec) -> list[dict[str, Any]]:
    """The rows of a trial without what tells only when and by whom they were made."""
    found = [row for row in store.read(table).table.to_pylist() if row["trial_id"] == spec.trial_id]
    return [{name: value for name, value in row.items() if name not in WHEN} for row in found]


def everything(store: Store, spec: TrialSpec) -> list[list[dict[str, Any]]]:
    return [rows(store, table, spec) for table in ("trials", "metrics", "predictions", "masks")]


def theta_0(spec: TrialSpec) -> dict[str, Tensor]:
    return weights_of(load_network(spec.dense))


def theta_1(store: Store, spec: TrialSpec, file: str = "model.safetensors") -> dict[str, Tensor]:
    return load_artifact(store, "dense", spec.dense.dense_id, file)
