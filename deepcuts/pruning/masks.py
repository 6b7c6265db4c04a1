"""Turns scores into masks, and applies masks to weights.

Order everywhere is by parameter name (bytewise), then flat index: of equal scores the earlier one is kept.
O = outputs of a linear layer, I = its inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from deepcuts.pruning.compression import count_kept
from deepcuts.pruning.criteria import Scope

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


def make_masks(scores: Scores, fraction: float, scope: Scope, transposed: Collection[str] = ()) -> dict[str, Tensor]:
    """Keep a fraction of the highest scores per tensor (layer), over all tensors (global), or per output row (row).

    Scores are (O, I), those of the names in `transposed` (I, O), or (O,) of a bias, which counts as a single row. Masks
    have the shape of the scores; True keeps. Raises ValueError for a NaN score, and for a fraction outside 0 to 1.
    """
    for name, score in scores.items():
        if bool(torch.isnan(score).any()):
            raise ValueError(f"{int(torch.isnan(score).sum())} of {score.numel()} scores of {name!r} are NaN")
    names = bytewise(scores)
    if scope == "global":
        everything = torch.cat([scores[name].flatten() for name in names])
        kept = highest(everything, count_kept(fraction, everything.numel()))
        parts = kept.split([scores[name].numel() for name in names])
        return {name: part.view(scores[name].shape) for name, part in zip(names, parts, strict=True)}
    masks = {}
    for name in names:
        turned = scope == "row" and name in transposed
        score = scores[name].t().contiguous() if turned else scores[name]
        rows = score if scope == "row" else score.flatten()
        mask = highest(rows, count_kept(fraction, rows.shape[-1])).view(score.shape)
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


def _dead_last(scores: Scores, alive: Masks) -> dict[str, Tensor]:
    """Return the scores with minus infinity where a weight is pruned already, so that it stays pruned."""
    return {name: score.masked_fill(~alive[name], -torch.inf) for name, score in scores.items()}


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
