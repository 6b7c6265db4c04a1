"""Merges the rows of completed trials into one file per table: the same rows, fewer files to open."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from deepcuts.names import COMPACTED
from deepcuts.store.store import Store
from deepcuts.store.tables import SCHEMAS

# The rows in `trials` go last: as long as one stands alone, everything of its trial can be found.
MERGED_TABLES = ("masks", "predictions", "metrics", "trials")
FILES_AT_ONCE = 100


def compact(store: Store) -> list[dict[str, Any]]:
    """Merge the files of single trials; return a row per table with the number of `files` merged and their new `name`.

    The merged file is published before the first single one is removed, and `Store.read` gives a repeated trial
    once: a kill at any moment neither loses nor repeats a row. Raises OSError if a file of `trials` is damaged, and
    names the command that mends it.

    >>> dc.compact(store)
    """
    read = store.read("trials", ["trial_id", "status"])
    if read.damaged:
        raise OSError(f"{next(iter(read.damaged))} is damaged; run deepcuts doctor {store.uri} --fix first")
    completed = {row["trial_id"] for row in read.table.to_pylist() if row["status"] == "completed"}
    merged = []
    for table in MERGED_TABLES:
        names = [name for name in store.files(table)[0] if name.removesuffix(".parquet") in completed]
        if len(names) > 1:
            merged.append({"table": table, "files": len(names), "name": _merge(store, table, names)})
    return merged


def _gathered(store: Store, table: str, names: list[str]) -> Iterator[pa.Table]:
    """Yield the rows of the files in their order, FILES_AT_ONCE files at a time.

    Each table that is yielded becomes a row group, and every row group costs time when the file is read. Only masks
    are yielded a trial at a time, because those of one trial are large.
    """
    at_once = 1 if table == "masks" else FILES_AT_ONCE
    for start in range(0, len(names), at_once):
        paths = [store.path(table, name) for name in names[start : start + at_once]]
        data = ds.dataset(paths, SCHEMAS[table], format="parquet", filesystem=store.filesystem)
        yield data.to_table().cast(SCHEMAS[table])


def _merge(store: Store, table: str, names: list[str]) -> str:
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    target = f"{table}/{COMPACTED}{digest}.parquet"
    rows = 0
    schema = SCHEMAS[table]
    with store.new_file(target) as path:
        metadata = {"deepcuts.table": table, "deepcuts.schema": "1"}
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
