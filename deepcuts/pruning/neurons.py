"""Prunes whole neurons of the feed-forward layers of a network, the same number in each.

A feed-forward layer is second(activation(first(x))). F = its neurons, between the two matrices. A neuron is a row of
the first weight (F, H), its bias, and a column of the second weight (H, F); GPT-2 stores both weights turned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from deepcuts.pruning.compression import Neurons
from deepcuts.pruning.masks import Masks, Scores, highest

# The tensors of one feed-forward layer by name, and the axis of each along which its neurons lie.
FeedForward = Mapping[str, int]


def count_neurons(sizes: Mapping[str, torch.Size], layers: Sequence[FeedForward]) -> Neurons:
    """Count the neurons of each layer, and the prunable weights of one of every layer together.

    `sizes` has the shapes of the prunable tensors.
    """
    width = next(sizes[name][axis] for name, axis in layers[0].items())
    return Neurons(width, sum(sizes[name].numel() // width for layer in layers for name in layer if name in sizes))


def neuron_scores(scores: Scores, layer: FeedForward) -> Tensor:
    """Return the score (F,) of each neuron in float64: the sum of the scores of all its prunable weights."""
    parts = [scores[name].movedim(axis, 0) for name, axis in layer.items() if name in scores]
    rows = torch.cat([part.reshape(len(part), -1) for part in parts], 1).double().cpu()
    return torch.from_numpy(rows.numpy().sum(1))  # each row in the same order, whatever the number of threads


def neuron_masks(scores: Scores, layers: Sequence[FeedForward], keep: int) -> dict[str, Tensor]:
    """Keep the neurons with the highest scores, `keep` of each layer, and all of every other tensor.

    Ties go to the lower index. Masks have the shape of the scores; True keeps.
    """
    masks = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    for layer in layers:
        _put(masks, layer, highest(neuron_scores(scores, layer), keep))
    return masks


def shuffle_neurons(masks: Masks, layers: Sequence[FeedForward], seed: int) -> dict[str, Tensor]:
    """Permute which neurons of each layer are kept: as many whole neurons, at random places."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = dict(masks)
    for layer in layers:
        kept = kept_neurons(masks, layer)
        _put(shuffled, layer, kept[torch.randperm(len(kept), generator=generator)])
    return shuffled


def kept_neurons(masks: Masks, layer: FeedForward) -> Tensor:
    """Return which neurons (F,) of a layer have any weight left in its matrices; biases do not count.

    A neuron without weights adds nothing to the outputs whatever its bias is, as its column of the second is zero.
    """
    weights = [masks[name].movedim(axis, 0) for name, axis in layer.items() if name.endswith(".weight")]
    return torch.cat(weights, 1).any(1)


def _put(masks: dict[str, Tensor], layer: FeedForward, kept: Tensor) -> None:
    for name, axis in layer.items():
        if name in masks:
            shape = [-1 if each == axis else 1 for each in range(masks[name].dim())]
            masks[name] = kept.view(shape).expand(masks[name].shape).to(masks[name].device).contiguous()
