"""Defines the schemas of the store's tables, and turns rows into the bytes of a Parquet file and back."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from deepcuts.names import COMPACTED
from deepcuts.store.checksums import CHECKSUM, PLACEHOLDER, seal_parquet
from deepcuts.store.disk import patient

SCHEMA_VERSION = "1"

# How the tables are read: the checksum of each page is checked. Measured on 1,000 small files, it costs nothing.
CHECKED = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)

# A row of a table: its columns by name.
Row = dict[str, Any]


def _schema(text: str) -> pa.Schema:
    """Make a schema from lines of `type: column column ...`, in the order of the columns."""
    types = {
        "string": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
        "floats": pa.list_(pa.float32()),
        "ints": pa.list_(pa.int64()),
        "bytes": pa.binary(),
    }
    fields = []
    for line in text.strip().splitlines():
        kind, _, names = line.strip().partition(": ")
        fields += [pa.field(name, types[kind]) for name in names.split()]
    return pa.schema(fields)


SCHEMAS: dict[str, pa.Schema] = {
    "trials": _schema("""
        string: trial_id sweep model dataset strategy criterion scope control
        float: compression sparsity_asked
        string: rewind
        int: seed
        string: status failure error_stage error traceback metric
        float: dense pruned rewound retrained
        int: parameters prunable kept
        float: compression_achieved sparsity
        int: flops flops_nonzero
        float: prunable_share
        string: activations_counted
        string: dense_id score_id
        bool: dense_cached score_cached
        float: finetune_seconds score_seconds prune_seconds retrain_seconds total_seconds
        int: peak_gpu_bytes gpu_bytes
        string: precision
        string: head_from
        int: micro_batch score_micro_batch examples_truncated
        float: majority
        string: data_facts
        string: data_split
        string: host device
        time: started_at finished_at
        string: deepcuts torch transformers git_commit spec
        string: shortcuts_off
        bool: padding_matters
        string: arm
        string: rounds
        int: round
        bool: step
        string: previous mask_from mask_trial
    """),
    "metrics": _schema("""
        string: trial_id stage
        int: epoch step
        string: split metric
        float: value seconds
    """),
    "predictions": _schema("""
        string: trial_id stage split
        int: example
        float: label prediction
        floats: logits
    """),
    "masks": _schema("""
        string: trial_id layer parameter
        ints: shape
        int: size kept
        bytes: bits
    """),
    "sweeps": _schema("""
        string: sweep trial_id dataset strategy
        float: compression sparsity_asked
        int: seed
        string: arm
        bool: step
        string: builds_on
    """),
}


@dataclass
class Read:
    """The rows that were read of a table, and the files that could not be read (path to reason).

    `gone`: a file that was listed was not there any more, so rows may be missing.
    """

    table: pa.Table
    damaged: dict[str, str] = field(default_factory=dict)
    gone: bool = False


def encode(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.Buffer:
    """Encode rows as the bytes of a Parquet file in the table's schema; in `masks` each row is a row group.

    Raises KeyError for a column that the table does not have, ArrowInvalid for a value of the wrong type.
    """
    schema = SCHEMAS[table]
    for row in rows:
        if unknown := set(row) - set(schema.names):
            raise KeyError(f"{table} has no columns {sorted(unknown)!r}; it has {schema.names!r}")
    return encode_table(table, pa.Table.from_pylist([dict(row) for row in rows], schema))


def encode_table(table: str, content: pa.Table) -> pa.Buffer:
    """Encode rows that have the table's schema as `encode` does."""
    sink = io.BytesIO()
    with table_writer(sink, table, _lean(table)) as writer:
        writer.write_table(content, row_group_size=1 if table == "masks" else None)
    return pa.py_buffer(sink.getvalue())


@contextmanager
def table_writer(file: BinaryIO, table: str, settings: Mapping[str, Any]) -> Iterator[pq.ParquetWriter]:
    """Write a Parquet file of a table, with a checksum of each page and, when the block ends, of the whole file."""
    about = {"deepcuts.table": table, "deepcuts.schema": SCHEMA_VERSION, CHECKSUM: PLACEHOLDER}
    with pq.ParquetWriter(file, SCHEMAS[table], write_page_checksum=True, **settings) as writer:
        writer.add_key_value_metadata(about)
        yield writer
    seal_parquet(file)


def _lean(table: str) -> dict[str, Any]:
    """Return the settings that keep the file of one trial small and quick to open.

    It matters because 10,000 such files are read at once, each with its footer. The types follow from Parquet's own,
    so Arrow's copy of the schema is left out; only `trial_id` has statistics, because files are skipped by it alone; a
    dictionary pays only where values repeat in many rows, and zstd only where they are long.
    """
    long = {"error", "traceback", "spec", "data_facts"}
    packed = {name: "zstd" if name in long else "none" for name in SCHEMAS[table].names}
    return {
        "compression": packed if table == "trials" else "zstd",
        "use_dictionary": table == "predictions",
        "write_statistics": ["trial_id"],
        "store_schema": False,
    }


@patient
def decode(table: str, path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file that `encode` made, without the columns that are null in all of them."""
    content = pq.read_table(path, schema=SCHEMAS[table], page_checksum_verification=True)
    given = [name for name in content.schema.names if content[name].null_count < len(content)]
    return list(content.select(given).to_pylist())


def in_schema(table: str, rows: pa.Table) -> pa.Table:
    """Return rows of a file in the table's schema, with null in columns that it lacks: an older version wrote it."""
    for column in SCHEMAS[table]:
        if column.name not in rows.schema.names:
            rows = rows.append_column(column, pa.nulls(len(rows), column.type))
    return rows.select(SCHEMAS[table].names).cast(SCHEMAS[table])


def compaction_number(name: str) -> int:
    """Return which compaction of its store wrote a file; 0 for one of a version that did not number them."""
    numbered = re.match(rf"{COMPACTED}(\d{{6,}})-", name)
    return int(numbered[1]) if numbered else 0
