"""Writes tensors into the store's files, as safetensors, and reads them back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepcuts.store.store import Store


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any] | None = None) -> None:
    """Write tensors, from any device, and notes that JSON can hold. Raises OSError, as when the disk is full."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata={"format": "pt", "notes": json.dumps(notes or {})})
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from None


def load_artifact(store: Store, kind: str, key: str, file: str) -> dict[str, Tensor]:
    """Read the tensors of one file of an artifact onto the CPU. Raises OSError if it is missing or damaged."""
    with store.open_artifact(kind, key, file) as path:
        try:
            return load_file(path)
        except SafetensorError as error:
            raise OSError(f"{store.path('artifacts', kind, key, file)} is damaged: {error}") from None


class StoreCheckpoint:
    """Keeps the state of a stage that is under way, in one file of the store that each save replaces.

    `key` is the id of the trial or stage, and `minutes` the time from one save to the next.
    """

    def __init__(self, store: Store, key: str, minutes: float) -> None:
        self.store = store
        self.name = f"artifacts/_checkpoints/{key}.safetensors"
        self.minutes = minutes

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and notes of the last save; None if there is none, or it cannot be read."""
        try:
            with self.store.local_copy(self.name) as path, safe_open(path, framework="pt") as file:
                notes = json.loads((file.metadata() or {}).get("notes", "{}"))
                return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118
        except (FileNotFoundError, SafetensorError):
            return None

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Replace the last save. Raises OSError."""
        with self.store.new_file(self.name) as path:
            save_tensors(path, tensors, notes)

    def remove(self) -> None:
        """Remove the last save, if there is one."""
        self.store.delete(self.name)
