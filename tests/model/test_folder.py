"""A model is found by its name, and hashed by the files that decide its numbers."""

from __future__ import annotations

import json
import re
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest
from builders.model_folder import WEIGHTS, model_folder

from deepcuts.model.folder import TOKENIZER_FILES, folder_digest, folder_of, weight_files


def test_equal_content_has_an_equal_hash_in_any_folder(tmp_path):
    one = folder_digest(model_folder(tmp_path / "a"))
    assert folder_digest(model_folder(tmp_path / "b" / "c", **{"README.md": b"hello", "model.onnx": b"x"})) == one
    assert len(one) == 32


@pytest.mark.parametrize(
    "change",
    [
        {"config.json": b'{"model_type": "roberta"}'},
        {"model.safetensors": struct.pack("<Q", 2) + b"{} "},
        {"tokenizer.json": b"[]"},
        {"vocab.txt": b"a"},
        {"spm.model": b"a"},
        {"bpe.codes": b"a"},
        {"dict.txt": b"a"},
        {"sentencepiece.model": b"a"},
    ],
)
def test_config_tokenizer_and_weights_enter_the_hash(tmp_path, change):
    assert folder_digest(model_folder(tmp_path / "a", **change)) != folder_digest(model_folder(tmp_path / "b"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", b"{", "config.json is not JSON"),
        ("config.json", b"\xff\xfe", "config.json is not JSON"),
        ("config.json", b"[]", "has no model_type"),
        ("config.json", b'{"hidden_size": 3}', "has no model_type"),
        ("model.safetensors", None, r"has no weights \(model.safetensors, or"),
        ("model.safetensors", b"", "holds no weights"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        ("model.safetensors", struct.pack("<Q", 90) + b"{}", "it is damaged"),
        ("tokenizer.json", None, "has no tokenizer files"),
    ],
)
def test_a_folder_that_lacks_a_part_of_a_model_is_refused(tmp_path, file, content, message):
    path = model_folder(tmp_path / "model")
    (path / file).unlink()
    if content is not None:
        (path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        folder_digest(path)


def test_digests_are_pinned(tmp_path):
    """Where this fails, every result of every model folder is out of reach."""
    one_file = model_folder(
        tmp_path / "a", **{"vocab.txt": b"a\nb\n", "tokenizer_config.json": b'{"do_lower_case": true}'}
    )
    assert folder_digest(one_file) == "7f1f84cd5ed4b2f9cb10d90f2e93fb19"
    assert folder_digest(sharded(tmp_path / "b")) == "1ac6f4c8572611c8bc2c3d8e7208f764"


def sharded(path: Path) -> Path:
    """A model folder whose weights are two files and an index."""
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    files = {"model-1.safetensors": WEIGHTS, "model-2.safetensors": WEIGHTS + b" "}
    folder = model_folder(path, **files, **{"model.safetensors.index.json": json.dumps(index).encode()})
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("file", ["vocab.txt", "spm.model", "bpe.codes", "words.txt", "tokenizer.4.0.0.json"])
def test_a_changed_vocabulary_changes_the_hash(tmp_path, file):
    config = b'{"vocab_file": "words.txt", "fast_tokenizer_files": ["tokenizer.json", "tokenizer.4.0.0.json"]}'
    digests = {
        folder_digest(model_folder(tmp_path / "m", **{"tokenizer_config.json": config, file: content}))
        for content in (b"one", b"two")
    }
    assert len(digests) == 2


def test_every_file_that_a_tokenizer_of_transformers_reads_enters_the_hash():
    package = Path(find_spec("transformers").submodule_search_locations[0])
    named = set()
    for path in [*package.glob("tokenization_*.py"), *package.glob("models/*/tokenization_*.py")]:
        for table in re.findall(r"^VOCAB_FILES_NAMES = \{(.*?)\}", path.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            named |= set(re.findall(r':\s*"([^"]+)"', table))
    assert {"spm.model", "bpe.codes", "dict.txt", "sentencepiece.model", "vocab.txt"} <= named
    assert named <= set(TOKENIZER_FILES)


@pytest.mark.parametrize("sharding", [False, True])
def test_what_is_not_loaded_does_not_enter_the_hash(tmp_path, sharding):
    make = sharded if sharding else model_folder
    before = folder_digest(make(tmp_path / "a"))
    folder = make(tmp_path / "b")
    for name in ("README.md", ".gitattributes", "model.onnx", "chat_template.jinja", "notes.txt", "trainer_state.json"):
        (folder / name).write_bytes(b"x")
    (folder / "stray.safetensors").write_bytes(b"damaged")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "vocab.txt").write_bytes(b"x")
    assert folder_digest(folder) == before


def test_one_file_of_weights_is_loaded_before_shards(tmp_path):
    folder = sharded(tmp_path / "m")
    assert [path.name for path in weight_files(folder)] == ["model-1.safetensors", "model-2.safetensors"]
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    assert [path.name for path in weight_files(folder)] == ["model.safetensors"]


def test_weights_that_would_not_be_found_are_refused(tmp_path):
    folder = sharded(tmp_path / "m")
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of the 2 weight files that .*index.json names: model-2.safetensors"):
        folder_digest(folder)
    for index in ('{"weight_map": {}}', "[]"):
        (folder / "model.safetensors.index.json").write_text(index)
        with pytest.raises(ValueError, match="names no files"):
            folder_digest(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ValueError, match="index.json is not JSON"):
        folder_digest(folder)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(
        ValueError, match="model-1.safetensors would not be loaded: name a single file model.safetensors"
    ):
        folder_digest(folder)


def test_an_adapter_beside_the_weights_is_refused(tmp_path):
    folder = model_folder(tmp_path / "m", **{"adapter_config.json": b"{}"})
    with pytest.raises(ValueError, match="has an adapter .* merge it into the weights"):
        folder_digest(folder)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path):
    path = model_folder(tmp_path / "model", **{"pytorch_model.bin": b"x"})
    (path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="convert pytorch_model.bin with .*safe_serialization=True"):
        folder_digest(path)


def test_a_name_is_a_folder_if_there_is_one_and_else_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = model_folder(tmp_path / "org" / "model")
    assert folder_of("org/model") == path
    assert folder_of("./org/model") == tmp_path / "org/model"
    assert folder_of("org/other") is None
    assert folder_of("bert-base-uncased") is None


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "a/b/c", "~/no-such-folder"])
def test_a_name_that_can_only_be_a_folder_must_exist(name):
    with pytest.raises(ValueError, match="there is no folder"):
        folder_of(name)


def test_the_home_of_an_unknown_user_is_an_error():
    with pytest.raises(ValueError, match="home directory"):
        folder_of("~nobody-of-this-name/model")


def test_a_folder_inside_an_installed_package_is_found(tmp_path, monkeypatch):
    model_folder(tmp_path / "some_package_of_mine" / "model")
    (tmp_path / "some_package_of_mine" / "__init__.py").write_text("raise RuntimeError('never imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = folder_of("package:some_package_of_mine/model")
    assert found == tmp_path / "some_package_of_mine/model"
    with pytest.raises(ValueError, match="there is no folder"):
        folder_of("package:some_package_of_mine/other")


@pytest.mark.parametrize("name", ["package:not_installed_here/model", "package:", "package:a b/c", "package:json.tool"])
def test_a_package_that_is_not_installed_is_named(name):
    with pytest.raises(ValueError, match="is not installed; install it with pip"):
        folder_of(name)


def test_a_changed_config_changes_the_hash(tmp_path):
    path = model_folder(tmp_path / "m")
    before = folder_digest(path)
    config = json.loads((path / "config.json").read_text()) | {"dropout": 0.2}
    (path / "config.json").write_text(json.dumps(config))
    assert folder_digest(path) != before
