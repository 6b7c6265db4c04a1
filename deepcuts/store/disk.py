"""Writes files on a local or shared disk: whole or not at all, open to the store's group, and patient with NFS."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pyarrow as pa

_P = ParamSpec("_P")
_T = TypeVar("_T")

WAITS_FOR_HANDLE = (0.1, 1.0)


def is_stale(error: BaseException) -> bool:
    """Whether an error says that the handle of a file is stale."""
    return isinstance(error, OSError) and error.errno == errno.ESTALE


def not_of_its_bytes(error: BaseException) -> bool:
    """Whether an error is of the way to a file (missing rights), and not of its bytes (a bad disk: EIO)."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EIO)


def patient(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a function try again, at most twice, where it finds a stale handle (ESTALE).

    A server of NFS answers so when a file was replaced, or the server restarted, after the file was looked up.
    """

    @wraps(function)
    def tries(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for seconds in WAITS_FOR_HANDLE:
            try:
                return function(*args, **kwargs)
            except OSError as error:
                if not is_stale(error):
                    raise
                time.sleep(seconds)
        return function(*args, **kwargs)

    return tries


def write_whole(target: Path, content: bytes | pa.Buffer, root: Path) -> None:
    """Write a file under a name that readers skip, and publish it below `root`. Raises OSError."""
    make_folder(target.parent, root)
    working = target.with_name(f"_{target.name}.{secrets.token_hex(4)}")
    try:
        with working.open("wb") as file:
            file.write(content)
        publish(working, target, root)
    finally:
        working.unlink(missing_ok=True)


def publish(file: Path, target: Path, root: Path) -> None:
    """Give a file of the same disk its name: after a crash it is whole under it, or not there. Raises OSError."""
    make_folder(target.parent, root)
    open_to_readers(file, target.parent)
    share(file, root)
    _flush(file)
    patient(os.replace)(file, target)
    _flush(target.parent)


@patient
def open_to_readers(file: Path, folder: Path) -> None:
    """Let those who may read a folder read a file of ours in it: safetensors makes files for their owner alone."""
    mode = stat.S_IMODE(file.stat().st_mode)
    readers = stat.S_IMODE(folder.stat().st_mode) & (stat.S_IRGRP | stat.S_IROTH)
    if readers & ~mode:
        file.chmod(mode | readers)


@patient
def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@patient
def make_folder(folder: Path, root: Path) -> None:
    """Make a folder, and those above it, as far as they are missing. Raises OSError."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        if root in each.parents:
            share(each, root)


@patient
def share(path: Path, root: Path) -> None:
    """Give the group of a group-writable `root` the same rights to a file or folder of ours, whatever the umask.

    Where the file cannot be given to that group, or another process made it, it stays as it is.
    """
    store = root.stat()
    if not store.st_mode & stat.S_IWGRP:
        return
    made = path.stat()
    with suppress(PermissionError):
        if made.st_gid != store.st_gid:
            os.chown(path, -1, store.st_gid)
        rights = stat.S_IRWXG | stat.S_ISGID if stat.S_ISDIR(made.st_mode) else stat.S_IRGRP | stat.S_IWGRP
        path.chmod(stat.S_IMODE(made.st_mode) | (store.st_mode & rights))


def closed_folder(folder: str, levels: int) -> str | None:
    """Return the first folder in which this user may not read and write: this one, or one that many levels below it.

    None where there is none. The lowest level's names that begin with `_` are of work under way, and are left out.
    """
    if _closed(folder):
        return folder
    below = _folders_in(folder) if levels else []
    below = [each for each in below if levels > 1 or not os.path.basename(each).startswith("_")]
    return next((found for each in below if (found := closed_folder(each, levels - 1))), None)


@patient
def _closed(folder: str) -> bool:
    try:
        os.stat(folder)  # os.access would take a stale handle for a refusal
    except FileNotFoundError:
        return False
    return not os.access(folder, os.R_OK | os.W_OK | os.X_OK)


@patient
def _folders_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return []


@patient
def size_and_digest(path: Path) -> dict[str, Any]:
    """Return the `size` of a file in bytes and its `sha256` in hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


@patient
def sizes_and_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the `size_and_digest` of each file in a folder by its name, in the order of the names. Raises OSError."""
    return {path.name: size_and_digest(path) for path in sorted(folder.iterdir())}
