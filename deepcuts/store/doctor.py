"""Finds what is broken in a store, and sets it aside, so that the same run command makes it again."""

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
    """One thing that is wrong: its path in the store, why, and what mends it."""

    path: str
    problem: str
    mend: Literal["set aside", "delete"]


def examine_store(store: Store, busy: bool) -> list[Finding]:
    """All that is wrong. `busy`: somebody is at work on the store, so working files are theirs, not orphans."""
    findings = [*_unreadable(store), *_without_rows(store), *_artifacts(store)]
    return findings if busy else [*findings, *_orphans(store)]


def _unreadable(store: Store) -> Iterator[Finding]:
    for table in SCHEMAS:
        for path, reason in store.read(table).damaged.items():
            yield Finding(_inside(store, path), f"unreadable: {reason}", "set aside")


def _without_rows(store: Store) -> Iterator[Finding]:
    """Completed trials whose rows in another table are not there: it must run again."""
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
        root = f"artifacts/{kind}"
        infos = store.filesystem.get_file_info(fs.FileSelector(store.path(root), allow_not_found=True))
        for info in infos:
            if info.type != fs.FileType.Directory or info.base_name.startswith("_"):
                continue
            meta = store.artifact(kind, info.base_name)
            if meta is None:
                yield Finding(f"{root}/{info.base_name}", "incomplete: it has no meta.json", "set aside")
                continue
            for file, about in meta["files"].items():
                problem = _checked(store, f"{root}/{info.base_name}/{file}", about["sha256"])
                if problem:
                    yield Finding(f"{root}/{info.base_name}", f"{file} {problem}", "set aside")
                    break


def _checked(store: Store, name: str, expected: str) -> str | None:
    digest = hashlib.sha256()
    try:
        with store.filesystem.open_input_stream(store.path(name)) as stream:
            while chunk := stream.read(1 << 24):
                digest.update(chunk)
    except OSError as error:
        return f"cannot be read: {error}"
    return None if digest.hexdigest() == expected else "has another checksum than it was published with"


def _orphans(store: Store) -> Iterator[Finding]:
    """Working files and live state that a killed process left behind."""
    infos = store.filesystem.get_file_info(fs.FileSelector(store.path(""), recursive=True, allow_not_found=True))
    for info in sorted(infos, key=lambda info: info.path):
        name = _inside(store, info.path)
        parts = name.split("/")
        if parts[0] == ASIDE or name == CHECKPOINTS:
            continue
        if any(part.startswith("_") for part in parts[:-1] if part != "_checkpoints"):
            continue  # inside a working folder, which is named itself
        if parts[-1].startswith("_"):
            yield Finding(name, "a working file that its owner left behind", "delete")
        elif parts[0] in ("running", "claims") and info.type == fs.FileType.File:
            yield Finding(name, "live state of a process that is gone", "delete")


def _inside(store: Store, path: str) -> str:
    return path.removeprefix(store.root.rstrip("/") + "/")


def mend_store(store: Store, findings: list[Finding]) -> str:
    """Delete orphans and move the rest below `_set-aside/<time>`, which readers skip; return that folder."""
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
    """An object store has no folders to move: its objects are copied and deleted one by one."""
    for info in store.filesystem.get_file_info(fs.FileSelector(source, recursive=True)):
        if info.type == fs.FileType.File:
            store.filesystem.copy_file(info.path, target + info.path.removeprefix(source))
    store.filesystem.delete_dir(source)
