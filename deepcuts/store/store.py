"""Reads and writes the Parquet tables and the artifacts of a store, on any filesystem that pyarrow can open.

A store is a folder, or a URI (`file`, `s3`, `gs`, `abfs`). Every table has one file per trial (sweeps: per sweep)
and one explicit schema. A file appears whole or not at all: on a local disk it is written under a name that begins
with `_`, which readers skip, synced and renamed; on an object store it is one upload. The `trials` row comes last.

Compaction merges the files of many trials into one (`COMPACTED` begins its name), so a trial may be there more than
once: after a compaction that was killed, or when a compacted trial ran again. Reads give it once (`Store.superseded`),
also while a compaction goes on: a file that is gone between the listing and the reading was merged into another.

In a local store whose folder the group may write, so may it what is written below, whatever the umask.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from deepcuts.names import COMPACTED
from deepcuts.store.checksums import json_state, seal_json
from deepcuts.store.disk import patient, size_and_digest, sizes_and_digests
from deepcuts.store.files import StoreFiles
from deepcuts.store.tables import CHECKED, SCHEMAS, Read, compaction_number, decode, encode

__all__ = ["SCHEMAS", "Read", "Store", "decode", "encode"]

_LISTINGS = 5  # how often a table is listed anew because files of it were gone when they were to be read


class Store(StoreFiles):
    """A store at a folder or URI. Opening one writes nothing; reading an absent one finds empty tables.

    >>> dc.Store("results").statuses()
    """

    # Tables

    def write(self, table: str, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Publish the rows of one trial (or sweep) in a table, replacing the rows it had. Raises OSError."""
        content = encode(table, rows)
        self.write_bytes(f"{table}/{key}.parquet", content)

    def files(self, table: str) -> tuple[list[str], list[str]]:
        """Return the names of a table's files: those of one trial (or sweep) each, sorted, and the compacted ones.

        The newest compaction comes first (`compaction_number`), those of one number in the order of their names.
        """
        names = self.names(table, ".parquet")
        compacted = [name for name in names if name.startswith(COMPACTED)]
        own = [name for name in names if not name.startswith(COMPACTED)]
        return own, sorted(compacted, key=lambda name: -compaction_number(name))

    def read(self, table: str, columns: Sequence[str] | None = None, where: ds.Expression | None = None) -> Read:
        """Return a table's rows, each trial's once, with columns and filter pushed down to the files.

        Files that are damaged are left out, and named with the reason. Of a trial that is there more than once the
        rows in its own file count, else those of the newest compaction that has it; `where` has no say in this,
        so a filter never brings back an older copy of a trial.
        """
        for _ in range(_LISTINGS):
            own, compacted = self.files(table)
            read = self._read_listed(table, own, compacted, columns, where)
            if not read.gone:
                return read
        raise OSError(f"{self.path(table)}: files are gone again and again between listing and reading them")

    def _read_listed(
        self,
        table: str,
        own: Sequence[str],
        compacted: Sequence[str],
        columns: Sequence[str] | None,
        where: ds.Expression | None,
    ) -> Read:
        read = self._read_files(table, [self.path(table, name) for name in own], columns, where)
        if not compacted or read.gone:
            return read
        parts, damaged, gone = [read.table], read.damaged, False
        for path, ids in self.superseded(table, own, compacted, damaged).items():
            there = self._read_files(table, [path], [*(columns or SCHEMAS[table].names), "trial_id"], where)
            repeated = pc.is_in(there.table["trial_id"], pa.array(ids, pa.string()))
            parts.append(there.table.filter(pc.invert(repeated)).select(read.table.schema.names))
            damaged |= there.damaged
            gone |= there.gone
        return Read(pa.concat_tables(parts), damaged, gone)

    def superseded(
        self, table: str, own: Sequence[str], compacted: Sequence[str], damaged: Collection[str]
    ) -> dict[str, set[str]]:
        """Return the path of each compacted file, with the trials whose rows in it do not count.

        A trial counts by its own file, else by the first of the compacted files that has it. The names are those of
        `files`; files whose path is in `damaged` hide nothing.
        """
        taken = {name.removesuffix(".parquet") for name in own if self.path(table, name) not in damaged}
        hidden = {}
        for place, name in enumerate(compacted, 1):
            path = self.path(table, name)
            hidden[path] = set(taken)
            if place < len(compacted) and path not in damaged:
                there = self._read_files(table, [path], ["trial_id"], None).table
                taken |= set(pc.unique(there["trial_id"]).to_pylist())
        return hidden

    def read_files(self, table: str, names: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Return columns of files of a table, in their order. Raises OSError, which names a file that is damaged."""
        try:
            return self._scan(table, [self.path(table, name) for name in names], columns, None)
        except (pa.ArrowException, OSError) as error:
            for name in names if len(names) > 1 else ():
                self.read_files(table, [name], columns)
            raise self.damage(self.path(table, names[0]), error) from error

    def _read_files(
        self, table: str, paths: list[str], columns: Sequence[str] | None, where: ds.Expression | None
    ) -> Read:
        """Scan files all at once; one by one where that fails, to leave out and name the damaged ones."""
        try:
            return Read(self._scan(table, paths, columns, where))
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, FileNotFoundError) and not all(map(self._there, paths)):
                return Read(self._scan(table, [], columns, None), gone=True)
            return self._read_one_by_one(table, paths, columns, where)

    @patient
    def _there(self, path: str) -> bool:
        return bool(self.filesystem.get_file_info(path).type == fs.FileType.File)

    @patient
    def _scan(
        self, table: str, paths: list[str], columns: Sequence[str] | None, where: ds.Expression | None
    ) -> pa.Table:
        schema, names = SCHEMAS[table], list(dict.fromkeys(columns or SCHEMAS[table].names))
        read = list(dict.fromkeys([*names, "trial_id"]))
        if where is None:  # each file is matched with every field of the schema
            schema = pa.schema([field for field in schema if field.name in read])
        content = ds.dataset(paths, schema, format=CHECKED, filesystem=self.filesystem).to_table(read, where)
        if content["trial_id"].null_count:
            raise pa.ArrowInvalid(f"rows without a trial_id: this is not a file of the table {table}")
        return content.select(names)

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
        """Return the state of every trial that has a readable row, by its id.

        `completed`; `failed`: for reasons of its own, so it would fail again; or `interrupted`: by a failure of the
        infrastructure, so it runs again.
        """
        return self.read_statuses()[0]

    def read_statuses(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the `statuses`, and the damaged files of `trials` (path to reason)."""
        read = self.read("trials", ["trial_id", "status", "failure"])
        rows = read.table.to_pylist()
        return {row["trial_id"]: _state(row["status"], row["failure"]) for row in rows}, read.damaged

    # Artifacts

    @contextmanager
    def new_artifact(self, kind: str, key: str, meta: Mapping[str, Any]) -> Iterator[Path]:
        """Yield a local folder to write files into, and publish them as artifacts/<kind>/<key> when the block ends.

        `meta.json`, with the sizes and checksums of all files and the entries of `meta`, is written last: where it
        exists the artifact is complete. Files of an earlier publication that are not written again are kept.
        """
        target = f"artifacts/{kind}/{key}"
        working = self._working_folder(f"artifacts/{kind}", key)
        try:
            yield working
            before = (self.artifact(kind, key) or {}).get("files", {})
            files = sizes_and_digests(working)
            if self.exists(f"{target}/meta.json"):  # it would be wrong while files are replaced: incomplete until then
                self.delete(f"{target}/meta.json")
            for name in files:
                self._publish(working / name, f"{target}/{name}")
            self.write_json(f"{target}/meta.json", seal_json({**meta, "files": {**before, **files}}))
        finally:
            shutil.rmtree(working, ignore_errors=True)

    def artifact(self, kind: str, key: str, file: str | None = None) -> dict[str, Any] | None:
        """Return the meta of a complete artifact (one that holds `file`, if given); None if there is none.

        A meta that is damaged (not what its checksum says) counts as none, so that the artifact is made again.
        """
        meta = self.read_json(f"artifacts/{kind}/{key}/meta.json")
        if not meta or json_state(meta) == "damaged":
            return None
        return meta if file is None or file in meta.get("files", {}) else None

    def artifacts(self, kind: str) -> list[str]:
        """Return the sorted keys of the artifacts of a kind, complete or not."""
        infos = self.listing("artifacts", kind)
        return sorted(i.base_name for i in infos if i.type == fs.FileType.Directory and i.base_name[0] != "_")

    @contextmanager
    def open_artifact(self, kind: str, key: str, file: str) -> Iterator[Path]:
        """Yield a local path to one file of a complete artifact, valid until the block ends.

        Raises FileNotFoundError if the artifact is not complete, and OSError if the file's size or checksum is not
        the recorded one: it was damaged after it was published.
        """
        name = f"artifacts/{kind}/{key}/{file}"
        meta = self.artifact(kind, key, file)
        if meta is None:
            raise FileNotFoundError(f"{self.path(name)}: there is no complete artifact with this file")
        with self.local_copy(name) as path:
            found, recorded = size_and_digest(path), meta["files"][file]
            if found != recorded:
                raise OSError(
                    f"{self.path(name)} has {found['size']:,} bytes with checksum {found['sha256'][:8]}, not the"
                    f" {recorded['size']:,} with {recorded['sha256'][:8]} recorded: it is damaged; remove"
                    f" artifacts/{kind}/{key} to have it made again"
                )
            yield path


def _state(status: str, failure: str | None) -> str:
    if status == "completed":
        return status
    return "interrupted" if failure == "infrastructure" else "failed"
