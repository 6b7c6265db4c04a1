"""Decides how many weights each tensor keeps where that is not the same share of each: Lamp, Erk, Owl.

O = outputs of a linear layer, I = its inputs; a bias (O,) counts as a layer with one input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcuts.names import block_of

Counts64 = NDArray[np.int64]

# Of Owl: a Wanda score above this many times the mean of its block is an outlier,
OUTLIER = 5.0
# and by how much the density of a block may lie above or below the one asked for. Both are those of the paper.
MOST_MOVED = 0.08


def lamp_scores(scores: Tensor) -> Tensor:
    """Return s_u^2 / sum of s_v^2 over the v that do not rank below u, in float64 and the shape of the scores.

    Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning", arXiv 2010.07611, with their abs(W) for
    s. Of equal scores the earlier one ranks higher, so the highest score of each tensor becomes 1, and the order within
    a tensor stays. 0 where a score is 0. `scores` must not be negative, but for minus infinity, which stays and is no
    part of the sums.
    """
    ordered, order = scores.flatten().sort(descending=True, stable=True)
    squares = ordered.double().clamp(min=0).square()
    shares = torch.where(squares > 0, squares / squares.cumsum(0), ordered.double().clamp(max=0))
    return torch.empty_like(shares).scatter_(0, order, shares).view(scores.shape)


def erk_counts(shapes: Mapping[str, Sequence[int]], keep: int) -> dict[str, int]:
    """Return how many weights each tensor keeps of `keep` in all: epsilon (O + I) of O I, rounded, at most all.

    Evci et al. 2020, "Rigging the lottery", arXiv 1911.11134: a density of epsilon (O + I) / (O I), and epsilon solved
    again for the others where a tensor is dense. Here one epsilon for which the rounded counts sum to `keep`; where
    several tensors would gain their next weight at the same epsilon, the first in `shapes` do.
    """
    sizes = np.array([np.prod(shape) for shape in shapes.values()], np.int64)
    sums = np.array([shape[0] + (shape[1] if len(shape) > 1 else 1) for shape in shapes.values()], float)

    def counts_at(epsilon: float) -> Counts64:
        return np.minimum(sizes, np.floor(epsilon * sums + 0.5).astype(np.int64))

    return dict(zip(shapes, _summing_to(keep, counts_at, 0.0, float((sizes / sums).max()) + 1).tolist(), strict=True))


def owl_counts(wanda: Mapping[str, Tensor], keep: int) -> dict[str, int]:
    """Return how many weights each tensor keeps of `keep` in all: blocks with more outliers keep a larger share.

    Yin et al. 2023, "Outlier weighed layerwise sparsity", arXiv 2310.05175: an outlier is a weight whose Wanda score is
    above 5 times the mean of its block, D is their share, and the density of a block is c + 0.16 (D - min) / (max -
    min), as in the authors' code. Here c is such that the rounded counts sum to `keep`, within densities of 0 to 1.
    Tensors of a block, a numbered layer of the encoder, have the same density. The paper has no tensors outside, as the
    pooler's is; theirs is the mean of all: with few outliers, nothing would else be left of a pooler, nor an output.
    """
    sizes = np.array([scores.numel() for scores in wanda.values()], np.int64)
    shares, blocks = outlier_shares(wanda), [block_of(name) for name in wanda]
    least, most = min(shares.values(), default=0.0), max(shares.values(), default=0.0)
    moved = {
        block: 2 * MOST_MOVED * (share - least) / (most - least) if most > least else 0.0
        for block, share in shares.items()
    }
    inside = np.array([block is not None for block in blocks])
    above = np.array([moved[block] if block is not None else 0.0 for block in blocks])
    above[~inside] = np.average(above[inside], weights=sizes[inside]) if inside.any() else 0.0

    def counts_at(lowest: float) -> Counts64:
        return np.floor(sizes * np.clip(lowest + above, 0.0, 1.0) + 0.5).astype(np.int64)

    return dict(zip(wanda, _summing_to(keep, counts_at, -float(above.max()), 1.0).tolist(), strict=True))


def outlier_shares(wanda: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of outliers among the Wanda scores of each block; what is in no block is left out."""
    blocks: dict[str, list[Tensor]] = {}
    for name, scores in wanda.items():
        if (block := block_of(name)) is not None:
            blocks.setdefault(block, []).append(scores.flatten())
    joined = {block: torch.cat(parts).double() for block, parts in blocks.items()}
    return {block: float((each > OUTLIER * each.mean()).double().mean()) for block, each in joined.items()}


def _summing_to(keep: int, counts_at: Callable[[float], Counts64], low: float, high: float) -> Counts64:
    """Find the level whose counts sum to `keep`; counts must not fall with the level.

    Where the sum jumps past `keep`, the first of the tensors that jump have their next weight. So no count falls when
    `keep` rises: masks are nested.
    """
    while low < (middle := (low + high) / 2) < high:
        if counts_at(middle).sum() <= keep:
            low = middle
        else:
            high = middle
    counts, more = counts_at(low), counts_at(high)
    for place in np.flatnonzero(more > counts):
        counts[place] += min(int(more[place] - counts[place]), keep - int(counts.sum()))
    assert counts.sum() == keep
    return counts
