"""The user's cache: what is slow to compute and can be computed again at any time, such as tokens and counts."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """Return the folder for one kind of entries: in DEEPCUTS_CACHE, else in the user's cache folder.

    A user without a home folder of their own, as in some containers, has it in the folder for temporary files.
    """
    if given := os.environ.get("DEEPCUTS_CACHE"):
        return Path(given) / kind
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "deepcuts" / kind
    if home := user_folder("deepcuts"):
        return home / kind
    return Path(tempfile.gettempdir()) / f"deepcuts-{os.getuid()}" / kind


def user_folder(name: str) -> Path | None:
    """Return ~/.cache/NAME; None where there is no home, or where the folder is not there and cannot be made."""
    try:
        folder = Path.home() / ".cache" / name
        there = next(each for each in (folder, *folder.parents) if each.exists())
    except (RuntimeError, PermissionError):
        return None
    return folder if there == folder or (there.is_dir() and os.access(there, os.W_OK)) else None


def write_cache(path: Path, content: bytes) -> None:
    """Write an entry at once, so that no reader sees part of it. A cache that cannot be written costs only time."""
    working = path.with_name(f"_{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        working.write_bytes(content)
        os.replace(working, path)
    except OSError:
        with suppress(OSError):
            working.unlink()
