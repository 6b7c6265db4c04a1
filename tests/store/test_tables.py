"""The columns and types of the tables, which other people's notebooks and queries depend on."""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders.rows import mask_rows, random_masks, write_trial

from deepcuts.store.store import SCHEMAS, Store, decode, encode

TIME = "timestamp[us, tz=UTC]"
COLUMNS = {
    "trials": {
        "string": "trial_id sweep model dataset strategy criterion scope control rewind status failure error_stage"
        " error traceback metric dense_id score_id precision head_from host device deepcuts torch transformers"
        " git_commit spec data_facts data_split shortcuts_off activations_counted arm rounds"
        " previous mask_from mask_trial",
        "double": "compression sparsity_asked dense pruned rewound retrained compression_achieved sparsity"
        " finetune_seconds score_seconds prune_seconds retrain_seconds total_seconds majority prunable_share",
        "int64": "seed parameters prunable kept flops flops_nonzero peak_gpu_bytes gpu_bytes micro_batch"
        " score_micro_batch examples_truncated round",
        "bool": "dense_cached score_cached padding_matters step",
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
        "string": "sweep trial_id dataset strategy arm builds_on",
        "double": "compression sparsity_asked",
        "int64": "seed",
        "bool": "step",
    },
}
# In the order of the files.
TRIALS = (
    "trial_id sweep model dataset strategy criterion scope control compression sparsity_asked rewind seed status"
    " failure error_stage error traceback metric dense pruned rewound retrained parameters prunable kept"
    " compression_achieved sparsity flops flops_nonzero prunable_share activations_counted dense_id score_id"
    " dense_cached score_cached finetune_seconds score_seconds prune_seconds retrain_seconds total_seconds"
    " peak_gpu_bytes gpu_bytes precision head_from micro_batch score_micro_batch examples_truncated majority data_facts"
    " data_split host device started_at finished_at deepcuts torch transformers git_commit spec"
    " shortcuts_off padding_matters arm rounds round step previous mask_from mask_trial"
)


def whole_row() -> dict:
    """A row of `trials` with a value in every column."""
    kinds = {name: kind for kind, names in COLUMNS["trials"].items() for name in names.split()}
    values = {"string": "text", "double": 0.5, "int64": 3, "bool": True, TIME: datetime(2024, 5, 6, tzinfo=UTC)}
    return {name: values[kind] for name, kind in kinds.items()} | {"trial_id": "whole"}


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
    columns = [meta.row_group(0).column(i) for i in range(meta.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    assert "shape.list.element" in {column.path_in_schema for column in columns}


def test_the_file_of_a_trial_holds_little_beside_its_row(tmp_path):
    store = Store(str(tmp_path))
    write_trial(store, whole_row() | {"spec": '{"name": "value"}' * 100})
    file = pq.ParquetFile(tmp_path / "trials/whole.parquet")
    columns = [file.metadata.row_group(0).column(place) for place in range(file.metadata.num_columns)]
    assert {column.path_in_schema for column in columns if column.compression == "ZSTD"} == {
        *("error", "traceback", "spec", "data_facts")
    }
    assert {column.path_in_schema for column in columns if column.is_stats_set} == {"trial_id"}
    assert not any(column.has_dictionary_page for column in columns)
    assert (tmp_path / "trials/whole.parquet").stat().st_size < 8192


def test_the_columns_of_trials_stand_in_their_order():
    assert " ".join(SCHEMAS["trials"].names) == TRIALS


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


def test_rows_of_an_older_version_lack_what_it_did_not_record(tmp_path):
    store = Store(str(tmp_path))
    store.write("trials", "new", [whole_row() | {"trial_id": "new"}])
    store.write("trials", "old", [whole_row() | {"trial_id": "old"}])
    path = tmp_path / "trials/old.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["gpu_bytes"]), path)
    read = store.read("trials", ["trial_id", "gpu_bytes", "peak_gpu_bytes"])
    assert read.damaged == {}
    assert [tuple(row.values()) for row in read.table.to_pylist()] == [("new", 3, 3), ("old", None, 3)]


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
