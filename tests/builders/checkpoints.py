"""A checkpoint without files."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor


class Memory:
    """Keeps the last saved state in memory and counts the saves."""

    def __init__(self, minutes: float = 1e9) -> None:
        self.minutes, self.saves = minutes, 0
        self.state: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.state

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        self.saves += 1
        self.state = ({name: tensor.clone() for name, tensor in tensors.items()}, deepcopy(dict(notes)))
