"""One pass over the batches serves a criterion in several settings, and gives each the bits that it has alone."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from builders.checkpoints import Memory
from builders.small_network import NAMES, batch, packed, small
from torch import Tensor

from deepcuts.experiment.settings import ScoringPass
from deepcuts.scoring.score import Variant, _differentiate, score
from deepcuts.training.checkpoint import Interrupted

BATCHES = [batch([4, 2, 3], seed=1), batch([1, 5], seed=2), batch([2, 2, 2, 6], seed=3)]
SETTINGS, SEED = ScoringPass(smoothing_passes=2, noise_std=0.3, dropout=False), 3


def scores(criteria: Any, settings: ScoringPass = SETTINGS, **more: Any) -> dict[str, dict[str, Tensor]]:
    return score(small()[0], NAMES, criteria, *packed(BATCHES), settings, SEED, **more)[0]


@pytest.mark.parametrize("kind", ["GradCAM", "SmoothGradCAM"])
def test_all_shifts_and_ways_to_count_come_out_of_one_pass_with_the_bits_of_each_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches_run: list[int] = []

    def counting(network: Any, gradients: Any, tokens: Any, batches: Any, *more: Any) -> None:
        batches_run.append(len(batches))
        _differentiate(network, gradients, tokens, batches, *more)

    monkeypatch.setattr("deepcuts.scoring.score._differentiate", counting)
    asked = {f"{by} {pad}": Variant(f"{kind}Shift", by, pad) for by, pad in product((0, 0.1, 10), (False, True))}
    asked |= {"plain": Variant(kind, 5.0, False), "padded": Variant(kind, 5.0, True)}
    if kind == "GradCAM":
        asked["signed"] = Variant("SNIP", 5.0, False)
    together = scores(asked)
    assert sum(batches_run) == len(BATCHES)
    assert list(together) == list(asked)
    for label, variant in asked.items():
        own = SETTINGS.model_copy(update={"shift": variant.shift, "count_padding": variant.count_padding})
        alone = scores([variant.criterion], own)[variant.criterion]
        assert all(torch.equal(together[label][name], alone[name]) for name in NAMES), label
    kinds = {label: torch.cat([value.flatten() for value in made.values()]) for label, made in together.items()}
    same = [(a, b) for a, b in product(kinds, kinds) if a < b and torch.equal(kinds[a], kinds[b])]
    assert same == [("0 False", "plain"), ("0 True", "padded")]


def test_sums_of_one_shift_are_not_taken_for_those_of_another() -> None:
    checkpoint = Memory()
    shifts = {by: {f"GradCAMShift shift={by}": Variant("GradCAMShift", by, False)} for by in (1.0, 10.0)}
    with pytest.raises(Interrupted):
        scores(shifts[10.0], checkpoint=checkpoint, after_batch=lambda used: used == 2)
    for by in shifts:
        (label,) = shifts[by]
        resumed, undisturbed = scores(shifts[by], checkpoint=checkpoint), scores(shifts[by])
        assert all(torch.equal(resumed[label][name], undisturbed[label][name]) for name in NAMES)
