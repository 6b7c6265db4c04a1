"""The tables of a store: whole or not at all, in exactly the columns that people's queries depend on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds
import pytest
from builders.rows import trial, write_trial
from builders.stores import kept_files, remote_store

from deepcuts.store.store import SCHEMAS, Store


def test_nothing_is_visible_when_it_is_killed_before_the_rename(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    write_trial(store, trial("a"))

    def killed(source, target):
        assert Path(source).name.startswith("_")
        raise OSError("killed")

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(OSError, match="killed"):
        write_trial(store, trial("a", dense=0.1))
    with pytest.raises(OSError, match="killed"):
        write_trial(store, trial("b"))
    assert store.read("trials").table["dense"].to_pylist() == [0.9]
    assert kept_files(tmp_path) == ["trials/a.parquet"]


def test_readers_skip_what_is_being_written_or_hidden(tmp_path):
    store = Store(str(tmp_path))
    write_trial(store, trial("a"))
    content = (tmp_path / "trials/a.parquet").read_bytes()
    for name in ("_b.parquet", ".c.parquet", "_d.parquet.1234", "e.parquet.tmp", "notes.txt"):
        (tmp_path / "trials" / name).write_bytes(content[:100])
    (tmp_path / "trials/folder.parquet").mkdir()
    assert store.names("trials", ".parquet") == ["a.parquet"]
    read = store.read("trials")
    assert (read.table.num_rows, read.damaged) == (1, {})
    assert len(pd.read_parquet(tmp_path / "trials/a.parquet")) == 1


def test_a_file_is_replaced_whole(tmp_path):
    store = Store(str(tmp_path))
    write_trial(store, trial("a", status="failed", failure="trial"))
    assert store.statuses() == {"a": "failed"}
    write_trial(store, trial("a"))
    assert store.statuses() == {"a": "completed"}
    assert store.read("trials").table.num_rows == 1


def foreign(folder: Path, name: str) -> Path:
    path = folder / f"{name}.parquet"
    if name == "empty":
        path.write_bytes(b"")
    elif name == "text":
        path.write_text("trial_id,status\nx,completed\n")
    elif name == "truncated":
        path.write_bytes((folder / "a.parquet").read_bytes()[:-50])
    elif name == "other-columns":
        pd.DataFrame({"x": [1, 2]}).to_parquet(path)
    else:
        pd.DataFrame({"trial_id": ["x"], "seed": ["not a number"]}).to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "other-columns", "other-types"])
@pytest.mark.parametrize("columns", [None, ["seed"], ["status", "trial_id"]])
def test_a_truncated_or_foreign_file_is_named_and_left_out(tmp_path, kind, columns):
    store = Store(str(tmp_path))
    write_trial(store, trial("a", seed=4))
    path = foreign(tmp_path / "trials", kind)
    if kind == "other-types" and columns == ["status", "trial_id"]:
        return  # what is wrong with it was not asked for
    read = store.read("trials", columns)
    assert read.table.num_rows == 1
    assert list(read.damaged) == [str(path)]
    assert read.damaged[str(path)]
    assert read.table.schema.names == (columns or SCHEMAS["trials"].names)


def test_an_absent_store_is_empty_and_stays_absent(tmp_path):
    store = Store(str(tmp_path / "none"))
    assert store.read("trials").table.num_rows == 0
    assert store.read("trials").table.schema.names == SCHEMAS["trials"].names
    assert store.statuses() == {}
    assert store.read_json("running/x.json") is None
    assert store.artifact("dense", "x") is None
    store.delete("running/x.json")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b'{"a": 1'])
def test_a_broken_json_file_reads_as_absent(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    assert Store(str(tmp_path)).read_json("x.json") is None


def test_json_is_strict(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(ValueError, match="JSON"):
        store.write_json("x.json", {"a": float("nan")})
    store.write_json("deep/x.json", {"b": 1, "a": [None]})
    assert json.loads((tmp_path / "deep/x.json").read_text()) == {"a": [None], "b": 1}


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "names no folder"),
        (" ", "names no folder"),
        ("foo://x/y", "Unrecognized filesystem"),
        ("file://relative", "cannot be relative"),
        ("~nobody-of-this-name/x", "home directory"),
    ],
)
def test_what_names_no_store_is_refused(uri, message):
    with pytest.raises(ValueError, match=f"cannot open the store {uri!r}: .*{message}.* give a folder, or a file, s3"):
        Store(uri)


@pytest.mark.parametrize("below", ["", "/sub", "/sub/sub"])
def test_a_file_in_the_way_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("hello")
    with pytest.raises(ValueError, match="file' is a file; give a folder"):
        Store(f"{tmp_path}/file{below}")


def test_a_store_that_cannot_be_written_is_refused_by_the_probe(tmp_path, monkeypatch):
    store = Store(str(tmp_path / "new"))
    store.check_writable()
    store.probe()
    assert kept_files(tmp_path) == []
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match="no permission; choose another with --store"):
        store.check_writable()
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    with pytest.raises(ValueError, match="cannot write the store .*Read-only file system.*--store"):
        store.probe()


def test_a_file_uri_is_the_folder(tmp_path):
    store = Store(f"file://{tmp_path}/with%20space")
    write_trial(store, trial("a"))
    assert kept_files(tmp_path) == ["with space/trials/a.parquet"]
    assert Store(str(tmp_path / "with space")).statuses() == {"a": "completed"}


def test_a_store_elsewhere_holds_the_same():
    store = remote_store()
    assert store.statuses() == {}
    store.probe()
    write_trial(store, trial("a"))
    write_trial(store, trial("b", status="failed", failure="infrastructure"))
    store.write_bytes("trials/c.parquet", b"cut")
    read = store.read("trials", ["trial_id"])
    assert read.table["trial_id"].to_pylist() == ["a", "b"]
    assert list(read.damaged) == [store.path("trials/c.parquet")]
    assert store.statuses() == {"a": "completed", "b": "interrupted"}
    store.write_json("running/a.json", {"beat": 1})
    assert store.exists("running/a.json")
    store.delete("running/a.json")
    store.delete("running/a.json")
    assert not store.exists("running/a.json")


def dense_by_trial(store: Store, where: ds.Expression | None = None) -> dict[str, float]:
    rows = store.read("trials", ["trial_id", "dense"], where).table.to_pylist()
    assert len({row["trial_id"] for row in rows}) == len(rows), "a trial is there twice"
    return {row["trial_id"]: row["dense"] for row in rows}


@pytest.fixture
def repeated(tmp_path: Path) -> Store:
    """Trial a by itself and in two compacted files, b in both of those, c in the second alone."""
    store = Store(str(tmp_path))
    store.write("trials", "compact-2", [trial("a", dense=0.2), trial("b", dense=0.2), trial("c", dense=0.2)])
    store.write("trials", "compact-1", [trial("a", dense=0.1), trial("b", dense=0.1)])
    store.write("trials", "a", [trial("a", dense=0.5)])
    return store


def test_a_trial_is_read_once_from_its_own_file_or_the_first_compacted_one(repeated):
    assert dense_by_trial(repeated) == {"a": 0.5, "b": 0.1, "c": 0.2}
    assert repeated.files("trials") == (["a.parquet"], ["compact-1.parquet", "compact-2.parquet"])
    assert sorted(repeated.read("trials", ["dense"]).table["dense"].to_pylist()) == [0.1, 0.2, 0.5]
    assert repeated.read("trials", ["dense"]).table.schema.names == ["dense"]
    repeated.delete("trials/a.parquet")
    assert dense_by_trial(repeated) == {"a": 0.1, "b": 0.1, "c": 0.2}


def test_a_filter_brings_no_older_copy_of_a_trial_back(repeated):
    assert dense_by_trial(repeated, ds.field("dense") == 0.2) == {"c": 0.2}
    assert dense_by_trial(repeated, ds.field("dense") < 0.3) == {"b": 0.1, "c": 0.2}
    assert dense_by_trial(repeated, ds.field("trial_id") == "a") == {"a": 0.5}


@pytest.mark.parametrize(("name", "found"), [("a", {"a": 0.1, "b": 0.1}), ("compact-1", {"a": 0.5, "b": 0.2})])
def test_a_damaged_file_hides_no_copy_of_a_trial(repeated, name, found):
    repeated.write_bytes(f"trials/{name}.parquet", b"cut")
    assert dense_by_trial(repeated) == {**found, "c": 0.2}
    assert list(repeated.read("trials").damaged) == [repeated.path(f"trials/{name}.parquet")]


def test_a_failed_trial_that_ran_again_is_no_longer_what_it_was_when_it_was_compacted(repeated):
    write_trial(repeated, trial("a", status="failed", failure="trial"))
    assert repeated.statuses() == {"a": "failed", "b": "completed", "c": "completed"}


def test_sweeps_that_share_a_trial_all_keep_it(tmp_path):
    store = Store(str(tmp_path))
    for name in ("one", "two"):
        store.write("sweeps", name, [{"sweep": name, "trial_id": "a"}, {"sweep": name, "trial_id": "b"}])
    assert store.read("sweeps", ["trial_id"]).table.num_rows == 4


def test_a_store_without_compacted_files_is_listed_once_for_a_read(tmp_path, monkeypatch):
    store, listed, names = Store(str(tmp_path)), [], Store.names
    write_trial(store, trial("a"))
    monkeypatch.setattr(Store, "names", lambda *given: listed.append(given[1]) or names(*given))
    store.read("trials", ["trial_id"])
    assert listed == ["trials"]
