"""A folder with the files of a model, too small to be loaded."""

from __future__ import annotations

import struct
from pathlib import Path

WEIGHTS = struct.pack("<Q", 2) + b"{}"  # an empty safetensors file: the length of its header, and the header


def model_folder(path: Path, **files: bytes) -> Path:
    """Write a config, weights and a tokenizer to `path`; `files` replaces them or adds to them."""
    path.mkdir(parents=True, exist_ok=True)
    content_of = {"config.json": b'{"model_type": "bert"}', "model.safetensors": WEIGHTS, "tokenizer.json": b"{}"}
    for name, content in (content_of | files).items():
        (path / name).write_bytes(content)
    return path
