"""Masks of a later round of iterative pruning: what was pruned stays pruned, whatever the scores say now."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from deepcuts.pruning.criteria import Scope
from deepcuts.pruning.masks import make_masks, shuffle

SHAPES = {"a.weight": (12, 8), "b.bias": (9,), "b.weight": (9, 12)}


def drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("scope", ["layer", "global", "row", "lamp", "erk"])
def test_a_later_round_keeps_as_many_as_any_trial_and_none_that_was_pruned(scope: Scope) -> None:
    alive = None
    for number, density in enumerate((0.8, 0.64, 0.3, 0.3, 0.05)):
        made = make_masks(drawn(number), density, scope, alive=alive)
        at_once = make_masks(drawn(number), density, scope)
        if scope == "lamp":  # as many in all, and not of each tensor
            assert sum(int(mask.sum()) for mask in made.values()) == sum(int(mask.sum()) for mask in at_once.values())
        for name, mask in made.items():
            assert alive is None or not (mask & ~alive[name]).any()
            assert scope in ("global", "lamp") or mask.sum() == at_once[name].sum()
        alive = made


def test_lamp_counts_what_is_left_alone() -> None:
    """By hand of float64: the share of each square in the sum of those that are not below it, of the living."""
    scores, alive = drawn(3), {name: mask > 0.4 for name, mask in drawn(4).items()}
    ranked = {}
    for name, score in scores.items():
        living = np.where(alive[name].numpy(), score.double().numpy(), np.nan).ravel()
        above = [np.nansum(living[living >= each] ** 2) for each in living]
        ranked[name] = living**2 / np.where(np.isnan(living), np.nan, above)
    flat = np.concatenate([ranked[name] for name in sorted(ranked)])
    expected = np.zeros(len(flat), bool)
    expected[np.argsort(-np.nan_to_num(flat, nan=-1.0), kind="stable")[:60]] = True
    made = make_masks(scores, 60 / len(flat), "lamp", alive=alive)
    found = np.concatenate([made[name].numpy().ravel() for name in sorted(made)])
    assert found.sum() == 60
    assert (found == expected).all()


def test_a_mask_is_shuffled_among_what_is_left() -> None:
    alive = {name: mask > 0.4 for name, mask in drawn(1).items()}
    masks = {name: alive[name] & (mask > 0.7) for name, mask in drawn(2).items()}
    shuffled = shuffle(masks, 5, alive)
    for name, mask in masks.items():
        assert shuffled[name].sum() == mask.sum()
        assert not (shuffled[name] & ~alive[name]).any()
    assert any((shuffled[name] != masks[name]).any() for name in masks)
    everything = {name: torch.ones_like(mask) for name, mask in masks.items()}
    among, anywhere = shuffle(masks, 5, everything), shuffle(masks, 5)
    assert all(torch.equal(among[name], anywhere[name]) for name in masks)
