"""What a stage that takes long asks of the place where it keeps its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Checkpoint(Protocol):
    """`load` gives the tensors and notes of the last `save`, or None; a save is due every so many `minutes`."""

    minutes: float

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None: ...

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None: ...


class Interrupted(Exception):
    """The stage was asked to stop; its checkpoint is saved."""


class Bound:
    """A checkpoint that is taken up only with the data that it was made on; other data begins anew."""

    def __init__(self, inner: Checkpoint, data: str) -> None:
        self.inner, self.data, self.minutes = inner, data, inner.minutes

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        tensors, notes = self.inner.load() or ({}, {})
        if notes.get("data") != self.data:
            return None
        return tensors, {key: value for key, value in notes.items() if key != "data"}

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        self.inner.save(tensors, {**notes, "data": self.data})
