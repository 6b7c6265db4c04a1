"""Lists the shared stages of a store with their size and who still needs them, and removes what nobody needs."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow.dataset as ds
from pyarrow import fs

from deepcuts.names import natural
from deepcuts.store.store import Store
from deepcuts.store.tables import Row
from deepcuts.store.used_stages import StageKey, used_stages

SHARED_KINDS = ("dense", "teachers", "scores", "rounds")


def shared_stages(store: Store) -> list[Row]:
    """Return a row per fine-tuned network, outputs of one that taught, set of scores, and network that a round left.

    And per working checkpoint; complete or not.

    A row has `kind, id, what` (dataset, seed and criterion, and the settings that tell it from others of the same),
    `bytes`, `used_by` (the number of trials that were made with it) and `needed`: a trial that a sweep wants, and that
    is not completed, may use it. The network that a round of iterative pruning left (`rounds`) is needed by the trials
    that build on it alone.

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
    used = Counter(stage for stages in used_stages(store).values() for stage in stages)
    built_on, rows = {row["builds_on"] for row in left}, []
    metas = {(kind, key): store.artifact(kind, key) or {} for kind in SHARED_KINDS for key in store.artifacts(kind)}
    names = _names(store, metas)
    for kind, key in sorted(metas, key=lambda stage: (SHARED_KINDS.index(stage[0]), natural(names[stage]))):
        about = _of_dense(metas, kind, key)
        needed = (about.get("dataset"), about.get("seed")) in tasks if about else bool(left)
        rows.append(
            {
                "kind": kind,
                "id": key,
                "what": names[kind, key],
                "bytes": sum(size for _, size in _files(store, f"artifacts/{kind}/{key}")),
                "used_by": used[kind, key],
                "needed": key in built_on if kind == "rounds" else needed,
            }
        )
    for name, size in _files(store, "artifacts/_checkpoints"):
        key = name.rpartition("/")[2].removesuffix(".safetensors")
        whose = {"kind": "checkpoint", "id": key, "what": "work under way", "bytes": size, "used_by": 0}
        # Named by a trial, or by a shared stage: which trials want that is not known here.
        rows.append(whose | {"needed": key in ids or (bool(left) and key not in statuses)})
    return rows


def _of_dense(metas: Mapping[StageKey, Row], kind: str, key: str) -> Row:
    """Return the spec of the fine-tuned network that a stage is or was made with; empty where it is not known."""
    meta = metas[kind, key]
    dense = meta if kind == "dense" else metas.get(("dense", str(meta.get("dense_id"))), {})
    return dict(dense.get("spec", {}))


def _names(store: Store, metas: Mapping[StageKey, Row]) -> dict[StageKey, str]:
    """Name each stage by its dataset, seed and criterion, or as the round that it is; and by what tells it from others.

    What tells it are the settings in which stages differ that would have the same name without them.
    """
    rounds, alike = _rounds(store), defaultdict[tuple[str, str], list[StageKey]](list)
    settings: dict[StageKey, Row] = {}
    for (kind, key), meta in metas.items():
        about = _of_dense(metas, kind, key)
        name = f"{about.get('dataset', '?')} seed {about.get('seed', '?')}"
        if kind == "rounds":
            name, about = rounds.get(key, ("of a round", {}))
        elif kind == "scores":
            about |= meta.get("spec", {})
            name += f" {about.get('criterion', '')}".rstrip()
        alike[kind, name if meta else "incomplete"].append((kind, key))
        settings[kind, key] = _flat(about)
    return {
        stage: name + differences
        for (_, name), same in alike.items()
        for stage, differences in _differences({stage: settings[stage] for stage in same}).items()
    }


def _rounds(store: Store) -> dict[str, tuple[str, Row]]:
    """Return the names of the trials that are rounds of iterative pruning, and their settings, by id."""
    columns = ["trial_id", "dataset", "seed", "strategy", "arm", "round", "spec"]
    rows = store.read("trials", columns, ds.field("round").is_valid()).table.to_pylist()
    return {
        row["trial_id"]: (
            f"{row['dataset']} seed {row['seed']} {row['arm'] or row['strategy']} round {row['round']}",
            {
                name: value
                for name, value in json.loads(row["spec"] or "{}").items()
                if name not in ("previous", "chain")
            },
        )
        for row in rows
    }


def _differences(settings: Mapping[StageKey, Row]) -> dict[StageKey, str]:
    """Write the settings of each stage in which some of them differ: ` (shift=0.1, dropout=True)`."""
    names = dict.fromkeys(name for some in settings.values() for name in some)
    told = [name for name in names if len({repr(some.get(name)) for some in settings.values()}) > 1]
    texts = {}
    for stage, some in settings.items():
        words = ", ".join(f"{name}={_short(some[name])}" for name in told if name in some)
        texts[stage] = f" ({words})" if words else ""
    return texts


def _flat(settings: Mapping[str, Any], begin: str = "") -> Row:
    found: Row = {}
    for name, value in settings.items():
        found |= _flat(value, f"{begin}{name}.") if isinstance(value, Mapping) else {begin + name: value}
    return found


def _short(value: Any) -> str:
    """Write a value, of an id or a digest its first 8 digits."""
    text = str(value)
    return text[:8] if re.fullmatch("[0-9a-f]{16,}", text) else text


def _files(store: Store, folder: str) -> Iterator[tuple[str, int]]:
    for info in store.listing(folder, recursive=True):
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


def remove_checkpoints(store: Store, trial_ids: Collection[str]) -> None:
    """Remove what completed trials saved as they ran, which a kill at their end leaves behind. Raises OSError."""
    for name in store.names("artifacts/_checkpoints", ".safetensors"):
        if name.removesuffix(".safetensors").removesuffix("-scoring") in trial_ids:
            store.delete(f"artifacts/_checkpoints/{name}")


def remove_stage(store: Store, kind: str, key: str) -> None:
    """Remove an artifact, its meta first. Raises OSError."""
    store.delete(f"artifacts/{kind}/{key}/meta.json")
    store.remove_folder(f"artifacts/{kind}/{key}")
