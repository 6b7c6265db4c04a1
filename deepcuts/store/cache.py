"""Lists the shared stages of a store with their size and who still needs them, and removes what nobody needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from pyarrow import fs

from deepcuts.store.store import Store
from deepcuts.store.tables import Row

SHARED_KINDS = ("dense", "teachers", "scores", "rounds")


def shared_stages(store: Store) -> list[Row]:
    """Return a row per fine-tuned network, outputs of one that taught, set of scores, and network that a round left.

    And per working checkpoint; complete or not.

    A row has `kind, id, what` (dataset, seed and criterion), `bytes`, `used_by` (the number of trials that were made
    with it) and `needed`: a trial that a sweep wants, and that is not completed, may use it. The network that a round
    of iterative pruning left (`rounds`) is needed by the trials that build on it alone.

    >>> dc.shared_stages(store)
    """
    return stages_after(store, (), None)


def stages_after(store: Store, removed: Collection[str], sweep: str | None) -> list[Row]:
    """Return the `shared_stages` as they would be after trials were removed, and a sweep with what it wants."""
    statuses = store.statuses()
    wanted = store.read("sweeps", ["sweep", "trial_id", "dataset", "seed", "builds_on"]).table.to_pylist()
    asked = [row for row in wanted if row["sweep"] != sweep]
    left = [row for row in asked if row["trial_id"] in removed or statuses.get(row["trial_id"]) != "completed"]
    ids, tasks = {row["trial_id"] for row in left}, {(row["dataset"], row["seed"]) for row in left}
    used, names, rows = _used(store), _named(store), []
    built_on = {row["builds_on"] for row in left}
    for kind in SHARED_KINDS:
        for key in store.artifacts(kind):
            meta = store.artifact(kind, key) or {}
            dense = meta if kind == "dense" else store.artifact("dense", str(meta.get("dense_id"))) or {}
            spec = dense.get("spec", {})
            needed = (spec.get("dataset"), spec.get("seed")) in tasks if spec else bool(left)
            rows.append(
                {
                    "kind": kind,
                    "id": key,
                    "what": names.get(key, "of a round") if kind == "rounds" else _what(spec, meta, kind),
                    "bytes": sum(size for _, size in _files(store, f"artifacts/{kind}/{key}")),
                    "used_by": used[key],
                    "needed": key in built_on if kind == "rounds" else needed,
                }
            )
    for name, size in _files(store, "artifacts/_checkpoints"):
        key = name.rpartition("/")[2].removesuffix(".safetensors")
        whose = {"kind": "checkpoint", "id": key, "what": "work under way", "bytes": size, "used_by": 0}
        # Named by a trial, or by a shared stage: which trials want that is not known here.
        rows.append(whose | {"needed": key in ids or (bool(left) and key not in statuses)})
    return rows


def _what(spec: dict[str, Any], meta: dict[str, Any], kind: str) -> str:
    if not meta:
        return "incomplete"
    name = f"{spec.get('dataset', '?')} seed {spec.get('seed', '?')}"
    criterion = meta.get("spec", {}).get("criterion") if kind == "scores" else None
    return f"{name} {criterion}" if criterion else name


def _used(store: Store) -> Counter[str]:
    """Count the trials that were made with each fine-tuned network, set of scores and network of a round."""
    table = store.read("trials", ["dense_id", "score_id", "previous"]).table
    return Counter(key for name in table.schema.names for key in table[name].to_pylist() if key)


def _named(store: Store) -> dict[str, str]:
    """Name the trials that are rounds of iterative pruning, by id."""
    rows = store.read("trials", ["trial_id", "dataset", "seed", "strategy", "round"]).table.to_pylist()
    return {
        row["trial_id"]: f"{row['dataset']} seed {row['seed']} {row['strategy']} round {row['round']}"
        for row in rows
        if row["round"] is not None
    }


def _files(store: Store, folder: str) -> Iterator[tuple[str, int]]:
    infos = store.filesystem.get_file_info(fs.FileSelector(store.path(folder), recursive=True, allow_not_found=True))
    for info in infos:
        if info.type == fs.FileType.File:
            yield info.path, info.size


def collect_garbage(store: Store) -> list[Row]:
    """Remove the shared stages that no wanted trial needs; return their rows, as `shared_stages` gives them.

    The meta of an artifact is removed first: what an interrupted removal leaves is incomplete, and nobody reads it.

    >>> dc.collect_garbage(store)
    """
    gone = [row for row in shared_stages(store) if not row["needed"]]
    for row in gone:
        if row["kind"] == "checkpoint":
            store.delete(f"artifacts/_checkpoints/{row['id']}.safetensors")
            continue
        remove_stage(store, row["kind"], row["id"])
    return gone


def remove_stage(store: Store, kind: str, key: str) -> None:
    """Remove an artifact, its meta first. Raises OSError."""
    store.delete(f"artifacts/{kind}/{key}/meta.json")
    store.filesystem.delete_dir(store.path(f"artifacts/{kind}/{key}"))
