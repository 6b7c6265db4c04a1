"""Stores, and what lies in them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
from pyarrow import fs

from deepcuts.store.store import Store


def remote_store() -> Store:
    """A store on a filesystem that is not the local one and has no folders, like an object store."""
    store = Store("elsewhere")
    store.filesystem = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("memory", skip_instance_cache=True)))
    store.root, store.local = f"bucket-{os.urandom(4).hex()}", False
    return store


def kept_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def write_artifact(store: Store, kind: str, key: str, file: str = "x", **meta: Any) -> None:
    with store.new_artifact(kind, key, meta) as folder:
        (folder / file).write_bytes(b"x")
