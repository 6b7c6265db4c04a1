"""Measures a fine-tuned network with one part of it pruned alone: a tensor, all tensors of a kind, or a layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deepcuts.experiment.metrics import compute_metrics, predictions_from
from deepcuts.experiment.spec import TrialSpec
from deepcuts.fast.process import prepare_process
from deepcuts.model.network import Network, prunable, set_weights, weights_of
from deepcuts.names import block_of, layer_kind, natural
from deepcuts.pruning.masks import make_masks, zero_weights
from deepcuts.store.tables import Row
from deepcuts.store.tensors import load_artifact
from deepcuts.training.train import evaluate
from deepcuts.trial.context import Context
from deepcuts.trial.loading import Material, load_material, load_network
from deepcuts.trial.shared_stages import find_scores
from deepcuts.trial.shortcuts import prove_shortcuts

# Hears how many evaluations are done and how many there are, and the seconds that the last one took.
OnEvaluation = Callable[[int, int, float], None]


@dataclass(frozen=True)
class PrunedPart:
    """What is pruned together: its name, the tensors, and their depth and kind, where they have one in common."""

    name: str
    tensors: list[str]
    depth: int | None
    kind: str | None


def parts_of(names: Sequence[str], by: str) -> list[PrunedPart]:
    """Group prunable tensors by `tensor`, `kind` (such as query) or `layer`, in the order of the network."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=natural):
        layer = block_of(name) or name.rpartition(".")[0]
        groups.setdefault({"tensor": name, "kind": _kind(name), "layer": layer}[by], []).append(name)
    return [PrunedPart(name, tensors, *_common(tensors)) for name, tensors in groups.items()]


def _kind(tensor: str) -> str:
    layer, _, parameter = tensor.rpartition(".")
    return layer_kind(layer)[1] + (" bias" if parameter == "bias" else "")


def _common(tensors: Sequence[str]) -> tuple[int | None, str | None]:
    depths = {layer_kind(tensor.rpartition(".")[0])[0] for tensor in tensors}
    kinds = {_kind(tensor) for tensor in tensors}
    return depths.pop() if len(depths) == 1 else None, kinds.pop() if len(kinds) == 1 else None


def prune_each_alone(
    trial: TrialSpec, context: Context, sparsities: Sequence[float], by: str, on_evaluation: OnEvaluation
) -> Iterator[Row]:
    """Yield for each part and sparsity the metric of the fine-tuned network with that part pruned, and no other.

    Of each tensor of the part the highest scores of the trial's criterion stay. The first evaluation, of the network as
    it is, is heard as number 0.
    """
    prepare_process(context.threads, trial.dense.tf32)
    material = load_material(trial.dense)
    network = prove_shortcuts(load_network(trial.dense), material.train)
    initial = weights_of(network)
    tuned = load_artifact(context.store, "dense", trial.dense.dense_id, "model.safetensors")
    set_weights(network, tuned)
    scores = find_scores(network, material, trial.score, context, initial, trial.control_seed).scores
    parts = parts_of(prunable(network.model, trial.score.prune_biases, trial.score.exclude), by)
    dense, seconds = _measure(network, material, trial)
    total, done = len(parts) * len(sparsities), 0
    on_evaluation(done, total, seconds)
    for part in parts:
        for sparsity in sparsities:
            masks = make_masks({name: scores[name] for name in part.tensors}, 1 - sparsity, "layer")
            zero_weights(network.model, {name: mask.to(network.device) for name, mask in masks.items()})
            value, seconds = _measure(network, material, trial)
            _put_back(network, tuned, part.tensors)
            done += 1
            on_evaluation(done, total, seconds)
            yield {
                "part": part.name,
                "depth": part.depth,
                "kind": part.kind,
                "tensors": len(part.tensors),
                "size": sum(mask.numel() for mask in masks.values()),
                "kept": sum(int(mask.sum()) for mask in masks.values()),
                "sparsity": sparsity,
                "metric": trial.dense.task.main_metric,
                "dense": dense,
                "pruned": value,
            }


def _measure(network: Network, material: Material, trial: TrialSpec) -> tuple[float, float]:
    """Return the task's metric on the validation split, and the seconds that the evaluation took."""
    began, tokens, name = time.monotonic(), material.evaluated["validation"], trial.dense.task.main_metric
    labels = tokens.labels.numpy().astype(np.float64)
    value = compute_metrics((name,), labels, predictions_from(evaluate(network, tokens)))[name]
    return value, time.monotonic() - began


@torch.no_grad()
def _put_back(network: Network, weights: Mapping[str, Tensor], names: Sequence[str]) -> None:
    for name in names:
        network.model.get_parameter(name).copy_(weights[name])
