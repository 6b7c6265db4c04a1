"""One file is split into training and validation examples: by class, by a hash of the text, the same everywhere."""

import re

import numpy as np
import pytest

from deepcuts.data.holdout import _quotas, hold_out
from deepcuts.experiment.tasks import Holdout

STARS = ["1", "2", "3", "4", "5"]
COUNTS = [20, 40, 60, 120, 160]


def made(counts: list[int]) -> tuple[list[tuple[str, ...]], np.ndarray]:
    labels = np.repeat(np.arange(len(counts), dtype=np.float64), counts)
    return [(f"text {number}",) for number in range(len(labels))], labels


def held(
    texts: list[str], labels: list[int], size: float, classes: list[str] | None = None, seed: int = 0
) -> list[int]:
    names = ["a", "b", "c"][: max(labels) + 1] if classes is None else classes
    pairs = [(text,) for text in texts]
    return np.flatnonzero(hold_out(pairs, np.array(labels, np.float64), Holdout(size=size, seed=seed), names)).tolist()


@pytest.mark.parametrize(("size", "expected"), [(0.2, [4, 8, 12, 24, 32]), (80, [4, 8, 12, 24, 32]), (5, [1] * 5)])
def test_each_class_gives_its_share(size, expected):
    texts, labels = made(COUNTS)
    part = hold_out(texts, labels, Holdout(size=size), STARS)
    assert np.bincount(labels[part].astype(int)).tolist() == expected


def test_which_examples_are_held_out_is_pinned():
    """They are the lowest of derive(seed, "validation", text); if this changes, so do the ids of trials."""
    assert held([f"text {number}" for number in range(20)], [0, 1] * 10, 0.3) == [2, 10, 11, 13, 15, 16]
    assert held([f"text {number}" for number in range(20)], [0, 1] * 10, 0.3, seed=7) == [7, 8, 11, 13, 16, 18]


def test_the_order_of_the_file_does_not_matter():
    texts, labels = made(COUNTS)
    order = np.random.default_rng(0).permutation(len(texts))
    part = hold_out(texts, labels, Holdout(size=0.2), STARS)
    again = hold_out([texts[i] for i in order], labels[order], Holdout(size=0.2), STARS)
    assert again.tolist() == part[order].tolist()


def test_another_seed_holds_others_out():
    texts, labels = made(COUNTS)
    one, other = (hold_out(texts, labels, Holdout(size=0.2, seed=seed), STARS) for seed in (0, 1))
    assert one.sum() == other.sum() == 80
    assert 5 < (one & other).sum() < 30  # 16 by chance


def test_equal_texts_stay_on_one_side():
    texts = [f"text {number // 4}" for number in range(80)]
    labels = [number // 4 % 2 for number in range(80)]
    part = held(texts, labels, 0.25)
    assert len(part) == 16  # of 20: each class gives 2 texts of 4 examples to its 10
    assert not {texts[i] for i in part} & {texts[i] for i in range(80) if i not in part}


def test_a_pair_is_one_text():
    pairs = [(f"{number % 2}", f"{number // 2}") for number in range(8)]
    part = hold_out(pairs, np.array([0.0, 1] * 4), Holdout(size=4), ["a", "b"])
    assert part.sum() == 4


def test_a_text_that_is_most_of_a_class_still_leaves_it_on_both_sides():
    texts = ["same"] * 9 + ["other"] + [f"text {number}" for number in range(10)]
    part = held(texts, [0] * 10 + [1] * 10, 0.2)
    assert 9 in part or set(range(9)) <= set(part)
    assert len({texts[i] for i in part if i < 10}) == 1


def test_a_text_with_two_labels_stays_on_one_side():
    texts = [f"text {number}" for number in range(20)] + ["text 3", "text 12"]
    part = held(texts, [0] * 14 + [1] * 6 + [1, 0], 0.3)
    assert (3 in part) == (20 in part)
    assert (12 in part) == (21 in part)
    assert 5 <= len(part) <= 7


def test_a_regression_is_split_at_random_over_all_labels():
    labels = np.linspace(0, 5, 100)
    part = hold_out([(f"text {number}",) for number in range(100)], labels, Holdout(size=0.3), [])
    assert part.sum() == 30
    assert labels[part].mean() == pytest.approx(2.5, abs=0.5)


def test_a_class_that_never_occurs_is_no_obstacle():
    assert len(held([f"text {number}" for number in range(10)], [0, 2] * 5, 0.4, ["a", "b", "c"])) == 4


@pytest.mark.parametrize("texts", [["x", "y", "z", "u", "v"], ["x", "y", "z", "v", "v"]])
def test_a_class_with_a_single_text_is_refused_by_name(texts):
    labels = [0, 0, 0, 1, 1] if texts[3] == texts[4] else [0, 0, 0, 0, 1]
    with pytest.raises(ValueError, match="cannot be split: class 'b' has a single text; .* add examples"):
        held(texts, labels, 0.4)


def test_a_class_whose_texts_have_another_label_too_is_on_both_sides():
    texts, labels = ["x", "y", "x", "y", "z", "w"], [0, 0, 1, 1, 1, 1]
    for seed in range(20):
        part = held(texts, labels, 2, seed=seed)
        assert {labels[i] for i in part} == {0, 1}
        assert {labels[i] for i in range(6) if i not in part} == {0, 1}


def test_a_class_that_would_be_on_one_side_is_refused():
    texts, labels = ["x", "p", "y", "q", "x", "y", "y"], [0, 0, 1, 1, 2, 2, 2]
    with pytest.raises(
        ValueError, match="cannot be split: class 'c' has texts that also have other labels; each class"
    ):
        held(texts, labels, 3)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0.01, "validation: 0.01 is 1 of 100 examples; both sides need at least one of each of the 2 classes"),
        (1, "give a number from 2 to 98, or a share"),
        (99, "validation: 99 is 99 of 100 examples"),
        (1000, "validation: 1000 is 1,000 of 100 examples"),
        (0.999, "validation: 0.999 is 100 of 100 examples"),
    ],
)
def test_a_size_that_leaves_a_side_without_a_class_is_refused(size, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        held([f"text {number}" for number in range(100)], [0, 1] * 50, size)


@pytest.mark.parametrize("total", [5, 6, 17, 80, 200, 394, 395])
def test_the_shares_of_the_classes_add_up_and_are_within_one_of_their_proportion(total):
    sizes = np.array([*COUNTS, 0])
    quotas = np.array(_quotas(sizes, total))
    assert quotas.sum() == total
    assert quotas[-1] == 0
    assert (quotas[:-1] >= 1).all()
    assert (quotas[:-1] < sizes[:-1]).all()
    exact = sizes * total / 400
    bounded = (exact[:-1] >= 1) & (exact[:-1] <= sizes[:-1] - 1)
    if bounded.all():
        assert (abs(quotas - exact) < 1).all()
