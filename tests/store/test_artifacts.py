"""Artifacts: folders that are complete when their meta.json is there, and only as long as they are undamaged."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from builders.stores import kept_files, remote_store

from deepcuts.store.store import Store


def publish(store: Store, key: str = "k", **files: bytes) -> None:
    with store.new_artifact("dense", key, {"dense_id": key}) as folder:
        for name, content in (files or {"model": b"weights"}).items():
            (folder / name).write_bytes(content)


def half(path: Path) -> None:
    path.write_bytes(b"half")
    raise RuntimeError("broken")


def content(store: Store, file: str = "model", key: str = "k") -> bytes:
    with store.open_artifact("dense", key, file) as path:
        return path.read_bytes()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_an_artifact_has_sizes_and_checksums_and_comes_back(tmp_path, where):
    store = Store(str(tmp_path)) if where == "here" else remote_store()
    publish(store, model=b"weights", step=b"")
    meta = store.artifact("dense", "k")
    assert meta["dense_id"] == "k"
    assert meta["files"]["model"] == {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
    assert store.artifact("dense", "k", "step") is not None
    assert store.artifact("dense", "k", "other") is None
    assert content(store) == b"weights"


def test_an_artifact_without_its_meta_is_none(tmp_path):
    store = Store(str(tmp_path))
    folder = tmp_path / "artifacts/dense/k"
    folder.mkdir(parents=True)
    (folder / "model").write_bytes(b"weights")
    assert store.artifact("dense", "k") is None
    with pytest.raises(FileNotFoundError, match="no complete artifact"):
        content(store)


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_killed_at_any_rename_there_is_no_artifact_and_no_litter(tmp_path, monkeypatch, renames):
    store, left, replace = Store(str(tmp_path)), [renames], os.replace

    def dies(source, target):
        if not left[0]:
            raise OSError("killed")
        left[0] -= 1
        replace(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(OSError, match="killed"):
        publish(store, a=b"1", b=b"2")
    assert store.artifact("dense", "k") is None
    assert not [path for path in tmp_path.rglob("_*")]
    monkeypatch.undo()
    publish(store, a=b"1", b=b"2")
    assert content(store, "b") == b"2"


def test_an_error_while_it_is_made_publishes_nothing(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(RuntimeError, match="broken"), store.new_artifact("dense", "k", {}) as folder:
        half(folder / "model")
    assert kept_files(tmp_path) == []


def test_publishing_again_adds_and_replaces(tmp_path):
    store = Store(str(tmp_path))
    publish(store, model=b"weights", step=b"5")
    publish(store, model=b"other weights")
    assert (content(store), content(store, "step")) == (b"other weights", b"5")


def test_killed_while_it_is_replaced_the_artifact_is_incomplete_not_damaged(tmp_path, monkeypatch):
    store, replace = Store(str(tmp_path)), os.replace
    publish(store, model=b"weights")

    def dies(source, target):
        if str(target).endswith("meta.json"):
            raise OSError("killed")
        replace(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(OSError, match="killed"):
        publish(store, model=b"other weights")
    assert store.artifact("dense", "k") is None


@pytest.mark.parametrize("damage", [b"weight", b"weighty", b"", b"weights and more"])
def test_a_damaged_artifact_is_refused_and_the_way_out_is_named(tmp_path, damage):
    store = Store(str(tmp_path))
    publish(store)
    (tmp_path / "artifacts/dense/k/model").write_bytes(damage)
    with pytest.raises(OSError, match="it is damaged; remove artifacts/dense/k to have it made again"):
        content(store)


def test_a_lost_file_of_an_artifact_is_an_error(tmp_path):
    store = Store(str(tmp_path))
    publish(store)
    (tmp_path / "artifacts/dense/k/model").unlink()
    with pytest.raises(FileNotFoundError):
        content(store)


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_new_file_appears_when_it_is_finished(tmp_path, where):
    store = Store(str(tmp_path)) if where == "here" else remote_store()
    with store.new_file("artifacts/_checkpoints/k") as path:
        path.write_bytes(b"state")
        assert not store.exists("artifacts/_checkpoints/k")
    with store.local_copy("artifacts/_checkpoints/k") as path:
        assert path.read_bytes() == b"state"
    with pytest.raises(RuntimeError, match="broken"), store.new_file("artifacts/_checkpoints/k") as path:
        half(path)
    assert store.read_bytes("artifacts/_checkpoints/k") == b"state"


def test_a_foreign_meta_names_no_file(tmp_path):
    store = Store(str(tmp_path))
    store.write_json("artifacts/dense/k/meta.json", {"hello": 1})
    assert store.artifact("dense", "k", "model") is None
