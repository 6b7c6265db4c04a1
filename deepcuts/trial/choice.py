"""Chooses which weights a trial keeps, from its scores: at once, or in rounds that score what is left anew."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from deepcuts.experiment.spec import TrialSpec
from deepcuts.model.feed_forward import find_feed_forward
from deepcuts.model.network import Network, transposed
from deepcuts.pruning.bits import pack, unpack
from deepcuts.pruning.compression import FeedForward, fraction_to_keep
from deepcuts.pruning.masks import Masks, Scores, make_masks, shuffle, zero_weights
from deepcuts.pruning.neurons import shuffle_neurons
from deepcuts.seeds import derive
from deepcuts.store.tensors import StoreCheckpoint
from deepcuts.training.checkpoint import Interrupted
from deepcuts.trial.context import Context
from deepcuts.trial.loading import Material
from deepcuts.trial.shared_stages import Scored, run_pass


@dataclass(frozen=True)
class Choice:
    """What decides the masks of a trial besides its scores.

    `fraction` is the share of all prunable weights that is kept in the end. The weights in `transposed` are stored as
    (inputs, outputs). Owl needs Wanda's scores too, and Neuron the `layers` whose neurons it prunes. What is not
    `alive` was pruned in a round before (None: nothing was), and stays so.
    """

    trial: TrialSpec
    fraction: float
    transposed: Collection[str]
    layers: Sequence[FeedForward]
    wanda: Scores | None
    alive: Masks | None

    @classmethod
    def of(
        cls, trial: TrialSpec, network: Network, names: Sequence[str], wanda: Scores | None, alive: Masks | None
    ) -> Choice:
        """Return that of a trial on a network whose prunable tensors have these names."""
        sizes = {name: parameter.numel() for name, parameter in network.model.named_parameters()}
        prunable = sum(sizes[name] for name in names)
        fraction = fraction_to_keep(trial.compression, trial.sparsity, sum(sizes.values()), prunable)
        layers = find_feed_forward(network.model, names) if trial.scope == "neuron" else ()
        return cls(trial, fraction, transposed(network.model), layers, wanda, alive)

    def masks(self, scores: Scores, fraction: float | None = None, left: Masks | None = None) -> dict[str, Tensor]:
        """Make masks that keep a fraction of all weights, by default that of the trial, of those that are `left`."""
        assert self.trial.scope is not None
        wanted, alive = self.fraction if fraction is None else fraction, self.alive if left is None else left
        lowest = self.trial.control == "invert"
        made = make_masks(scores, wanted, self.trial.scope, self.transposed, self.wanda, self.layers, alive, lowest)
        if alive is not None:
            assert not any(bool((made[name] & ~alive[name]).any()) for name in made), "a pruned weight came back"
        return made

    def shuffled(self, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Permute the masks where the trial is that control."""
        if self.trial.control != "shuffle":
            return masks
        seed = derive(self.trial.control_seed, "shuffle")
        if self.trial.scope == "neuron":
            return shuffle_neurons(masks, self.layers, seed)
        return shuffle(masks, seed, self.alive)


def choose_in_rounds(
    choice: Choice,
    context: Context,
    network: Network,
    material: Material,
    initial: Mapping[str, Tensor],
    found: Scored,
) -> tuple[Scored, dict[str, Tensor]]:
    """Make the masks of a trial in `scoring_rounds` k: of a density d, d^(i/k) is left after round i.

    Tanaka et al. 2020, arXiv 2006.05467, algorithm 1; de Jorge et al. 2021, "Progressive skeletonization", arXiv
    2006.09081. `found` has the scores of the first round, those of the network before anything is pruned. Each later
    round scores the network with the masks of the round before, on the same batches with the same random numbers;
    nothing is trained between. Where a round of iterative pruning has left a density b, b (d / b)^(i/k) is left after
    round i. Returns `found` with the seconds of all rounds, and the masks, which stay saved until the trial is
    published.
    """
    trial, rounds = choice.trial, choice.trial.scoring_rounds
    saved = _checkpoint(context, trial)
    done, seconds, left = _resumed(saved, found.scores)
    began, used, scores = time.monotonic(), found.batches, found.scores
    for number in range(done + 1, rounds + 1):
        key = f"{trial.trial_id}-round-{number}"
        if left is not None:
            zero_weights(network.model, {name: mask.to(network.device) for name, mask in left.items()})
            wanted, seed = {trial.score.label: trial.score}, trial.control_seed
            again, more = run_pass(network, material, wanted, context, initial, seed, key, before=used)
            scores, used = again[trial.score.label], used + more
        left = choice.masks(scores, _share(choice, number), left)
        saved.save(_packed(left), {"round": number, "seconds": seconds + time.monotonic() - began})
        context.checkpoint(key).remove()
        if context.stop():
            raise Interrupted
    assert left is not None
    return replace(found, cached=False, seconds=found.seconds + seconds + time.monotonic() - began), left


def _share(choice: Choice, number: int) -> float:
    """Return the share of all prunable weights that is left after a round of scoring, counted from 1."""
    rounds = choice.trial.scoring_rounds
    if number == rounds:
        return choice.fraction
    alive = choice.alive
    begin = 1.0 if alive is None else sum(int(each.sum()) for each in alive.values()) / _size(alive)
    return begin * (choice.fraction / begin) ** (number / rounds)


def _size(masks: Masks) -> int:
    return sum(mask.numel() for mask in masks.values())


def forget_rounds(context: Context, trial: TrialSpec) -> None:
    """Remove the masks that are saved from one round of scoring to the next."""
    if trial.scoring_rounds > 1:
        _checkpoint(context, trial).remove()


def _checkpoint(context: Context, trial: TrialSpec) -> StoreCheckpoint:
    return context.checkpoint(f"{trial.trial_id}-scoring")


def _packed(masks: Masks) -> dict[str, Tensor]:
    return {name: torch.frombuffer(bytearray(pack(mask.numpy())), dtype=torch.uint8) for name, mask in masks.items()}


def _resumed(saved: StoreCheckpoint, scores: Scores) -> tuple[int, float, dict[str, Tensor] | None]:
    """Return how many rounds are done, the seconds that they took, and the masks of the last one."""
    state = saved.load()
    if state is None:
        return 0, 0.0, None
    packed, notes = state
    masks = {name: torch.from_numpy(unpack(packed[name].numpy(), each.numel())) for name, each in scores.items()}
    return notes["round"], notes["seconds"], {name: mask.view(scores[name].shape) for name, mask in masks.items()}
