"""Independent random streams from a trial's one seed."""

from __future__ import annotations

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose: equal arguments give equal numbers, on every machine and version.

    Streams drawn for different purposes are independent, so that what one of them draws never shifts another.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
