from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcuts.pruning.bits import count_ones, count_pairs, pack, unpack, words


def random_words(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, (rows, width), np.uint64)


def test_the_first_weight_is_the_lowest_bit_of_the_first_byte() -> None:
    mask = np.array([[True, False, False, True], [False, False, False, False], [False, True, False, False]])
    assert pack(mask) == bytes([0b00001001, 0b00000010])


@given(st.lists(st.booleans(), max_size=200))
def test_unpack_undoes_pack(values: list[bool]) -> None:
    mask = np.array(values, np.bool_)
    assert np.array_equal(unpack(pack(mask), mask.size), mask)


def test_unpack_refuses_another_size() -> None:
    with pytest.raises(ValueError, match="2 bytes hold no mask of 17 weights; expected 3"):
        unpack(b"\0\0", 17)


@given(st.lists(st.booleans(), max_size=200))
def test_words_hold_the_bits_and_zeros_after_them(values: list[bool]) -> None:
    mask = np.array(values, np.bool_)
    packed = words(pack(mask))
    assert len(packed) == (len(mask) + 63) // 64
    assert count_ones(packed) == mask.sum()
    out = np.zeros(len(packed) + 1, np.uint64)
    assert np.array_equal(words(pack(mask), out)[:-1], packed)
    assert out[-1] == 0


@pytest.mark.parametrize("width", [0, 1, 7, 8, 1023, 1024, 1025, 2500])
def test_pairs_are_counted_as_one_by_one(width: int) -> None:
    rows, others = random_words(4, width), random_words(3, width, 1)
    one_by_one = [[count_ones(row & other) for other in others] for row in rows]
    assert count_pairs(rows, others).tolist() == one_by_one
    among = [[count_ones(row & other) if j >= i else 0 for j, other in enumerate(rows)] for i, row in enumerate(rows)]
    assert count_pairs(rows).tolist() == among


def test_no_count_overflows_where_every_bit_is_one() -> None:
    rows = np.full((3, 5000), np.iinfo(np.uint64).max)
    assert (count_pairs(rows, rows) == 64 * 5000).all()


@settings(max_examples=25)
@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_counts_are_those_of_boolean_arrays(size: int, seed: int) -> None:
    masks = np.random.default_rng(seed).random((3, size)) < 0.4
    packed = np.stack([words(pack(mask)) for mask in masks])
    assert np.array_equal(np.triu(masks.astype(int) @ masks.T.astype(int)), count_pairs(packed))
