"""Finds the folder of a model, and hashes the files in it that decide its numbers (no torch)."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

from deepcuts.data.toy import CONFIG, VERSION
from deepcuts.experiment.spec import ModelSource

PACKAGE = "package:"
# With config and weights, these files decide a model's numbers; a README or an ONNX export does not.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


def folder_of(name: str) -> Path | None:
    """Return the folder that a model's name refers to; None for the id of a model on the Hub.

    The name is a path, or `package:NAME/FOLDER` for a folder inside an installed Python package, which is not imported.
    Raises ValueError when there is no such folder or package.
    """
    if name.startswith(PACKAGE):
        package, _, inside = name.removeprefix(PACKAGE).partition("/")
        found = find_spec(package) if package.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            raise ValueError(f"model {name!r}: the Python package {package!r} is not installed; install it with pip")
        folder = Path(found.submodule_search_locations[0]) / inside
    else:
        try:
            folder = Path(name).expanduser()
        except RuntimeError as error:  # an unknown ~user
            raise ValueError(f"model {name!r}: {error}") from None
        if not folder.is_dir() and not _looks_like_path(name):
            return None
    if not folder.is_dir():
        raise ValueError(f"model {name!r}: there is no folder {str(folder)!r}; give a folder, or the id of a Hub model")
    return folder.absolute()


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def folder_digest(folder: Path) -> str:
    """Return 32 hex digits of the SHA-256 of config, tokenizer and weights.

    Raises ValueError when one of them is missing or unreadable.
    """
    config = folder / "config.json"
    weights = sorted(folder.glob("*.safetensors"))
    tokenizer = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not config.is_file():
        raise ValueError(f"model folder {str(folder)!r} has no config.json; it needs one, weights and a tokenizer")
    try:
        settings = json.loads(config.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{config} is not JSON: {error}") from None
    if not isinstance(settings, dict) or "model_type" not in settings:
        raise ValueError(f"{config} has no model_type; is it the config of a transformers model?")
    if not weights:
        other = [path.name for path in folder.glob("pytorch_model*.bin")]
        hint = f"; convert {other[0]} with model.save_pretrained(FOLDER, safe_serialization=True)" if other else ""
        raise ValueError(f"model folder {str(folder)!r} has no weights (*.safetensors){hint}")
    if not tokenizer:
        raise ValueError(f"model folder {str(folder)!r} has no tokenizer files, such as tokenizer.json")
    for path in weights:
        _check_weights(path)
    total = hashlib.sha256()
    for path in (config, *tokenizer, *weights):
        with path.open("rb") as file:
            total.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:32]


def _check_weights(path: Path) -> None:
    """Check the length of the header, with which a safetensors file begins; nothing else is read. Raises ValueError."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= path.stat().st_size - 8:
        raise ValueError(
            f"{path} holds no weights: it is damaged, or a Git LFS pointer; download the file, as by `git lfs pull`"
        )


def find_model(name: str, revision: str) -> ModelSource:
    """Return where a model is: the built-in toy, a folder with the hash of its content, or a Hub id with its revision.

    Raises ValueError when a folder is missing or is not a whole model.
    """
    if name == "toy":
        return ModelSource(name=name, digest=VERSION)
    folder = folder_of(name)
    if folder is None:
        return ModelSource(name=name, revision=revision)
    stored = name if name.startswith(PACKAGE) else str(folder)
    return ModelSource(name=stored, digest=folder_digest(folder))


def heads_of(model: str) -> int | None:
    """Return the number of attention heads of a model whose config is on this machine, else None."""
    if model == "toy":
        return int(CONFIG["num_attention_heads"])
    try:
        folder = folder_of(model)
        config = json.loads((folder / "config.json").read_text("utf-8")) if folder else {}
    except (OSError, ValueError):
        return None
    found = config.get("num_attention_heads", config.get("n_heads"))
    return found if isinstance(found, int) and found > 0 else None
