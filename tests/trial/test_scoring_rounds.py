"""Scoring in rounds: against a plain loop, what is shared, what a stopped trial repeats, and iterative pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.toy_sweeps import toy_sweep
from builders.toy_trials import SCORING, context, everything, theta_0, theta_1, trial
from torch import Tensor

from deepcuts.data.batches import shuffled
from deepcuts.experiment.spec import TrialSpec
from deepcuts.model.network import prunable, set_weights
from deepcuts.pruning.masks import make_masks, zero_weights
from deepcuts.scoring.score import score
from deepcuts.store.masks import masks
from deepcuts.store.store import Store
from deepcuts.training.checkpoint import Interrupted
from deepcuts.trial import choice
from deepcuts.trial.loading import load_material, load_network
from deepcuts.trial.trial import run_stages

pytestmark = [
    pytest.mark.usefixtures("torch_state", "few_sentences"),
    pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric"),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def run(store: Store, spec: TrialSpec, **fields: Any) -> dict[str, Any]:
    row = run_stages(spec, "some", context(store, **fields))
    assert row["status"] == "completed", row["error"]
    return row


def by_loop(store: Store, spec: TrialSpec, rounds: int) -> list[dict[str, Tensor]]:
    """The masks after each round, from the fine-tuned network that the store has."""
    network, material, criterion = load_network(spec.dense), load_material(spec.dense), str(spec.score.criterion)
    set_weights(network, theta_1(store, spec))
    names = prunable(network.model, biases=False)
    order = shuffled(material.train.lengths, 16, 0, f"score {spec.score.data}", 0, True)[: spec.score.batches]
    made: list[dict[str, Tensor]] = []
    assert spec.sparsity is not None
    for number in range(1, rounds + 1):
        found, _ = score(network, names, [criterion], material.train, order, spec.score, 0, theta_0(spec))
        scores = found[criterion]
        if made:
            scores = {name: each.masked_fill(~made[-1][name], -torch.inf) for name, each in scores.items()}
        density = (1 - spec.sparsity) ** (number / rounds)
        made.append(make_masks(scores, density, spec.scope or "layer"))
        zero_weights(network.model, made[-1])
    return made


@pytest.mark.parametrize("strategy", ["GlobalGraSP", "RowWanda", "GlobalSynFlow"])
def test_masks_are_those_of_a_plain_loop(store: Store, strategy: str) -> None:
    spec = trial(strategy, sparsity=0.8, scoring_rounds=3)
    row = run(store, spec)
    kept, right = masks(store, spec.trial_id), by_loop(store, spec, 3)
    for name, mask in kept.items():
        assert np.array_equal(mask, right[-1][name].numpy())
        assert not (right[1][name] & ~right[0][name]).any()
    assert row["kept"] == sum(int(mask.sum()) for mask in right[-1].values())
    if strategy.startswith("Global"):
        assert row["kept"] == round(0.2 * row["prunable"])
    assert (row["score_cached"], row["score_seconds"] > 0) == (False, True)


def make_and_read(store: Store, spec: TrialSpec) -> dict[str, np.ndarray]:
    run(store, spec)
    return masks(store, spec.trial_id)


def test_the_first_round_shares_its_pass_and_later_ones_leave_nothing(store: Store) -> None:
    one, several = trial("LayerSNIP"), trial("LayerSNIP", scoring_rounds=2)
    assert one.score.score_id == several.score.score_id
    assert one.trial_id != several.trial_id
    run(store, several)
    assert store.artifacts("scores") == [one.score.score_id]
    assert run(store, one)["score_cached"] is True
    again, once = masks(store, several.trial_id), masks(store, one.trial_id)
    assert any(not np.array_equal(again[name], once[name]) for name in again)
    assert not list(Path(store.root, "artifacts", "_checkpoints").glob("*"))


class Stops:
    """Asks to stop at the n-th time that it is asked; counts the batches that are scored."""

    def __init__(self, at: int) -> None:
        self.left, self.batches = at, 0

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0

    def heard(self, stage: str, epoch: int, step: int) -> None:
        self.batches += stage == "score" and step > 0


@pytest.mark.parametrize("batches", [3, 6])
def test_a_stopped_trial_goes_on_with_the_round_it_was_in(store: Store, tmp_path: Path, batches: int) -> None:
    spec = trial("LayerGraSP", sparsity=0.8, scoring_rounds=3)
    whole, stopped = Store(str(tmp_path / "whole")), Store(str(tmp_path / "stopped"))
    run(whole, spec)
    for each in (whole, stopped):
        run(each, trial("Dense"))
    counted, scored = Stops(0), Stops(0)

    def stop() -> bool:
        return counted.batches == batches

    with pytest.raises(Interrupted):
        run(stopped, spec, on_progress=counted.heard, stop=stop, checkpoint_minutes=0)
    run(stopped, spec, on_progress=scored.heard, checkpoint_minutes=0)
    assert counted.batches + scored.batches == 3 * SCORING.batches  # none twice, none left out
    assert everything(stopped, spec) == everything(whole, spec)


def test_a_trial_that_stops_in_retraining_scores_no_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, again = trial("LayerGraSP", scoring_rounds=3), Stops(0)
    run(store, trial("Dense"))
    stops = Stops(3 * (2 + 1) + 1)  # two batches and the end of each round, and the first step
    with pytest.raises(Interrupted):
        run(store, spec, stop=stops, on_progress=stops.heard)
    monkeypatch.setattr(choice, "run_pass", None)
    row = run(store, spec, on_progress=again.heard)
    assert again.batches == 0
    assert row["score_seconds"] > 0


def test_rounds_of_iterative_pruning_score_in_rounds_too(store: Store) -> None:
    spec = toy_sweep(
        strategies=["GlobalSNIP"], sparsities=[0.75], rounds={"count": 2}, scoring={"batches": 2, "rounds": 2}
    )
    first, second = (each for each in spec.trials() if each.prunes)
    assert (first.scoring_rounds, second.scoring_rounds, second.round) == (2, 2, 2)
    for each in (first, second):
        run(store, each, keep_network=True)
    one, two = masks(store, first.trial_id), masks(store, second.trial_id)
    assert all(not (two[name] & ~one[name]).any() for name in two)
    kept, size = sum(int(mask.sum()) for mask in two.values()), sum(mask.size for mask in two.values())
    assert kept == round(0.25 * size)


def test_the_shares_of_rounds_begin_at_what_is_alive() -> None:
    spec = trial("LayerSNIP", sparsity=0.9, scoring_rounds=2)
    alive = {"a": torch.arange(10) < 4}
    shares = [choice._share(choice.Choice(spec, 0.1, (), (), None, left), 1) for left in (None, alive)]
    assert shares == pytest.approx([0.1**0.5, 0.4 * 0.25**0.5])
    assert choice._share(choice.Choice(spec, 0.1, (), (), None, alive), 2) == 0.1


def test_inverted_rounds_keep_the_lowest_of_what_is_left(store: Store) -> None:
    spec = trial("GlobalSNIP+invert", sparsity=0.8, scoring_rounds=2)
    row = run(store, spec)
    highest = make_and_read(store, trial("GlobalSNIP", sparsity=0.8))
    kept = masks(store, spec.trial_id)
    both = sum(int((kept[name] & highest[name]).sum()) for name in kept)
    assert row["kept"] == round(0.2 * row["prunable"])
    assert both < 0.02 * row["kept"]
