"""Trains and evaluates a trial's network, into rows of `metrics` and `predictions`, and tells what the data is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from torch import Tensor

from deepcuts.experiment.metrics import compute_metrics, majority_score, predictions_from
from deepcuts.experiment.settings import Training
from deepcuts.experiment.tasks import Task
from deepcuts.model.network import Network, weights_of
from deepcuts.store.tables import Row
from deepcuts.store.tensors import save_tensors
from deepcuts.training.train import Hooks, evaluate, train
from deepcuts.trial.context import Context
from deepcuts.trial.loading import Material


def data_columns(task: Task, material: Material) -> Row:
    """Return what is known of the examples, and the metric of always predicting the most frequent class.

    Of a regression there is no such class, and `majority` is None. `data_split` says how validation was split off a
    file or the training split, None where it was not.
    """
    labels = material.evaluated["validation"].labels.numpy().astype(np.float64)
    majority = majority_score(task.main_metric, labels) if task.kind == "classification" else None
    facts = {split: asdict(each) for split, each in material.facts.items()}
    for split in facts:
        if split != "test":
            del facts[split]["in_validation"]
    return {"majority": majority, "data_facts": json.dumps(facts), "data_split": task.split_in_words}


def evaluate_stage(network: Network, material: Material, stage: str) -> tuple[dict[str, dict[str, float]], list[Row]]:
    """Return the metrics by split and name, and a row of `predictions` for each example."""
    values, rows = {}, []
    for split, tokens in material.evaluated.items():
        outputs = evaluate(network, tokens)
        labels = tokens.labels.numpy().astype(np.float64)
        predictions = predictions_from(outputs)
        values[split] = compute_metrics(material.metric_names, labels, predictions)
        for i in range(len(labels)):
            rows.append(
                {
                    "stage": stage,
                    "split": split,
                    "example": i,
                    "label": labels[i],
                    "prediction": predictions[i],
                    "logits": outputs[i],
                }
            )
    return values, rows


def fit(
    network: Network,
    material: Material,
    settings: Training,
    seed: int,
    context: Context,
    stage: str,
    key: str,
    masks: Mapping[str, Tensor] | None = None,
) -> tuple[list[Row], list[Row]]:
    """Train, and evaluate after every epoch, on the test split after the last one alone.

    Return the metrics of all epochs and the predictions of the last one. With no epochs the network is evaluated as it
    is (epoch 0, step 0). `key` names the checkpoint to go on from.
    """
    predictions: list[Row] = []

    def after_epoch(epoch: int) -> dict[str, dict[str, float]]:
        values, rows = evaluate_stage(network, material if epoch + 1 >= settings.epochs else material.watched, stage)
        predictions[:] = rows
        context.on_metrics(stage, epoch, values)
        return values

    def snapshot(step: int) -> None:
        with context.store.new_file(context.snapshot_name(key, step)) as path:
            save_tensors(path, weights_of(network))

    hooks = Hooks(
        after_epoch,
        on_step=lambda epoch, step: context.on_progress(stage, epoch, step),
        on_loss=context.on_loss,
        stop=context.stop,
        snapshots=context.snapshots if stage == "dense" else (),
        snapshot=snapshot,
    )
    rows = train(
        network,
        material.train,
        context.bound(settings),
        seed=seed,
        stage=stage,
        masks=masks,
        length_grouping=material.length_grouping,
        checkpoint=context.checkpoint(key),
        hooks=hooks,
    )
    if not settings.epochs:
        rows = metric_rows(stage, after_epoch(0))
    return rows, predictions


def metric_rows(stage: str, values: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Return the rows of `metrics` of an evaluation outside training: epoch, step and seconds are 0."""
    at = {"stage": stage, "epoch": 0, "step": 0, "seconds": 0.0}
    return [
        {**at, "split": split, "metric": metric, "value": value}
        for split, named in values.items()
        for metric, value in named.items()
    ]
