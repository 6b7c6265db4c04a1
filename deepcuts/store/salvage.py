"""Writes a compacted file anew: without the rows of some trials, or of what can be read of a damaged one."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deepcuts.names import COMPACTED
from deepcuts.store.disk import not_of_its_bytes, patient
from deepcuts.store.store import Store
from deepcuts.store.tables import compaction_number, in_schema, table_writer


@patient
def keep_readable(store: Store, name: str, without: Collection[str]) -> None:
    """Write the row groups of a compacted file that can be read into another, but for the rows of some trials.

    Nothing is written where all can be read and no trial is left out: the damage is then in what describes the data,
    and none of it can be trusted. Nor where the footer cannot be read, or no row would be left.
    """
    with store.local_copy(name) as path:
        try:
            file = _opened(store, path)
        except (pa.ArrowException, OSError) as error:
            if not_of_its_bytes(error):
                raise
            return
        with file:
            lost, torn = _lost(file, _table(name))
            left_out = {*without, *torn}
            if (lost or without) and _others(file, left_out, lost):
                _write(store, name, file, left_out, lost)


@patient
def write_without(store: Store, name: str, ids: Collection[str]) -> str | None:
    """Write a compacted file into another, but for the rows of some trials; return its name in the store.

    None where there are no other rows: nothing is written then. Raises OSError, before anything is written, where a
    row of it cannot be read: what is lost must stay visible.
    """
    with store.local_copy(name) as path:
        try:
            with _opened(store, path) as file:
                lost, _ = _lost(file, _table(name))
                if not lost:
                    return _write(store, name, file, ids, lost) if _others(file, ids, lost) else None
                problem = f"{len(lost)} of its {file.num_row_groups} row groups cannot be read"
        except (pa.ArrowException, OSError) as error:
            raise store.damage(store.path(name), error) from error
    raise store.damage(store.path(name), problem)


def _others(file: pq.ParquetFile, ids: Collection[str], lost: set[int]) -> set[str]:
    """Return the trials of a file but for some, by the row groups that are not lost."""
    groups = sorted(set(range(file.num_row_groups)) - lost)
    return set(file.read_row_groups(groups, ["trial_id"])["trial_id"].to_pylist()) - set(ids)


def _table(name: str) -> str:
    return name.partition("/")[0]


def _opened(store: Store, copy: Path) -> pq.ParquetFile:
    return pq.ParquetFile(store.copies.open_input_file(str(copy)), page_checksum_verification=True)


def _write(store: Store, name: str, file: pq.ParquetFile, without: Collection[str], lost: set[int]) -> str:
    """Write the row groups that are not lost, without the rows of some trials, as a compacted file of its number."""
    table, left_out = _table(name), pa.array(without, pa.string())
    digest = hashlib.sha256(f"{name} {sorted(without)}".encode()).hexdigest()[:16]
    target = f"{table}/{COMPACTED}{compaction_number(name.rpartition('/')[2]):06}-{digest}.parquet"
    with (
        store.new_file(target) as path,
        path.open("w+b") as stream,
        table_writer(stream, table, {"compression": "zstd"}) as writer,
    ):
        for group in sorted(set(range(file.num_row_groups)) - lost):
            rows = in_schema(table, file.read_row_group(group))
            rows = rows.filter(pc.invert(pc.is_in(rows["trial_id"], left_out)))
            if len(rows):
                writer.write_table(rows)
    return target


def _lost(file: pq.ParquetFile, table: str) -> tuple[set[int], set[str]]:
    """Return the row groups that cannot be read, and the trials that may have other rows in those.

    In `trials` a row is all of a trial, and a mask that lacks a tensor is found by its weights.
    """
    lost, ends = set(), {}
    for group in range(file.num_row_groups):
        try:
            ids = in_schema(table, file.read_row_group(group))["trial_id"]
            ends[group] = ids[0].as_py(), ids[-1].as_py()
        except (pa.ArrowException, OSError) as error:
            if not_of_its_bytes(error):
                raise
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
