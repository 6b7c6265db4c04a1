"""How far masks agree, from counts: IoU, what chance alone gives, Cohen's kappa (numpy alone).

P = pairs of masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

MEASURES = ("pruned_iou", "pruned_iou_chance", "kept_iou", "kept_iou_chance", "kappa")


@dataclass(frozen=True)
class Agreement:
    """Counts of weights, summed over tensors: all of them, kept by the one mask and by the other (P,), kept
    by both (P,), and by both as expected if each tensor had its kept weights in random places (P,)."""

    size: int
    kept_a: Counts
    kept_b: Counts
    both: Counts
    expected: Floats

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.size + other.size,
            self.kept_a + other.kept_a,
            self.kept_b + other.kept_b,
            self.both + other.both,
            self.expected + other.expected,
        )


def of_tensor(size: int, kept_a: Counts, kept_b: Counts, both: Counts) -> Agreement:
    """Counts of one tensor. Of `size` places two random sets share kept_a kept_b / size on average: the mean
    of the hypergeometric distribution."""
    return Agreement(size, kept_a, kept_b, both, kept_a / max(size, 1) * kept_b)


def measures(counts: Agreement) -> dict[str, Floats]:
    """IoU of pruned and of kept places, both also as expected by chance, and kappa, each (P,); 0/0 is NaN.

    An expected IoU is the ratio of the sums expected. kappa = (p_o - p_e) / (1 - p_e), where p_o is the share
    of places that both keep or both prune and p_e the share expected (Cohen 1960, "A coefficient of agreement
    for nominal scales"); the sizes cancel.
    """
    size, both, expected = float(counts.size), counts.both.astype(np.float64), counts.expected
    kept = (counts.kept_a + counts.kept_b).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return {
            "pruned_iou": (size - kept + both) / (size - both),
            "pruned_iou_chance": (size - kept + expected) / (size - expected),
            "kept_iou": both / (kept - both),
            "kept_iou_chance": expected / (kept - expected),
            "kappa": 2 * (both - expected) / (kept - 2 * expected),
        }
