"""Where the kept weights are: density per layer, and which rows, columns and heads are gone.

O = outputs (neurons) of a layer, I = its inputs. Masks stay packed, but for rows that do not end with a byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deepcuts.model.folder import heads_of
from deepcuts.names import find_id, layer_kind
from deepcuts.store.store import Store

DENSITY_COLUMNS = [
    *("trial_id", "layer", "parameter", "depth", "kind", "size", "kept", "density"),
    *("rows", "columns", "dead_rows", "dead_columns", "heads", "dead_heads"),
]

_LIGHT = ["trial_id", "layer", "parameter", "shape", "size", "kept"]
_BY_ROWS = ("query", "key", "value")


def density(store: Store, trial_ids: Sequence[str] | None = None, heads: int | None = None) -> pd.DataFrame:
    """Per trial and pruned tensor: `depth` and `kind` of its layer (`names.layer_kind`), its `size`, the weights
    `kept` and their share `density`; of a matrix (O, I) also `dead_rows` of its `rows` (neurons without an input),
    `dead_columns` (inputs that nothing uses) and, in attention, `dead_heads` of its `heads`: those with all their
    rows dead (query, key, value) or all their columns (attention output).

    `trial_ids` are ids or unique prefixes (default: all completed trials with masks). `heads` is the number of
    attention heads; by default that of the model's config, where the model is a folder on this machine or the toy,
    else null. What cannot be read is left out and named in `.attrs["damaged"]`. Raises ValueError for unknown ids.
    """
    read = store.read("trials", ["trial_id", "status", "strategy", "model"])
    known = read.table.to_pandas().drop_duplicates("trial_id")
    if trial_ids is None:
        wanted = list(known.loc[(known["status"] == "completed") & (known["strategy"] != "Dense"), "trial_id"])
    else:
        wanted = [find_id(trial_id, known["trial_id"]) for trial_id in trial_ids]
    models = dict(zip(known["trial_id"], known["model"], strict=True))
    counts = {model: heads or heads_of(model) for model in {models[trial_id] for trial_id in wanted}}
    damaged = dict(read.damaged)
    rows: list[dict[str, object]] = []
    for trial_id in sorted(wanted):
        rows += _of_trial(store, trial_id, counts[models[trial_id]], damaged)
    frame = pd.DataFrame(rows, columns=DENSITY_COLUMNS).astype(dict.fromkeys(DENSITY_COLUMNS[-6:] + ["depth"], "Int64"))
    frame.attrs["damaged"] = damaged
    return frame


def _of_trial(store: Store, trial_id: str, heads: int | None, damaged: dict[str, str]) -> list[dict[str, object]]:
    """The rows of one trial, from its own file or else from the compacted ones."""
    own = store.path("masks", f"{trial_id}.parquet")
    names = store.names("masks", ".parquet")
    shared = [store.path("masks", name) for name in names if name.startswith("compact-")]
    for path in ([own] if f"{trial_id}.parquet" in names else []) + shared:
        try:
            table = pq.read_table(
                path, columns=[*_LIGHT, "bits"], filters=ds.field("trial_id") == trial_id, filesystem=store.filesystem
            )
            if len(table):
                return [_counted(table, place, heads) for place in range(len(table))]
        except (pa.ArrowException, OSError, ValueError) as error:
            damaged[path] = str(error).splitlines()[0]
    if own not in damaged:
        damaged[own] = "missing, though its trial is completed"
    return []


def _counted(table: pa.Table, place: int, heads: int | None) -> dict[str, object]:
    """One tensor's counts. Raises ValueError where its bits are not those of its shape and count."""
    mask = {name: table[name][place].as_py() for name in _LIGHT}
    bits = np.frombuffer(table["bits"][place].as_buffer(), np.uint8)
    if len(bits) != (mask["size"] + 7) // 8 or int(np.bitwise_count(bits).sum(dtype=np.int64)) != mask["kept"]:
        raise ValueError(f"{mask['trial_id']} {mask['layer']}.{mask['parameter']}: its bits are not what was recorded")
    depth, kind = layer_kind(mask["layer"])
    row = {name: mask[name] for name in ("trial_id", "layer", "parameter", "size", "kept")}
    row |= {"depth": depth, "kind": kind, "density": mask["kept"] / mask["size"]}
    if len(mask["shape"]) != 2:
        return row
    alive = _alive(bits, *mask["shape"])
    row |= {name: len(some) for name, some in zip(("rows", "columns"), alive, strict=True)}
    row |= {f"dead_{name}": int((~some).sum()) for name, some in zip(("rows", "columns"), alive, strict=True)}
    side = alive[0] if kind in _BY_ROWS else alive[1]
    if heads and (kind in _BY_ROWS or kind == "attention output") and len(side) % heads == 0:
        row |= {"heads": heads, "dead_heads": int((~side.reshape(heads, -1).any(axis=1)).sum())}
    return row


def _alive(bits: NDArray[np.uint8], rows: int, columns: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows (O,) and which columns (I,) of a packed matrix keep any weight."""
    if columns % 8:
        whole = np.unpackbits(bits, count=rows * columns, bitorder="little").reshape(rows, columns)
        return np.asarray(whole.any(axis=1)), np.asarray(whole.any(axis=0))
    packed = bits.reshape(rows, columns // 8)
    kept = np.bitwise_or.reduce(packed, axis=0)
    return np.asarray(packed.any(axis=1)), np.unpackbits(kept, bitorder="little").astype(np.bool_)
