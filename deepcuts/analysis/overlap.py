"""Measures the overlap of the masks of all pairs of trials, per layer and whole, beside what chance alone gives.

T = trials, P = pairs of trials, W = words of 64 bits. Masks stay packed; they are read tensor by tensor for a
block of trials at a time, so memory does not grow with the number of trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepcuts.analysis.density import DensityCounts
from deepcuts.analysis.frames import trials
from deepcuts.experiment.metrics import Floats
from deepcuts.names import layer_kind, natural
from deepcuts.pruning.bits import Words, count_pairs
from deepcuts.store.masks import MaskReader, PrunedTensor
from deepcuts.store.store import Store

# How much of a block of trials is in memory (one tensor of each), and how many files it has open.
_BLOCK_BYTES = 1 << 28
_BLOCK_TRIALS = 128
# The most rows of a frame, which take some 7 GB while it is put together.
_MOST_ROWS = 50_000_000

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def overlap(
    store: Store,
    trial_ids: Sequence[str] | None = None,
    common: bool = False,
    by_kind: bool = False,
    same: Sequence[str] = (),
) -> pd.DataFrame:
    """Return how far the masks of all unordered pairs of trials overlap.

    A pair has a row for the whole network (`layer` null) and one for each layer, with `trial_a, trial_b, layer` and
    the MEASURES (null where they are 0/0). With `by_kind` the layers of one kind (query, key, ... pooler) are counted
    together, and `layer` is the kind.

    `trial_ids` are ids or unique prefixes (default: all completed trials that have masks). With `common`, masks of
    different models are compared on the tensors that all of them have. `same` names columns of the table `trials`:
    only trials that have the same value in each of them are compared, as in a store of too many trials for all pairs.
    Masks that are missing or damaged are left out and named in `.attrs["damaged"]` (path to reason).

    Raises ValueError for an unknown trial or one without masks, fewer than two trials to compare, more trials than
    there is room for the rows of all pairs (of bert-base some 1,150), different models, and a column of `same` that
    `trials` does not have.

    >>> dc.overlap(store)
    >>> dc.overlap(store, same=["dataset", "seed", "sparsity_asked"])
    """
    masks = MaskReader(store)
    wanted = masks.find(trial_ids)
    if not same:
        return _overlap(masks, wanted, common, by_kind)
    frames = [_overlap(masks, ids, common, by_kind) for ids in _groups(masks, wanted, same)]
    frame = pd.concat(frames, ignore_index=True)
    frame.attrs["damaged"] = masks.damaged
    return frame


def overlap_and_density(
    store: Store,
    trial_ids: Sequence[str] | None = None,
    common: bool = False,
    by_kind: bool = False,
    heads: int | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the frames of `overlap` and of `density` for the same trials.

    Masks are counted for both when they are read, so this takes hardly longer than `overlap` alone. Arguments and
    errors are those of `overlap`; `heads` is that of `density`.

    >>> pairs, kept = dc.overlap_and_density(store)
    """
    masks = MaskReader(store)
    counts = DensityCounts(masks, heads)
    frame = _overlap(masks, masks.find(trial_ids), common, by_kind, counts.count)
    return frame, counts.frame()


# Called with a tensor, the ids of a block of trials and their bits of that tensor (T, W): once for each trial.
_Seen = Callable[[PrunedTensor, Sequence[str], Words], None]


def _overlap(
    masks: MaskReader, wanted: Sequence[str], common: bool, by_kind: bool, seen: _Seen | None = None
) -> pd.DataFrame:
    ids = _masked(masks, wanted)
    if len(ids) < 2:
        left_out = "".join(f"; {path}: {reason}" for path, reason in masks.damaged.items())
        raise ValueError(
            f"overlap needs the masks of two trials; {masks.store.uri!r} has {len(ids)} to compare{left_out}"
        )
    if not common:
        _check_models(masks, ids)
    tensors = _tensors(masks, ids, common)
    names = {layer: layer_kind(layer)[1] if by_kind else layer for layer, _, _ in tensors}
    _check_size(len(ids), 1 + len({*names.values()}))
    blocks = [ids[block] for block in _blocks(len(ids), max(tensor.size for tensor in tensors))]
    parts = [_compare(masks, tensors, names, *pair, seen) for pair in combinations_with_replacement(blocks, 2)]
    frame = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    if masks.broken:
        sound = ~(frame["trial_a"].isin(masks.broken) | frame["trial_b"].isin(masks.broken))
        frame = frame[sound].reset_index(drop=True)
    frame.attrs["damaged"] = masks.damaged
    return frame


def _groups(masks: MaskReader, wanted: Sequence[str], same: Sequence[str]) -> list[list[str]]:
    """Return the wanted trials that have masks, those together that have the same values, where there are several."""
    rows = trials(masks.store, ["trial_id", *same]).set_index("trial_id")
    rows = rows.loc[_masked(masks, wanted)].reset_index()
    groups = [list(ids) for _, ids in rows.groupby(list(same), dropna=False)["trial_id"] if len(ids) > 1]
    if not groups:
        raise ValueError(f"no two of the {len(rows)} trials with masks have the same {', '.join(same)}")
    return groups


def _masked(masks: MaskReader, wanted: Sequence[str]) -> list[str]:
    """Return the wanted trials whose masks were found. Raises ValueError for Dense and failed ones."""
    for trial_id in wanted:
        if trial_id not in masks.places:
            masks.check_masked(trial_id)
    return [trial_id for trial_id in wanted if trial_id in masks.places]


def _check_size(trials: int, rows_of_pair: int) -> None:
    pairs = trials * (trials - 1) // 2
    if pairs * rows_of_pair > _MOST_ROWS:
        raise ValueError(
            f"the masks of {trials:,} trials make {pairs:,} pairs, which have {pairs * rows_of_pair:,} rows, one for"
            f" each layer; at most {_MOST_ROWS:,} are held: choose trials (--only, --trials)"
        )


def _check_models(masks: MaskReader, ids: Sequence[str]) -> None:
    models = sorted({repr(masks.trials[trial_id]["model"]) for trial_id in ids})
    if len(models) > 1:
        raise ValueError(
            f"masks of different models cannot be compared: {', '.join(models)}; choose trials of one model,"
            " or the tensors that they have in common (--common)"
        )


def _tensors(masks: MaskReader, ids: Sequence[str], common: bool) -> list[PrunedTensor]:
    """Return the tensors to compare, layers in natural order. Raises ValueError if the trials' tensors differ."""
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
    return sorted(shared, key=lambda tensor: (natural(tensor.layer), tensor.parameter))


def _blocks(trials: int, largest: int) -> list[slice]:
    """Cut the trials into blocks that fit in memory with a tensor of `largest` weights of each."""
    fitting = max(1, min(_BLOCK_TRIALS, _BLOCK_BYTES // (largest // 8 + 8)))
    return [slice(start, start + fitting) for start in range(0, trials, fitting)]


def _compare(
    masks: MaskReader,
    tensors: Sequence[PrunedTensor],
    names: Mapping[str, str],
    rows: Sequence[str],
    columns: Sequence[str],
    seen: _Seen | None,
) -> pd.DataFrame:
    """Compare all pairs of a block of trials with another block, or with itself; layers of one name are added up."""
    same = rows is columns
    a, b = np.triu_indices(len(rows), 1) if same else np.indices((len(rows), len(columns))).reshape(2, -1)
    layers: dict[str, Agreement] = {}
    for tensor, (some, others) in zip(tensors, _loaded(masks, tensors, rows, columns), strict=True):
        if same and seen is not None:  # every block is compared with itself once
            seen(tensor, rows, some)
        counts = _count(tensor.size, some, others, (a, b))
        name = names[tensor.layer]
        layers[name] = layers[name] + counts if name in layers else counts
    return _frame([rows[i] for i in a], [columns[i] for i in b], layers)


def _loaded(
    masks: MaskReader, tensors: Sequence[PrunedTensor], rows: Sequence[str], columns: Sequence[str]
) -> Iterator[tuple[Words, Words]]:
    """Yield each tensor's bits of both blocks (the same array twice if they are one), reading the next meanwhile."""

    def load(tensor: PrunedTensor) -> tuple[Words, Words]:
        some = masks.load(tensor, rows, files)
        return some, some if rows is columns else masks.load(tensor, columns, files)

    with masks.opened((*rows, *columns)) as files, ThreadPoolExecutor(1) as reader:
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


def _count(size: int, some: Words, others: Words, pairs: Pairs) -> Agreement:
    """Count one tensor of `size` weights, (T, W) of each block, for the pairs of rows (P,), (P,)."""
    both = count_pairs(some, None if others is some else others)[pairs]
    kept_a = np.bitwise_count(some).sum(axis=1, dtype=np.int64)[pairs[0]]
    kept_b = np.bitwise_count(others).sum(axis=1, dtype=np.int64)[pairs[1]]
    return of_tensor(size, kept_a, kept_b, both)


def _frame(a: Sequence[str], b: Sequence[str], layers: Mapping[str, Agreement]) -> pd.DataFrame:
    """Make the rows, pair by pair: the whole network, then its layers."""
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

MEASURES = ("pruned_iou", "pruned_iou_chance", "kept_iou", "kept_iou_chance", "kappa", "kappa_highest")


@dataclass(frozen=True)
class Agreement:
    """Counts of weights, summed over tensors, for P pairs of masks.

    `size` counts all weights; `kept_a`, `kept_b` (P,) those that one mask keeps; `both` (P,) those that both keep;
    `most` (P,) those that both would keep if in each tensor the mask that keeps fewer were a part of the other;
    `expected` (P,) those that both would keep if each tensor had its kept weights in random places.
    """

    size: int
    kept_a: _Counts
    kept_b: _Counts
    both: _Counts
    most: _Counts
    expected: Floats

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.size + other.size,
            self.kept_a + other.kept_a,
            self.kept_b + other.kept_b,
            self.both + other.both,
            self.most + other.most,
            self.expected + other.expected,
        )


def of_tensor(size: int, kept_a: _Counts, kept_b: _Counts, both: _Counts) -> Agreement:
    """Make the counts of one tensor of `size` weights from those that the masks keep, (P,) each.

    Two random sets of kept_a and kept_b out of `size` places share kept_a kept_b / size on average: the mean of the
    hypergeometric distribution.
    """
    most = np.minimum(kept_a, kept_b)
    return Agreement(size, kept_a, kept_b, both, most, kept_a / max(size, 1) * kept_b)


def measures(counts: Agreement) -> dict[str, Floats]:
    """Compute the IoU of pruned and of kept places, both also as expected by chance, and kappa, (P,) each; 0/0 is NaN.

    An expected IoU is the ratio of the sums expected. kappa = (p_o - p_e) / (1 - p_e), where p_o is the share
    of places that both keep or both prune and p_e the share expected (Cohen 1960, "A coefficient of agreement
    for nominal scales"); the sizes cancel. `kappa_highest` is kappa of masks that keep as many weights of each tensor
    and agree as far as they can: below 1 where one keeps more than the other.
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
            "kappa_highest": 2 * (counts.most - expected) / (kept - 2 * expected),
        }
