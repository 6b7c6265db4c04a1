"""Budgets against examples by hand, their laws, and float64 computations that share no code with them."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deepcuts.pruning.budgets import erk_counts, lamp_scores, outlier_shares, owl_counts
from deepcuts.pruning.compression import count_kept
from deepcuts.pruning.masks import Scope, bytewise, make_masks

BUDGETS: list[Scope] = ["lamp", "erk", "owl"]
SHAPES = {
    "bert.layer.0.a.weight": (6, 8),
    "bert.layer.0.b.weight": (12, 4),
    "bert.layer.0.b.bias": (12,),
    "bert.layer.1.a.weight": (6, 8),
    "bert.layer.1.b.weight": (12, 4),
    "bert.layer.10.a.weight": (6, 8),
    "bert.pooler.dense.weight": (8, 8),
}
SIZE = 48 * 5 + 12 + 64
FRACTIONS = [0.0, 0.01, 0.04, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0]


def drawn(seed: int, tied: bool = False) -> dict[str, Tensor]:
    """Scores whose spread differs from tensor to tensor; tied ones have a few values, zero among them."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for place, (name, shape) in enumerate(SHAPES.items()):
        found[name] = torch.rand(shape, generator=generator).pow(1 + place) * (1 + place)
    return {name: (3 * score).floor() for name, score in found.items()} if tied else found


def masks(fraction: float, scope: Scope, tied: bool = False) -> dict[str, Tensor]:
    return make_masks(drawn(0, tied), fraction, scope, (), drawn(1) if scope == "owl" else None)


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in bytewise(tensors)])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("scope", BUDGETS)
def test_a_budget_keeps_just_the_wanted_number_in_all(scope: Scope, fraction: float, tied: bool) -> None:
    made = masks(fraction, scope, tied)
    assert {name: tuple(mask.shape) for name, mask in made.items()} == SHAPES
    assert int(flat(made).sum()) == count_kept(fraction, SIZE)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("scope", BUDGETS)
def test_masks_of_a_budget_are_nested_at_every_single_weight(scope: Scope, tied: bool) -> None:
    before = torch.zeros(SIZE, dtype=torch.bool)
    for keep in range(SIZE + 1):
        now = flat(masks(keep / SIZE, scope, tied))
        assert not (before & ~now).any(), keep
        before = now


@pytest.mark.parametrize("scope", BUDGETS)
def test_within_a_tensor_a_budget_keeps_the_highest_scores_and_of_equal_ones_the_first(scope: Scope) -> None:
    for tied in (False, True):
        scores, made = drawn(0, tied), masks(0.3, scope, tied)
        for name, mask in made.items():
            order = sorted(range(mask.numel()), key=lambda i: (-float(scores[name].flatten()[i]), i))  # noqa: B023
            expected = sorted(order[: int(mask.sum())])
            assert mask.flatten().nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("scope", BUDGETS)
def test_a_budget_does_not_depend_on_the_order_of_the_tensors_nor_on_how_weights_are_stored(scope: Scope) -> None:
    scores, wanda = drawn(0), drawn(1)
    names = [name for name, shape in SHAPES.items() if len(shape) == 2][:3]
    turned, beside = ({n: s.t().contiguous() if n in names else s for n, s in some.items()} for some in (scores, wanda))
    made = make_masks(scores, 0.3, scope, (), wanda)
    other = make_masks(dict(reversed(turned.items())), 0.3, scope, names, dict(reversed(beside.items())))
    for name, mask in made.items():
        assert torch.equal(mask, other[name].t() if name in names else other[name])


# Lamp


def test_lamp_by_hand() -> None:
    """Squares 9, 4, 4, 1: 9/9, 4/13, 4/17 (of equal scores the earlier ranks higher), 1/18."""
    expected = torch.tensor([[4 / 13, 1.0], [1 / 18, 4 / 17]], dtype=torch.float64)
    assert torch.equal(lamp_scores(torch.tensor([[2.0, 3.0], [1.0, 2.0]])), expected)
    # b: squares 100, 1: 1, 1/101. The order is a 3, b 10 (ties: by name), a 2 (4/13), a 2 (4/17), a 1, b 1.
    scores = {"b": torch.tensor([1.0, 10.0]), "a": torch.tensor([[2.0, 3.0], [1.0, 2.0]])}
    for keep, a, b in ((1, [0, 1, 0, 0], [0, 0]), (2, [0, 1, 0, 0], [0, 1]), (4, [1, 1, 0, 1], [0, 1])):
        made = make_masks(scores, keep / 6, "lamp")
        assert (made["a"].flatten().int().tolist(), made["b"].int().tolist()) == (a, b)


def lamp_of_a_loop(scores: Tensor) -> list[float]:
    """The formula as Lee et al. print it: an index map that sorts, and for each weight the sum from it upwards."""
    values = scores.flatten().double().tolist()
    index_map = sorted(range(len(values)), key=lambda i: (values[i], -i))
    found = [0.0] * len(values)
    for place, u in enumerate(index_map):
        above = 0.0
        for v in reversed(index_map[place:]):
            above += values[v] ** 2
        found[u] = values[u] ** 2 / above if values[u] else 0.0
    return found


@pytest.mark.parametrize("tied", [False, True])
def test_lamp_masks_are_those_of_a_loop_in_float64(tied: bool) -> None:
    scores = drawn(0, tied)
    ranks = [(-s, place) for place, s in enumerate(sum((lamp_of_a_loop(scores[n]) for n in bytewise(scores)), []))]
    for keep in (1, 7, 30, 100, 200, SIZE - 1):
        expected = torch.zeros(SIZE, dtype=torch.bool)
        expected[[place for _, place in sorted(ranks)[:keep]]] = True
        assert torch.equal(flat(masks(keep / SIZE, "lamp", tied)), expected)


def test_lamp_keeps_a_weight_of_every_tensor_that_has_a_score_above_zero() -> None:
    scores = drawn(0)
    scores["bert.layer.0.a.weight"].zero_()
    made = make_masks(scores, 6 / SIZE, "lamp")
    assert [int(mask.sum()) for mask in made.values()] == [int(name != "bert.layer.0.a.weight") for name in made]
    assert not lamp_scores(torch.zeros(3)).any()


def test_lamp_scores_of_the_smallest_and_largest_numbers_are_finite() -> None:
    found = lamp_scores(torch.tensor([3e38, 1e-45, 3e38, 0.0]))
    assert found.tolist()[0] == 1
    assert found.tolist()[2] == 0.5
    assert 0 < found.tolist()[1] < 1e-100
    assert found.tolist()[3] == 0


# Erk


def test_erk_by_hand() -> None:
    """Sizes 8, 32, sums of sides 6, 12: with epsilon 1, 6 + 12 weights; with 1.5, all 8 (for 9 is too many) + 18."""
    shapes = {"a": (2, 4), "b": (4, 8)}
    assert erk_counts(shapes, 18) == {"a": 6, "b": 12}
    assert erk_counts(shapes, 26) == {"a": 8, "b": 18}
    assert erk_counts(shapes, 30) == {"a": 8, "b": 22}
    # A bias (4,) has a sum of sides of 5, and so is dense from an epsilon of 0.7 on: 0.7 x 5 rounds to 4.
    assert erk_counts({**shapes, "c": (4,)}, 22) == {"a": 6, "b": 12, "c": 4}
    # Equal tensors gain their next weight together, so the first in order do.
    assert erk_counts({"a": (3, 3), "b": (3, 3), "c": (3, 3)}, 11) == {"a": 4, "b": 4, "c": 3}


def published_erk_densities(shapes: Mapping[str, tuple[int, ...]], keep: int) -> dict[str, float]:
    """The densities of Evci et al.: by epsilon, and anew for the others while a tensor would be above 1."""
    raw = {name: (shape[0] + (shape[1] if len(shape) > 1 else 1)) / np.prod(shape) for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        left = keep - sum(np.prod(shapes[name]) for name in dense)
        rest = {name: raw[name] * np.prod(shapes[name]) for name in shapes if name not in dense}
        epsilon = left / sum(rest.values()) if rest else 0.0
        most = max((raw[name] for name in rest), default=0.0)
        if most * epsilon <= 1:
            return {n: 1.0 if n in dense else epsilon * raw[n] for n in shapes}
        dense |= {name for name in rest if raw[name] == most}


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.tuples(st.integers(1, 40)), min_size=1, max_size=8),
    st.floats(0, 1),
)
def test_erk_counts_are_the_published_densities_to_within_rounding(shapes: list[tuple[int, ...]], part: float) -> None:
    named = {str(place): shape for place, shape in enumerate(shapes)}
    sizes = {name: int(np.prod(shape)) for name, shape in named.items()}
    keep = count_kept(part, sum(sizes.values()))
    found, expected = erk_counts(named, keep), published_erk_densities(named, keep)
    assert sum(found.values()) == keep
    for name, count in found.items():
        assert 0 <= count <= sizes[name]
        assert abs(count - sizes[name] * expected[name]) <= (len(shapes) + 1) / 2


@pytest.mark.parametrize("keep", [0, 1, 5, 40, 100, 200, 290, SIZE])
def test_erk_masks_are_those_of_one_weight_after_the_other(keep: int) -> None:
    """A tensor's k-th weight is due at the epsilon (k - 1/2) / (O + I); the first `keep` that are due are kept."""
    scores, counts = drawn(0), dict.fromkeys(SHAPES, 0)
    sums = {name: shape[0] + (shape[1] if len(shape) > 1 else 1) for name, shape in SHAPES.items()}
    due = [(0.5 / sums[name], name.encode(), name) for name in SHAPES]
    heapq.heapify(due)
    for _ in range(keep):
        _, _, name = heapq.heappop(due)
        counts[name] += 1
        if counts[name] < np.prod(SHAPES[name]):
            heapq.heappush(due, ((counts[name] + 0.5) / sums[name], name.encode(), name))
    for name, mask in masks(keep / SIZE, "erk").items():
        best = scores[name].flatten().double().numpy().argsort()[::-1][: counts[name]]
        assert sorted(best.tolist()) == mask.flatten().nonzero().flatten().tolist()


# Owl


def test_owl_by_hand() -> None:
    """Block 0 has an outlier among 20 (21 > 5 x 2), block 1 two among 40, the pooler none among 10: D 1/20, 1/20, 0."""
    one = torch.tensor([21.0, *[1.0] * 19])
    wanda = {"x.0.w": one, "x.1.v": one, "x.1.w": one, "p.w": torch.ones(10)}
    assert outlier_shares(wanda) == {"x.0": 0.05, "x.1": 0.05, "p": 0.0}
    # c + 0.16 for 60 weights and c for 10: 35 of 70 need c = 0.5 - 0.16 x 6/7. 20 (c + 0.16) = 10.457, 10 c = 3.63.
    # c rises until all 35 are there: 10.457 rounds to 10, three times, and 3.63 to 4, which makes 34. The first to
    # gain is 20 (c + 0.16) = 10.5, at c = 0.365; all three gain there, and the first of them has it.
    assert owl_counts(wanda, 35) == {"x.0.w": 11, "x.1.v": 10, "x.1.w": 10, "p.w": 4}
    assert owl_counts(dict.fromkeys(("x.0.w", "x.1.w"), one), 13) == {"x.0.w": 7, "x.1.w": 6}


def published_owl_densities(wanda: Mapping[str, Tensor], blocks: list[str], density: float) -> dict[str, float]:
    """The densities of Yin et al. in float64: outlier shares from 0 to 2 lambda, moved to the mean asked for.

    Their mean is over blocks of equal size, and here over weights.
    """
    shares, sizes = np.zeros(len(blocks)), np.zeros(len(blocks))
    for place, block in enumerate(blocks):
        metric = np.concatenate([s.double().numpy().ravel() for n, s in wanda.items() if n.startswith(f"{block}.")])
        shares[place], sizes[place] = np.mean(metric > 5 * np.mean(metric)), metric.size
    stretched = 2 * 0.08 * (shares - shares.min()) / np.ptp(shares)
    return dict(zip(blocks, stretched + density - (stretched @ sizes) / sizes.sum(), strict=True))


@pytest.mark.parametrize("keep", [60, 100, 160, 250])
def test_owl_masks_have_the_published_densities(keep: int) -> None:
    blocks = ["bert.layer.0", "bert.layer.1", "bert.layer.10", "bert.pooler.dense"]
    expected = published_owl_densities(drawn(1), blocks, keep / SIZE)
    assert max(expected.values()) - min(expected.values()) > 0.1
    assert max(expected.values()) <= 1
    assert min(expected.values()) >= 0
    scores, made = drawn(0), masks(keep / SIZE, "owl")
    for name, mask in made.items():
        density = next(value for block, value in expected.items() if name.startswith(f"{block}."))
        assert abs(int(mask.sum()) - density * mask.numel()) <= 1.0
        best = scores[name].flatten().double().numpy().argsort()[::-1][: int(mask.sum())]
        assert sorted(best.tolist()) == mask.flatten().nonzero().flatten().tolist()


def test_owl_stays_within_densities_of_0_and_1() -> None:
    """0.16 lie between the blocks, and a density of 0.02 is asked for: blocks without outliers keep nothing."""
    sparse, full = (owl_counts(drawn(1), keep) for keep in (6, SIZE - 6))
    assert (min(sparse.values()), sum(sparse.values())) == (0, 6)
    assert sum(full.values()) == SIZE - 6
    assert all(count <= drawn(1)[name].numel() for name, count in full.items())


def test_owl_without_a_difference_between_blocks_is_the_same_share_of_each() -> None:
    even = {name: torch.ones(10, 10) for name in ("x.0.w", "x.1.w")}
    assert owl_counts(even, 60) == {"x.0.w": 30, "x.1.w": 30}
    assert owl_counts({"x.0.w": torch.zeros(10)}, 3) == {"x.0.w": 3}


# NM24


def test_two_of_each_four_inputs_by_hand() -> None:
    score = torch.tensor([[1.0, 4.0, 3.0, 2.0, 9.0, 9.0, 9.0, 0.0], [5.0, 5.0, 5.0, 5.0, 0.0, 1.0, 0.0, 0.0]])
    expected = torch.tensor([[0, 1, 1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1, 0, 0]]).bool()
    assert torch.equal(make_masks({"w": score}, 0.5, "nm24")["w"], expected)
    assert torch.equal(make_masks({"w": score.t().contiguous()}, 0.5, "nm24", ["w"])["w"], expected.t())


def test_two_of_each_four_inputs_are_those_of_a_loop() -> None:
    scores = {name: score for name, score in drawn(0, tied=True).items() if score.dim() == 2}
    for name, mask in make_masks(scores, 0.5, "nm24").items():
        for row, kept in zip(scores[name].tolist(), mask.tolist(), strict=True):
            for first in range(0, len(row), 4):
                best = sorted(range(first, first + 4), key=lambda i: (-row[i], i))[:2]  # noqa: B023
                assert [i for i in range(first, first + 4) if kept[i]] == sorted(best)


@pytest.mark.parametrize(
    ("shape", "fraction", "transposed", "message"),
    [
        ((3, 8), 0.1, [], r"a sparsity of 0\.5, not sparsity 0\.9; use sparsities: \[0\.5\]"),
        ((8, 6), 0.5, [], r"'a\.w' has 6 inputs, which 4 does not divide; write exclude: \[a\.w\]"),
        ((6, 8), 0.5, ["a.w"], "'a.w' has 6 inputs"),
        ((8,), 0.5, [], r"'a\.w' is a bias; leave out prune_biases"),
    ],
)
def test_what_has_no_four_inputs_or_another_sparsity_is_refused(
    shape: tuple[int, ...], fraction: float, transposed: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_masks({"a.w": torch.rand(shape)}, fraction, "nm24", transposed)
