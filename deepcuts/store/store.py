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

import hashlib
import json
import os
import secrets
import shutil
import tempfile
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
from deepcuts.store.disk import make_folder, patient, publish, write_whole
from deepcuts.store.tables import CHECKED, SCHEMAS, Read, compaction_number, decode, encode

__all__ = ["SCHEMAS", "Read", "Store", "decode", "encode"]

_ALLOWED = "give a folder, or a file, s3, gs or abfs URI"
_FOLDERS = (*SCHEMAS, "running", "claims", "artifacts", "artifacts/*")  # where trials write
_LISTINGS = 5  # how often a table is listed anew because files of it were gone when they were to be read


class Store:
    """A store at a folder or URI. Opening one writes nothing; reading an absent one finds empty tables.

    >>> dc.Store("results").statuses()
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            if "://" in uri:
                self.filesystem, self.root = fs.FileSystem.from_uri(uri)
            else:
                self.filesystem, self.root = fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
        except (ValueError, OSError, RuntimeError, pa.ArrowException) as error:  # RuntimeError: an unknown ~user
            raise ValueError(f"cannot open the store {uri!r}: {error}; {_ALLOWED}") from None
        if not uri.strip() or not self.root:
            raise ValueError(f"cannot open the store {uri!r}: it names no folder; {_ALLOWED}")
        self.local = isinstance(self.filesystem, fs.LocalFileSystem)
        if self.local and not self._nearest_folder().is_dir():
            raise ValueError(f"cannot open the store {uri!r}: {str(self._nearest_folder())!r} is a file; {_ALLOWED}")

    def _nearest_folder(self) -> Path:
        """The deepest part of a local store's path that exists."""
        folder = Path(self.root)
        return next(part for part in (folder, *folder.parents) if part.exists() or part.is_symlink())

    @property
    def address(self) -> str:
        """The URI or absolute path that opens this store from any working folder."""
        return self.uri if "://" in self.uri else str(self.root)

    def path(self, *parts: str) -> str:
        """The path of a file on the store's filesystem, from its parts below the store's root."""
        return "/".join((self.root.rstrip("/"), *parts))

    # Files

    def check_writable(self) -> None:
        """Raise ValueError for a local store in which this user may not write every folder. Writes nothing."""
        if self.local and not os.access(self._nearest_folder(), os.W_OK | os.X_OK):
            raise ValueError(f"cannot write the store {self.uri!r}: no permission; choose another with --store")
        self._check_folders()

    def _check_folders(self) -> None:
        there = (path for name in _FOLDERS for path in Path(self.root).glob(name)) if self.local else ()
        for folder in sorted(there):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise ValueError(
                    f"cannot write the store {self.uri!r}: no permission in {str(folder)!r}; let its owner run"
                    f" `chmod -R g+rwX {self.root}` and `chmod g+s {self.root}` to share it with the group, or choose"
                    " another with --store"
                )

    def check_exists(self) -> None:
        """Raise ValueError where there is nothing at the URI, or a folder that holds other things than a store."""
        if self.filesystem.get_file_info(self.root).type == fs.FileType.NotFound:
            raise ValueError(f"there is no store {self.uri!r}; name the one that `deepcuts run --store` filled")
        entries = self.filesystem.get_file_info(fs.FileSelector(self.root))
        if entries and not {entry.base_name for entry in entries} & {*SCHEMAS, "artifacts", "claims", "running"}:
            raise ValueError(
                f"{self.uri!r} is not a store: it has none of the folders {', '.join(SCHEMAS)}; name the one that"
                " `deepcuts run --store` filled"
            )

    def probe(self) -> None:
        """Write and remove a small file. Raises ValueError if the store, or a folder of it, cannot be written."""
        self._check_folders()
        name = f"_probe-{secrets.token_hex(8)}"
        try:
            self.write_bytes(name, b"deepcuts")
            self.delete(name)
        except OSError as error:
            raise ValueError(f"cannot write the store {self.uri!r}: {error}; choose another with --store") from None

    @patient
    def write_bytes(self, name: str, content: bytes | pa.Buffer) -> None:
        """Publish a file atomically: it is whole under its name, or it is not there. Raises OSError."""
        if self.local:
            write_whole(Path(self.path(name)), content, Path(self.root))
            return
        with self.filesystem.open_output_stream(self.path(name)) as stream:
            stream.write(content)

    @patient
    def read_bytes(self, name: str) -> bytes:
        """Return the content of a file. Raises FileNotFoundError, or OSError if it cannot be read."""
        with self.filesystem.open_input_file(self.path(name)) as stream:
            return bytes(stream.read())

    @patient
    def delete(self, name: str) -> None:
        """Remove a file. Does nothing if it is already gone."""
        try:
            self.filesystem.delete_file(self.path(name))
        except FileNotFoundError:
            return

    @patient
    def exists(self, name: str) -> bool:
        """Whether a file of this name is there (a folder does not count)."""
        return bool(self.filesystem.get_file_info(self.path(name)).type == fs.FileType.File)

    @patient
    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the sorted names of the finished files in a folder of the store; none if the folder is absent."""
        selector = fs.FileSelector(self.path(folder), allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        names = (info.base_name for info in infos if info.type == fs.FileType.File)
        return sorted(name for name in names if name.endswith(suffix) and name[0] not in "._")

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Publish a JSON object atomically. Raises OSError, and ValueError for NaN and infinity, which JSON lacks."""
        self.write_bytes(name, json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode())

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return the JSON object in a file; None if the file is absent or holds anything else."""
        try:
            value = json.loads(self.read_bytes(name))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        return value if isinstance(value, dict) else None

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

    def read_file(self, table: str, name: str, columns: Sequence[str]) -> pa.Table:
        """Return columns of one file of a table. Raises OSError or ArrowInvalid where it is damaged."""
        return self._scan(table, [self.path(table, name)], columns, None)

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

    def _there(self, path: str) -> bool:
        return bool(self.filesystem.get_file_info(path).type == fs.FileType.File)

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
            files = {path.name: _describe(path) for path in sorted(working.iterdir())}
            if self.exists(f"{target}/meta.json"):  # it would be wrong while files are replaced: incomplete until then
                self.delete(f"{target}/meta.json")
            for name in files:
                self._publish(working / name, f"{target}/{name}")
            self.write_json(f"{target}/meta.json", seal_json({**meta, "files": {**before, **files}}))
        finally:
            shutil.rmtree(working, ignore_errors=True)

    def _working_folder(self, folder: str, key: str) -> Path:
        if not self.local:
            return Path(tempfile.mkdtemp(prefix="deepcuts-"))
        working = Path(self.path(folder, f"_{key}.{secrets.token_hex(4)}"))
        make_folder(working, Path(self.root))
        return working

    def _publish(self, file: Path, name: str) -> None:
        if self.local:
            publish(file, Path(self.path(name)), Path(self.root))
            return
        with file.open("rb") as source, self.filesystem.open_output_stream(self.path(name)) as stream:
            shutil.copyfileobj(source, stream, 1 << 24)

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
        infos = self.filesystem.get_file_info(fs.FileSelector(self.path("artifacts", kind), allow_not_found=True))
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
            found, recorded = _describe(path), meta["files"][file]
            if found != recorded:
                raise OSError(
                    f"{self.path(name)} has {found['size']:,} bytes with checksum {found['sha256'][:8]}, not the"
                    f" {recorded['size']:,} with {recorded['sha256'][:8]} recorded: it is damaged; remove"
                    f" artifacts/{kind}/{key} to have it made again"
                )
            yield path

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """Yield a local path to a file: the file itself in a local store, else a temporary copy.

        Raises FileNotFoundError (in a local store only when the path is opened).
        """
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
        """Yield a local path to write, and publish it atomically as `name` when the block ends."""
        folder, _, base = name.rpartition("/")
        working = self._working_folder(folder, base)
        try:
            yield working / base
            self._publish(working / base, name)
        finally:
            shutil.rmtree(working, ignore_errors=True)


def _state(status: str, failure: str | None) -> str:
    if status == "completed":
        return status
    return "interrupted" if failure == "infrastructure" else "failed"


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
