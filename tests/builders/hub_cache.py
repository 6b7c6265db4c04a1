"""The Hugging Face Hub's cache on disk, filled by hand: what a machine without network reads."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

COMMIT = "3f1d8a" + "0" * 34


def fill_cache(home: Path, hub: str, files: dict[str, bytes], kind: str = "datasets") -> None:
    """Lay out the files of a repository as the Hub's cache does: refs, blobs, and a snapshot of links to them."""
    folder = home / "hub" / f"{kind}--{hub.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "blobs").mkdir()
    for path, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = folder / "snapshots" / COMMIT / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
