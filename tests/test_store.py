"""The tables of a store: whole or not at all, in exactly the columns that people's queries depend on."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from rows import mask_rows, random_masks, trial, write_trial

from deepcuts.store import SCHEMAS, Store, decode, encode

TIME = "timestamp[us, tz=UTC]"
COLUMNS = {
    "trials": {
        "string": "trial_id sweep model dataset strategy criterion scope control rewind status failure error_stage"
        " error traceback metric dense_id score_id precision host device deepcuts torch transformers git_commit spec",
        "double": "compression sparsity_asked dense pruned rewound retrained compression_achieved sparsity"
        " finetune_seconds score_seconds prune_seconds retrain_seconds total_seconds",
        "int64": "seed parameters prunable kept flops flops_nonzero peak_gpu_bytes micro_batch examples_truncated",
        "bool": "dense_cached score_cached",
        TIME: "started_at finished_at",
    },
    "metrics": {"string": "trial_id stage split metric", "int64": "epoch step", "double": "value seconds"},
    "predictions": {
        "string": "trial_id stage split",
        "int64": "example",
        "double": "label prediction",
        "list<element: float>": "logits",
    },
    "masks": {
        "string": "trial_id layer parameter",
        "list<element: int64>": "shape",
        "int64": "size kept",
        "binary": "bits",
    },
    "sweeps": {
        "string": "sweep trial_id dataset strategy",
        "double": "compression sparsity_asked",
        "int64": "seed",
    },
}


def whole_row() -> dict:
    """A row of `trials` with a value in every column."""
    kinds = {name: kind for kind, names in COLUMNS["trials"].items() for name in names.split()}
    values = {"string": "text", "double": 0.5, "int64": 3, "bool": True, TIME: datetime(2024, 5, 6, tzinfo=UTC)}
    return {name: values[kind] for name, kind in kinds.items()} | {"trial_id": "whole"}


def remote_store() -> Store:
    """A store on a filesystem that is not the local one, and has no folders, as an object store."""
    store = Store("elsewhere")
    store.filesystem = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("memory", skip_instance_cache=True)))
    store.root, store.local = f"bucket-{os.urandom(4).hex()}", False
    return store


def kept_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("table", COLUMNS)
def test_a_table_has_exactly_its_columns_and_types_in_the_file(tmp_path, table):
    store = Store(str(tmp_path))
    store.write(table, "one", [])
    on_disk = pq.read_schema(tmp_path / table / "one.parquet")
    wanted = {name: kind for kind, names in COLUMNS[table].items() for name in names.split()}
    assert {field.name: str(field.type) for field in on_disk} == wanted
    assert on_disk.metadata[b"deepcuts.table"] == table.encode()
    assert on_disk.metadata[b"deepcuts.schema"] == b"1"
    assert set(SCHEMAS) == set(COLUMNS)


def test_the_files_are_zstd_and_a_mask_is_a_row_group(tmp_path):
    store = Store(str(tmp_path))
    rows = mask_rows("a", random_masks(0))
    store.write("masks", "a", rows)
    meta = pq.ParquetFile(tmp_path / "masks/a.parquet").metadata
    assert meta.num_row_groups == len(rows)
    assert meta.row_group(0).column(0).compression == "ZSTD"


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_null_columns_beside_text_and_numbers_keep_their_type_for_every_reader(tmp_path, order):
    store = Store(str(tmp_path))
    empty = {"trial_id": "none"}
    for key in order:
        store.write("trials", key, [whole_row() if key == "a" else empty])
    frame = pd.read_parquet(tmp_path / "trials").set_index("trial_id")
    assert frame.loc["whole", "error"] == "text"
    assert pd.isna(frame.loc["none", "error"])
    assert frame.loc["whole", "dense"] == 0.5
    found = duckdb.sql(f"select * from '{tmp_path}/trials/*.parquet'")
    names = dict(zip(found.columns, found.types, strict=True))
    assert (str(names["error"]), str(names["seed"]), str(names["dense"])) == ("VARCHAR", "BIGINT", "DOUBLE")
    assert str(names["finished_at"]) == "TIMESTAMP WITH TIME ZONE"
    assert duckdb.sql(f"select count(error), count(*) from '{tmp_path}/trials/*.parquet'").fetchall() == [(1, 2)]


def test_a_row_comes_back_as_it_was_written(tmp_path):
    store = Store(str(tmp_path))
    write_trial(store, whole_row())
    assert store.read("trials").table.to_pylist() == [whole_row()]


def test_decoding_gives_back_what_was_encoded(tmp_path):
    path = tmp_path / "x.parquet"
    rows = [{"trial_id": "a", "stage": "dense", "example": 0, "label": 1.0, "prediction": 0.0, "logits": [0.5, -0.5]}]
    path.write_bytes(encode("predictions", rows))
    assert decode("predictions", path) == rows


def test_a_column_or_a_value_that_does_not_belong_is_refused():
    with pytest.raises(KeyError, match="trials has no columns \\['sparsety'\\]"):
        encode("trials", [{"trial_id": "a", "sparsety": 1.0}])
    with pytest.raises(pa.ArrowException):
        encode("trials", [{"trial_id": "a", "seed": "zero"}])


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
    assert store.statuses() == {"a": "trial"}
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
    assert store.statuses() == {"a": "completed", "b": "infrastructure"}
    store.write_json("running/a.json", {"beat": 1})
    assert store.exists("running/a.json")
    store.delete("running/a.json")
    store.delete("running/a.json")
    assert not store.exists("running/a.json")
