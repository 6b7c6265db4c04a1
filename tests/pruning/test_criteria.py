"""Laws that hold for every row of the table of criteria, each formula by hand, and the names of strategies."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from builders.small_network import NAMES, WEIGHTS, Wide, batch, packed, small
from torch import Tensor, tensor

from deepcuts.data.batches import Tokens
from deepcuts.experiment.settings import ScoringPass
from deepcuts.pruning.criteria import (
    CRITERIA,
    SCOPES,
    Evidence,
    Weights,
    parse_strategy,
    plain_strategies,
    strategy_name,
)
from deepcuts.scoring.score import score

SETTINGS = ScoringPass(smoothing_passes=3, noise_std=0.1)
CLEAN = SETTINGS.model_copy(update={"noise_std": 0.0, "dropout": False})
BATCHES = [batch([4, 2, 3, 3], seed=1), batch([1, 5, 2], seed=2)]
GRADIENTS = ("plain", "smoothed", "curvature")
every = pytest.mark.parametrize("criterion", CRITERIA)


def scores_of(
    criteria: list[str],
    settings: ScoringPass = SETTINGS,
    kind: type[Tokens] = Tokens,
    seed: int = 5,
) -> dict[str, dict[str, Tensor]]:
    network, model = small(dropout=0.3)
    initial = {name: torch.cos(7 * parameter.detach()) for name, parameter in model.named_parameters()}
    return score(network, NAMES, criteria, *packed(BATCHES, kind), settings, seed, initial)[0]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@every
def test_scores_are_finite_fp32_on_the_cpu_and_of_the_parameter_s_shape(criterion: str) -> None:
    _, model = small()
    for name, value in scores_of([criterion])[criterion].items():
        assert value.shape == dict(model.named_parameters())[name].shape
        assert (value.dtype, value.device.type) == (torch.float32, "cpu")
        assert bool(value.isfinite().all())
        assert value.unique().numel() == value.numel()  # it tells the weights apart


@every
def test_a_score_is_negative_only_where_the_row_says_so(criterion: str) -> None:
    negative = any(bool((value < 0).any()) for value in scores_of([criterion])[criterion].values())
    assert negative == CRITERIA[criterion].signed


@every
def test_the_same_seed_gives_the_same_bits_whatever_was_drawn_before(criterion: str) -> None:
    first = scores_of([criterion])[criterion]
    torch.rand(17)
    assert same(first, scores_of([criterion])[criterion])


@every
def test_another_seed_changes_only_what_draws(criterion: str) -> None:
    other = scores_of([criterion], seed=6)[criterion]
    draws = criterion == "Random" or CRITERIA[criterion].data in GRADIENTS
    assert same(scores_of([criterion])[criterion], other) != draws


@every
def test_the_bits_of_a_score_do_not_depend_on_its_company(criterion: str) -> None:
    company = [name for name in CRITERIA if CRITERIA[name].data == CRITERIA[criterion].data]
    alone = scores_of([criterion])[criterion]
    assert same(alone, scores_of(company)[criterion])
    assert same(alone, scores_of(company[::-1])[criterion])


@every
def test_micro_batches_are_the_whole_batch_up_to_rounding(criterion: str) -> None:
    whole, parts = (
        scores_of([criterion], CLEAN.model_copy(update={"micro_batch": size}))[criterion] for size in (None, 2)
    )
    for name in NAMES:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-7)


@every
def test_padding_changes_no_score(criterion: str) -> None:
    narrow, wide = (scores_of([criterion], CLEAN, kind)[criterion] for kind in (Tokens, Wide))
    for name in NAMES:
        torch.testing.assert_close(wide[name], narrow[name], rtol=1e-4, atol=1e-7)


@every
def test_scoring_leaves_the_network_as_it_was(criterion: str) -> None:
    network, model = small(dropout=0.3)
    model.classifier.weight.requires_grad_(False)
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}
    initial = {name: value for name, (value, _) in before.items()}
    score(network, WEIGHTS, [criterion], *packed(BATCHES), SETTINGS, 5, initial)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert parameter.requires_grad == before[name][1]
        assert parameter.grad is None
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("criterion", [name for name, row in CRITERIA.items() if row.data in GRADIENTS])
def test_dropout_is_on_in_the_gradients_unless_it_is_turned_off(criterion: str) -> None:
    assert not same(
        scores_of([criterion])[criterion],
        scores_of([criterion], SETTINGS.model_copy(update={"dropout": False}))[criterion],
    )


@pytest.mark.parametrize("criterion", [name for name, row in CRITERIA.items() if row.data == "forward"])
def test_dropout_is_off_where_activations_are_looked_at(criterion: str) -> None:
    assert same(scores_of([criterion])[criterion], scores_of([criterion], CLEAN)[criterion])


def test_random_scores_are_uniform_and_differ_from_tensor_to_tensor() -> None:
    scores = scores_of(["Random"])["Random"]
    values = torch.cat([value.flatten() for value in scores.values()])
    assert 0 <= float(values.min()) < 0.2
    assert 0.8 < float(values.max()) < 1
    assert values.unique().numel() == values.numel()


def test_a_tensor_that_the_loss_does_not_reach_has_no_influence() -> None:
    network, model = small()
    model.encoder["unused"] = torch.nn.Linear(4, 2)
    scores, _ = score(network, [*NAMES, "encoder.unused.weight"], ["MagGrad"], *packed(BATCHES), CLEAN, 5)
    assert not scores["MagGrad"]["encoder.unused.weight"].any()


def test_a_loss_that_is_not_finite_is_refused_with_its_batch() -> None:
    network, model = small()
    model.classifier = torch.nn.Linear(2, 1)
    broken = {**BATCHES[1], "labels": tensor([0.0, float("nan"), 1.0])}
    with pytest.raises(ValueError, match="the loss of scoring batch 1 is nan, not finite"):
        score(network, NAMES, ["MagGrad"], *packed([BATCHES[0], broken]), CLEAN, 5)


def test_a_score_that_is_not_finite_is_refused_with_its_tensor() -> None:
    network, model = small()
    with torch.no_grad():
        model.encoder["layer"].weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"MagWeight scores of 'encoder.layer.weight' are not finite: 1 values"):
        score(network, NAMES, ["MagWeight"], *packed(BATCHES), CLEAN, 5)


# One layer with W = [[1, -2], [3, 0.5]] and two batches, by hand.
W = tensor([[1.0, -2.0], [3.0, 0.5]])
G = [tensor([[1.0, 1.0], [-1.0, 2.0]]), tensor([[-3.0, 1.0], [0.0, 2.0]])]
EVIDENCE = [
    Evidence(G[0], G[0].abs(), tensor([[2.0], [-1.0]]), tensor([[1.0, -4.0]]), tensor([[3.0, 20.0]])),
    Evidence(G[1], G[1].abs(), tensor([[-1.0], [4.0]]), tensor([[2.0, 1.0]]), tensor([[6.0, 5.0]])),
]
HAND = {
    "MagWeight": [[1, 2], [3, 0.5]],
    "MagGrad": [[4, 4], [3, 2]],
    "SNIP": [[2, 4], [3, 2]],
    "Fisher": [[10, 8], [9, 2]],
    "MagAct": [[3, 6], [9, 1.5]],
    "Wanda": [[3, 10], [9, 2.5]],
    "GradCAM": [[5, 6], [3, 5]],  # |1| (|1 * 2| + |-3 * -1|) = 5, ...
    "GradCAMShift": [[39, 42], [27, 23]],  # |1| (|1 * 12| + |-3 * 9|) = 39, ...
    "SmoothGrad": [[4, 4], [3, 2]],
    "SmoothGradCAM": [[5, 6], [3, 5]],
    "SmoothGradCAMShift": [[39, 42], [27, 23]],
    "MagIncrease": [[0.5, 1], [-1, 0]],
    "MagInit": [[0.5, 1], [4, 0.5]],
    "GraSP": [[-2, -4], [-3, 2]],  # 1 * (1 - 3) = -2, ...
}


@pytest.mark.parametrize("criterion", HAND)
def test_each_formula_by_hand(criterion: str) -> None:
    row = CRITERIA[criterion]
    total = torch.zeros_like(W[:1] if row.data == "forward" else W)
    for evidence in EVIDENCE:
        if row.add is not None:
            seen = evidence if row.sign else replace(evidence, gradient=None)
            row.add(total, replace(seen, shift=10.0 if row.shifted else 0.0))
    initial = tensor([[0.5, 1.0], [-4.0, 0.5]])
    torch.testing.assert_close(row.score(Weights(W, initial), total), tensor(HAND[criterion], dtype=torch.float32))


def test_every_criterion_has_an_example_by_hand_and_a_source() -> None:
    assert set(HAND) | {"Random", "SynFlow"} == set(CRITERIA)
    assert all(row.source for row in CRITERIA.values())


def test_names_of_strategies_are_read_back() -> None:
    for criterion, scope in plain_strategies().values():
        for control in ("none", "shuffle", "invert"):
            assert parse_strategy(strategy_name(criterion, scope, control)) == (criterion, scope, control)  # type: ignore[arg-type]
    assert strategy_name("Wanda", "row", "none") == "RowWanda"
    assert strategy_name("SNIP", "nm24", "shuffle") == "NM24SNIP+shuffle"
    assert {scope for _, scope in plain_strategies().values()} == set(SCOPES)
    assert strategy_name("GradCAM", "layer", "shuffle") == "LayerGradCAM+shuffle"


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("LayerGradCam", "LayerGradCAM"),
        ("globalMagWeight", "GlobalMagWeight"),
        ("LayerGradCam+shuffle", "LayerGradCAM+shuffle"),
        ("LampWandas", "LampWanda"),
        ("Nm24MagWeight", "NM24MagWeight"),
    ],
)
def test_an_unknown_strategy_is_refused_with_the_nearest_name(wrong: str, near: str) -> None:
    with pytest.raises(ValueError, match="did you mean") as raised:
        parse_strategy(wrong)
    assert f"unknown strategy {wrong!r}; did you mean {near!r}?" in str(raised.value)


def test_lamp_of_scores_that_may_be_negative_is_refused() -> None:
    for name in ("LampMagIncrease", "LampMagIncrease+shuffle"):
        with pytest.raises(ValueError, match=f"strategy '{re.escape(name)}': Lamp .* may be negative"):
            parse_strategy(name)
    signed = {name for name, row in CRITERIA.items() if row.signed}
    assert signed == {criterion for criterion in CRITERIA if f"Lamp{criterion}" not in plain_strategies()}


def test_an_unknown_control_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown control 'shuffled' of strategy 'LayerSNIP\+shuffled'"):
        parse_strategy("LayerSNIP+shuffled")
