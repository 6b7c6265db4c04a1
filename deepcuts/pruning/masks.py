"""Turns scores into masks, and applies masks to weights.

Order everywhere is by parameter name (bytewise), then flat index: of equal scores the earlier one is kept.
O = outputs of a linear layer, I = its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from deepcuts.pruning.budgets import erk_counts, lamp_scores, owl_counts
from deepcuts.pruning.compression import FeedForward, check_two_of_four, count_kept, count_kept_neurons
from deepcuts.pruning.criteria import Scope
from deepcuts.pruning.neurons import neuron_scores, whole_neurons

Scores = Mapping[str, Tensor]
Masks = Mapping[str, Tensor]


def bytewise(names: Iterable[str]) -> list[str]:
    """Sort names in the one order that decides ties."""
    return sorted(names, key=str.encode)


def highest(scores: Tensor, keep: int) -> Tensor:
    """Return a mask (..., N) of the `keep` highest scores (..., N) along the last axis, ties to the lower index.

    It selects and does not sort: everything above the smallest kept score, then the first that equal it.
    """
    size = scores.shape[-1]
    if keep == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if keep == size:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = _ascending(scores, size - keep)
    above = scores > threshold
    level = scores == threshold
    wanted = keep - above.sum(-1, keepdim=True)
    if bool((level.sum(-1, keepdim=True) == wanted).all()):  # no tie to break
        return above | level
    return above | (level & (level.cumsum(-1) <= wanted))


def _ascending(scores: Tensor, place: int) -> Tensor:
    """Return the score (..., 1) at a place, counted from 0, of the scores (..., N) in ascending order."""
    if scores.is_cuda:
        return torch.kthvalue(scores, place + 1, dim=-1, keepdim=True).values
    parted = np.partition(scores.numpy(), place, axis=-1)  # twice as fast as torch on a CPU
    return torch.from_numpy(parted[..., place : place + 1].copy())


def make_masks(
    scores: Scores,
    fraction: float,
    scope: Scope,
    transposed: Collection[str] = (),
    wanda: Scores | None = None,
    layers: Sequence[FeedForward] = (),
    alive: Masks | None = None,
    lowest: bool = False,
) -> dict[str, Tensor]:
    """Keep a fraction of all weights, by the highest scores of those that compete with each other in this scope.

    Layer, Erk and Owl: those of a tensor, which keeps the same share as every other, or the number of its budget;
    Global and Lamp: all of them, by the score or the one that Lamp makes of it; Row: those of an output row; NM24: each
    four consecutive inputs of a row, of which two stay (`fraction` must be 0.5); Neuron: the neurons of each of the
    feed-forward `layers`, as many in every one, and no other weights.

    Scores are (O, I), those of the names in `transposed` (I, O), or (O,) of a bias, which counts as a single row. Owl
    needs the Wanda scores of the same tensors. Masks have the shape of the scores; True keeps. What is not `alive` was
    pruned before, and is kept last; the fraction is of all weights nevertheless. With `lowest`, a control, the lowest
    scores of each group that competes stay, as many; Lamp decides by the highest how many that are of each tensor.
    Raises ValueError for a NaN score, for a fraction outside 0 to 1, and where NM24 or so few neurons cannot be had.
    """
    if lowest and scope == "lamp":
        kept = make_masks(scores, fraction, scope, alive=alive)
        return _lowest_of_each(scores, {name: int(mask.sum()) for name, mask in kept.items()}, alive)
    _check_numbers(scores)
    if lowest:
        scores = {name: -score for name, score in scores.items()}
    ordered = _dead_last({name: scores[name] for name in bytewise(scores)}, alive)
    if scope == "row":
        return _by_rows(ordered, transposed, lambda row: highest(row, count_kept(fraction, row.shape[-1])))
    if scope == "nm24":
        for name, score in ordered.items():
            check_two_of_four(name, score.t().shape if name in transposed else score.shape, 1 - fraction)
        return _by_rows(ordered, transposed, lambda row: highest(row.unflatten(-1, (-1, 4)), 2).flatten(-2))
    if scope == "neuron":
        sums = [neuron_scores(ordered, layer) for layer in layers]
        sizes = {name: score.numel() for name, score in ordered.items()}
        keep = count_kept_neurons(fraction, sizes, layers, len(sums[0]))
        return whole_neurons(ordered, layers, [highest(each, keep) for each in sums])
    if scope in ("global", "lamp"):
        ranked = ordered if scope == "global" else {name: lamp_scores(score) for name, score in ordered.items()}
        return _highest_of_all(ranked, count_kept(fraction, sum(score.numel() for score in ordered.values())))
    counts = _counts(ordered, fraction, scope, wanda)
    return {name: highest(score.flatten(), counts[name]).view(score.shape) for name, score in ordered.items()}


def _check_numbers(scores: Scores) -> None:
    for name, score in scores.items():
        if bool(torch.isnan(score).any()):
            raise ValueError(f"{int(torch.isnan(score).sum())} of {score.numel()} scores of {name!r} are NaN")


def _lowest_of_each(scores: Scores, counts: Mapping[str, int], alive: Masks | None) -> dict[str, Tensor]:
    """Keep so many of the lowest scores of each tensor."""
    turned = _dead_last({name: -score for name, score in scores.items()}, alive)
    return {name: highest(turned[name].flatten(), kept).view(turned[name].shape) for name, kept in counts.items()}


def _counts(scores: Scores, fraction: float, scope: Scope, wanda: Scores | None) -> dict[str, int]:
    """Return how many weights each tensor keeps in those scopes where weights compete within their tensor."""
    whole = count_kept(fraction, sum(score.numel() for score in scores.values()))
    if scope == "erk":
        return erk_counts({name: score.shape for name, score in scores.items()}, whole)
    if scope == "owl":
        assert wanda is not None, "Owl needs Wanda scores"
        return owl_counts({name: wanda[name] for name in scores}, whole)
    return {name: count_kept(fraction, score.numel()) for name, score in scores.items()}


def _dead_last(scores: Scores, alive: Masks | None) -> dict[str, Tensor]:
    """Return the scores with minus infinity where a weight was pruned before (None: none was)."""
    if alive is None:
        return dict(scores)
    return {name: score.masked_fill(~alive[name], -torch.inf) for name, score in scores.items()}


def _highest_of_all(scores: Scores, keep: int) -> dict[str, Tensor]:
    kept = highest(torch.cat([score.flatten() for score in scores.values()]), keep)
    parts = kept.split([score.numel() for score in scores.values()])
    return {name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}


def _by_rows(scores: Scores, transposed: Collection[str], mask_of: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Make the mask of each tensor from its scores by output row, (O, I); that of a bias from a single row (O,)."""
    masks = {}
    for name, score in scores.items():
        turned = name in transposed
        mask = mask_of(score.t().contiguous() if turned else score)
        masks[name] = mask.t().contiguous() if turned else mask
    return masks


def shuffle(masks: Masks, seed: int, among: Masks | None = None) -> dict[str, Tensor]:
    """Permute each mask within its own tensor: same densities, random places (the reviewer's control).

    `among` has the places that may be kept; all of the mask's are among them, and it is permuted within them.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = {}
    for name in bytewise(masks):
        mask = masks[name]
        if among is not None:
            free = mask[among[name]]
            order = torch.randperm(free.numel(), generator=generator)
            shuffled[name] = torch.zeros_like(mask).masked_scatter(among[name], free[order])
            continue
        order = torch.randperm(mask.numel(), generator=generator)
        shuffled[name] = mask.flatten()[order.to(mask.device)].view(mask.shape)
    return shuffled


@torch.no_grad()
def zero_weights(model: nn.Module, masks: Masks) -> None:
    """Set every pruned weight of the model to exactly zero, in place; the bits of kept weights do not change.

    Raises KeyError for a mask without a parameter, ValueError for one of another shape.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        if parameters[name].shape != mask.shape:
            raise ValueError(f"mask of {name!r} is {tuple(mask.shape)}, not {tuple(parameters[name].shape)}")
        parameters[name].masked_fill_(~mask, 0.0)
