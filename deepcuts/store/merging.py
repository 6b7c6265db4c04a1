"""Brings stores together, and gives a sweep of a store another name."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from shlex import quote
from shutil import copyfile

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from deepcuts.names import valid_name
from deepcuts.store.checksums import seal_text, text_state, unsealed_text
from deepcuts.store.code import all_code, keep_code, kept_code
from deepcuts.store.compact import MERGED_TABLES
from deepcuts.store.disk import patient
from deepcuts.store.removal import check_sweep
from deepcuts.store.store import Store
from deepcuts.store.tables import Row, encode_table, in_schema

TRIALS_AT_ONCE = 100
# How many rows of a file are read at once. Those of masks are large.
ROWS_AT_ONCE = {"masks": 16, "predictions": 1 << 16, "metrics": 1 << 16, "trials": 1 << 10}
ARTIFACTS = ("dense", "teachers", "scores", "rounds", "models")
# How much a row tells of a trial, by its state: more counts.
_TELLS = {"interrupted": 1, "failed": 2, "completed": 3}
# The results in a row of each table. All else is when, where and by which version a trial ran, or a name: folders of
# models and data differ between machines, and are no part of a trial's id.
_RESULTS = {
    "trials": (
        *("status", "metric", "dense", "pruned", "rewound", "retrained"),
        *("parameters", "prunable", "kept", "compression_achieved", "sparsity"),
    ),
    "metrics": ("stage", "epoch", "step", "split", "metric", "value"),
    "masks": ("layer", "parameter", "shape", "size", "kept", "bits"),
}


@dataclass(frozen=True)
class Merged:
    """What a merge brought over: trials, sweeps and artifacts; and the trials that both had, with other results."""

    trials: tuple[str, ...]
    sweeps: tuple[str, ...]
    artifacts: int
    conflicts: tuple[str, ...]


def merge_stores(store: Store, other: Store) -> Merged:
    """Copy into a store what another has and it lacks: trials, sweeps and artifacts. The other is only read.

    A trial that both completed is there once: as it is in the first. Where the results differ it is a conflict, and
    named; a completed trial replaces a failed one, and a failed one an interrupted one. Sweeps keep their age.

    A kill at any moment leaves a store that the same merge completes. Raises ValueError, before anything is written,
    where both have a sweep of one name with different trials, or the two stores are one; OSError where a file of the
    other store is damaged.

    >>> dc.merge_stores(store, dc.Store("of-another-machine"))
    """
    if store.address == other.address:
        raise ValueError(f"{other.uri!r} is the store itself; name another one")
    sweeps = _new_sweeps(store, other)
    mine, theirs = store.statuses(), _sound(other)
    new = sorted(key for key, state in theirs.items() if _TELLS[state] > _TELLS.get(mine.get(key, ""), 0))
    both = sorted(key for key, state in theirs.items() if mine.get(key) == "completed" == state)
    conflicts = tuple(sorted(_conflicts(store, other, both)))
    artifacts = sum(_copy_artifact(store, other, kind, key) for kind in ARTIFACTS for key in other.artifacts(kind))
    for digest in all_code(other):
        if (text := kept_code(other, digest)) is not None:
            keep_code(store, text)
    for start in range(0, len(new), TRIALS_AT_ONCE):
        _copy_trials(store, other, new[start : start + TRIALS_AT_ONCE])
    for sweep in sorted(_wanted(other), key=lambda name: _age(other, name)):
        if other.exists(text := f"sweeps/{sweep}.yaml") and not store.exists(text):
            store.write_bytes(text, other.read_bytes(text))
        if sweep in sweeps:
            rows = other.read("sweeps", where=ds.field("sweep") == sweep).table.to_pylist()
            _write_sweep_of_age(store, sweep, rows, _age(other, sweep))
    return Merged(tuple(new), tuple(sweeps), artifacts, conflicts)


def _sound(other: Store) -> dict[str, str]:
    statuses, damaged = other.read_statuses()
    for path, reason in damaged.items():
        raise other.damage(path, reason)
    return statuses


def _wanted(store: Store) -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {}
    for row in store.read("sweeps", ["sweep", "trial_id"]).table.to_pylist():
        wanted.setdefault(row["sweep"], set()).add(row["trial_id"])
    return wanted


def _age(store: Store, sweep: str) -> int:
    """Return when the table of a sweep was last written, in ns: views show the sweep that was run last."""
    return int(store.info("sweeps", f"{sweep}.parquet").mtime_ns or 0)


def _write_sweep_of_age(store: Store, sweep: str, rows: Sequence[Row], age: int) -> None:
    """Write the table of a sweep as one that was run before; in a bucket it counts as run now."""
    store.write("sweeps", sweep, rows)
    if store.local and age:
        os.utime(store.path("sweeps", f"{sweep}.parquet"), ns=(age, age))


def _new_sweeps(store: Store, other: Store) -> list[str]:
    """Return the sweeps that the store lacks. Raises ValueError for one name of two sweeps."""
    mine, theirs = _wanted(store), _wanted(other)
    for sweep in sorted(mine.keys() & theirs.keys()):
        if mine[sweep] != theirs[sweep]:
            raise ValueError(
                f"both stores have a sweep {sweep!r}, with different trials ({len(mine[sweep])} here,"
                f" {len(theirs[sweep])} there); rename one first: deepcuts rename {quote(store.uri)} {sweep} NEW"
            )
    return sorted(theirs.keys() - mine.keys())


def _conflicts(store: Store, other: Store, ids: Sequence[str]) -> Iterator[str]:
    """Yield the trials whose results (_RESULTS) differ in the two stores."""
    for start in range(0, len(ids), TRIALS_AT_ONCE):
        some = ids[start : start + TRIALS_AT_ONCE]
        found = [_digests(each, some) for each in (store, other)]
        yield from (key for key in some if found[0].get(key) != found[1].get(key))


def _digests(store: Store, ids: Sequence[str]) -> dict[str, str]:
    """Return a checksum of the results of each trial, by id."""
    digests = {key: hashlib.sha256() for key in ids}
    for table, columns in _RESULTS.items():
        for key, rows in _trials_of(store, table, ids):
            results = sorted(repr(list(row.values())) for row in rows.select(columns).to_pylist())
            digests[key].update("\n".join(results).encode())
    return {key: digest.hexdigest() for key, digest in digests.items()}


def _trials_of(store: Store, table: str, ids: Collection[str]) -> Iterator[tuple[str, pa.Table]]:
    """Yield trials with their rows, one at a time: the predictions of a hundred may need more memory than there is.

    Raises OSError where a file is damaged.
    """
    own, compacted = store.files(table)
    hidden = store.superseded(table, own, compacted, ())
    files = [(name, {key}) for name in own if (key := name.removesuffix(".parquet")) in ids]
    files += [(name, set(ids) - hidden[store.path(table, name)]) for name in compacted]
    for name, mine in ((name, mine) for name, mine in files if mine):
        try:
            yield from _patiently(store, table, name, mine)
        except (pa.ArrowException, OSError) as error:
            raise store.damage(store.path(table, name), error) from error


def _patiently(store: Store, table: str, name: str, ids: Collection[str]) -> Iterator[tuple[str, pa.Table]]:
    """Yield what `_trials_in` does. Where its handle is stale, open the file again for the trials that are left."""
    left = set(ids)
    trials: Iterator[tuple[str, pa.Table]] | None = None

    @patient
    def following() -> tuple[str, pa.Table] | None:
        nonlocal trials
        trials = trials or _trials_in(store, table, name, left)
        try:
            return next(trials, None)
        except OSError:
            trials = None
            raise

    while left and (found := following()):
        yield found
        left.discard(found[0])


def _trials_in(store: Store, table: str, name: str, ids: Collection[str]) -> Iterator[tuple[str, pa.Table]]:
    """Yield those of the trials that a file has; in a compacted one the rows of a trial follow each other."""
    key, parts, wanted = "", list[pa.Table](), pa.array(ids, pa.string())
    source = store.filesystem.open_input_file(store.path(table, name))
    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        groups = [group for group in range(file.num_row_groups) if _may_have(file.metadata.row_group(group), ids)]
        for batch in file.iter_batches(ROWS_AT_ONCE[table], groups):
            rows = in_schema(table, pa.Table.from_batches([batch]))
            rows = rows.filter(pc.is_in(rows["trial_id"], wanted))
            for found in pc.unique(rows["trial_id"]).to_pylist():
                if parts and found != key:
                    yield key, pa.concat_tables(parts)
                    parts.clear()
                key = found
                parts.append(rows.filter(pc.equal(rows["trial_id"], found)))
    if parts:
        yield key, pa.concat_tables(parts)


def _may_have(group: pq.RowGroupMetaData, ids: Collection[str]) -> bool:
    """Whether a row group may have rows of the trials, by the statistics of its first column, `trial_id`."""
    known = group.column(0).statistics
    return known is None or not known.has_min_max or (known.min <= max(ids) and min(ids) <= known.max)


def _copy_trials(store: Store, other: Store, ids: Sequence[str]) -> None:
    for table in MERGED_TABLES:  # the row in `trials` last, as trials publish them
        for key, rows in _trials_of(other, table, ids):
            store.write_bytes(f"{table}/{key}.parquet", encode_table(table, rows))


def _copy_artifact(store: Store, other: Store, kind: str, key: str) -> bool:
    """Copy an artifact that is whole there and missing here; say whether there was one."""
    meta = other.artifact(kind, key)
    if meta is None or store.artifact(kind, key) is not None:
        return False
    about = {name: value for name, value in meta.items() if name not in ("files", "checksum")}
    with store.new_artifact(kind, key, about) as folder:
        for file in meta["files"]:
            with other.open_artifact(kind, key, file) as source:
                patient(copyfile)(source, folder / file)
    return True


def rename_sweep(store: Store, sweep: str, name: str) -> int:
    """Give a sweep another name, in its table, its file and the rows of its trials; return how many rows changed.

    The ids of trials have no part of a name, so nothing runs again. A kill at any moment leaves rows of both names,
    and the same command completes it. The sweep keeps its age. Raises ValueError for an unknown sweep, and for a name
    that is its own, that is taken or that no sweep may have; OSError, before anything is written, where the file of
    the sweep is damaged.

    >>> dc.rename_sweep(store, sweep.name, "first-try")
    """
    wanted = _wanted(store)
    check_sweep(sweep, wanted)
    valid_name(name)
    if name == sweep:
        raise ValueError(f"the sweep has the name {name!r} already; choose another name")
    if name in wanted and wanted[name] != wanted[sweep]:
        raise ValueError(f"the store already has a sweep {name!r}, with different trials; choose another name")
    settings = _settings(store, f"sweeps/{sweep}.yaml")
    rows = store.read("sweeps", where=ds.field("sweep") == sweep).table.to_pylist()
    _write_sweep_of_age(store, name, [row | {"sweep": name} for row in rows], _age(store, sweep))
    if settings is not None:
        text = re.sub(r"^name: .*$", f'name: "{name}"', settings, count=1, flags=re.MULTILINE)
        store.write_bytes(f"sweeps/{name}.yaml", seal_text(text))
    ran = store.read("trials", where=ds.field("sweep") == sweep).table.to_pylist()
    for row in ran:
        store.write("trials", row["trial_id"], [row | {"sweep": name}])
    for suffix in (".yaml", ".parquet"):
        store.delete(f"sweeps/{sweep}{suffix}")
    return len(ran)


def _settings(store: Store, name: str) -> str | None:
    """Return the text of a sweep; None where the store has none. Raises OSError where it is damaged."""
    if not store.exists(name):
        return None
    content = store.read_bytes(name)
    if text_state(content) == "damaged":
        raise store.damage(store.path(name), "it is not what was written")
    return unsealed_text(content)
