"""Tensors into the store's files and back, as safetensors."""

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
    """Write tensors (from whatever device) and notes that JSON can hold. Raises OSError, as for a full disk."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata={"format": "pt", "notes": json.dumps(notes or {})})
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from None


def load_artifact(store: Store, kind: str, key: str, file: str) -> dict[str, Tensor]:
    """The tensors of one file of an artifact. Raises OSError where it is damaged."""
    with store.open_artifact(kind, key, file) as path:
        try:
            return load_file(path)
        except SafetensorError as error:
            raise OSError(f"{store.path('artifacts', kind, key, file)} is damaged: {error}") from None


class StoreCheckpoint:
    """The state of a stage that is under way, one file in the store that each save replaces."""

    def __init__(self, store: Store, key: str, minutes: float) -> None:
        self.store = store
        self.name = f"artifacts/_checkpoints/{key}.safetensors"
        self.minutes = minutes

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and notes of the last save; None where there is none, or none that can be read."""
        try:
            with self.store.local_copy(self.name) as path, safe_open(path, framework="pt") as file:
                notes = json.loads((file.metadata() or {}).get("notes", "{}"))
                return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118
        except (FileNotFoundError, SafetensorError):
            return None

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        with self.store.new_file(self.name) as path:
            save_tensors(path, tensors, notes)

    def remove(self) -> None:
        self.store.delete(self.name)
