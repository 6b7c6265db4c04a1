"""Whole neurons: as many in each feed-forward layer, row, bias and column together, by their sums in float64."""

from __future__ import annotations

from fractions import Fraction
from math import fsum

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deepcuts.pruning.compression import count_kept_neurons
from deepcuts.pruning.masks import make_masks
from deepcuts.pruning.neurons import kept_neurons, neuron_scores, shuffle_neurons

WIDTH, INPUTS = 7, 3
LAYERS = [{f"{i}.first.weight": 0, f"{i}.first.bias": 0, f"{i}.second.weight": 1} for i in "ab"]
FRACTIONS = [0.45, 0.5, 0.6, 0.75, 0.9, 1.0]


def scores(biases: bool, seed: int = 0) -> dict[str, Tensor]:
    """Scores of two feed-forward layers and of what is no part of them."""
    torch.manual_seed(seed)
    shapes = {"pooler.weight": (INPUTS, INPUTS), "pooler.bias": (INPUTS,)}
    for layer in "ab":
        shapes |= {f"{layer}.attention.weight": (INPUTS, INPUTS), f"{layer}.second.bias": (INPUTS,)}
        shapes |= {f"{layer}.first.weight": (WIDTH, INPUTS), f"{layer}.first.bias": (WIDTH,)}
        shapes |= {f"{layer}.second.weight": (INPUTS, WIDTH)}
    return {name: torch.rand(shape) for name, shape in shapes.items() if biases or not name.endswith("bias")}


def by_hand(given: dict[str, Tensor], fraction: float) -> dict[str, list[object]]:
    """The masks by plain loops, with exact sums and exact fractions."""
    values = {name: score.double().tolist() for name, score in given.items()}
    biases, everything = "a.first.bias" in given, sum(score.numel() for score in given.values())
    one = 2 * (2 * INPUTS + biases)
    exact = WIDTH - (1 - Fraction(str(fraction))) * everything / one
    keep = int(exact + Fraction(1, 2))
    masks: dict[str, list[object]] = {name: torch.ones(score.shape).bool().tolist() for name, score in given.items()}
    for layer in "ab":
        first, second = values[f"{layer}.first.weight"], values[f"{layer}.second.weight"]
        bias = [[value] for value in values.get(f"{layer}.first.bias", [])] or [[] for _ in range(WIDTH)]
        sums = [fsum([*first[i], *bias[i], *(row[i] for row in second)]) for i in range(WIDTH)]
        kept = sorted(range(WIDTH), key=lambda i: (-sums[i], i))[:keep]
        masks[f"{layer}.first.weight"] = [[i in kept] * INPUTS for i in range(WIDTH)]
        masks[f"{layer}.second.weight"] = [[i in kept for i in range(WIDTH)] for _ in range(INPUTS)]
        if biases:
            masks[f"{layer}.first.bias"] = [i in kept for i in range(WIDTH)]
    return masks


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("biases", [False, True])
def test_masks_are_those_of_a_plain_loop_in_exact_arithmetic(biases: bool, fraction: float, seed: int) -> None:
    made = make_masks(scores(biases, seed), fraction, "neuron", layers=LAYERS)
    assert {name: mask.tolist() for name, mask in made.items()} == by_hand(scores(biases, seed), fraction)
    assert len({int(kept_neurons(made, layer).sum()) for layer in LAYERS}) == 1


def test_two_neurons_by_hand() -> None:
    given_scores = {
        "a.first.weight": torch.tensor([[1.0, 2.0], [5.0, 0.0]]),
        "a.first.bias": torch.tensor([3.0, 0.0]),
        "a.second.weight": torch.tensor([[0.0, 1.0], [2.0, 0.0]]),
        "b.weight": torch.zeros(2, 2),
    }
    # Sums of 1 + 2 + 3 + 0 + 2 = 8 and 5 + 0 + 0 + 1 + 0 = 6; a neuron is 5 of the 14 weights.
    made = make_masks(given_scores, 9 / 14, "neuron", layers=LAYERS[:1])
    assert made["a.first.weight"].int().tolist() == [[1, 1], [0, 0]]
    assert made["a.first.bias"].int().tolist() == [1, 0]
    assert made["a.second.weight"].int().tolist() == [[1, 0], [1, 0]]
    assert made["b.weight"].all()


@pytest.mark.parametrize("tied", [False, True])
def test_masks_are_nested_in_the_level_and_ties_go_to_the_lower_index(tied: bool) -> None:
    found = {name: torch.ones_like(each) if tied else each for name, each in scores(True).items()}
    smaller = make_masks(found, FRACTIONS[0], "neuron", layers=LAYERS)
    for fraction in FRACTIONS:
        larger = make_masks(found, fraction, "neuron", layers=LAYERS)
        assert all(bool((larger[name] | ~smaller[name]).all()) for name in larger)
        smaller = larger
        if tied:
            kept = kept_neurons(larger, LAYERS[0])
            assert kept.tolist() == sorted(kept.tolist(), reverse=True)


def test_scores_are_added_up_in_float64() -> None:
    big = 2.0**24  # from here on fp32 has no odd numbers
    found = {"a.first.weight": torch.tensor([[big, 1.0, 0.0], [big, 1.0, 1.0]]), "a.second.weight": torch.zeros(1, 2)}
    layer = {"a.first.weight": 0, "a.second.weight": 1}
    assert neuron_scores(found, layer).tolist() == [big + 1, big + 2]
    made = make_masks(found, 0.5, "neuron", layers=[layer])
    assert kept_neurons(made, layer).tolist() == [False, True]


def test_weights_that_are_stored_turned_have_turned_masks() -> None:
    found = scores(True)
    turned = {name: each.t().contiguous() if each.dim() > 1 else each for name, each in found.items()}
    layers = [{name: 1 - axis if name.endswith("weight") else axis for name, axis in each.items()} for each in LAYERS]
    made, other = make_masks(found, 0.6, "neuron", layers=LAYERS), make_masks(turned, 0.6, "neuron", layers=layers)
    assert all(torch.equal(made[name], other[name].t() if made[name].dim() > 1 else other[name]) for name in made)


def test_a_shuffled_mask_has_as_many_whole_neurons_at_other_places_and_stays_nested() -> None:
    low, high = (make_masks(scores(True), fraction, "neuron", layers=LAYERS) for fraction in (0.5, 0.75))
    moved, more = (shuffle_neurons(masks, LAYERS, 3) for masks in (low, high))
    places = [kept_neurons(moved, layer) for layer in LAYERS]
    for layer, kept in zip(LAYERS, places, strict=True):
        assert int(kept.sum()) == int(kept_neurons(low, layer).sum())
        for name, axis in layer.items():
            by_neuron = moved[name].movedim(axis, 0).reshape(WIDTH, -1)
            assert torch.equal(by_neuron.all(1), kept)
            assert torch.equal(by_neuron.any(1), kept)
    assert any(not torch.equal(kept_neurons(low, each), kept) for each, kept in zip(LAYERS, places, strict=True))
    assert not torch.equal(*places)  # each layer has a permutation of its own
    assert all(bool((more[name] | ~moved[name]).all()) for name in more)
    assert moved["pooler.weight"].all()
    other = shuffle_neurons(low, LAYERS, 4)
    assert any(not torch.equal(moved[name], other[name]) for name in moved)


def test_the_neurons_of_bert_base_at_half_width() -> None:
    layers = [{f"{i}.first.weight": 0, f"{i}.second.weight": 1} for i in range(12)]
    sizes = dict.fromkeys((name for layer in layers for name in layer), 768 * 3072) | {"others": 48 * 768**2 + 768**2}
    prunable, one = sum(sizes.values()), 12 * 2 * 768
    assert count_kept_neurons(1 - 1536 * one / prunable, sizes, layers, 3072) == 1536
    assert count_kept_neurons(1, sizes, layers, 3072) == 3072
    assert count_kept_neurons(1 - 3071 * one / prunable, sizes, layers, 3072) == 1
    with pytest.raises(ValueError, match=r"0.7 cannot be reached by whole neurons: one of the 3,072 .* is 0.6618;"):
        count_kept_neurons(0.3, sizes, layers, 3072)
    total = 109_483_778
    compression = total / (total - 3071 * one)
    with pytest.raises(ValueError, match=rf"\(compression {int(compression * 1e4) / 1e4:.4f}\)"):
        count_kept_neurons(0.3, sizes, layers, 3072, total)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 500), st.fractions(0, 1))
def test_the_nearest_number_of_neurons_is_kept(width: int, weights: int, others: int, sparsity: Fraction) -> None:
    sizes = {"a.first.weight": width * weights, "others": others}
    exact = width - sparsity * sum(sizes.values()) / weights
    if round(float(exact), 6) < 1:
        with pytest.raises(ValueError, match="cannot be reached by whole neurons"):
            count_kept_neurons(1 - float(sparsity), sizes, LAYERS[:1], width)
    else:
        kept = count_kept_neurons(1 - float(sparsity), sizes, LAYERS[:1], width)
        assert 1 <= kept <= width
        assert abs(kept - exact) <= Fraction(1, 2) + Fraction(1, 10**6)
