"""Counts where the kept weights are: density per layer, and which rows, columns and heads are gone.

O = outputs (neurons) of a layer, I = its inputs, T = trials, W = words of 64 bits. Masks stay packed, except where
the rows of a matrix do not end with a byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepcuts.model.folder import heads_of
from deepcuts.names import layer_kind
from deepcuts.pruning.bits import Words
from deepcuts.store.masks import BitsPlace, MaskReader, PrunedTensor
from deepcuts.store.store import Store
from deepcuts.store.tables import Row

DENSITY_COLUMNS = [
    *("trial_id", "layer", "parameter", "depth", "kind", "size", "kept", "density"),
    *("rows", "columns", "dead_rows", "dead_columns", "heads", "dead_heads"),
]

_BY_ROWS = ("query", "key", "value")


def density(store: Store, trial_ids: Sequence[str] | None = None, heads: int | None = None) -> pd.DataFrame:
    """Return where the weights that trials keep are: a row per trial and pruned tensor.

    A row has `depth` and `kind` of the tensor's layer (`names.layer_kind`), its `size`, the weights `kept` and their
    share `density`; of a matrix (O, I) also `dead_rows` of its `rows` (neurons without an input), `dead_columns` of
    its `columns` (inputs that nothing uses) and, in attention, `dead_heads` of its `heads`: those with all their rows
    dead (query, key, value) or all their columns (attention output).

    `trial_ids` are ids or unique prefixes (default: all completed trials with masks). `heads` is the number of
    attention heads; by default that of the model's config, if the model is a folder on this machine or the toy, else
    null. Masks that are missing or damaged are left out and named in `.attrs["damaged"]` (path to reason). Raises
    ValueError for an unknown trial.

    >>> dc.density(store)[["layer", "density", "dead_rows", "dead_heads"]]
    """
    masks = MaskReader(store)
    masks.find(trial_ids)
    return DensityCounts(masks, heads).frame()


class DensityCounts:
    """Counts the masks of the trials that a reader found, each tensor when it is read: by others, or for the frame."""

    def __init__(self, masks: MaskReader, heads: int | None) -> None:
        self._masks = masks
        self._heads: dict[str, int | None] | int = heads or {}  # by model
        self._rows: dict[tuple[str, PrunedTensor], Row] = {}

    def count(self, tensor: PrunedTensor, trial_ids: Sequence[str], loaded: Words) -> None:
        """Count one tensor of some trials, whose bits are (T, W)."""
        for trial_id, packed in zip(trial_ids, loaded, strict=True):
            if trial_id not in self._masks.broken:
                place = self._masks.places[trial_id][tensor]
                counts = _counted(tensor, place, packed, self._heads_of(trial_id))
                self._rows[trial_id, tensor] = {"trial_id": trial_id, **counts}

    def _heads_of(self, trial_id: str) -> int | None:
        if isinstance(self._heads, int):
            return self._heads
        model = self._masks.trials[trial_id]["model"]
        if model not in self._heads:
            self._heads[model] = heads_of(model)
        return self._heads[model]

    def frame(self) -> pd.DataFrame:
        """Read and count what was not counted yet; return the frame of `density`, sorted by trial."""
        masks, rows = self._masks, []
        for trial_id in sorted(masks.places):
            self._count_rest(trial_id)
            if trial_id not in masks.broken:
                rows += [self._rows[trial_id, tensor] for tensor in masks.places[trial_id]]
        frame = pd.DataFrame(rows, columns=DENSITY_COLUMNS)
        frame = frame.astype(dict.fromkeys([*DENSITY_COLUMNS[-6:], "depth"], "Int64"))
        frame.attrs["damaged"] = masks.damaged
        return frame

    def _count_rest(self, trial_id: str) -> None:
        left = [tensor for tensor in self._masks.places[trial_id] if (trial_id, tensor) not in self._rows]
        if left and trial_id not in self._masks.broken:
            with self._masks.opened([trial_id]) as files:
                for tensor in left:
                    self.count(tensor, [trial_id], self._masks.load(tensor, [trial_id], files))


def _counted(tensor: PrunedTensor, place: BitsPlace, packed: Words, heads: int | None) -> Row:
    """Count one tensor's mask (W,)."""
    depth, kind = layer_kind(tensor.layer)
    row: Row = {"layer": tensor.layer, "parameter": tensor.parameter, "depth": depth, "kind": kind}
    row |= {"size": tensor.size, "kept": place.kept, "density": place.kept / tensor.size}
    if len(place.shape) != 2:
        return row
    alive = _alive(tensor.bits(packed), *place.shape)
    row |= {name: len(some) for name, some in zip(("rows", "columns"), alive, strict=True)}
    row |= {f"dead_{name}": int((~some).sum()) for name, some in zip(("rows", "columns"), alive, strict=True)}
    side = alive[0] if kind in _BY_ROWS else alive[1]
    if heads and (kind in _BY_ROWS or kind == "attention output") and len(side) % heads == 0:
        row |= {"heads": heads, "dead_heads": int((~side.reshape(heads, -1).any(axis=1)).sum())}
    return row


def _alive(bits: NDArray[np.uint8], rows: int, columns: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tell which rows (O,) and which columns (I,) of a packed matrix keep any weight."""
    if columns % 8:
        whole = np.unpackbits(bits, count=rows * columns, bitorder="little").reshape(rows, columns)
        return np.asarray(whole.any(axis=1)), np.asarray(whole.any(axis=0))
    packed = bits.reshape(rows, columns // 8)
    kept = np.bitwise_or.reduce(packed, axis=0)
    return np.asarray(packed.any(axis=1)), np.unpackbits(kept, bitorder="little").astype(np.bool_)
