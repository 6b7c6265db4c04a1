"""A model is found by its name, and hashed by the files that decide its numbers."""

from __future__ import annotations

import json
import struct

import pytest
from builders.model_folder import WEIGHTS, model_folder

from deepcuts.model.folder import folder_digest, folder_of


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
        {"more.safetensors": WEIGHTS},
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
        ("model.safetensors", None, r"has no weights \(\*.safetensors\)"),
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
