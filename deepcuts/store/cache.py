"""What the shared stages of a store hold, who still needs it, and what can go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from deepcuts.pruning.criteria import CRITERIA
from deepcuts.store.store import Store

SHARED_KINDS = ("dense", "scores")


@dataclass(frozen=True)
class Waiting:
    """The wanted trials that are not completed: their ids, and the (dataset, seed) whose shared stages they need."""

    ids: frozenset[str]
    tasks: frozenset[tuple[str, int]]


def still_wanted(store: Store) -> Waiting:
    """What every sweep of the store still wants."""
    statuses = store.statuses()
    rows = store.read("sweeps", ["trial_id", "dataset", "seed"]).table.to_pylist()
    open_rows = [row for row in rows if statuses.get(row["trial_id"]) != "completed"]
    tasks = frozenset((row["dataset"], row["seed"]) for row in open_rows)
    return Waiting(frozenset(row["trial_id"] for row in open_rows), tasks)


def shared_stages(store: Store) -> list[dict[str, Any]]:
    """A row per fine-tuned network, set of scores and working checkpoint: `kind, id, what, bytes, used_by` (trials
    that were made with it), `needed` (a wanted trial that is not completed may want it)."""
    still, used = still_wanted(store), _used(store)
    rows = []
    for kind in SHARED_KINDS:
        for key in _folders(store, f"artifacts/{kind}"):
            meta = store.artifact(kind, key) or {}
            dense = meta if kind == "dense" else store.artifact("dense", str(meta.get("dense_id"))) or {}
            spec = dense.get("spec", {})
            rows.append(
                {
                    "kind": kind,
                    "id": key,
                    "what": _what(spec, meta, kind),
                    "bytes": sum(size for _, size in _files(store, f"artifacts/{kind}/{key}")),
                    "used_by": used.get(key, 0),
                    "needed": bool(still.ids) if not spec else (spec.get("dataset"), spec.get("seed")) in still.tasks,
                }
            )
    for name, size in _files(store, "artifacts/_checkpoints"):
        key = name.rpartition("/")[2].removesuffix(".safetensors")
        whose = {"kind": "checkpoint", "id": key, "what": "work under way", "bytes": size, "used_by": 0}
        rows.append(whose | {"needed": key in still.ids or (bool(still.ids) and not _trial(store, key))})
    return rows


def _what(spec: dict[str, Any], meta: dict[str, Any], kind: str) -> str:
    if not meta:
        return "incomplete"
    name = f"{spec.get('dataset', '?')} seed {spec.get('seed', '?')}"
    criterion = meta.get("spec", {}).get("criterion") if kind == "scores" else None
    return f"{name} {criterion}" if criterion in CRITERIA else name


def _trial(store: Store, key: str) -> bool:
    return store.exists(f"trials/{key}.parquet")


def _used(store: Store) -> dict[str, int]:
    used: dict[str, int] = {}
    for row in store.read("trials", ["dense_id", "score_id"]).table.to_pylist():
        for key in (row["dense_id"], row["score_id"]):
            if key:
                used[key] = used.get(key, 0) + 1
    return used


def _folders(store: Store, folder: str) -> list[str]:
    infos = store.filesystem.get_file_info(fs.FileSelector(store.path(folder), allow_not_found=True))
    return sorted(i.base_name for i in infos if i.type == fs.FileType.Directory and not i.base_name.startswith("_"))


def _files(store: Store, folder: str) -> Iterator[tuple[str, int]]:
    infos = store.filesystem.get_file_info(fs.FileSelector(store.path(folder), recursive=True, allow_not_found=True))
    for info in infos:
        if info.type == fs.FileType.File:
            yield info.path, info.size


def collect_garbage(store: Store) -> list[dict[str, Any]]:
    """Remove what no wanted trial needs; the rows of what went. `meta.json` goes first, so that what is left of an
    interrupted removal is no artifact."""
    gone = [row for row in shared_stages(store) if not row["needed"]]
    for row in gone:
        if row["kind"] == "checkpoint":
            store.delete(f"artifacts/_checkpoints/{row['id']}.safetensors")
            continue
        folder = f"artifacts/{row['kind']}/{row['id']}"
        store.delete(f"{folder}/meta.json")
        store.filesystem.delete_dir(store.path(folder))
    return gone
