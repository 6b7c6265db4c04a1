"""What a model card says of how the network was made: no more, and no less, than what was done."""

from __future__ import annotations

from typing import Any

import pytest
from builders.specs import sweep

from deepcuts.experiment.grid import SweepSpec
from deepcuts.publish.modelcard import model_card

MASKS = [{"layer": "a", "parameter": "weight", "shape": [2, 2], "size": 4, "kept": 2}]


def card(spec: SweepSpec) -> str:
    trial = spec.trials()[-1]
    known = {"arm": "mine", "kept": 2, "prunable": 4, "parameters": 8, "sparsity": 0.5, "compression_achieved": 1.3}
    versions = dict.fromkeys(("deepcuts", "torch", "transformers"), "1")
    return model_card(trial, {"trial_id": trial.trial_id, **known, **versions}, [], MASKS)


@pytest.mark.parametrize(
    ("settings", "told", "untold"),
    [
        ({}, ["by MagWeight.", "Kept the highest scores, scope global.", "back to the pretrained weights;"], ["time"]),
        ({"use": "GlobalMagWeight+invert"}, ["Kept the lowest scores (a control), scope global."], ["highest"]),
        (
            {"use": "GlobalSynFlow", "scoring": {"rounds": 9}},
            [", anew in each of 9 rounds of pruning, without training between."],
            [],
        ),
        ({"scoring": {"batches": 1}, "use": "GlobalSNIP"}, ["over 1 batch of 16 (or as many"], ["1 batches"]),
        ({"mask_from": {"seed": 7}}, ["Took the mask of the trial", "(GlobalMagWeight on toy, seed 7)"], ["Scored"]),
        ({"start": "shuffled"}, ["back to the pretrained weights, permuted within each tensor (a control);"], []),
        ({"start": "random"}, ["Set the kept weights to random ones"], ["back to"]),
        ({"retrain": {"distill": {"weight": 0.5}}}, ["by the fine-tuned network (temperature 2, weight 0.5)."], []),
        (
            {"rounds": {"keep": 0.8, "rewind_head": False, "retrain": {"epochs": 1}}},
            ["Steps 2 to 5 were done 4 times (keep 0.8)", "this is round 4; 1 epoch,", "but for the head"],
            [],
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_the_card_tells_what_was_done(settings: dict[str, Any], told: list[str], untold: list[str]) -> None:
    text = card(sweep(strategies={"mine": {"use": "GlobalMagWeight"} | settings}, sparsities=[0.5]))
    made = text[text.index("## How it was made") : text.index("Made with")]
    assert all(words in made for words in told), made
    assert not any(words in made for words in untold), made


def test_a_glob_is_code_in_the_card_as_its_stars_would_be_emphasis() -> None:
    assert ", but for those that `*.pooler.*` names." in card(sweep(exclude=["*.pooler.*"]))


def test_the_card_tells_of_weighted_classes() -> None:
    assert ", every class with the same share of each loss." in card(sweep(class_weights="balanced"))
