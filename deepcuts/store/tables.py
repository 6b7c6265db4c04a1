"""Defines the schemas of the store's tables, and turns rows into the bytes of a Parquet file and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = "1"

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
        string: dense_id score_id
        bool: dense_cached score_cached
        float: finetune_seconds score_seconds prune_seconds retrain_seconds total_seconds
        int: peak_gpu_bytes gpu_bytes
        string: precision
        string: head_from
        int: micro_batch score_micro_batch examples_truncated
        float: majority
        string: data_facts
        string: host device
        time: started_at finished_at
        string: deepcuts torch transformers git_commit spec
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
    """),
}


@dataclass
class Read:
    """The rows that were read of a table, and the files that could not be read (path to reason)."""

    table: pa.Table
    damaged: dict[str, str] = field(default_factory=dict)


def encode(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.Buffer:
    """Encode rows as the bytes of a Parquet file in the table's schema; in `masks` each row is a row group.

    Raises KeyError for a column that the table does not have, ArrowInvalid for a value of the wrong type.
    """
    schema = SCHEMAS[table]
    for row in rows:
        if unknown := set(row) - set(schema.names):
            raise KeyError(f"{table} has no columns {sorted(unknown)!r}; it has {schema.names!r}")
    content = pa.Table.from_pylist([dict(row) for row in rows], schema)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, **_lean(table)) as writer:
        writer.add_key_value_metadata({"deepcuts.table": table, "deepcuts.schema": SCHEMA_VERSION})
        writer.write_table(content, row_group_size=1 if table == "masks" else None)
    return sink.getvalue()


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


def decode(table: str, path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file that `encode` made, without the columns that are null in all of them."""
    content = pq.read_table(path, schema=SCHEMAS[table])
    given = [name for name in content.schema.names if content[name].null_count < len(content)]
    return list(content.select(given).to_pylist())
