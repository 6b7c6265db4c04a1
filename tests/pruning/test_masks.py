from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from deepcuts.pruning.compression import count_kept
from deepcuts.pruning.masks import Scope, bytewise, highest, make_masks, shuffle, zero_weights

SCOPES: list[Scope] = ["layer", "global", "row"]
FRACTIONS = [0.0, 0.03, 0.1, 0.25, 0.5, 0.75, 0.99, 1.0]


def scores(seed: int = 0) -> dict[str, Tensor]:
    """Weights and a bias of three layers, the scale of each its own."""
    torch.manual_seed(seed)
    return {
        "b.weight": torch.rand(6, 5),
        "a.weight": 3 * torch.rand(4, 7),
        "c.bias": 0.1 * torch.rand(6),
        "c.weight": torch.rand(3, 9) - 0.5,
    }


def as_lists(masks: dict[str, Tensor]) -> dict[str, object]:
    return {name: mask.int().tolist() for name, mask in masks.items()}


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("scope", SCOPES)
def test_just_the_wanted_number_is_kept(scope: Scope, fraction: float) -> None:
    masks = make_masks(scores(), fraction, scope)
    assert {name: mask.shape for name, mask in masks.items()} == {name: s.shape for name, s in scores().items()}
    assert all(mask.dtype == torch.bool for mask in masks.values())
    if scope == "global":
        assert sum(int(mask.sum()) for mask in masks.values()) == count_kept(fraction, 30 + 28 + 6 + 27)
    for mask in masks.values():
        if scope == "layer":
            assert int(mask.sum()) == count_kept(fraction, mask.numel())
        if scope == "row":
            assert set(mask.sum(-1).flatten().tolist()) == {count_kept(fraction, mask.shape[-1])}


@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_kept_scores_below_what_is_pruned(scope: Scope) -> None:
    given_scores, masks = scores(), make_masks(scores(), 0.4, scope)
    groups = [(given_scores[name], masks[name]) for name in masks]
    if scope == "global":
        groups = [tuple(torch.cat([tensor.flatten() for tensor in group]) for group in zip(*groups, strict=True))]
    if scope == "row":
        groups = [row for s, m in groups for row in zip(*(torch.atleast_2d(t) for t in (s, m)), strict=True)]
    assert all(s[m].min() > s[~m].max() for s, m in groups)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("scope", SCOPES)
def test_masks_are_nested_in_compression(scope: Scope, tied: bool) -> None:
    given_scores = {name: (3 * score).round() if tied else score for name, score in scores().items()}
    smaller = make_masks(given_scores, 0.0, scope)
    for fraction in FRACTIONS:
        larger = make_masks(given_scores, fraction, scope)
        assert all(bool((larger[name] | ~smaller[name]).all()) for name in larger)
        smaller = larger


def test_layer_global_and_row_by_hand() -> None:
    given_scores = {"a": torch.tensor([[1.0, 5.0], [2.0, 3.0]]), "b": torch.tensor([[9.0, 8.0]])}
    assert as_lists(make_masks(given_scores, 0.5, "layer")) == {"a": [[0, 1], [0, 1]], "b": [[1, 0]]}
    assert as_lists(make_masks(given_scores, 0.5, "global")) == {"a": [[0, 1], [0, 0]], "b": [[1, 1]]}
    given_scores["a"][1] = torch.tensor([7.0, 6.0])
    assert as_lists(make_masks(given_scores, 0.5, "row"))["a"] == [[0, 1], [1, 0]]
    assert as_lists(make_masks(given_scores, 0.5, "layer"))["a"] == [[0, 0], [1, 1]]


def test_the_rows_of_a_transposed_weight_are_its_columns() -> None:
    score = torch.tensor([[1.0, 8.0, 5.0], [4.0, 7.0, 6.0]])
    rows = make_masks({"a": score}, 0.5, "row")["a"]
    columns = make_masks({"a": score, "b": score.t()}, 0.5, "row", transposed=["a"])
    assert as_lists(columns)["a"] == [[0, 1, 0], [1, 0, 1]]
    assert columns["a"].is_contiguous()
    assert torch.equal(rows, make_masks({"a": score}, 0.5, "row")["a"])
    for scope in ("layer", "global"):
        assert torch.equal(
            make_masks({"a": score}, 0.5, scope, ["a"])["a"],  # type: ignore[arg-type]
            make_masks({"a": score}, 0.5, scope)["a"],  # type: ignore[arg-type]
        )


def test_a_bias_counts_as_one_row() -> None:
    masks = make_masks({"c.bias": torch.tensor([1.0, 4.0, 2.0, 3.0])}, 0.5, "row")
    assert as_lists(masks) == {"c.bias": [0, 1, 0, 1]}


@pytest.mark.parametrize("scope", SCOPES)
def test_constant_scores_keep_the_first(scope: Scope) -> None:
    masks = make_masks({"w": torch.full((2, 4), 0.5)}, 0.5, scope)
    first = [[1, 1, 0, 0], [1, 1, 0, 0]] if scope == "row" else [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert as_lists(masks) == {"w": first}


def test_ties_across_tensors_go_to_the_name_that_is_first_bytewise() -> None:
    names = ["é", "z", "a.10", "a.9", "a.2", "B", "ｚ", "\U0001f600"]
    assert bytewise(names) == ["B", "a.10", "a.2", "a.9", "z", "é", "ｚ", "\U0001f600"]
    masks = make_masks({name: torch.ones(2) for name in names}, 7 / 16, "global")
    assert [name for name in bytewise(names) if bool(masks[name].all())] == ["B", "a.10", "a.2"]
    assert masks["a.9"].tolist() == [True, False]


def test_the_order_in_which_tensors_are_given_changes_nothing() -> None:
    tied = {name: (3 * score).round() for name, score in scores().items()}
    turned = dict(reversed(tied.items()))
    assert as_lists(make_masks(tied, 0.3, "global")) == as_lists(make_masks(turned, 0.3, "global"))


def test_zeros_of_either_sign_and_infinities_are_ordered() -> None:
    given_scores = torch.tensor([-0.0, 0.0, float("inf"), -1.0, float("-inf")])
    assert highest(given_scores, 2).tolist() == [True, False, True, False, False]
    assert highest(given_scores, 4).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("scope", SCOPES)
def test_a_nan_score_is_refused(scope: Scope) -> None:
    broken = scores()
    broken["a.weight"][1, 2] = float("nan")
    with pytest.raises(ValueError, match="1 of 28 scores of 'a.weight' are NaN"):
        make_masks(broken, 0.5, scope)


@given(st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(0, 6))
def test_the_selection_is_that_of_a_stable_sort(rows: list[list[int]], keep: int) -> None:
    kept = highest(torch.tensor(rows, dtype=torch.float32), keep)
    for row, mask in zip(rows, kept.tolist(), strict=True):
        best = sorted(range(6), key=lambda i: (-row[i], i))[:keep]
        assert [i for i in range(6) if mask[i]] == sorted(best)


@pytest.mark.parametrize("amount", [1, 7, 20])
def test_magnitude_masks_are_those_of_torch(amount: int) -> None:
    torch.manual_seed(1)
    a, b = nn.Linear(5, 4), nn.Linear(7, 3)
    weights = {"a": a.weight.detach().abs().clone(), "b": b.weight.detach().abs().clone()}
    prune.global_unstructured([(a, "weight"), (b, "weight")], prune.L1Unstructured, amount=amount)
    ours = make_masks(weights, (41 - amount) / 41, "global")
    assert torch.equal(ours["a"], a.weight_mask.bool())
    assert torch.equal(ours["b"], b.weight_mask.bool())
    one = nn.Linear(9, 5)
    magnitude = {"w": one.weight.detach().abs().clone()}
    prune.l1_unstructured(one, "weight", amount=amount)
    assert torch.equal(make_masks(magnitude, (45 - amount) / 45, "layer")["w"], one.weight_mask.bool())


def test_a_shuffled_mask_keeps_as_many_in_each_tensor_elsewhere() -> None:
    masks = make_masks({"a": torch.rand(20, 30), "b": torch.rand(40)}, 0.3, "global")
    shuffled = shuffle(masks, 5)
    for name, mask in masks.items():
        assert shuffled[name].shape == mask.shape
        assert int(shuffled[name].sum()) == int(mask.sum())
        assert not torch.equal(shuffled[name], mask)
    assert as_lists(shuffled) == as_lists(shuffle(dict(reversed(masks.items())), 5))
    assert as_lists(shuffled) != as_lists(shuffle(masks, 6))


def test_pruned_weights_become_zero_and_kept_ones_stay_bitwise() -> None:
    layer = nn.Linear(3, 2)
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    mask = torch.tensor([[True, False, True], [False, False, True]])
    zero_weights(layer, {"weight": mask})
    assert torch.equal(layer.weight[mask], before["weight"][mask])
    assert not layer.weight[~mask].any()
    assert torch.equal(layer.bias, before["bias"])


def test_a_mask_that_fits_no_parameter_is_refused() -> None:
    with pytest.raises(KeyError):
        zero_weights(nn.Linear(3, 2), {"other": torch.ones(2, 3, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"mask of 'bias' is \(3,\), not \(2,\)"):
        zero_weights(nn.Linear(3, 2), {"bias": torch.ones(3, dtype=torch.bool)})


@pytest.mark.parametrize("scope", ["layer", "global", "row", "erk"])
def test_the_lowest_masks_are_the_highest_of_the_scores_turned_around(scope: Scope) -> None:
    scores = {name: torch.randn(8, 4, generator=torch.Generator().manual_seed(7)) for name in ("a", "b")}
    turned = {name: 3 - 2 * each for name, each in scores.items()}
    lowest, other = make_masks(scores, 0.25, scope, lowest=True), make_masks(turned, 0.25, scope)
    assert all(torch.equal(lowest[name], other[name]) for name in scores)
    highest_ones = make_masks(scores, 0.25, scope)
    assert not any(bool((lowest[name] & highest_ones[name]).any()) for name in scores)
    assert sum(int(mask.sum()) for mask in lowest.values()) == 16


def test_the_lowest_masks_of_lamp_keep_as_many_of_each_tensor_as_lamp_does() -> None:
    draw = torch.Generator().manual_seed(7)
    scores = {"a": torch.rand(6, 6, generator=draw), "b": 9 * torch.rand(6, 6, generator=draw) ** 3}
    alive = {name: torch.rand(6, 6, generator=draw) < 0.9 for name in scores}
    for left in (None, alive):
        lamp = make_masks(scores, 0.3, "lamp", alive=left)
        lowest = make_masks(scores, 0.3, "lamp", alive=left, lowest=True)
        assert {name: int(each.sum()) for name, each in lowest.items()} == {n: int(m.sum()) for n, m in lamp.items()}
        assert len({int(each.sum()) for each in lamp.values()}) == 2
        for name, kept in lowest.items():
            may = torch.ones_like(kept) if left is None else left[name]
            assert not (kept & ~may).any()
            assert scores[name][kept].max() < scores[name][may & ~kept].min()


def test_the_lowest_neurons_are_kept_whole() -> None:
    layers = [{"in.weight": 0, "out.weight": 1}]
    scores = {"in.weight": torch.arange(12.0).view(4, 3), "out.weight": torch.zeros(3, 4)}
    kept = make_masks(scores, 0.5, "neuron", layers=layers, lowest=True)
    assert kept["in.weight"].any(1).tolist() == [True, True, False, False]
    assert torch.equal(kept["out.weight"], kept["in.weight"].t())
