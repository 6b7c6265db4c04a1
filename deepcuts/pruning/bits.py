"""Packs masks, one bit per weight (bit order little, 1 = kept), and counts them packed (numpy alone)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]

# How many words of a row are counted at a time: few enough that a block of rows stays in the processor's cache.
_CHUNK = 2048
_LANES = np.uint64(0x00FF00FF00FF00FF)
_EIGHT = np.uint64(8)


def pack(mask: Bools) -> bytes:
    """Pack a mask of any shape, in flat (C) order, into ceil(size / 8) bytes; the unused last bits are 0."""
    return np.packbits(mask.ravel(), bitorder="little").tobytes()


def unpack(bits: bytes | NDArray[np.uint8], size: int) -> Bools:
    """Unpack the first `size` bits into booleans (size,). Raises ValueError unless there are ceil(size / 8) bytes."""
    packed = np.frombuffer(bits, np.uint8)
    if len(packed) != (size + 7) // 8:
        raise ValueError(f"{len(packed)} bytes hold no mask of {size} weights; expected {(size + 7) // 8}")
    return np.unpackbits(packed, count=size, bitorder="little").astype(np.bool_)


def words(bits: bytes | memoryview, out: Words | None = None) -> Words:
    """Copy packed bits into ceil(bytes / 8) words of 64 bits, padded with zeros; into `out` (W,) if given.

    `out` must hold zeros and may be longer.
    """
    filled = np.zeros((len(bits) + 7) // 8, np.uint64) if out is None else out
    filled.view(np.uint8)[: len(bits)] = np.frombuffer(bits, np.uint8)
    return filled


def count_ones(packed: Words) -> int:
    """Count the ones of an array of words, of any shape."""
    return int(np.bitwise_count(packed).sum(dtype=np.int64))


def count_pairs(rows: Words, others: Words | None = None) -> NDArray[np.int64]:
    """Count the ones that every row of (N, W) has in common with every row of (M, W), as (N, M).

    Without `others` the rows are counted among themselves: (N, N), the upper triangle with its diagonal, and zeros
    below it. A chunk of all rows is counted at a time: a word then comes from memory once, not once per pair.
    """
    against = rows if others is None else others
    both = np.zeros((len(rows), len(against)), np.int64)
    for start in range(0, rows.shape[1], _CHUNK):
        some = _chunk(rows, start)
        them = some if others is None else _chunk(others, start)
        common = np.empty_like(them)
        ones = np.empty((len(them), them.shape[1] // 8), np.uint8)
        for i, row in enumerate(some):
            first = i if others is None else 0
            np.bitwise_and(them[first:], row, out=common[first:])  # on bytes, for which numpy is fastest
            np.bitwise_count(common[first:].view(np.uint64), out=ones[first:])
            both[i, first:] += _row_sums(ones[first:])
    return both


def _chunk(rows: Words, start: int) -> NDArray[np.uint8]:
    """Copy some words of every row of (N, W) into contiguous bytes, padded with zeros to a multiple of 8 words."""
    some = rows[:, start : start + _CHUNK]
    filled = np.zeros((len(some), -(-some.shape[1] // 8) * 8), np.uint64)
    filled[:, : some.shape[1]] = some
    return filled.view(np.uint8)


def _row_sums(ones: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Add up the rows of (N, C) counts of at most 64 each, C a multiple of 8, by the eight lanes of a word at once.

    Neighbouring lanes are added into lanes of 16 bits. Each gets C / 8 sums of at most 128, so C must be below 4096.
    """
    assert ones.shape[1] < 4096
    eight = ones.view(np.uint64)
    four = ((eight & _LANES) + ((eight >> _EIGHT) & _LANES)).sum(axis=1, dtype=np.uint64)
    return four.view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int64)
