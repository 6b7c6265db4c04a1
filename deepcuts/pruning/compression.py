"""Computes how many weights a mask keeps, from a compression or sparsity (Blalock et al. 2020, arXiv 2003.03033)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, prod

# The share of an encoder below which a plan warns that little of it is prunable.
LEAST_SHARE = 0.5


# The tensors of one feed-forward layer by name, its first matrix first, and the axis along which the neurons lie.
FeedForward = Mapping[str, int]


@dataclass(frozen=True)
class Counts:
    """Parameters of the whole network, prunable ones, and the longest input it can take (None: no limit).

    `encoder` counts the parameters of the encoder but those of its embeddings; `left_out` names parameters of linear
    layers that are not prunable because they have no effect on the network's outputs. `tensors` has the shape of each
    prunable tensor, (outputs, inputs) or that of a bias, and `excluded` those that a sweep excludes from pruning.
    `feed_forward` has the feed-forward layers, or the reason why their neurons cannot be pruned as a whole.
    """

    parameters: int
    prunable: int
    positions: int | None
    encoder: int
    left_out: tuple[str, ...] = ()
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    excluded: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    feed_forward: Sequence[FeedForward] | str = "not looked for"

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
        without = sum(map(prod, self.excluded.values()))
        if self.excluded:
            few = ", ".join([*self.excluded][:3]) + (", ..." if len(self.excluded) > 3 else "")
            notes.append(f"excluded from pruning: {without:,} parameters of {few} ({len(self.excluded)} in all)")
        if self.share + without / self.encoder < LEAST_SHARE:
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


def count_kept_neurons(
    fraction: float, sizes: Mapping[str, int], layers: Sequence[FeedForward], width: int, total: int | None = None
) -> int:
    """Return how many of the `width` neurons each feed-forward layer keeps for a fraction of all weights to stay.

    It is the nearest number, floor(x + 0.5), where all that is pruned are whole neurons, as many in each layer. `sizes`
    has the number of weights of each prunable tensor. Raises ValueError where less than one neuron of each layer would
    stay, with the largest sparsity, and with the parameters of the whole network (`total`) the largest compression.
    """
    prunable = sum(sizes.values())
    weights = sum(sizes[name] for layer in layers for name in layer if name in sizes) // width  # of one of each layer
    kept = width - (1 - fraction) * prunable / weights
    if round(kept, 6) < 1:
        most = (width - 1) * weights
        compression = f" (compression {_rounded_down(total / (total - most))})" if total else ""
        raise ValueError(
            f"a sparsity of {1 - fraction:.4g} cannot be reached by whole neurons: one of the {width:,} in each"
            " feed-forward layer must stay, and all other tensors stay whole, so the largest is"
            f" {_rounded_down(most / prunable)}{compression}; ask for less, or take another scope, such as Layer"
        )
    return count_kept(kept / width, width)


def _rounded_down(value: float) -> str:
    return f"{floor(round(value * 1e4, 6)) / 1e4:.4f}"


def check_two_of_four(name: str, shape: Sequence[int], sparsity: float | None) -> None:
    """Raise ValueError where NM24 cannot keep two of each four inputs of a tensor (O, I), or not at this sparsity."""
    if sparsity != 0.5:
        asked = "compressions" if sparsity is None else f"sparsity {sparsity!r}"
        raise ValueError(f"NM24 keeps two of each four inputs, a sparsity of 0.5, not {asked}; use sparsities: [0.5]")
    if len(shape) != 2 or shape[1] % 4:
        what = "is a bias" if len(shape) != 2 else f"has {shape[1]} inputs, which 4 does not divide"
        todo = "leave out prune_biases" if len(shape) != 2 else f"write exclude: [{name}]"
        raise ValueError(f"NM24 keeps two of each four inputs of a row, and {name!r} {what}; {todo}")
