"""Merges the rows of completed trials into one file per table: the same rows, fewer files to open.

It may go on beside launches on the same store. The merged file is published before the first single one is removed,
readers list a table anew when a file is gone, and a file that somebody has written again meanwhile stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from deepcuts.names import COMPACTED
from deepcuts.store.disk import patient
from deepcuts.store.live import Beat, at_work, new_launch_id
from deepcuts.store.store import Store
from deepcuts.store.tables import compaction_number, table_writer

# The rows in `trials` go last: as long as one stands alone, everything of its trial can be found.
MERGED_TABLES = ("masks", "predictions", "metrics", "trials")
# How many files are read at once: so many, or fewer whose sizes on disk sum to so many bytes. In memory, predictions
# need some five times as much.
FILES_AT_ONCE, BYTES_AT_ONCE = 100, 1 << 24
MANY_FILES = 1000
CLAIM = "compaction"


def compact(store: Store) -> list[dict[str, Any]]:
    """Merge the files of single trials; return a row per table with the number of `files` merged and their new `name`.

    A kill at any moment neither loses nor repeats a row. Trials that somebody is running again are left alone, and
    nothing is merged while another process compacts the store. Raises OSError if a file is damaged, and names the
    command that mends it; the tables that were merged before it stay merged.

    >>> dc.compact(store)
    """
    if CLAIM in at_work(store):
        return []
    with Beat(store, None, new_launch_id(), [CLAIM]):
        read = store.read("trials", ["trial_id", "status"])
        for path, reason in read.damaged.items():
            raise store.damage(path, reason)
        running = {name.removesuffix(".json") for name in store.names("running", ".json")}
        rows = read.table.to_pylist()
        completed = {row["trial_id"] for row in rows if row["status"] == "completed"} - running
        number = 1 + max(compaction_number(name) for table in MERGED_TABLES for name in ["", *store.files(table)[1]])
        merged = []
        for table in MERGED_TABLES:
            names = [name for name in store.files(table)[0] if name.removesuffix(".parquet") in completed]
            if len(names) > 1:
                merged.append({"table": table, "files": len(names), "name": _merge(store, table, names, number)})
        return merged


def compact_many(store: Store, say: Callable[[str], None]) -> None:
    """Merge as `compact` does, and say so, where more than MANY_FILES trials have files of their own.

    A failure costs nothing but the speed of reading: it is said, not raised.
    """
    try:
        merged = compact(store) if len(store.files("trials")[0]) > MANY_FILES else []
    except OSError as error:
        say(f"the files of the trials could not be merged: {error}")
        return
    for row in merged:
        say(f"merged {row['files']:,} files of {row['table']} into {row['name']}")


def _gathered(store: Store, table: str, names: Sequence[str], sizes: Mapping[str, int]) -> Iterator[pa.Table]:
    """Yield the rows of the files in their order, some files at a time (FILES_AT_ONCE).

    Each table that is yielded becomes a row group, and every row group costs time when the file is read. Only masks
    are yielded a trial at a time, because those of one trial are large.
    """
    some, size = list[str](), 0
    for name in names:
        some.append(name)
        size += sizes.get(name, 0)
        if table == "masks" or len(some) == FILES_AT_ONCE or size >= BYTES_AT_ONCE:
            yield store.read_files(table, some)
            some, size = [], 0
    if some:
        yield store.read_files(table, some)


def _merge(store: Store, table: str, names: list[str], number: int) -> str:
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    target = f"{table}/{COMPACTED}{number:06}-{digest}.parquet"
    before = _marks(store, table, names)
    _write_merged(store, table, names, {name: size or 0 for name, (_, size) in before.items()}, target)
    for start in range(0, len(names), FILES_AT_ONCE):
        some = names[start : start + FILES_AT_ONCE]
        for name, mark in _marks(store, table, some).items():
            if mark == before[name]:  # else a trial was run again meanwhile, and its own file is the newer
                store.delete(f"{table}/{name}")
    return target


@patient
def _write_merged(store: Store, table: str, names: Sequence[str], sizes: Mapping[str, int], target: str) -> None:
    rows = 0
    with store.new_file(target) as path:
        with path.open("w+b") as file, table_writer(file, table, {"compression": "zstd"}) as writer:
            for content in _gathered(store, table, names, sizes):
                rows += content.num_rows
                writer.write_table(content, row_group_size=1 if table == "masks" else None)
        written = pq.read_metadata(path).num_rows
        if written != rows:
            raise OSError(f"{target}: {written} rows were written of {rows}; nothing was removed")


def _marks(store: Store, table: str, names: list[str]) -> dict[str, tuple[int | None, int | None]]:
    """Return what tells that a file was written again: its time and size, as the filesystem has them."""
    paths = [store.path(table, name) for name in names]
    infos = patient(store.filesystem.get_file_info)(paths)
    there = {info.base_name: info for info in infos if info.type == fs.FileType.File}
    return {name: (info.mtime_ns, info.size) for name, info in there.items()}
