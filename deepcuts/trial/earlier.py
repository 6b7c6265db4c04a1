"""What a trial takes from another one that the store has: the network of the round before, or a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deepcuts.experiment.spec import TrialSpec
from deepcuts.model.network import Network, prunable, weights_of
from deepcuts.pruning.bits import Bools
from deepcuts.pruning.compression import fraction_to_keep
from deepcuts.store.masks import masks, masks_in_file
from deepcuts.store.networks import NETWORK_FILE, find_network
from deepcuts.store.store import Store
from deepcuts.store.tensors import load_artifact, save_tensors

# How far the share of kept weights of a given mask may be from the one asked for: scopes round per tensor or row.
NEAR = 0.005


@dataclass(frozen=True)
class Earlier:
    """The retrained network of the round before, whole and on the CPU, and the weights that it kept."""

    weights: dict[str, Tensor]
    masks: dict[str, Tensor]


def round_before(store: Store, trial: TrialSpec) -> Earlier | None:
    """Load what the round before has left; None for a trial that prunes the fine-tuned network.

    Raises OSError where it is missing or damaged.
    """
    if trial.previous is None:
        return None
    key = trial.previous.trial_id
    kind = find_network(store, key)
    if kind is None:
        raise FileNotFoundError(f"{store.path('artifacts', 'rounds', key)}: the round before has left no network")
    alive = {name: torch.from_numpy(mask) for name, mask in masks(store, key).items()}
    stored = load_artifact(store, kind, key, NETWORK_FILE)
    weights = {
        name: torch.zeros(alive[name].shape).masked_scatter(alive[name], each) if name in alive else each
        for name, each in stored.items()
    }
    return Earlier(weights, alive)


def keep_weights(store: Store, kind: str, trial_id: str, network: Network, kept: Mapping[str, Tensor]) -> None:
    """Publish the kept weights, flat and in the order of the mask; tensors that are not prunable stay whole."""
    weights = weights_of(network)
    small = {name: weights[name][kept[name]] if name in kept else weights[name] for name in weights}
    with store.new_artifact(kind, trial_id, {"trial_id": trial_id}) as folder:
        save_tensors(folder / NETWORK_FILE, small)


def given_mask(store: Store, trial: TrialSpec, network: Network) -> dict[str, Tensor]:
    """Load the mask that another trial or a file has.

    Raises ValueError for masks of other tensors than the trial prunes, or that keep another share than it asks for.
    """
    if trial.mask_of is not None:
        whose, found = f"of trial {trial.mask_of.trial_id}", masks(store, trial.mask_of.trial_id)
    else:
        assert trial.mask_file is not None
        file = trial.mask_file
        whose = f"of trial {file.trial} in {file.name!r}"
        found = masks_in_file(Path(file.name), file.trial, file.digest)
    _check(whose, found, trial, network)
    return {name: torch.from_numpy(mask) for name, mask in found.items()}


def check_mask_files(trials: Sequence[TrialSpec], network: Network) -> None:
    """Raise ValueError where a file's masks are not of this network, or keep another share than a trial asks for."""
    for trial in trials:
        if trial.mask_file is not None:
            file = trial.mask_file
            found = masks_in_file(Path(file.name), file.trial, file.digest)
            _check(f"of trial {file.trial} in {file.name!r}", found, trial, network)


def _check(whose: str, found: Mapping[str, Bools], trial: TrialSpec, network: Network) -> None:
    names = prunable(network.model, trial.score.prune_biases, trial.score.exclude)
    sizes = {name: parameter.shape for name, parameter in network.model.named_parameters()}
    for name in sorted({*found, *names}):
        ours = tuple(sizes[name]) if name in names else None
        theirs = found[name].shape if name in found else None
        if ours != theirs:
            raise ValueError(
                f"mask_from: the masks {whose} are of another model: {name!r} has {_shape(theirs)} there, and in the"
                f" network to prune {_shape(ours)}"
            )
    size, kept = sum(mask.size for mask in found.values()), sum(int(mask.sum()) for mask in found.values())
    parameters = sum(shape.numel() for shape in sizes.values())
    fraction = fraction_to_keep(trial.compression, trial.sparsity, parameters, size)
    if abs(kept / size - fraction) > NEAR:
        raise ValueError(
            f"mask_from: the masks {whose} have a sparsity of {1 - kept / size:.4g}, and {1 - fraction:.4g} is asked"
            " for; ask for the one that they have"
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no mask" if shape is None else f"the shape {shape}"
