"""Mask overlap of all pairs of trials, per layer and for the whole network, beside what chance alone gives.

T = trials, P = pairs of trials, W = words of 64 bits. Masks stay packed; they are read tensor by tensor for a
block of trials at a time, so that memory does not grow with the number of trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deepcuts.experiment.metrics import Floats
from deepcuts.names import find_id, layer_kind, natural
from deepcuts.pruning.bits import Words, count_pairs, words
from deepcuts.store.store import Store

# A block of trials has one tensor of each in memory, and their files open.
_BLOCK_BYTES = 1 << 28
_BLOCK_TRIALS = 128

Tensor = tuple[str, str, int]  # layer, parameter, size
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class BitsPlace:
    """Where the bits of one tensor of one mask lie, and how many of them are ones."""

    path: str
    group: int
    row: int
    kept: int


@dataclass
class MaskReader:
    """The masks of some trials of a store, by place; what cannot be read is named (path to reason)."""

    store: Store
    places: dict[str, dict[Tensor, BitsPlace]] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def find(self, wanted: Iterable[str]) -> None:
        """Look the wanted trials up in the file of its own that a trial has, else in the compacted ones."""
        missing = set(wanted)
        names = self.store.names("masks", ".parquet")
        own = [name for name in names if name.removesuffix(".parquet") in missing]
        for name in own + [name for name in names if name.startswith("compact-")]:
            path = self.store.path("masks", name)
            try:
                found = _index(self.store, path)
            except (pa.ArrowException, OSError) as error:
                self.damaged[path] = str(error).splitlines()[0]
                continue
            self.places |= {trial_id: places for trial_id, places in found.items() if trial_id in missing}
            missing -= set(found)

    def load(self, tensor: Tensor, trials: Sequence[str], files: Mapping[str, pq.ParquetFile]) -> Words:
        """One tensor's bits of each trial as (T, W); a row that cannot be read is zero, its trial broken."""
        loaded = np.zeros((len(trials), (tensor[2] + 63) // 64), np.uint64)
        for row, trial_id in zip(loaded, trials, strict=True):
            place = self.places[trial_id][tensor]
            try:
                _fill(row, tensor[2], place, files[place.path])
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                self.damaged[place.path] = f"{trial_id} {tensor[0]}.{tensor[1]}: {reason}"
                self.broken.add(trial_id)
        return loaded


def _open(store: Store, path: str) -> pq.ParquetFile:
    return pq.ParquetFile(store.filesystem.open_input_file(path))


def _index(store: Store, path: str) -> dict[str, dict[Tensor, BitsPlace]]:
    """Every trial in a file of masks, with the place of each of its tensors."""
    with _open(store, path) as file:
        table = file.read(["trial_id", "layer", "parameter", "size", "kept"], use_threads=False)
        lengths = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    rows = ((group, row) for group, length in enumerate(lengths) for row in range(length))
    found: dict[str, dict[Tensor, BitsPlace]] = {}
    for (group, row), mask in zip(rows, table.to_pylist(), strict=True):
        tensor = (mask["layer"], mask["parameter"], mask["size"])
        found.setdefault(mask["trial_id"], {})[tensor] = BitsPlace(path, group, row, mask["kept"])
    return found


def _fill(out: Words, size: int, place: BitsPlace, file: pq.ParquetFile) -> None:
    """Read one tensor's bits into `out` (W,). Raises OSError where they are not what was recorded."""
    group = file.read_row_group(place.group, ["bits"], use_threads=False)
    bits = group.column("bits")[place.row].as_buffer()
    if bits.size != (size + 7) // 8:
        raise OSError(f"{bits.size:,} bytes hold no mask of {size:,} weights")
    words(memoryview(bits), out)
    if (ones := int(np.bitwise_count(out).sum(dtype=np.int64))) != place.kept:
        raise OSError(f"{ones:,} weights are kept where {place.kept:,} were recorded")


def overlap(
    store: Store, trial_ids: Sequence[str] | None = None, common: bool = False, by_kind: bool = False
) -> pd.DataFrame:
    """Overlap of the masks of all unordered pairs of trials: a row for the whole network (`layer` null) and
    one for each layer, with `trial_a, trial_b, layer` and the MEASURES (null where they are 0/0).

    With `by_kind` the rows are those of kinds of layers (query, key, ... pooler), the layers of each together.

    `trial_ids` are ids or unique prefixes; without them all completed trials that have masks are compared.
    With `common`, masks of different models are compared on the tensors that all of them have.
    Masks that are missing or damaged are left out and named in `.attrs["damaged"]` (path to reason).

    Raises ValueError for an unknown trial or one without masks, fewer than two trials, and different models.
    """
    masks = MaskReader(store)
    ids = _choose(masks, trial_ids)
    if not common:
        _check_models(store, ids)
    tensors = _tensors(masks, ids, common)
    names = {layer: layer_kind(layer)[1] if by_kind else layer for layer, _, _ in tensors}
    blocks = [ids[block] for block in _blocks(len(ids), max(size for _, _, size in tensors))]
    parts = [_compare(masks, tensors, names, *pair) for pair in combinations_with_replacement(blocks, 2)]
    frame = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    if masks.broken:
        sound = ~(frame["trial_a"].isin(masks.broken) | frame["trial_b"].isin(masks.broken))
        frame = frame[sound].reset_index(drop=True)
    frame.attrs["damaged"] = masks.damaged
    return frame


def _choose(masks: MaskReader, trial_ids: Sequence[str] | None) -> list[str]:
    """The ids of the trials to compare, after looking up their masks."""
    rows = masks.store.read("trials", ["trial_id", "status", "strategy"]).table.to_pylist()
    completed = {row["trial_id"]: row["strategy"] for row in rows if row["status"] == "completed"}
    if trial_ids is None:
        wanted = sorted(trial_id for trial_id, strategy in completed.items() if strategy != "Dense")
    else:
        known = {row["trial_id"] for row in rows}
        wanted = list(dict.fromkeys(find_id(trial_id, known) for trial_id in trial_ids))
    masks.find(wanted)
    for trial_id in wanted:
        path = masks.store.path("masks", f"{trial_id}.parquet")
        if trial_id in masks.places or path in masks.damaged:
            continue
        what = completed.get(trial_id, "failed")
        if what in ("Dense", "failed"):
            raise ValueError(f"trial {trial_id!r} ({what}) has no masks in {masks.store.uri!r}")
        masks.damaged[path] = "missing, though its trial is completed"
    ids = [trial_id for trial_id in wanted if trial_id in masks.places]
    if len(ids) < 2:
        left_out = "".join(f"; {path}: {reason}" for path, reason in masks.damaged.items())
        raise ValueError(
            f"overlap needs the masks of two trials; {masks.store.uri!r} has {len(ids)} to compare{left_out}"
        )
    return ids


def _check_models(store: Store, ids: Sequence[str]) -> None:
    rows = store.read("trials", ["model"], ds.field("trial_id").isin(ids)).table
    models = sorted(map(repr, set(rows.column("model").to_pylist())))
    if len(models) > 1:
        raise ValueError(
            f"masks of different models cannot be compared: {', '.join(models)}; choose trials of one model,"
            " or the tensors that they have in common (--common)"
        )


def _tensors(masks: MaskReader, ids: Sequence[str], common: bool) -> list[Tensor]:
    """The tensors to compare, layers in natural order. Raises ValueError where the trials' tensors differ."""
    first = set(masks.places[ids[0]])
    shared = first
    for trial_id in ids[1:]:
        if not common and (odd := first ^ set(masks.places[trial_id])):
            layer, parameter, size = min(odd)
            raise ValueError(
                f"the masks of {ids[0]!r} and {trial_id!r} cannot be compared: only one of them has {layer}."
                f"{parameter} with {size:,} weights; ask for the tensors that they have in common (--common)"
            )
        shared = shared & set(masks.places[trial_id])
    if not shared:
        raise ValueError(f"the masks of these {len(ids)} trials have no tensor in common")
    return sorted(shared, key=lambda tensor: (natural(tensor[0]), tensor[1]))


def _blocks(trials: int, largest: int) -> list[slice]:
    """Blocks of trials such that a tensor of `largest` weights of each fits the budget."""
    fitting = max(1, min(_BLOCK_TRIALS, _BLOCK_BYTES // (largest // 8 + 8)))
    return [slice(start, start + fitting) for start in range(0, trials, fitting)]


def _compare(
    masks: MaskReader, tensors: Sequence[Tensor], names: Mapping[str, str], rows: Sequence[str], columns: Sequence[str]
) -> pd.DataFrame:
    """All pairs of a block of trials with another block, or with itself; layers of one name are added up."""
    same = rows is columns
    a, b = np.triu_indices(len(rows), 1) if same else np.indices((len(rows), len(columns))).reshape(2, -1)
    layers: dict[str, Agreement] = {}
    for tensor, (some, others) in zip(tensors, _loaded(masks, tensors, rows, columns), strict=True):
        counts = _count(tensor[2], some, others, (a, b))
        name = names[tensor[0]]
        layers[name] = layers[name] + counts if name in layers else counts
    return _frame([rows[i] for i in a], [columns[i] for i in b], layers)


def _loaded(
    masks: MaskReader, tensors: Sequence[Tensor], rows: Sequence[str], columns: Sequence[str]
) -> Iterator[tuple[Words, Words]]:
    """Each tensor's bits of both blocks (one array where they are the same); the next is read meanwhile."""
    paths = {masks.places[trial_id][tensors[0]].path for trial_id in (*rows, *columns)}
    files = {path: _open(masks.store, path) for path in sorted(paths)}

    def load(tensor: Tensor) -> tuple[Words, Words]:
        some = masks.load(tensor, rows, files)
        return some, some if rows is columns else masks.load(tensor, columns, files)

    with ThreadPoolExecutor(1) as reader:
        try:
            reading = reader.submit(load, tensors[0])
            for following in tensors[1:]:
                loaded = reading.result()
                reading = reader.submit(load, following)
                yield loaded
            yield reading.result()
        finally:
            reading.cancel()
            wait([reading])
            for file in files.values():
                file.close()


def _count(size: int, some: Words, others: Words, pairs: Pairs) -> Agreement:
    """Counts of one tensor of `size` weights, (T, W) each, for the pairs of rows (P,), (P,)."""
    both = count_pairs(some, None if others is some else others)[pairs]
    kept_a = np.bitwise_count(some).sum(axis=1, dtype=np.int64)[pairs[0]]
    kept_b = np.bitwise_count(others).sum(axis=1, dtype=np.int64)[pairs[1]]
    return of_tensor(size, kept_a, kept_b, both)


def _frame(a: Sequence[str], b: Sequence[str], layers: Mapping[str, Agreement]) -> pd.DataFrame:
    """Rows pair by pair: the whole network, then its layers."""
    whole, *rest = layers.values()
    for counts in rest:
        whole = whole + counts
    values = [measures(counts) for counts in (whole, *layers.values())]
    names = [None, *layers]
    columns: dict[str, NDArray[np.generic]] = {
        "trial_a": np.repeat(np.array(a, object), len(names)),
        "trial_b": np.repeat(np.array(b, object), len(names)),
        "layer": np.tile(np.array(names, object), len(a)),
    }
    return pd.DataFrame(
        columns | {name: np.stack([each[name] for each in values], axis=1).ravel() for name in MEASURES}
    )


_Counts = NDArray[np.int64]

MEASURES = ("pruned_iou", "pruned_iou_chance", "kept_iou", "kept_iou_chance", "kappa")


@dataclass(frozen=True)
class Agreement:
    """Counts of weights, summed over tensors: all of them, kept by the one mask and by the other (P,), kept
    by both (P,), and by both as expected if each tensor had its kept weights in random places (P,)."""

    size: int
    kept_a: _Counts
    kept_b: _Counts
    both: _Counts
    expected: Floats

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.size + other.size,
            self.kept_a + other.kept_a,
            self.kept_b + other.kept_b,
            self.both + other.both,
            self.expected + other.expected,
        )


def of_tensor(size: int, kept_a: _Counts, kept_b: _Counts, both: _Counts) -> Agreement:
    """Counts of one tensor. Of `size` places two random sets share kept_a kept_b / size on average: the mean
    of the hypergeometric distribution."""
    return Agreement(size, kept_a, kept_b, both, kept_a / max(size, 1) * kept_b)


def measures(counts: Agreement) -> dict[str, Floats]:
    """IoU of pruned and of kept places, both also as expected by chance, and kappa, each (P,); 0/0 is NaN.

    An expected IoU is the ratio of the sums expected. kappa = (p_o - p_e) / (1 - p_e), where p_o is the share
    of places that both keep or both prune and p_e the share expected (Cohen 1960, "A coefficient of agreement
    for nominal scales"); the sizes cancel.
    """
    size, both, expected = float(counts.size), counts.both.astype(np.float64), counts.expected
    kept = (counts.kept_a + counts.kept_b).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return {
            "pruned_iou": (size - kept + both) / (size - both),
            "pruned_iou_chance": (size - kept + expected) / (size - expected),
            "kept_iou": both / (kept - both),
            "kept_iou_chance": expected / (kept - expected),
            "kappa": 2 * (both - expected) / (kept - 2 * expected),
        }
