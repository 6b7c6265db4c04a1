"""How many parameters a model has: counted once for a config, as counting loads torch, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import deepcuts
from deepcuts.data.toy import CONFIG
from deepcuts.experiment.spec import ModelSource, canonical
from deepcuts.model.folder import folder_of
from deepcuts.pruning.compression import Counts


def count_parameters(model: ModelSource, outputs: int, prune_biases: bool) -> Counts:
    """The model's counts. Raises ValueError where its config cannot be had or is of no known kind."""
    from_config = _config(model)
    path = _place(from_config, outputs, prune_biases) if from_config is not None else None
    found = _kept(path) if path else None
    if found is None:
        found = _counted(model, outputs, prune_biases)
        if path:
            _keep(path, found)
    return found


def _counted(model: ModelSource, outputs: int, prune_biases: bool) -> Counts:
    from deepcuts.model.load import count_from_config

    try:
        return count_from_config(model.name, model.revision, outputs, prune_biases)
    except (OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"cannot load the config of model {model.name!r} (revision {model.revision!r}): {reason}; give the id of a"
            " Hub model, or where there is no network a folder with its files"
        ) from None


def _config(model: ModelSource) -> bytes | None:
    """What of the model decides its counts; of a revision that moves, as it is now. None where it is not found."""
    if model.name == "toy":
        return canonical(CONFIG).encode()
    try:
        folder = folder_of(model.name)
        if folder is not None:
            return (folder / "config.json").read_bytes()
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(model.name, "config.json", revision=model.revision)).read_bytes()
    except (OSError, ValueError):
        return None


def _place(config: bytes, outputs: int, prune_biases: bool) -> Path:
    """The file for these counts, as these versions of the packages count them."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deepcuts"
    key = {
        "config": hashlib.sha256(config).hexdigest(),
        "outputs": outputs,
        "prune_biases": prune_biases,
        "versions": [deepcuts.__version__, version("transformers")],
    }
    name = hashlib.sha256(canonical(key).encode()).hexdigest()[:32]
    return Path(os.environ.get("DEEPCUTS_CACHE", default)) / "counts" / f"{name}.json"


def _kept(path: Path) -> Counts | None:
    """What was counted before; None where that is not there, or damaged."""
    try:
        found = Counts(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    whole = all(isinstance(number, int) and number > 0 for number in (found.parameters, found.prunable))
    return found if whole and isinstance(found.positions, int | None) else None


def _keep(path: Path, counts: Counts) -> None:
    """A cache that cannot be written costs time, not the plan."""
    working = path.with_name(f"_{path.name}.{secrets.token_hex(4)}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        working.write_text(json.dumps(asdict(counts)), "utf-8")
        os.replace(working, path)
