"""Reads, writes and lists the files of a store, on any filesystem that pyarrow can open.

A file appears whole or not at all: on a local disk it is written under a name that begins with `_`, which readers skip,
synced and renamed; on an object store it is one upload. A stale handle of NFS is tried again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any

import pyarrow as pa
from pyarrow import fs

from deepcuts.store.disk import closed_folder, make_folder, patient, publish, write_whole
from deepcuts.store.tables import SCHEMAS

_ALLOWED = "give a folder, or a file, s3, gs or abfs URI"
# Where trials write, and how many levels of folders there are below: artifacts/<kind>/<key>.
_FOLDERS = dict.fromkeys((*SCHEMAS, "running", "claims"), 0) | {"artifacts": 2}


class StoreFiles:
    """The files of a store at a folder or URI, by their names below its root. Opening one writes nothing."""

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
        if self.local and not patient(self._nearest_folder().is_dir)():
            raise ValueError(f"cannot open the store {uri!r}: {str(self._nearest_folder())!r} is a file; {_ALLOWED}")

    @patient
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

    def check_writable(self) -> None:
        """Raise ValueError for a local store in which this user may not write every folder. Writes nothing."""
        if self.local and not os.access(self._nearest_folder(), os.W_OK | os.X_OK):
            raise ValueError(f"cannot write the store {self.uri!r}: no permission; choose another with --store")
        self._check_folders()

    def _check_folders(self) -> None:
        for name, levels in _FOLDERS.items() if self.local else ():
            if folder := closed_folder(self.path(name), levels):
                raise ValueError(
                    f"cannot write the store {self.uri!r}: no permission in {folder!r}; let its owner run"
                    f" `chmod -R g+rwX {self.root}` and `chmod g+s {self.root}` to share it with the group, or choose"
                    " another with --store"
                )

    def check_exists(self) -> None:
        """Raise ValueError where there is nothing at the URI, or a folder that holds other things than a store."""
        if self.info().type == fs.FileType.NotFound:
            raise ValueError(f"there is no store {self.uri!r}; name the one that `deepcuts run --store` filled")
        entries = self.listing()
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
    def info(self, *parts: str) -> fs.FileInfo:
        """Return what the filesystem tells of a file or folder, from the parts of its path below the store's root."""
        return self.filesystem.get_file_info(self.path(*parts) if parts else self.root)

    @patient
    def remove_folder(self, name: str) -> None:
        """Remove a folder with all that is in it. Raises OSError."""
        self.filesystem.delete_dir(self.path(name))

    @patient
    def listing(self, *parts: str, recursive: bool = False) -> list[fs.FileInfo]:
        """Return what the filesystem tells of each entry of a folder; nothing if the folder is absent."""
        folder = self.path(*parts) if parts else self.root
        return list(self.filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=recursive)))

    def exists(self, name: str) -> bool:
        """Whether a file of this name is there (a folder does not count)."""
        return bool(self.info(name).type == fs.FileType.File)

    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the sorted names of the finished files in a folder of the store; none if the folder is absent."""
        names = (info.base_name for info in self.listing(folder) if info.type == fs.FileType.File)
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
            self._download(name, copy)
            yield copy

    @property
    def copies(self) -> fs.FileSystem:
        """The filesystem of the paths that `local_copy` yields."""
        return self.filesystem if self.local else fs.LocalFileSystem()

    @patient
    def _download(self, name: str, copy: Path) -> None:
        with self.filesystem.open_input_file(self.path(name)) as source, copy.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 24)

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

    def _working_folder(self, folder: str, key: str) -> Path:
        if not self.local:
            return Path(tempfile.mkdtemp(prefix="deepcuts-"))
        working = Path(self.path(folder, f"_{key}.{secrets.token_hex(4)}"))
        make_folder(working, Path(self.root))
        return working

    def _publish(self, file: Path, name: str) -> None:
        if self.local:
            publish(file, Path(self.path(name)), Path(self.root))
        else:
            self._upload(file, name)

    @patient
    def _upload(self, file: Path, name: str) -> None:
        with file.open("rb") as source, self.filesystem.open_output_stream(self.path(name)) as stream:
            shutil.copyfileobj(source, stream, 1 << 24)

    def damage(self, path: str, error: Exception | str) -> OSError:
        """Return the error that says that a file is damaged, and what mends it; one of the system's calls as it is."""
        if isinstance(error, OSError) and error.errno is not None:
            return error
        reason = str(error).partition("\n")[0]
        return OSError(f"{path} is damaged: {reason}; run deepcuts doctor {quote(self.uri)} --fix first")
