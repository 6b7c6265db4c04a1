"""Batches that run as one in a plain pass: the scores of each alone, wherever scoring stops."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
from builders.checkpoints import Memory
from builders.transformers_networks import inseparable_network, mixing_network, tokens
from torch import Tensor

from deepcuts.experiment.settings import ScoringPass
from deepcuts.model.network import prunable
from deepcuts.pruning.criteria import CRITERIA
from deepcuts.scoring.score import _add_group, score
from deepcuts.training.checkpoint import Interrupted

GROUPED = [np.array(batch) for batch in ([0, 2], [6, 9], [1, 4], [3, 7], [5])]  # of 3, 6, 5, 4 and 3 words
SETTINGS, SEED = ScoringPass(smoothing_passes=2, dropout=False), 0


def bounded(micro_batch: int | None) -> ScoringPass:
    return SETTINGS.model_copy(update={"micro_batch": micro_batch})


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """The batches of each group that is scored."""
    seen: list[list[list[int]]] = []
    real = _add_group

    def note(*arguments: Any) -> None:
        group = signature(real).bind(*arguments).arguments["group"]
        seen.append([batch.tolist() for batch in group.batches])
        real(*arguments)

    monkeypatch.setattr("deepcuts.scoring.score._add_group", note)
    monkeypatch.setattr("deepcuts.model.network.Network.tokens_at_once", 64)
    return seen


def assert_near(found: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Equal up to a hundred thousandth of the largest score."""
    assert found.keys() == right.keys()
    largest = max(float(each.max()) for each in right.values())
    assert largest > 0
    for name, scores in right.items():
        torch.testing.assert_close(found[name] / largest, scores / largest, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("criterion", [name for name, row in CRITERIA.items() if row.data == "plain"])
def test_batches_of_similar_length_run_as_one_and_change_no_score(criterion: str, groups: list[Any]) -> None:
    made, data = mixing_network(), tokens()
    names = prunable(made.model, True)
    together, used = score(made, names, [criterion], data, GROUPED, SETTINGS, SEED)
    assert used == 5
    assert groups == [[[5]], [[0, 2], [3, 7], [1, 4]], [[6, 9]]]
    groups.clear()
    alone, used = score(made, names, [criterion], data, GROUPED, bounded(2), SEED)
    assert used == 5
    assert groups == [[[5]], [[0, 2]], [[3, 7]], [[1, 4]], [[6, 9]]]
    assert_near(together[criterion], alone[criterion])


@pytest.mark.parametrize(("kind", "criterion"), [("bert", "SmoothGrad"), ("bert", "Wanda"), ("deberta-v2", "MagGrad")])
def test_others_run_one_by_one(kind: str, criterion: str, groups: list[Any]) -> None:
    made = mixing_network(kind) if kind == "bert" else inseparable_network(kind)
    names = prunable(made.model, False)
    score(made, names, [criterion], tokens(), GROUPED, SETTINGS, SEED)
    assert groups == [[batch.tolist()] for batch in GROUPED]


@pytest.mark.parametrize(("bound", "expected"), [(6, 3), (5, 2), (4, 2), (3, 1), (2, 1), (1, 1)])
def test_as_many_run_as_one_as_the_micro_batch_allows(bound: int, expected: int, groups: list[Any]) -> None:
    made, data = mixing_network(), tokens()
    names = prunable(made.model, False)
    found = score(made, names, ["SNIP"], data, GROUPED, bounded(bound), SEED)[0]["SNIP"]
    assert max(map(len, groups)) == expected
    assert sum(groups, []) == [[5], [0, 2], [3, 7], [1, 4], [6, 9]]
    whole = score(made, names, ["SNIP"], data, GROUPED, SETTINGS, SEED)[0]["SNIP"]
    assert_near(found, whole)


def test_squared_errors_that_are_summed_are_those_of_each_batch(groups: list[Any]) -> None:
    made, data = replace(mixing_network(), loss="mse_sum", head="sigmoid5"), tokens()
    made.model.classifier = torch.nn.Linear(8, 1)
    names = prunable(made.model, False)
    together, alone = (
        score(made, names, ["MagGrad"], data, GROUPED, bounded(size), SEED)[0]["MagGrad"] for size in (None, 2)
    )
    assert max(map(len, groups)) == 3
    assert_near(together, alone)


@pytest.mark.parametrize(("before", "after"), [(None, 2), (2, None), (6, 4), (None, 1)])
@pytest.mark.parametrize("last", [1, 2, 3, 4])
def test_scoring_goes_on_with_another_micro_batch_and_uses_each_batch_once(
    before: int | None, after: int | None, last: int, groups: list[Any]
) -> None:
    """As a trial that ran out of memory does, and one that is resumed after that."""
    made, data = mixing_network(), tokens()
    names, checkpoint = prunable(made.model, False), Memory()
    whole = score(made, names, ["SNIP"], data, GROUPED, SETTINGS, SEED)[0]["SNIP"]
    groups.clear()
    first, then = (bounded(size) for size in (before, after))

    def stop(used: int) -> bool:
        return used >= last

    with pytest.raises(Interrupted):
        score(made, names, ["SNIP"], data, GROUPED, first, SEED, checkpoint=checkpoint, after_batch=stop)
    resumed, used = score(made, names, ["SNIP"], data, GROUPED, then, SEED, checkpoint=checkpoint)
    assert used == 5
    assert sum(groups, []) == [[5], [0, 2], [3, 7], [1, 4], [6, 9]]
    assert_near(resumed["SNIP"], whole)


@pytest.mark.parametrize("after", [1, 4, 5])
@pytest.mark.parametrize("window", [3, 16])
def test_scoring_that_stops_after_a_group_resumes_there(
    after: int, window: int, groups: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcuts.scoring.score.WINDOW", window)
    made, data = mixing_network(dropout=True), tokens()
    names, checkpoint = prunable(made.model, False), Memory()
    whole = score(made, names, ["GradCAM"], data, GROUPED, ScoringPass(), SEED)[0]["GradCAM"]
    in_all = groups.copy()
    groups.clear()
    counts: list[int] = []

    def stop(used: int) -> bool:
        counts.append(used)
        return used >= after

    with pytest.raises(Interrupted):
        score(made, names, ["GradCAM"], data, GROUPED, ScoringPass(), SEED, checkpoint=checkpoint, after_batch=stop)
    assert counts == [sum(map(len, in_all[: i + 1])) for i in range(len(counts))]
    resumed, used = score(made, names, ["GradCAM"], data, GROUPED, ScoringPass(), SEED, checkpoint=checkpoint)
    assert used == 5
    assert groups == in_all
    assert all(torch.equal(resumed["GradCAM"][name], whole[name]) for name in names)
