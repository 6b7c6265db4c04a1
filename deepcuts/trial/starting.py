"""Makes the weights that retraining starts from, before the masks are applied to them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deepcuts.experiment.spec import TrialSpec
from deepcuts.model.load import initialised_model, outside_encoder
from deepcuts.model.network import Network
from deepcuts.pruning.masks import Masks, bytewise
from deepcuts.seeds import derive
from deepcuts.trial.context import Context
from deepcuts.trial.shared_stages import snapshot_weights


def starting_weights(
    trial: TrialSpec,
    context: Context,
    network: Network,
    theta_0: Mapping[str, Tensor],
    trained: dict[str, Tensor],
    kept: Masks,
) -> dict[str, Tensor]:
    """Return the weights that the rewind restores, or what a control puts in their place.

    `trained` are those of the network that was pruned. Two controls of Frankle et al. 2021, "Pruning neural networks at
    initialization: why are we missing the mark?", arXiv 2009.08576, section 5: with `start` random the encoder is drawn
    anew, as its architecture initialises it; with shuffled the kept weights are permuted within each tensor, so that
    the kept places stay and their values do not. The random encoder stands for the pretrained one: it is that of the
    seed, whatever the dataset and the strategy. A permutation is a trial's own, as that of a shuffled mask is.
    """
    if trial.rewind == "none":
        start = dict(trained)
    elif trial.rewind == "init":
        start = dict(theta_0)
    else:
        start = snapshot_weights(context.store, trial.dense, trial.rewind)
    head = outside_encoder(network.model)
    if trial.start == "random":
        start = _drawn(trial, dict.fromkeys(head)) | {name: theta_0[name] for name in head}
    elif trial.start == "shuffled":
        start |= _permuted(start, kept, derive(trial.control_seed, "start shuffled"))
    return start if trial.rewind_head else start | {name: trained[name] for name in head}


def _drawn(trial: TrialSpec, head: Mapping[str, None]) -> dict[str, Tensor]:
    """Draw the encoder from the seed: the same for all trials of a seed."""
    dense = trial.dense
    model = initialised_model(
        dense.model.name, dense.model.revision, dense.task.outputs, derive(dense.seed, "start random")
    )
    return {name: each.detach() for name, each in model.named_parameters() if name not in head}


def _permuted(weights: Mapping[str, Tensor], kept: Masks, seed: int) -> dict[str, Tensor]:
    """Permute the kept weights of each tensor that has a mask; the others stay."""
    generator, permuted = torch.Generator().manual_seed(seed), {}
    for name in bytewise(kept):
        values = weights[name][kept[name]]
        order = torch.randperm(values.numel(), generator=generator)
        permuted[name] = weights[name].masked_scatter(kept[name], values[order])
    return permuted
