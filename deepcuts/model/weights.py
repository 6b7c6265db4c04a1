"""Checks the weights of a model by the headers of their files, and says which errors of reading last (no torch)."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

from deepcuts.experiment.spec import ModelSource
from deepcuts.model.folder import INDEX, WEIGHTS, folder_of, json_object, weight_files

FLOATS = ("F64", "F32", "F16", "BF16")
# What the system says of a file that is missing, forbidden or not a file: it would say so again.
LASTING = (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR)


def check_weights(model: ModelSource) -> bool:
    """Check that the weights are whole and of floats, by the header of each file that they are loaded from.

    Returns False where some are on the Hub and not on this machine; nothing is checked then. Raises ValueError.
    """
    if model.name == "toy":
        return True
    folder = folder_of(model.name)
    files = weight_files(folder) if folder else _files_of_hub(model)
    config = folder / "config.json" if folder else _file_of_hub(model, "config.json")
    if not files or config is None:
        return False
    quantised = json_object(config).get("quantization_config")
    if isinstance(quantised, dict):
        raise ValueError(
            f"{config} says that the weights are quantised ({quantised.get('quant_method')}){_UNQUANTISED}"
        )
    for path in files:
        _check_file(path)
    return True


_UNQUANTISED = (
    "; deepcuts prunes weights of fp32, fp16 or bf16: use the model as it was before, or save it after"
    " model.dequantize()"
)


def _files_of_hub(model: ModelSource) -> list[Path]:
    """Return the files that the weights of a model of the Hub are loaded from; none unless all are in its cache."""
    if single := _file_of_hub(model, WEIGHTS):
        return [single]
    index = _file_of_hub(model, INDEX)
    found = [_file_of_hub(model, name) for name in (_shards(index) if index else ())]
    return [path for path in found if path] if all(found) else []


def _file_of_hub(model: ModelSource, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.name, name, revision=model.revision)
    return Path(found) if isinstance(found, str) else None


def _shards(index: Path) -> list[str]:
    return sorted(set(json_object(index).get("weight_map", {}).values()))


def _check_file(path: Path) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        held = path.stat().st_size - 8 - length
        try:
            tensors = json.loads(file.read(length)) if held >= 0 else {}
            tensors.pop("__metadata__", None)
            promised = max((about["data_offsets"][1] for about in tensors.values()), default=0)
            dtypes = {name: about["dtype"] for name, about in tensors.items()}
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            tensors = {}
    if not tensors:
        raise ValueError(f"{path} holds no weights: it is damaged; download or save it again")
    if promised != held:
        raise ValueError(
            f"{path} is damaged: its tensors have {promised:,} bytes and it holds {held:,}; download or save it again"
        )
    for name, dtype in dtypes.items():
        if "weight" in name.rpartition(".")[2] and dtype not in FLOATS:
            raise ValueError(f"{path} holds quantised weights ({name!r} is {dtype}){_UNQUANTISED}")


def model_commit(name: str, revision: str) -> str | None:
    """Return the Hub commit that a revision of a model was loaded from; None for a folder or where it is unknown."""
    if name == "toy" or folder_of(name) is not None:
        return None
    path = _file_of_hub(ModelSource(name=name, revision=revision), "config.json")
    found = re.search(r"/snapshots/([0-9a-f]{40})/", str(path))
    return found[1] if found else None


def is_lasting(error: OSError) -> bool:
    """Return whether reading a model or data would fail again: for a file that is missing or forbidden.

    An unreachable Hub or disk may be back the next time.
    """
    from huggingface_hub import errors

    causes = [each for each in (error, error.__cause__) if each is not None]
    not_there = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError)
    if any(isinstance(each, not_there) for each in causes):
        return True
    away = (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, ConnectionError, TimeoutError)
    if any(isinstance(each, away) for each in causes):
        return False
    return error.errno is None or error.errno in LASTING
