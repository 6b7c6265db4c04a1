"""Merges the rows of completed trials into one file per table: the same rows, fewer files to open."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from deepcuts.store.store import Store
from deepcuts.store.tables import SCHEMAS

# The rows in `trials` go last: as long as one stands alone, everything of its trial can be found.
MERGED_TABLES = ("masks", "predictions", "metrics", "trials")
PREFIX = "compact-"
FILES_AT_ONCE = 100


def compact(store: Store) -> list[dict[str, Any]]:
    """Merge what stands alone; a row per table with the `files` merged and the file's `name`.

    The merged file is published before a single one goes, and readers drop repeated trials, so that a kill at any
    moment loses nothing. Raises OSError where a file cannot be read: `doctor` first.
    """
    read = store.read("trials", ["trial_id", "status"])
    if read.damaged:
        raise OSError(f"{next(iter(read.damaged))} is damaged; run deepcuts doctor {store.uri} --fix first")
    completed = {row["trial_id"] for row in read.table.to_pylist() if row["status"] == "completed"}
    merged = []
    for table in MERGED_TABLES:
        names = [
            name
            for name in store.names(table, ".parquet")
            if not name.startswith(PREFIX) and name.removesuffix(".parquet") in completed
        ]
        if len(names) > 1:
            merged.append({"table": table, "files": len(names), "name": _merge(store, table, names)})
    return merged


def _gathered(store: Store, table: str, names: list[str]) -> Iterator[pa.Table]:
    """The rows of the files in their order, many files at a time: each yield is a row group, and those cost when read.

    The masks of one trial are large, and stay by themselves.
    """
    at_once = 1 if table == "masks" else FILES_AT_ONCE
    for start in range(0, len(names), at_once):
        paths = [store.path(table, name) for name in names[start : start + at_once]]
        data = ds.dataset(paths, SCHEMAS[table], format="parquet", filesystem=store.filesystem)
        yield data.to_table().cast(SCHEMAS[table])


def _merge(store: Store, table: str, names: list[str]) -> str:
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    target = f"{table}/{PREFIX}{digest}.parquet"
    rows = 0
    schema = SCHEMAS[table]
    with store.new_file(target) as path:
        metadata = {"deepcuts.table": table, "deepcuts.experiment.json_schema": "1"}
        with pq.ParquetWriter(path, schema.with_metadata(metadata), compression="zstd") as writer:
            for content in _gathered(store, table, names):
                rows += content.num_rows
                writer.write_table(content, row_group_size=1 if table == "masks" else None)
        written = pq.read_metadata(path).num_rows
        if written != rows:
            raise OSError(f"{target}: {written} rows were written of {rows}; nothing was removed")
    for name in names:
        store.delete(f"{table}/{name}")
    return target
