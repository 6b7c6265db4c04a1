"""Finds what is broken in a store and sets it aside; the same run command then makes it again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import pyarrow as pa
from pyarrow import fs

from deepcuts.store.store import Store
from deepcuts.store.tables import SCHEMAS

ASIDE, CHECKPOINTS = "_set-aside", "artifacts/_checkpoints"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: its path in the store, the problem, and how it is mended."""

    path: str
    problem: str
    mend: Literal["set aside", "delete"]


def examine_store(store: Store, busy: bool) -> list[Finding]:
    """Return all that is wrong with a store.

    With `busy` somebody is at work on it (`live.at_work`), so working files and live state are theirs, not orphans.

    >>> dc.examine_store(store, busy=False)
    """
    findings = [*_unreadable(store), *_without_rows(store), *_artifacts(store)]
    return findings if busy else [*findings, *_orphans(store)]


def _unreadable(store: Store) -> Iterator[Finding]:
    for table in SCHEMAS:
        for path, reason in store.read(table).damaged.items():
            yield Finding(_inside(store, path), f"unreadable: {reason}", "set aside")


def _without_rows(store: Store) -> Iterator[Finding]:
    """Find completed trials that lack their rows in another table: they must run again."""
    trials = store.read("trials", ["trial_id", "status", "strategy"]).table.to_pylist()
    there = {table: _ids(store, table) for table in ("metrics", "predictions", "masks")}
    for row in trials:
        missing = [
            table
            for table, ids in there.items()
            if row["trial_id"] not in ids and not (table == "masks" and row["strategy"] == "Dense")
        ]
        name = f"trials/{row['trial_id']}.parquet"
        if row["status"] == "completed" and missing and store.exists(name):
            yield Finding(name, f"completed, and has no rows in {', '.join(missing)}", "set aside")


def _ids(store: Store, table: str) -> set[str]:
    column = store.read(table, ["trial_id"]).table.column("trial_id")
    return set(pa.compute.unique(column).to_pylist())


def _artifacts(store: Store) -> Iterator[Finding]:
    for kind in ("dense", "scores", "models"):
        for key in store.artifacts(kind):
            name, meta = f"artifacts/{kind}/{key}", store.artifact(kind, key)
            if meta is None:
                yield Finding(name, "incomplete: it has no meta.json", "set aside")
                continue
            for file, about in meta["files"].items():
                if problem := _checked(store, f"{name}/{file}", about["sha256"]):
                    yield Finding(name, f"{file} {problem}", "set aside")
                    break


def _checked(store: Store, name: str, expected: str) -> str | None:
    """Say what is wrong with a file, read as a stream; None if its checksum is the expected one."""
    digest = hashlib.sha256()
    try:
        with store.filesystem.open_input_stream(store.path(name)) as stream:
            while chunk := stream.read(1 << 24):
                digest.update(chunk)
    except OSError as error:
        return f"cannot be read: {error}"
    return None if digest.hexdigest() == expected else "does not have the checksum that it was published with"


def _orphans(store: Store) -> Iterator[Finding]:
    """Find the working files and the live state that a killed process left."""
    infos = store.filesystem.get_file_info(fs.FileSelector(store.path(""), recursive=True, allow_not_found=True))
    for info in sorted(infos, key=lambda info: info.path):
        name = _inside(store, info.path)
        parts = name.split("/")
        if parts[0] == ASIDE or name == CHECKPOINTS:
            continue
        if any(part.startswith("_") for part in parts[:-1] if part != "_checkpoints"):
            continue  # inside a working folder, which is a finding itself
        if parts[-1].startswith("_"):
            yield Finding(name, "a working file that its owner left", "delete")
        elif parts[0] in ("running", "claims") and info.type == fs.FileType.File:
            yield Finding(name, "live state of a process that is gone", "delete")


def _inside(store: Store, path: str) -> str:
    return path.removeprefix(store.root.rstrip("/") + "/")


def mend_store(store: Store, findings: list[Finding]) -> str:
    """Delete the orphans and move the rest below `_set-aside/<time>`, which readers skip; return that folder.

    Raises OSError.

    >>> dc.mend_store(store, dc.examine_store(store, busy=False))
    """
    aside = f"{ASIDE}/{datetime.now(UTC):%Y%m%dT%H%M%S}"
    for finding in findings:
        source = store.path(finding.path)
        info = store.filesystem.get_file_info(source)
        if info.type == fs.FileType.NotFound:
            continue
        if finding.mend == "delete":
            folder = info.type == fs.FileType.Directory
            store.filesystem.delete_dir(source) if folder else store.filesystem.delete_file(source)
            continue
        target = store.path(aside, finding.path)
        store.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        if info.type == fs.FileType.Directory and not store.local:
            _move_files(store, source, target)
        else:
            store.filesystem.move(source, target)
    return aside


def _move_files(store: Store, source: str, target: str) -> None:
    """Copy and delete the objects of a folder one by one: an object store cannot move a folder."""
    for info in store.filesystem.get_file_info(fs.FileSelector(source, recursive=True)):
        if info.type == fs.FileType.File:
            store.filesystem.copy_file(info.path, target + info.path.removeprefix(source))
    store.filesystem.delete_dir(source)
