"""Writes a compacted file anew: without the rows of some trials, or of what can be read of a damaged one."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from shlex import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deepcuts.names import COMPACTED
from deepcuts.store.store import Store
from deepcuts.store.tables import compaction_number, in_schema, table_writer


def keep_readable(store: Store, name: str, without: Collection[str]) -> None:
    """Write the row groups of a compacted file that can be read into another, but for the rows of some trials.

    Nothing is written where all can be read and no trial is left out: the damage is then in what describes the data,
    and none of it can be trusted. Nor where the footer cannot be read.
    """
    try:
        file = _opened(store, name)
    except (pa.ArrowException, OSError):
        return
    with file:
        lost, torn = _lost(file, _table(name))
        if lost or without:
            _write(store, name, file, [*without, *torn], lost)


def write_without(store: Store, name: str, ids: Collection[str]) -> str | None:
    """Write a compacted file into another, but for the rows of some trials; return its name in the store.

    None where there are no other rows: nothing is written then. Raises OSError, before anything is written, where a
    row of it cannot be read: what is lost must stay visible.
    """
    try:
        with _opened(store, name) as file:
            lost, _ = _lost(file, _table(name))
            if not lost:
                others = set(file.read(["trial_id"])["trial_id"].to_pylist()) - set(ids)
                return _write(store, name, file, ids, lost) if others else None
            problem = f"{len(lost)} of its {file.num_row_groups} row groups cannot be read"
    except pa.ArrowException as error:
        problem = str(error).splitlines()[0]
    raise OSError(f"{store.path(name)} is damaged: {problem}; run deepcuts doctor {quote(store.uri)} --fix first")


def _table(name: str) -> str:
    return name.partition("/")[0]


def _opened(store: Store, name: str) -> pq.ParquetFile:
    return pq.ParquetFile(store.filesystem.open_input_file(store.path(name)), page_checksum_verification=True)


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
