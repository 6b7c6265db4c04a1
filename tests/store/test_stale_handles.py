"""A stale handle of NFS, once, at any call that reads or writes a store: it is tried again, nothing is damaged."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from builders.whole_trials import partly_compacted, whole_trial
from pyarrow import fs

from deepcuts.analysis import frames
from deepcuts.analysis.frames import query, sweeps_by_age, trials
from deepcuts.analysis.overlap import overlap
from deepcuts.experiment.metrics import FUNCTIONS
from deepcuts.store import merging
from deepcuts.store.cache import collect_garbage, shared_stages
from deepcuts.store.compact import MERGED_TABLES, compact_many
from deepcuts.store.doctor import Finding, bytes_of_store, examine_store, mend_store
from deepcuts.store.masks import mask_file_digest, masks
from deepcuts.store.merging import merge_stores
from deepcuts.store.removal import Removal, remove
from deepcuts.store.store import Store
from deepcuts.store.tensors import StoreCheckpoint, copy_tensors, is_whole, load_artifact, save_tensors

A, B, C = (letter * 16 for letter in "abc")
TENSORS = {"weight": torch.arange(4.0)}


class Disk:
    """Counts the calls that reach a folder; the one whose `turn` it is finds a stale handle."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.turn = str(folder), list[tuple[str, ...]](), 0

    def begin(self, turn: int) -> None:
        self.calls, self.turn = [], turn

    def call(self, what: str, path: Any) -> None:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder):
            self.calls.append((what, *os.fspath(path).removeprefix(self.folder).split("/")[2:]))
            if len(self.calls) == self.turn:
                raise OSError(errno.ESTALE, "Stale file handle", os.fspath(path))


class StaleFile(io.FileIO):
    """A file whose handle, once it is stale, stays so."""

    disk: Disk
    stale: OSError | None = None

    def read(self, size: int | None = -1) -> bytes:
        try:
            self.disk.call("read", self.name)
        except OSError as error:
            self.stale = error
        if self.stale:
            raise self.stale
        return super().read(-1 if size is None else size)

    def __del__(self) -> None:
        self.close()


class LocalDisk(fs.FileSystemHandler):
    """The local filesystem, whose every call the `Disk` hears."""

    def __init__(self, disk: Disk) -> None:
        self.disk, self.local = disk, fs.LocalFileSystem()

    def get_type_name(self) -> str:
        return "local"

    def normalize_path(self, path: str) -> str:
        return path

    def open_input_file(self, path: str) -> pa.PythonFile:
        self.disk.call("open", path)
        file = StaleFile(path)
        file.disk = self.disk
        return pa.PythonFile(file, mode="r")

    open_input_stream = open_input_file


def heard(name: str) -> Callable[..., Any]:
    def call(self: LocalDisk, *given: Any) -> Any:
        first = given[0][0] if isinstance(given[0], list) else given[0]
        self.disk.call(name, first.base_dir if isinstance(first, fs.FileSelector) else first)
        return getattr(self.local, name.removesuffix("_selector"))(*given)

    return call


for _name in fs.FileSystemHandler.__abstractmethods__ - {*vars(LocalDisk)}:
    setattr(LocalDisk, _name, heard(_name))
LocalDisk.__abstractmethods__ = frozenset()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "store"))
    partly_compacted(made, (A, B, C))
    with made.new_artifact("dense", A, {"spec": {"dataset": "toy", "seed": 0}}) as folder:
        save_tensors(folder / "model.safetensors", TENSORS)
    StoreCheckpoint(made, "key", 5).save(TENSORS, {"step": 3})
    return made


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(tmp_path)
    monkeypatch.setattr("deepcuts.store.disk.WAITS_FOR_HANDLE", (0, 0))

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*given: Any, **named: Any) -> Any:
            disk.call(call.__name__, given[0] if given else None)
            return call(*given, **named)

        return counting

    for module, name in ((os, "stat"), (os, "scandir"), (os, "listdir"), (os, "open"), (os, "replace"), (io, "open")):
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    return disk


def opened(folder: str, disk: Disk) -> Store:
    store = Store(folder)
    store.filesystem = fs.PyFileSystem(LocalDisk(disk))
    return store


def checkpoint(store: Store) -> Any:
    tensors, notes = StoreCheckpoint(store, "key", 5).load() or ({}, {})
    return {name: tensor.tolist() for name, tensor in tensors.items()}, notes


def rows_to_merge(store: Store) -> list[Any]:
    return [
        (key, rows.to_pylist()) for table in MERGED_TABLES for key, rows in merging._trials_of(store, table, (A, B, C))
    ]


READS: dict[str, Callable[[Store], Any]] = {
    "statuses": lambda store: store.statuses(),
    "exists": lambda store: store.check_exists(),
    "writable": lambda store: store.check_writable(),
    "files": lambda store: store.read_files("metrics", [f"{C}.parquet"]).to_pylist(),
    "trials": lambda store: str(trials(store).to_dict("list")),
    "ages": sweeps_by_age,
    "masks": lambda store: {name: mask.tolist() for key in (A, C) for name, mask in masks(store, key).items()},
    "mask file": lambda store: mask_file_digest(Path(store.path("masks", f"{C}.parquet"))),
    "overlap": lambda store: (str(overlap(store).to_dict("list")), overlap(store).attrs["damaged"]),
    "rows to merge": rows_to_merge,
    "artifact": lambda store: load_artifact(store, "dense", A, "model.safetensors")["weight"].tolist(),
    "artifacts": lambda store: (store.artifacts("dense"), store.artifact("dense", A)),
    "checkpoint": checkpoint,
    "whole": lambda store: is_whole(store, "artifacts/_checkpoints/key.safetensors"),
    "doctor": lambda store: examine_store(store, busy=False, functions=FUNCTIONS),
    "bytes": bytes_of_store,
    "cache": shared_stages,
}


def last_of_each(calls: Sequence[Any]) -> list[int]:
    """The last call of each kind, counted from 1."""
    assert calls
    return sorted({call: turn for turn, call in enumerate(calls, 1)}.values())


@pytest.mark.parametrize("name", READS)
def test_a_stale_handle_at_any_call_of_a_view_changes_no_answer(name: str, store: Store, disk: Disk) -> None:
    store, read = opened(store.root, disk), READS[name]
    disk.begin(0)
    expected = read(store)
    for turn in last_of_each(disk.calls):
        disk.begin(turn)
        assert read(store) == expected, turn
        assert len(disk.calls) >= turn


def test_a_stale_handle_ends_no_query(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    errors, dataset = [OSError(errno.ESTALE, "Stale file handle")], frames._dataset

    def stale(*given: Any) -> Any:
        if errors:
            raise errors.pop()
        return dataset(*given)

    monkeypatch.setattr(frames, "_dataset", stale)
    assert query(store, "SELECT count(*) AS n FROM trials")["n"].tolist() == [3]
    assert not errors


def contents(folder: Path) -> dict[str, Any]:
    store = Store(str(folder))
    tables = {table: sorted(map(str, store.read(table).table.to_pylist())) for table in ("trials", "metrics", "masks")}
    return {**tables, "files": len(store.files("trials")[0]), "dense": store.artifacts("dense")}


def merged(store: Store) -> None:
    said: list[str] = []
    compact_many(store, said.append)
    assert not [line for line in said if "could not" in line]


def published(store: Store) -> None:
    with store.new_artifact("dense", B, {}) as folder:
        copy_tensors(store, "artifacts/_checkpoints/key.safetensors", folder / "x")


def mended(store: Store) -> None:
    name = store.files("metrics")[1][0]
    mend_store(store, [Finding(f"metrics/{name}", "", "set aside", (A,)), Finding(f"trials/{C}.parquet", "", "delete")])


WRITES: dict[str, Callable[[Store], Any]] = {
    "compact": merged,
    "remove": lambda store: remove(store, Removal((A,), None, ())),
    "garbage": collect_garbage,
    "publish": published,
    "mend": mended,
    "merge": lambda store: merge_stores(Store(str(Path(store.root).parent / "target")), store),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_stale_handle_at_any_call_of_a_change_leaves_what_it_should(
    name: str, store: Store, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcuts.store.compact.MANY_FILES", 0)
    for key in (A, B):
        whole_trial(store, key, 5)
    before, work, write = shutil.copytree(store.root, tmp_path / "before"), tmp_path / "store", WRITES[name]

    def after(turn: int) -> dict[str, Any]:
        for folder in (work, tmp_path / "target"):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(before, work)
        changed = opened(str(work), disk)
        disk.begin(turn)
        write(changed)
        calls[:] = disk.calls
        disk.begin(0)
        return contents(work) | contents(tmp_path / "target" if name == "merge" else work)

    calls: list[tuple[str, ...]] = []
    expected = after(0)
    for turn in last_of_each([what for what, *_ in calls]):
        assert after(turn) == expected, turn
