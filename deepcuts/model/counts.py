"""Counts the parameters of a model, once for each config.

Counting loads torch, which takes seconds, so counts are kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import deepcuts
from deepcuts.data.hub import hub_away, why_away
from deepcuts.data.toy import CONFIG
from deepcuts.data.user_cache import cache_folder, write_cache
from deepcuts.experiment.spec import ModelSource, canonical
from deepcuts.model.folder import folder_of
from deepcuts.names import nearest
from deepcuts.pruning.compression import Counts


def count_parameters(model: ModelSource, outputs: int, prune_biases: bool) -> Counts:
    """Return the counts of a model with a head of `outputs`, from the cache where it has them.

    Raises ValueError when the config cannot be loaded, is of an unknown kind, or has nothing to prune.
    """
    config = config_bytes(model)
    path = _cache_path(config, outputs, prune_biases) if config is not None else None
    counts = _read_cache(path) if path else None
    if config is None and hub_away():
        raise ValueError(_not_here(model))
    if counts is None:
        counts = _count(model, outputs, prune_biases)
        if path:
            write_cache(path, json.dumps(asdict(counts)).encode())
    return counts


def _not_here(model: ModelSource) -> str:
    """Say that a model of the Hub is not in its local cache, and which ones are that have a similar id."""
    from huggingface_hub import constants

    cached = [path.name[8:].replace("--", "/") for path in Path(constants.HF_HUB_CACHE).glob("models--*")]
    return (
        f"model {model.name!r} (revision {model.revision!r}) is no folder, it is not in the Hub's local cache, and"
        f" {why_away()}{nearest(model.name, cached) or ';'} give an id that is in the cache, or a folder with its files"
    )


def _count(model: ModelSource, outputs: int, prune_biases: bool) -> Counts:
    from deepcuts.model.load import count_from_config

    try:
        return count_from_config(model.name, model.revision, outputs, prune_biases)
    except (OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"cannot load the config of model {model.name!r} (revision {model.revision!r}): {reason}; give the id of a"
            " Hub model or, without a network, a folder with its files"
        ) from None


def config_bytes(model: ModelSource) -> bytes | None:
    """Return the config, which decides the counts; None where it is not found.

    For a model of the Hub it is the current one: a revision such as `main` moves.
    """
    if model.name == "toy":
        return canonical(CONFIG).encode()
    try:
        folder = folder_of(model.name)
        if folder is not None:
            return (folder / "config.json").read_bytes()
        from huggingface_hub import hf_hub_download

        found = hf_hub_download(model.name, "config.json", revision=model.revision, local_files_only=hub_away())
        return Path(found).read_bytes()
    except (OSError, ValueError):
        return None


def _cache_path(config: bytes, outputs: int, prune_biases: bool) -> Path:
    """Return the file for these counts. Another version of deepcuts or transformers might count differently."""
    key = {
        "config": hashlib.sha256(config).hexdigest(),
        "outputs": outputs,
        "prune_biases": prune_biases,
        "versions": [deepcuts.__version__, version("transformers")],
    }
    name = hashlib.sha256(canonical(key).encode()).hexdigest()[:32]
    return cache_folder("counts") / f"{name}.json"


def _read_cache(path: Path) -> Counts | None:
    """Return the counts in a file; None where it is missing or damaged, or an older version wrote it."""
    try:
        content = json.loads(path.read_text("utf-8"))
        tensors = {name: tuple(shape) for name, shape in content["tensors"].items()}
        layers = content["feed_forward"]
        layers = layers if isinstance(layers, str) else tuple({**layer} for layer in layers)
        known = {"left_out": tuple(content["left_out"]), "tensors": tensors, "feed_forward": layers}
        counts = Counts(**content | known)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    numbers = (counts.parameters, counts.prunable, counts.encoder)
    valid = all(isinstance(number, int) and number > 0 for number in numbers)
    valid = valid and all(isinstance(name, str) for name in counts.left_out)
    valid = valid and all(isinstance(size, int) for shape in counts.tensors.values() for size in shape)
    if not isinstance(counts.feed_forward, str):
        valid = valid and all(axis in (0, 1) for layer in counts.feed_forward for axis in layer.values())
    return counts if valid and isinstance(counts.positions, int | None) else None
