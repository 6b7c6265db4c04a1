"""Computes how many weights a mask keeps, from a compression or sparsity (Blalock et al. 2020, arXiv 2003.03033)."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

# The share of an encoder below which a plan warns that little of it is prunable.
LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Neurons:
    """The neurons of each feed-forward layer, and the prunable weights of one of every layer together."""

    width: int
    weights: int


@dataclass(frozen=True)
class Counts:
    """Parameters of the whole network, prunable ones, and the longest input it can take (None: no limit).

    `encoder` counts the parameters of the encoder but those of its embeddings; `left_out` names parameters of linear
    layers that are not prunable because they have no effect on the network's outputs. `neurons` are those of its
    feed-forward layers, or why these cannot be pruned by whole neurons.
    """

    parameters: int
    prunable: int
    positions: int | None
    encoder: int
    left_out: tuple[str, ...] = ()
    neurons: Neurons | str = "not looked for"

    @property
    def share(self) -> float:
        """The share of the encoder, but for its embeddings, that is prunable."""
        return self.prunable / self.encoder

    def notes(self) -> list[str]:
        """Say which linear layers are left out, and warn where most of the encoder is not prunable."""
        notes, layers = [], sorted({name.rpartition(".")[0] for name in self.left_out})
        if layers:
            few = ", ".join(layers[:3]) + (", ..." if len(layers) > 3 else "")
            notes.append(
                f"not pruned, as the outputs do not depend on them: linear layers {few} ({len(layers)} in all)"
            )
        if self.share < LEAST_SHARE:
            notes.append(
                f"warning: only {self.share:.0%} of the encoder without its embeddings is prunable; its other weights"
                " are in no linear layer (but in convolutions, experts or an attention of their own) and stay dense"
            )
        return notes


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


def count_kept_neurons(fraction: float, prunable: int, neurons: Neurons, total: int | None = None) -> int:
    """Return how many neurons each feed-forward layer keeps for a fraction of all prunable weights to stay.

    It is the nearest number, floor(x + 0.5): all that is pruned are whole neurons, as many in each layer. Raises
    ValueError where less than one neuron of each would stay, with the largest sparsity, and with the parameters of the
    whole network (`total`) the largest compression.
    """
    kept = neurons.width - (1 - fraction) * prunable / neurons.weights
    if round(kept, 6) < 1:
        most = (neurons.width - 1) * neurons.weights
        compression = f" (compression {_rounded_down(total / (total - most))})" if total else ""
        raise ValueError(
            f"a sparsity of {1 - fraction:.4g} cannot be reached by whole neurons: one of the {neurons.width:,} in each"
            " feed-forward layer must stay, and all other tensors stay whole, so the largest is"
            f" {_rounded_down(most / prunable)}{compression}; ask for less, or take another scope, such as Layer"
        )
    return count_kept(kept / neurons.width, neurons.width)


def _rounded_down(value: float) -> str:
    return f"{floor(round(value * 1e4, 6)) / 1e4:.4f}"
