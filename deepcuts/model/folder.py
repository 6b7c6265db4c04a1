"""Finds the folder of a model, and hashes the files in it that decide its numbers (no torch)."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deepcuts.data.toy import CONFIG, VERSION
from deepcuts.experiment.spec import ModelSource

PACKAGE = "package:"
# Every file that a tokenizer of transformers reads, of any class; a test compares the list with the library. Config,
# these and the weights decide a model's numbers; a README, a chat template or an ONNX export does not. The digest takes
# the files in this order: add new ones at the end, and the digests of folders without them stay as they are.
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
    "bpe.codes",
    "byte_maps.json",
    "dict.txt",
    "emoji.json",
    "entity_vocab.json",
    "normalizer.json",
    "prophetnet.tokenizer",
    "sentencepiece.model",
    "source.spm",
    "spm.model",
    "spm_char.model",
    "target.spm",
    "target_vocab.json",
    "tekken.json",
    "tiktoken.model",
    "vocab-src.json",
    "vocab-tgt.json",
    "word_pronunciation.json",
    "word_shape.json",
)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


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
    """Return 32 hex digits of the SHA-256 of the config and of all tokenizer files and weights that are loaded.

    Raises ValueError when one of them is missing or unreadable.
    """
    _check_config(folder)
    weights, tokenizer = weight_files(folder), _tokenizer_files(folder)
    if not tokenizer:
        raise ValueError(f"model folder {str(folder)!r} has no tokenizer files, such as tokenizer.json")
    for path in weights:
        _header(path)
    total = hashlib.sha256()
    for path in (folder / "config.json", *tokenizer, *weights):
        with path.open("rb") as file:
            total.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()[:32]


def _check_config(folder: Path) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"model folder {str(folder)!r} has no config.json; it needs one, weights and a tokenizer")
    if "model_type" not in json_object(config):
        raise ValueError(f"{config} has no model_type; is it the config of a transformers model?")
    if (folder / "adapter_config.json").exists():  # applied only where the package peft is installed
        raise ValueError(
            f"model folder {str(folder)!r} has an adapter (adapter_config.json); merge it into the weights with peft's"
            " merge_and_unload(), and save the result to a folder of its own"
        )


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, empty for any other JSON. Raises ValueError where it is no JSON."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def weight_files(folder: Path) -> list[Path]:
    """Return the files that the weights are loaded from, sorted by name: model.safetensors, or the shards of its index.

    Other safetensors files in the folder are not loaded. Raises ValueError where there are no weights, or a shard is
    missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        raise ValueError(_no_weights(folder))
    shards = json_object(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{index} names no files: it has no weight_map; save the model again")
    names = sorted({str(name) for name in shards.values()})
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"model folder {str(folder)!r} lacks {len(missing)} of the {len(names)} weight files that {INDEX} names:"
            f" {', '.join(missing[:3])}; download them"
        )
    return [folder / name for name in names]


def _no_weights(folder: Path) -> str:
    begin = f"model folder {str(folder)!r} has no weights (model.safetensors, or {INDEX} and its shards)"
    if pickled := sorted(path.name for path in folder.glob("pytorch_model*.bin")):
        return f"{begin}; convert {pickled[0]} with model.save_pretrained(FOLDER, safe_serialization=True)"
    if stray := sorted(path.name for path in folder.glob("*.safetensors")):
        return f"{begin}; {', '.join(stray[:3])} would not be loaded: name a single file {WEIGHTS}"
    return begin


def _tokenizer_files(folder: Path) -> list[Path]:
    """Return the files that the tokenizer may be loaded from: those of TOKENIZER_FILES, then those it names itself."""
    config = folder / "tokenizer_config.json"
    named = _texts(json_object(config)) if config.is_file() else set()
    inside = {path.name for path in folder.iterdir() if path.is_file()}
    own = sorted((named & inside) - {*TOKENIZER_FILES, "config.json"})
    return [folder / name for name in (*TOKENIZER_FILES, *own) if name in inside]


def _texts(value: Any) -> set[str]:
    """Return every text in a JSON value; `fast_tokenizer_files`, for instance, is a list of names of files."""
    if isinstance(value, str):
        return {value}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(_texts, parts))


def _header(path: Path) -> dict[str, Any]:
    """Return the header with which a safetensors file begins: what it says of each tensor. Raises ValueError."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if 2 <= length <= path.stat().st_size - 8:
                return dict(json.loads(file.read(length)))
        except ValueError:
            pass
    raise ValueError(
        f"{path} holds no weights: it is damaged, or a Git LFS pointer; download the file, as by `git lfs pull`"
    )


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the weights that are loaded, by name. Raises ValueError as `weight_files`."""
    tensors = {name: about for path in weight_files(folder) for name, about in _header(path).items()}
    return {name: tuple(about["shape"]) for name, about in tensors.items() if name != "__metadata__"}


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
