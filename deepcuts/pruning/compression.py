"""Computes how many weights a mask keeps, from a compression or sparsity (Blalock et al. 2020, arXiv 2003.03033)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """Parameters of the whole network, prunable ones, and the longest input it can take (None: no limit)."""

    parameters: int
    prunable: int
    positions: int | None


def count_kept(fraction: float, size: int) -> int:
    """Return floor(fraction * size + 0.5), how many of `size` scores a mask keeps. Raises ValueError outside 0 to 1."""
    if not 0 <= fraction <= 1:
        raise ValueError(f"cannot keep a fraction of {fraction!r}; allowed is 0 to 1")
    return int(round(fraction * size, 6) + 0.5)  # 0.9 sparsity of 5 is half a weight: 1 - 0.9 is a little less than 0.1


def fraction_to_keep(compression: float | None, sparsity: float | None, total: int, prunable: int) -> float:
    """Return the share of the prunable parameters that a compression asks to keep, or else a sparsity.

    `total` counts the parameters of the whole network. Raises ValueError as `compression_to_fraction` does.
    """
    if compression is not None:
        return compression_to_fraction(compression, total, prunable)
    assert sparsity is not None
    return 1 - sparsity


def compression_to_fraction(compression: float, total: int, prunable: int) -> float:
    """Return the share of prunable parameters to keep: (total / compression - (total - prunable)) / prunable.

    Compression is total / kept over the whole network. Raises ValueError for one below 1, or above the ceiling
    total / (total - prunable), where nothing prunable would be left.
    """
    if compression < 1:
        raise ValueError(f"compression {compression!r} is below 1; 1 keeps every weight")
    fraction = (total / compression - (total - prunable)) / prunable
    if fraction < 0:
        raise ValueError(
            f"compression {compression!r} cannot be reached: {prunable:,} of {total:,} parameters are prunable, so the"
            f" largest compression is {total / (total - prunable):.4f}; ask for less, or write the sweep in sparsities"
        )
    return min(fraction, 1.0)
