"""Packed masks: one bit per weight, bit order little, 1 = kept (numpy alone)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]


def pack(mask: Bools) -> bytes:
    """A mask of any shape to ceil(size / 8) bytes, in flat (C) order; the unused last bits are 0."""
    return np.packbits(mask.ravel(), bitorder="little").tobytes()


def unpack(bits: bytes, size: int) -> Bools:
    """The first `size` bits as booleans, shape (size,). Raises ValueError when there are not so many bytes."""
    packed = np.frombuffer(bits, np.uint8)
    if len(packed) != (size + 7) // 8:
        raise ValueError(f"{len(packed)} bytes hold no mask of {size} weights; expected {(size + 7) // 8}")
    return np.unpackbits(packed, count=size, bitorder="little").astype(np.bool_)


def words(bits: bytes) -> NDArray[np.uint64]:
    """The packed bits as 64-bit words, the last one filled up with zeros."""
    padded = np.zeros((len(bits) + 7) // 8, np.uint64)
    padded.view(np.uint8)[: len(bits)] = np.frombuffer(bits, np.uint8)
    return padded


def count(packed: NDArray[np.uint64]) -> int:
    """The number of ones."""
    return int(np.bitwise_count(packed).sum(dtype=np.int64))


def count_both(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> int:
    """The number of positions that are one in both."""
    return count(a & b)
