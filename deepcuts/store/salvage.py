"""Writes a compacted file anew, of what can be read of a damaged one."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deepcuts.names import COMPACTED
from deepcuts.store.store import Store
from deepcuts.store.tables import SCHEMAS, compaction_number, table_writer


def keep_readable(store: Store, name: str, without: Collection[str]) -> None:
    """Write the row groups of a compacted file that can be read into another, but for the rows of some trials.

    Nothing is written where all can be read and no trial is left out: the damage is then in what describes the data,
    and none of it can be trusted. Nor where the footer cannot be read.
    """
    table = name.partition("/")[0]
    digest = hashlib.sha256(f"{name} {sorted(without)}".encode()).hexdigest()[:16]
    target = f"{table}/{COMPACTED}{compaction_number(name.rpartition('/')[2]):06}-{digest}.parquet"
    try:
        file = pq.ParquetFile(store.filesystem.open_input_file(store.path(name)), page_checksum_verification=True)
    except (pa.ArrowException, OSError):
        return
    with file:
        lost, torn = _lost(file, table)
        if not lost and not without:
            return
        left_out = pa.array([*without, *torn], pa.string())
        with (
            store.new_file(target) as path,
            path.open("w+b") as stream,
            table_writer(stream, table, {"compression": "zstd"}) as writer,
        ):
            for group in sorted(set(range(file.num_row_groups)) - lost):
                rows = _group(file, table, group)
                rows = rows.filter(pc.invert(pc.is_in(rows["trial_id"], left_out)))
                if len(rows):
                    writer.write_table(rows)


def _group(file: pq.ParquetFile, table: str, group: int) -> pa.Table:
    rows = file.read_row_group(group)
    for field in SCHEMAS[table]:
        if field.name not in rows.schema.names:  # an older version wrote the file
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(SCHEMAS[table].names).cast(SCHEMAS[table])


def _lost(file: pq.ParquetFile, table: str) -> tuple[set[int], set[str]]:
    """Return the row groups that cannot be read, and the trials that may have other rows in those.

    In `trials` a row is all of a trial, and a mask that lacks a tensor is found by its weights.
    """
    lost, ends = set(), {}
    for group in range(file.num_row_groups):
        try:
            ids = _group(file, table, group)["trial_id"]
            ends[group] = ids[0].as_py(), ids[-1].as_py()
        except (pa.ArrowException, OSError):
            lost.add(group)
    if table in ("trials", "masks"):
        return lost, set()
    return lost, set(_beside(lost, ends))


def _beside(lost: set[int], ends: dict[int, tuple[str, str]]) -> Iterator[str]:
    for group in lost:
        if group - 1 in ends:
            yield ends[group - 1][1]
        if group + 1 in ends:
            yield ends[group + 1][0]
