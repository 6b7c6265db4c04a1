"""The interface through which a long stage saves its state and resumes from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Checkpoint(Protocol):
    """A place for the state of one stage.

    `load` returns the tensors and notes of the last `save`, or None. The stage saves about every `minutes`.
    """

    minutes: float

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None: ...

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None: ...


class Interrupted(Exception):
    """Raised when a stage was asked to stop, after its checkpoint is saved."""


class Bound:
    """A checkpoint that is only resumed with the data that it was made on.

    `data` is a digest of the data. With other data `load` returns None, so the stage starts from the beginning.
    """

    def __init__(self, inner: Checkpoint, data: str) -> None:
        self.inner, self.data, self.minutes = inner, data, inner.minutes

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        tensors, notes = self.inner.load() or ({}, {})
        if notes.get("data") != self.data:
            return None
        return tensors, {key: value for key, value in notes.items() if key != "data"}

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        self.inner.save(tensors, {**notes, "data": self.data})
