"""The Parquet tables and the artifacts of a store, atomic and idempotent, on any filesystem pyarrow can open.

A store is a folder, or a URI (`file`, `s3`, `gs`, `abfs`). Every table has one file per trial (sweeps: per sweep)
and one explicit schema. A file appears whole or not at all: on a local disk it is written under a name that begins
with `_`, which readers skip, synced and renamed; on an object store it is one upload. The `trials` row comes last.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

SCHEMA_VERSION = "1"


def _schema(text: str) -> pa.Schema:
    """A schema from lines of `type: column column ...`, in the order of the columns."""
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
        int: peak_gpu_bytes
        string: precision
        int: micro_batch examples_truncated
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
    """What was read of a table, and the files that could not be: path to the reason."""

    table: pa.Table
    damaged: dict[str, str] = field(default_factory=dict)


class Store:
    """A store at a folder or URI. Opening one writes nothing; reading an absent one finds empty tables."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            if "://" in uri:
                self.filesystem, self.root = fs.FileSystem.from_uri(uri)
            else:
                self.filesystem, self.root = fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
        except (ValueError, OSError, pa.ArrowException) as error:
            raise ValueError(
                f"cannot open the store {uri!r}: {error}; give a folder, or a file, s3, gs or abfs URI"
            ) from None
        self.local = isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, *parts: str) -> str:
        return "/".join((self.root.rstrip("/"), *parts))

    # Files

    def probe(self) -> None:
        """Write and remove a small file. Raises ValueError where the store cannot be written."""
        name = f"_probe-{secrets.token_hex(8)}"
        try:
            self.write_bytes(name, b"deepcuts")
            self.delete(name)
        except OSError as error:
            raise ValueError(f"cannot write the store {self.uri!r}: {error}; choose another with --store") from None

    def write_bytes(self, name: str, content: bytes | pa.Buffer) -> None:
        """Publish a file at once: it is whole under its name, or it is not there. Raises OSError."""
        if not self.local:
            with self.filesystem.open_output_stream(self.path(name)) as stream:
                stream.write(content)
            return
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        working = target.with_name(f"_{target.name}.{secrets.token_hex(4)}")
        try:
            with working.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._rename(working, target)
        finally:
            working.unlink(missing_ok=True)

    def _rename(self, working: Path, target: Path) -> None:
        os.replace(working, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read_bytes(self, name: str) -> bytes:
        """The content of a file. Raises FileNotFoundError, OSError."""
        with self.filesystem.open_input_file(self.path(name)) as stream:
            return bytes(stream.read())

    def delete(self, name: str) -> None:
        """Remove a file; one that is gone already is no error."""
        try:
            self.filesystem.delete_file(self.path(name))
        except FileNotFoundError:
            return

    def exists(self, name: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(name)).type == fs.FileType.File)

    def names(self, folder: str, suffix: str) -> list[str]:
        """Sorted names of the finished files in a folder of the store (none where it is absent)."""
        selector = fs.FileSelector(self.path(folder), allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        names = (info.base_name for info in infos if info.type == fs.FileType.File)
        return sorted(name for name in names if name.endswith(suffix) and name[0] not in "._")

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        self.write_bytes(name, json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode())

    def read_json(self, name: str) -> dict[str, Any] | None:
        """None where the file is absent or holds no JSON object."""
        try:
            value = json.loads(self.read_bytes(name))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        return value if isinstance(value, dict) else None

    # Tables

    def write(self, table: str, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Publish the rows of one trial (or sweep) in a table, replacing those it had. Raises OSError."""
        content = encode(table, rows)
        self.write_bytes(f"{table}/{key}.parquet", content)

    def read(self, table: str, columns: Sequence[str] | None = None, where: ds.Expression | None = None) -> Read:
        """A table's rows, with columns and filter pushed down; damaged files are left out and named."""
        paths = [self.path(table, name) for name in self.names(table, ".parquet")]
        try:
            return Read(self._scan(table, paths, columns, where))
        except (pa.ArrowException, OSError):
            return self._read_one_by_one(table, paths, columns, where)

    def _scan(
        self, table: str, paths: list[str], columns: Sequence[str] | None, where: ds.Expression | None
    ) -> pa.Table:
        data = ds.dataset(paths, SCHEMAS[table], format="parquet", filesystem=self.filesystem)
        return data.to_table(columns=list(columns) if columns else None, filter=where)

    def _read_one_by_one(
        self, table: str, paths: list[str], columns: Sequence[str] | None, where: ds.Expression | None
    ) -> Read:
        parts, damaged = [self._scan(table, [], columns, None)], {}
        for path in paths:
            try:
                parts.append(self._scan(table, [path], columns, where))
            except (pa.ArrowException, OSError) as error:
                damaged[path] = str(error).splitlines()[0]
        return Read(pa.concat_tables(parts), damaged)

    def statuses(self) -> dict[str, str]:
        """Trial id to completed or failed, for every trial that has a readable row."""
        rows = self.read("trials", ["trial_id", "status", "failure"]).table.to_pylist()
        return {row["trial_id"]: row["status"] if row["status"] == "completed" else row["failure"] for row in rows}

    # Artifacts

    @contextmanager
    def new_artifact(self, kind: str, key: str, meta: Mapping[str, Any]) -> Iterator[Path]:
        """A local folder to write files into; on leaving they are published as artifacts/<kind>/<key>.

        `meta.json`, with the sizes and checksums of all files and the given entries, comes last: where it exists
        the artifact is complete. Files of an earlier publication that are not written again are kept.
        """
        target = f"artifacts/{kind}/{key}"
        working = self._working_folder(f"artifacts/{kind}", key)
        try:
            yield working
            before = (self.read_json(f"{target}/meta.json") or {}).get("files", {})
            files = {path.name: _describe(path) for path in sorted(working.iterdir())}
            for name in files:
                self._publish(working / name, f"{target}/{name}")
            self.write_json(f"{target}/meta.json", {**meta, "files": {**before, **files}})
        finally:
            shutil.rmtree(working, ignore_errors=True)

    def _working_folder(self, folder: str, key: str) -> Path:
        if not self.local:
            return Path(tempfile.mkdtemp(prefix="deepcuts-"))
        working = Path(self.path(folder, f"_{key}.{secrets.token_hex(4)}"))
        working.mkdir(parents=True)
        return working

    def _publish(self, file: Path, name: str) -> None:
        if self.local:
            target = Path(self.path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
            self._rename(file, target)
            return
        with file.open("rb") as source, self.filesystem.open_output_stream(self.path(name)) as stream:
            shutil.copyfileobj(source, stream, 1 << 24)

    def artifact(self, kind: str, key: str, file: str | None = None) -> dict[str, Any] | None:
        """The meta of a complete artifact (that holds `file`, where one is named), else None."""
        meta = self.read_json(f"artifacts/{kind}/{key}/meta.json")
        return meta if meta and (file is None or file in meta["files"]) else None

    @contextmanager
    def open_artifact(self, kind: str, key: str, file: str) -> Iterator[Path]:
        """A local path to one file of a complete artifact, for as long as the block runs.

        Raises OSError where its size is not the one recorded: it was cut after it was published.
        """
        name = f"artifacts/{kind}/{key}/{file}"
        with self.local_copy(name) as path:
            size = self.read_json(f"artifacts/{kind}/{key}/meta.json")["files"][file]["size"]  # type: ignore[index]
            if path.stat().st_size != size:
                raise OSError(
                    f"{self.path(name)} has {path.stat().st_size:,} bytes, not the {size:,} recorded: it is damaged;"
                    f" remove artifacts/{kind}/{key} to have it made again"
                )
            yield path

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """A local path with the content of a file: the file itself in a local store, else a temporary copy."""
        if self.local:
            yield Path(self.path(name))
            return
        with tempfile.TemporaryDirectory(prefix="deepcuts-") as folder:
            copy = Path(folder) / name.rsplit("/", 1)[-1]
            with self.filesystem.open_input_file(self.path(name)) as source, copy.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 24)
            yield copy

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """A local path to write; on leaving it is published under `name` at once."""
        folder, _, base = name.rpartition("/")
        working = self._working_folder(folder, base)
        try:
            yield working / base
            self._publish(working / base, name)
        finally:
            shutil.rmtree(working, ignore_errors=True)


def encode(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.Buffer:
    """Rows to the bytes of a Parquet file with the table's schema; a row group each in `masks`.

    Raises KeyError for a column that the table does not have, ArrowInvalid for a value of the wrong type.
    """
    schema = SCHEMAS[table]
    for row in rows:
        if unknown := set(row) - set(schema.names):
            raise KeyError(f"{table} has no columns {sorted(unknown)!r}; it has {schema.names!r}")
    version = {"deepcuts.table": table, "deepcuts.schema": SCHEMA_VERSION}
    content = pa.Table.from_pylist([dict(row) for row in rows], schema.with_metadata(version))
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, content.schema, compression="zstd") as writer:
        writer.write_table(content, row_group_size=1 if table == "masks" else None)
    return sink.getvalue()


def decode(table: str, path: Path) -> list[dict[str, Any]]:
    """The rows of a file that `encode` made, columns that are null in all of them left out."""
    content = pq.read_table(path, schema=SCHEMAS[table])
    given = [name for name in content.schema.names if content[name].null_count < len(content)]
    return list(content.select(given).to_pylist())


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
