"""Packed masks: one bit per weight, bit order little, 1 = kept (numpy alone)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]

# Words of a row that are counted at once: small enough that a block of rows stays in the processor's cache.
_CHUNK = 2048
_LANES = np.uint64(0x00FF00FF00FF00FF)
_EIGHT = np.uint64(8)


def pack(mask: Bools) -> bytes:
    """A mask of any shape to ceil(size / 8) bytes, in flat (C) order; the unused last bits are 0."""
    return np.packbits(mask.ravel(), bitorder="little").tobytes()


def unpack(bits: bytes, size: int) -> Bools:
    """The first `size` bits as booleans (size,). Raises ValueError when there are not so many bytes."""
    packed = np.frombuffer(bits, np.uint8)
    if len(packed) != (size + 7) // 8:
        raise ValueError(f"{len(packed)} bytes hold no mask of {size} weights; expected {(size + 7) // 8}")
    return np.unpackbits(packed, count=size, bitorder="little").astype(np.bool_)


def words(bits: bytes | memoryview, out: Words | None = None) -> Words:
    """The packed bits as ceil(bytes / 8) words of 64 bits, filled up with zeros; into `out` if given."""
    filled = np.zeros((len(bits) + 7) // 8, np.uint64) if out is None else out
    filled.view(np.uint8)[: len(bits)] = np.frombuffer(bits, np.uint8)
    return filled


def count_ones(packed: Words) -> int:
    """The number of ones."""
    return int(np.bitwise_count(packed).sum(dtype=np.int64))


def count_both(a: Words, b: Words) -> int:
    """The number of positions that are one in both."""
    return count_ones(a & b)


def count_pairs(rows: Words, others: Words | None = None) -> NDArray[np.int64]:
    """Ones in common of every row of (N, W) with every row of (M, W), as (N, M).

    Without `others` the rows are counted among themselves: (N, N), the upper triangle with its diagonal and
    zeros below. A chunk of all rows at a time, so that a word comes from memory once and not once per pair.
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
            np.bitwise_and(them[first:], row, out=common[first:])  # as bytes, which numpy does fastest
            np.bitwise_count(common[first:].view(np.uint64), out=ones[first:])
            both[i, first:] += _row_sums(ones[first:])
    return both


def _chunk(rows: Words, start: int) -> NDArray[np.uint8]:
    """Some words of every row (N, W) as bytes, contiguous, filled up with zeros to a multiple of 8 words."""
    some = rows[:, start : start + _CHUNK]
    filled = np.zeros((len(some), -(-some.shape[1] // 8) * 8), np.uint64)
    filled[:, : some.shape[1]] = some
    return filled.view(np.uint8)


def _row_sums(ones: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Sums of the rows of (N, C) counts of at most 64 each, C a multiple of 8, eight lanes of a word at once.

    Neighbouring lanes are added to lanes of 16 bits, which hold C / 8 sums of at most 128: C is below 4096.
    """
    assert ones.shape[1] < 4096
    eight = ones.view(np.uint64)
    four = ((eight & _LANES) + ((eight >> _EIGHT) & _LANES)).sum(axis=1, dtype=np.uint64)
    return four.view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int64)
