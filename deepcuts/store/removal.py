"""Removes trials and sweeps from a store for good, with what nobody else needs of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from deepcuts.names import nearest
from deepcuts.store.cache import remove_stage, stages_after
from deepcuts.store.code import remove_unused_code
from deepcuts.store.compact import MERGED_TABLES
from deepcuts.store.salvage import write_without
from deepcuts.store.store import Store
from deepcuts.store.tables import Row
from deepcuts.store.used_stages import used_stages


@dataclass(frozen=True)
class Removal:
    """What `remove` takes away: trials by id, a sweep, and the shared stages that only those trials were made with."""

    trials: tuple[str, ...]
    sweep: str | None
    stages: tuple[Row, ...]

    @property
    def bytes(self) -> int:
        """The size of the shared stages."""
        return sum(stage["bytes"] for stage in self.stages)


def plan_removal(store: Store, trials: Collection[str], sweep: str | None = None) -> Removal:
    """Say what removing trials, or a sweep with the trials that no other sweep wants, would take away.

    A shared stage goes where only these trials were made with it, and so does the network that one of them left as a
    round, but for what a trial that is still to run needs. Raises ValueError for a sweep that the store does not have.

    >>> dc.plan_removal(store, trials["trial_id"][:1])
    """
    ids = set(trials)
    if sweep is not None:
        wanted = store.read("sweeps", ["sweep", "trial_id"]).table.to_pylist()
        check_sweep(sweep, {row["sweep"] for row in wanted})
        ids -= {row["trial_id"] for row in wanted if row["sweep"] != sweep}
    used = used_stages(store)
    theirs = set().union(*(used[trial] for trial in ids & used.keys()))
    of_others = set().union(*(stages for trial, stages in used.items() if trial not in ids))
    left = {("rounds", trial) for trial in ids}  # the networks that the trials themselves left
    alone = (theirs - of_others) | left
    stages = [row for row in stages_after(store, ids, sweep) if (row["kind"], row["id"]) in alone and not row["needed"]]
    return Removal(tuple(sorted(ids & used.keys())), sweep, tuple(stages))


def check_sweep(sweep: str, known: Collection[str]) -> None:
    """Raise ValueError for a sweep that the store does not have, naming the nearest known one."""
    if sweep not in known:
        there = ", ".join(sorted(known)) or "none"
        raise ValueError(f"unknown sweep {sweep!r}{nearest(sweep, known) or ';'} the store has {there}")


def remove(store: Store, removal: Removal) -> None:
    """Remove what was planned. A kill at any moment leaves trials that are whole, or that have not run, and the sweep.

    Raises OSError; before anything is removed where a compacted file that has rows of the trials is damaged.

    >>> dc.remove(store, dc.plan_removal(store, []))
    """
    ids = set(removal.trials)
    tables = [(table, *_with_rows(store, table, ids)) for table in reversed(MERGED_TABLES)]
    _write_anew(store, [f"{table}/{name}" for table, _, compacted in tables for name in compacted], ids)
    for table, own, compacted in tables:  # the row in `trials` first: a trial is then one that has not run
        for name in (*compacted, *own):
            store.delete(f"{table}/{name}")
    for trial_id in removal.trials:
        for work in ("", "-scoring"):
            store.delete(f"artifacts/_checkpoints/{trial_id}{work}.safetensors")
        if trial_id in store.artifacts("models"):
            remove_stage(store, "models", trial_id)
    for stage in removal.stages:
        remove_stage(store, stage["kind"], stage["id"])
    if removal.sweep is not None:  # last, so that the same command goes on after a kill
        for suffix in (".yaml", ".parquet"):
            store.delete(f"sweeps/{removal.sweep}{suffix}")
    remove_unused_code(store)


def _with_rows(store: Store, table: str, ids: set[str]) -> tuple[list[str], list[str]]:
    """Return the files of the trials themselves, and the compacted ones that have rows of them."""
    own, compacted = store.files(table)
    return [name for name in own if name.removesuffix(".parquet") in ids], [
        name for name in compacted if ids & set(store.read_files(table, [name], ["trial_id"])["trial_id"].to_pylist())
    ]


def _write_anew(store: Store, names: Sequence[str], ids: set[str]) -> None:
    """Write compacted files without the rows of the trials, beside the old ones: rows that are there twice count once.

    All of them or none. Raises OSError.
    """
    written: list[str] = []
    try:
        for name in names:
            written += [made for made in [write_without(store, name, ids)] if made]
    except OSError:
        for made in written:
            store.delete(made)
        raise
