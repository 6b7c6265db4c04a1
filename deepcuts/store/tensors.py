"""Writes tensors into the store's files, as safetensors, and reads them back."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from shutil import copyfile
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepcuts.store.checksums import CHECKSUM, PLACEHOLDER, State, seal_tensors, tensors_state
from deepcuts.store.disk import patient
from deepcuts.store.store import Store


def save_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any] | None = None) -> None:
    """Write tensors, from any device, and notes that JSON can hold, with a checksum of the whole file.

    Raises OSError, as when the disk is full.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata={"format": "pt", "notes": json.dumps(notes or {}), CHECKSUM: PLACEHOLDER})
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from None
    with path.open("r+b") as file:
        seal_tensors(file)


def load_artifact(store: Store, kind: str, key: str, file: str) -> dict[str, Tensor]:
    """Read the tensors of one file of an artifact onto the CPU. Raises OSError if it is missing or damaged."""
    with store.open_artifact(kind, key, file) as path:
        try:
            return load_file(path)
        except SafetensorError as error:
            raise OSError(f"{store.path('artifacts', kind, key, file)} is damaged: {error}") from None


def _read_whole(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and notes of a file. Raises ValueError or SafetensorError where it is not what was written."""
    if _state(path) == "damaged":
        raise ValueError("it is not what was written")
    with safe_open(path, framework="pt") as file:
        notes = json.loads((file.metadata() or {}).get("notes", "{}"))
        return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118


@patient
def _state(path: Path) -> State:
    with path.open("rb") as file:
        return tensors_state(file)


def is_whole(store: Store, name: str) -> bool:
    """Whether a file of tensors is in the store, and is what was written as far as can be told."""
    try:
        with store.local_copy(name) as path:
            return _state(path) != "damaged"
    except FileNotFoundError:
        return False


def copy_tensors(store: Store, name: str, target: Path) -> None:
    """Copy a file of tensors out of the store. Raises OSError if it is missing or damaged."""
    with store.local_copy(name) as path:
        patient(copyfile)(path, target)
    if _state(target) == "damaged":
        raise store.damage(store.path(name), "it is not what was written")


class StoreCheckpoint:
    """Keeps the state of a stage that is under way, in one file of the store that each save replaces.

    `key` is the id of the trial or stage, and `minutes` the time from one save to the next.
    """

    def __init__(self, store: Store, key: str, minutes: float) -> None:
        self.store = store
        self.name = f"artifacts/_checkpoints/{key}.safetensors"
        self.minutes = minutes

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and notes of the last save; None if there is none, or with a warning if it is damaged."""
        try:
            with self.store.local_copy(self.name) as path:
                return _read_whole(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, ValueError) as error:
            where = self.store.path(self.name)
            warnings.warn(f"the checkpoint {where} is damaged, so its stage begins anew: {error}", stacklevel=2)
            return None

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Replace the last save. Raises OSError."""
        with self.store.new_file(self.name) as path:
            save_tensors(path, tensors, notes)

    def remove(self) -> None:
        """Remove the last save, if there is one."""
        self.store.delete(self.name)
