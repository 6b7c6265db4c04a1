"""Keeps the files with criteria of the user's own that trials were scored by, below `sweeps/` under their digests.

They are kept to be read: nothing here, and nothing that reads a store, runs one.
"""

from __future__ import annotations

import re
from collections import Counter

from deepcuts.pruning.own import code_digest
from deepcuts.store.store import Store

_OWN = re.compile(r'"own":\{[^}]*"digest":"([0-9a-f]{32})"')  # in the canonical JSON of a trial's spec


def keep_code(store: Store, text: str) -> None:
    """Write the text of a file into the store, unless it is there. Raises OSError."""
    digest = code_digest(text)
    if kept_code(store, digest) is None:
        store.write_bytes(_name(digest), text.encode())


def kept_code(store: Store, digest: str) -> str | None:
    """Return the text of a file by its digest; None where it is not in the store, or not what was written."""
    try:
        text = store.read_bytes(_name(digest)).decode()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return text if code_digest(text) == digest else None


def all_code(store: Store) -> list[str]:
    """Return the digests of the files that the store has, sound or not."""
    return [name.removesuffix(".py") for name in store.names("sweeps", ".py")]


def used_code(store: Store) -> Counter[str]:
    """Count the trials that were scored by each file, by its digest; the spec of a later round has it in each round."""
    specs = store.read("trials", ["spec"]).table["spec"].to_pylist()
    return Counter(digest for spec in specs if spec for digest in set(_OWN.findall(spec)))


def remove_unused_code(store: Store) -> None:
    """Remove the files that no trial was scored by, once all that sweeps want has run: who wants one has its row."""
    wanted = set(store.read("sweeps", ["trial_id"]).table["trial_id"].to_pylist())
    if wanted <= store.statuses().keys():
        for digest in set(all_code(store)) - used_code(store).keys():
            store.delete(_name(digest))


def _name(digest: str) -> str:
    return f"sweeps/{digest}.py"
