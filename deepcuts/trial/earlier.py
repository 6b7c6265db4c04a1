"""What a trial takes from another one that the store has: the network of the round before, or a mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deepcuts.experiment.spec import TrialSpec
from deepcuts.model.network import Network, weights_of
from deepcuts.pruning.bits import Bools
from deepcuts.store.masks import masks, masks_in_file
from deepcuts.store.networks import KEPT, find_network
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
    alive = _tensors(masks(store, key))
    stored = load_artifact(store, kind, key, KEPT)
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
        save_tensors(folder / KEPT, small)


def given_mask(store: Store, trial: TrialSpec, wanted: Mapping[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """Load the mask that another trial or a file has; `wanted` has a tensor of the shape of each mask, by name.

    Raises ValueError for masks of other tensors, or that do not keep about the fraction that is asked for.
    """
    if trial.mask_of is not None:
        whose, found = f"of trial {trial.mask_of.trial_id}", masks(store, trial.mask_of.trial_id)
    else:
        assert trial.mask_file is not None
        file = trial.mask_file
        whose = f"of trial {file.trial} in {file.name!r}"
        found = masks_in_file(Path(file.name), file.trial, file.digest)
    shapes = {name: tuple(each.shape) for name, each in wanted.items()}
    check_masks(whose, found, shapes, fraction)
    return _tensors(found)


def check_masks(whose: str, found: Mapping[str, Bools], shapes: Mapping[str, tuple[int, ...]], fraction: float) -> None:
    """Raise ValueError for masks that are of other tensors than those to prune, or that keep another share of them."""
    for name in sorted({*found, *shapes}):
        ours, theirs = shapes.get(name), found[name].shape if name in found else None
        if ours != theirs:
            raise ValueError(
                f"the masks {whose} are of another model: {name!r} has {_shape(theirs)} there and {_shape(ours)} in the"
                " network to prune"
            )
    share = sum(int(mask.sum()) for mask in found.values()) / sum(mask.size for mask in found.values())
    if abs(share - fraction) > NEAR:
        raise ValueError(
            f"the masks {whose} keep {share:.4g} of the weights, and {fraction:.4g} is asked for; ask for the sparsity"
            f" {1 - share:.4g}"
        )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no mask" if shape is None else f"the shape {shape}"


def _tensors(found: Mapping[str, Bools]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(mask) for name, mask in found.items()}
