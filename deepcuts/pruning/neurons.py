"""Prunes whole neurons of the feed-forward layers of a network.

A feed-forward layer is second(activation(first(x))). F = its neurons, between the two matrices. A neuron is a row of
the first weight (F, H), its bias, and a column of the second weight (H, F); GPT-2 stores both weights turned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from deepcuts.pruning.compression import FeedForward


def neuron_scores(scores: Mapping[str, Tensor], layer: FeedForward) -> Tensor:
    """Return the score (F,) of each neuron in float64: the sum of the scores of all its prunable weights."""
    parts = [scores[name].movedim(axis, 0) for name, axis in layer.items() if name in scores]
    rows = torch.cat([part.reshape(len(part), -1) for part in parts], 1).double().cpu()
    return torch.from_numpy(rows.numpy().sum(1))  # numpy adds up each row in the same order, whatever the threads


def whole_neurons(
    tensors: Mapping[str, Tensor], layers: Sequence[FeedForward], kept: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return masks for all prunable tensors, with only the neurons of each layer that are `kept` (F,); True keeps."""
    masks = {name: torch.ones_like(tensor, dtype=torch.bool) for name, tensor in tensors.items()}
    for layer, neurons in zip(layers, kept, strict=True):
        for name, axis in layer.items():
            if name in masks:
                shape = [-1 if each == axis else 1 for each in range(masks[name].dim())]
                masks[name] &= neurons.view(shape).to(masks[name].device)
    return masks


def kept_neurons(masks: Mapping[str, Tensor], layer: FeedForward) -> Tensor:
    """Return which neurons (F,) of a layer have a weight left in its matrices.

    Biases do not count: a neuron without weights adds nothing to the outputs, as its column of the second is zero.
    """
    weights = [masks[name].movedim(axis, 0) for name, axis in layer.items() if name.endswith(".weight")]
    return torch.cat(weights, 1).any(1)


def shuffle_neurons(masks: Mapping[str, Tensor], layers: Sequence[FeedForward], seed: int) -> dict[str, Tensor]:
    """Permute which neurons of each layer are kept: as many as before, whole ones, at random places."""
    generator = torch.Generator().manual_seed(seed)
    kept = [kept_neurons(masks, layer) for layer in layers]
    return whole_neurons(masks, layers, [each[torch.randperm(len(each), generator=generator)] for each in kept])
