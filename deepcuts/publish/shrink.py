"""Takes the neurons that a trial's masks have emptied out of its network, and measures how much faster that makes it.

F = neurons of a feed-forward layer, B = texts of a batch, C = outputs of the head.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from deepcuts.model.feed_forward import find_feed_forward, with_neurons
from deepcuts.model.hardware import device_name
from deepcuts.pruning.bits import Bools
from deepcuts.pruning.compression import FeedForward
from deepcuts.pruning.neurons import kept_neurons
from deepcuts.wording import counted

# The most by which an output may differ from that of the masked network; another order of sums changes the last bits.
TOLERANCE = 1e-5
# How its speed is measured: texts of a batch, pairs of measurements, and the least seconds that one of them takes.
BATCH = 8
PAIRS = 9
SECONDS = 0.02
# Texts of 3 to 40 words that both networks are compared on.
TEXTS = (
    "the film was good",
    "Nobody laughed.",
    "The plot was not bad, but the cast was awful, and the music was dull from the first scene to the last.",
    "Is there anything here that a reader would not have guessed?",
    "A small story, told well: two brothers, one boat, and a summer in which neither of them says what he means.",
    "It opens at 9:30 on 14 March and costs $12, which is more than the old one did.",
    "Prices rose by 3.2 percent in the third quarter, the ministry said on Tuesday, after four quarters in which they"
    " had hardly moved, although wages in most industries had been growing faster than anybody had expected when the"
    " year began.",
    "I would see it again, and again.",
)


@dataclass(frozen=True)
class Shrunk:
    """The smaller network, what it lost, and what was measured of it beside the network of full width.

    `neurons` and `full` count the neurons of each feed-forward layer, `parameters` and `full_parameters` the
    parameters of the network, now and before; `zeros` counts pruned weights that are still in it. `difference` is the
    largest of an output for `texts` texts. `seconds` and `full_seconds` are medians over batches of `batch` texts of
    `tokens` tokens; `ratios` say how many times as fast it was, pair by pair.
    """

    model: Any
    texts: int
    batch: int
    neurons: int
    full: int
    parameters: int
    full_parameters: int
    zeros: int
    difference: float
    tokens: int
    seconds: float
    full_seconds: float
    ratios: tuple[float, ...]
    machine: str

    @property
    def speedup(self) -> float:
        """How many times as fast it is: the median of the pairs."""
        return median(self.ratios)


def shrink_network(model: nn.Module, masks: Mapping[str, Bools], tokenizer: Any, tokens: int) -> Shrunk:
    """Make the network again without the neurons that have no weight left, and compare and time the two.

    The masks decide, not the strategy: any that empty the same number of neurons of each feed-forward layer will do.
    Raises ValueError where these do not, where the layers or their width cannot be told, and where the outputs for
    TEXTS differ by more than TOLERANCE.
    """
    layers = find_feed_forward(model, masks)
    tensors = {name: torch.from_numpy(mask) for name, mask in masks.items()}
    kept = [kept_neurons(tensors, layer) for layer in layers]
    neurons = _common_number(kept)
    small = with_neurons(model, layers, kept)
    batch = tokenizer(list(TEXTS), truncation=True, max_length=tokens, padding=True, return_tensors="pt")
    difference = float((_outputs(small, batch) - _outputs(model, batch)).abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the outputs of the smaller network differ by {difference:.2g} for {len(TEXTS)} texts, and {TOLERANCE:g}"
            " is allowed; export it without --shrink"
        )
    text = " ".join(TEXTS * (1 + tokens // len(TEXTS)))  # longer than it takes
    long = tokenizer([text] * BATCH, truncation=True, max_length=tokens, return_tensors="pt")
    full_times, times = _times(model, small, long)
    threads = torch.get_num_threads()
    left, full = (sum(parameter.numel() for parameter in each.parameters()) for each in (small, model))
    return Shrunk(
        model=small,
        texts=len(TEXTS),
        batch=BATCH,
        neurons=neurons,
        full=len(kept[0]),
        parameters=left,
        full_parameters=full,
        zeros=_zeros_left(tensors, layers, kept),
        difference=difference,
        tokens=long["input_ids"].shape[1],
        seconds=median(times),
        full_seconds=median(full_times),
        ratios=tuple(before / now for before, now in zip(full_times, times, strict=True)),
        machine=f"{device_name(torch.device('cpu'))} with {counted(threads, 'thread')}",
    )


def _common_number(kept: Sequence[Tensor]) -> int:
    """Return how many neurons (F,) each layer keeps. Raises ValueError unless it is the same number, and not all."""
    numbers, full = sorted({int(neurons.sum()) for neurons in kept}), len(kept[0])
    if len(numbers) > 1:
        raise ValueError(
            f"its masks leave {numbers[0]:,} to {numbers[-1]:,} of the {full:,} neurons in each feed-forward layer, and"
            " a config has one width for all layers; a Neuron strategy keeps the same number in each"
        )
    if numbers[0] in (0, full):
        left = "none" if numbers[0] == 0 else "all"
        raise ValueError(
            f"its masks leave {left} of the {full:,} neurons in each feed-forward layer: a neuron can be left out where"
            " its whole row of the first matrix and its whole column of the second are pruned, and one must stay; a"
            " Neuron strategy prunes that way"
        )
    return numbers[0]


def _zeros_left(masks: Mapping[str, Tensor], layers: Sequence[FeedForward], kept: Sequence[Tensor]) -> int:
    """Count the pruned weights in the tensors that the smaller network has."""
    places = {
        name: (axis, neurons) for layer, neurons in zip(layers, kept, strict=True) for name, axis in layer.items()
    }
    zeros = 0
    for name, mask in masks.items():
        axis, neurons = places.get(name, (0, torch.ones(len(mask), dtype=torch.bool)))
        zeros += int((~mask.index_select(axis, neurons.nonzero()[:, 0])).sum())
    return zeros


@torch.inference_mode()
def _outputs(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the outputs (B, C) for a batch."""
    logits: Tensor = model(**batch).logits
    return logits


def _times(full: Any, small: Any, batch: Mapping[str, Tensor]) -> tuple[list[float], list[float]]:
    """Return the seconds that each network takes for a batch, PAIRS times, one network after the other in turn."""
    _seconds(small, batch, 1)
    _seconds(full, batch, 1)  # both are warm now
    runs = 1 + int(SECONDS / _seconds(full, batch, 1))
    pairs = [(_seconds(full, batch, runs), _seconds(small, batch, runs)) for _ in range(PAIRS)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _seconds(model: Any, batch: Mapping[str, Tensor], runs: int) -> float:
    began = time.perf_counter()
    for _ in range(runs):
        _outputs(model, batch)
    return (time.perf_counter() - began) / runs
