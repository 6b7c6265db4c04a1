from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.pruning.compression import compression_to_fraction, count_kept, fraction_to_keep

BERT = 109_483_778  # bert-base-uncased with a head of two classes
WEIGHTS, WITH_BIASES = 85_524_480, 85_608_192


@pytest.mark.parametrize(
    ("fraction", "size", "kept"),
    [(0, 10, 0), (1, 10, 10), (0.5, 10, 5), (0.5, 5, 3), (0.25, 10, 3), (0.24, 10, 2), (0.1, 4, 0), (0.125, 4, 1)],
)
def test_half_a_weight_is_rounded_up(fraction: float, size: int, kept: int) -> None:
    assert count_kept(fraction, size) == kept


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="allowed is 0 to 1"):
        count_kept(fraction, 10)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10**8))
def test_a_larger_fraction_never_keeps_fewer(a: float, b: float, size: int) -> None:
    low, high = sorted((count_kept(a, size), count_kept(b, size)))
    assert (low, high) == (count_kept(min(a, b), size), count_kept(max(a, b), size))
    assert 0 <= low <= high <= size


def test_the_fraction_by_hand() -> None:
    # 100 parameters, 80 prunable: compression 2 keeps 50 in all, 20 of which cannot be pruned, so 30 of the 80.
    assert compression_to_fraction(2, 100, 80) == pytest.approx(30 / 80)
    assert compression_to_fraction(1, 100, 80) == 1
    assert compression_to_fraction(5, 100, 80) == 0
    assert compression_to_fraction(4, 100, 100) == 0.25


@pytest.mark.parametrize(
    ("compression", "weights", "with_biases"),
    [(2, 64.0, 63.9), (3, 85.3, 85.3), (3.5, 91.4, 91.3), (4, 96.0, 95.9)],
)
def test_bert_base_has_the_sparsities_of_the_reference(compression: float, weights: float, with_biases: float) -> None:
    for prunable, percent in ((WEIGHTS, weights), (WITH_BIASES, with_biases)):
        assert round(100 * (1 - compression_to_fraction(compression, BERT, prunable)), 1) == percent


@pytest.mark.parametrize(("prunable", "ceiling"), [(WEIGHTS, "4.5696"), (WITH_BIASES, "4.5856")])
def test_a_compression_above_the_ceiling_is_refused_with_the_ceiling(prunable: int, ceiling: str) -> None:
    with pytest.raises(ValueError, match=f"the largest compression is {ceiling};"):
        compression_to_fraction(5, BERT, prunable)
    assert 0 < compression_to_fraction(float(ceiling) - 1e-4, BERT, prunable) < 1e-4


def test_a_compression_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="0.99 is below 1"):
        compression_to_fraction(0.99, 100, 80)


@given(st.floats(1, 4.5))
def test_what_a_compression_keeps_gives_that_compression(compression: float) -> None:
    kept = compression_to_fraction(compression, BERT, WEIGHTS) * WEIGHTS
    assert BERT / (BERT - WEIGHTS + kept) == pytest.approx(compression)


@pytest.mark.parametrize(
    ("sparsity", "size", "kept"), [(0.9, 5, 1), (0.9, 15, 2), (0.5, 3, 2), (0.8, 85_524_480, 17_104_896)]
)
def test_a_half_weight_is_kept_whatever_rounding_makes_of_one_minus_the_sparsity(
    sparsity: float, size: int, kept: int
) -> None:
    assert count_kept(1 - sparsity, size) == kept


def test_a_fraction_is_that_of_the_compression_or_else_of_the_sparsity() -> None:
    assert fraction_to_keep(2, None, 100, 80) == pytest.approx(30 / 80)
    assert fraction_to_keep(None, 0.75, 100, 80) == 0.25
