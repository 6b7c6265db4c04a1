"""Reads masks: those of one trial as boolean arrays, or those of many trials packed, tensor by tensor.

T = trials, W = words of 64 bits. Bits are checked against what was recorded (size and kept weights) whenever they
are read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deepcuts.names import COMPACTED, find_id
from deepcuts.pruning.bits import Bools, Words, count_ones, unpack, words
from deepcuts.store.disk import is_stale, patient, size_and_digest
from deepcuts.store.store import Store
from deepcuts.store.tables import SCHEMAS, Row


def masks(store: Store, trial_id: str) -> dict[str, Bools]:
    """Return the masks of a trial: the name of each pruned parameter and a boolean array, True where a weight is kept.

    `trial_id` is an id, or 4 characters or more that only it begins with. An array has the shape of its parameter.

    Raises ValueError for an unknown trial and for one without masks (Dense, or failed), OSError if the masks of a
    completed trial are missing or damaged (their bits are not what was recorded).

    >>> pruned = trials[trials["strategy"] == "LayerMagWeight"]["trial_id"]
    >>> {name: mask.mean() for name, mask in dc.masks(store, pruned.iloc[0]).items()}
    """
    reader = MaskReader(store)
    [found] = reader.find([trial_id])
    reader.check_masked(found)
    if found not in reader.places:
        path = store.path("masks", f"{found}.parquet")
        raise OSError(f"the masks of trial {found!r} cannot be read: {path}: {reader.damaged[path]}")
    arrays = {}
    with reader.opened([found]) as files:
        for tensor, place in reader.places[found].items():
            [packed] = reader.load(tensor, [found], files)
            if found in reader.broken:
                raise OSError(f"{place.path} is damaged: {reader.damaged[place.path]}")
            arrays[f"{tensor.layer}.{tensor.parameter}"] = unpack(tensor.bits(packed), tensor.size).reshape(place.shape)
    return arrays


def masks_in_file(path: Path, trial_id: str, digest: str) -> dict[str, Bools]:
    """Return the masks of one trial in a file of the form of a store's masks, as `masks` does.

    Raises ValueError for a file that cannot be read, or has other content than the SHA-256 `digest` says.
    """
    content = _mask_rows(path)
    if mask_file_digest(path) != digest:
        raise ValueError(f"the file of masks {str(path)!r} has changed since the sweep was planned; plan it again")
    arrays = {}
    for row in content.filter(pc.equal(content["trial_id"], trial_id)).to_pylist():
        name = f"{row['layer']}.{row['parameter']}"
        try:
            mask = unpack(row["bits"], row["size"]).reshape(row["shape"])
        except ValueError as error:
            raise ValueError(f"{str(path)!r} is damaged: {name}: {error}") from None
        if int(mask.sum()) != row["kept"]:
            raise ValueError(f"{str(path)!r} is damaged: {name} keeps {int(mask.sum())}, and {row['kept']} is recorded")
        arrays[name] = mask
    return arrays


def trial_in_file(path: Path, trial: str | None = None) -> str:
    """Return the id of the trial that a file of masks has; `trial` is the id or a prefix of one, where it has several.

    Raises ValueError where the file cannot be read, or does not tell which trial.
    """
    content = _mask_rows(path)
    ids = sorted(set(content["trial_id"].to_pylist()) - {None})
    if not ids or content["bits"].null_count:
        raise ValueError(f"{str(path)!r} has no masks; name a file of the folder masks of a store")
    if trial is None and len(ids) > 1:
        raise ValueError(f"{str(path)!r} has the masks of {len(ids)} trials; say which, as in trial: {ids[0]}")
    return find_id(trial, ids) if trial else ids[0]


def _mask_rows(path: Path) -> pa.Table:
    try:
        return patient(pq.read_table)(path, schema=SCHEMAS["masks"], page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"cannot read the file of masks {str(path)!r}: {reason}") from None


def mask_file_digest(path: Path) -> str:
    """Return the SHA-256 of a file. Raises OSError."""
    return str(size_and_digest(path)["sha256"])


class PrunedTensor(NamedTuple):
    """Which tensor of a network a mask is for: `encoder.layer.0.output.dense`, `weight`, and its number of weights."""

    layer: str
    parameter: str
    size: int

    def bits(self, packed: Words) -> NDArray[np.uint8]:
        """View the words (W,) of its mask as the bytes that hold them, ceil(size / 8) of them."""
        return packed.view(np.uint8)[: (self.size + 7) // 8]


@dataclass(frozen=True)
class BitsPlace:
    """Where the bits of one tensor of one trial's mask are, the tensor's shape, and how many of the bits are ones."""

    path: str
    group: int
    row: int
    shape: tuple[int, ...]
    kept: int


@dataclass
class MaskReader:
    """Reads the packed masks of some trials of a store.

    What is missing or damaged is noted in `damaged` (path to reason) rather than raised, so that the other trials can
    be used; `broken` are the trials whose bits turned out not to be what was recorded.
    """

    store: Store
    trials: dict[str, Row] = field(default_factory=dict)  # id to its trial_id, status, strategy and model
    places: dict[str, dict[PrunedTensor, BitsPlace]] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    _footers: dict[str, pq.FileMetaData] = field(default_factory=dict)  # of compacted files, which never change

    def find(self, trial_ids: Iterable[str] | None = None) -> list[str]:
        """Look up where the masks of trials are; return the ids of the trials, found or not.

        `trial_ids` are ids or unique prefixes (default: all completed trials but Dense, sorted). Of a trial that is
        there more than once its own file counts, as in `Store.read`. Raises ValueError for an unknown trial.
        """
        read = self.store.read("trials", ["trial_id", "status", "strategy", "model"])
        self.trials = {row["trial_id"]: row for row in read.table.to_pylist()}
        self.damaged |= read.damaged
        if trial_ids is None:
            wanted = sorted(key for key, row in self.trials.items() if _should_have_masks(row))
        else:
            wanted = list(dict.fromkeys(find_id(trial_id, self.trials) for trial_id in trial_ids))
        for trial_id in self._locate(wanted):
            path = self.store.path("masks", f"{trial_id}.parquet")
            self.damaged.setdefault(path, "missing, though its trial is completed")
        return wanted

    def _locate(self, wanted: Iterable[str]) -> set[str]:
        """Fill `places` from the trials' own files, then from the compacted ones; return the trials in none of them."""
        missing = set(wanted)
        own, compacted = self.store.files("masks")
        gone = False
        for name in [*(name for name in own if name.removesuffix(".parquet") in missing), *compacted]:
            if not missing:
                break
            path = self.store.path("masks", name)
            try:
                found = self._index(path, missing)
            except FileNotFoundError:  # merged by a compaction since it was listed
                gone = True
                continue
            except (pa.ArrowException, OSError) as error:
                self.damaged[path] = str(error).splitlines()[0]
                continue
            self.places |= found
            missing -= set(found)
        return self._locate(missing) if gone and missing else missing

    def check_masked(self, trial_id: str) -> None:
        """Raise ValueError for a trial that `find` found to have no masks: Dense or failed."""
        row = self.trials[trial_id]
        if not _should_have_masks(row):
            what = "Dense" if row["status"] == "completed" else "failed"
            raise ValueError(f"trial {trial_id!r} ({what}) has no masks in {self.store.uri!r}")

    @contextmanager
    def opened(self, trials: Iterable[str]) -> Iterator[dict[str, pq.ParquetFile]]:
        """Open the files that hold the masks of these trials, by path, and close them when the block ends."""
        files: dict[str, pq.ParquetFile] = {}
        try:
            for trial_id in trials:
                for path in self._paths(trial_id) - set(files):
                    files[path] = self._open(path)
            yield files
        finally:
            for file in files.values():
                file.close()

    @patient
    def _open(self, path: str) -> pq.ParquetFile:
        """Open a file of masks. The footer of a compacted one is kept: it has a row group for each of many tensors."""
        source, footer = self.store.filesystem.open_input_file(path), self._footers.get(path)
        file = pq.ParquetFile(source, metadata=footer, page_checksum_verification=True)
        if path.rpartition("/")[2].startswith(COMPACTED):
            self._footers[path] = file.metadata
        return file

    @patient
    def _index(self, path: str, wanted: Collection[str]) -> dict[str, dict[PrunedTensor, BitsPlace]]:
        """Return those of the wanted trials that a file of masks has, with the place of each of their tensors."""
        found: dict[str, dict[PrunedTensor, BitsPlace]] = {}
        with self._open(path) as file:
            ids, footer = file.schema.names.index("trial_id"), file.metadata
            groups = [group for group in range(footer.num_row_groups) if _may_hold(footer, group, ids, wanted)]
            table = file.read_row_groups(
                groups, ["trial_id", "layer", "parameter", "shape", "size", "kept"], use_threads=False
            )
            lengths = [footer.row_group(group).num_rows for group in groups]
        rows = ((group, row) for group, length in zip(groups, lengths, strict=True) for row in range(length))
        for (group, row), mask in zip(rows, table.to_pylist(), strict=True):
            if mask["trial_id"] in wanted:
                tensor = PrunedTensor(mask["layer"], mask["parameter"], mask["size"])
                place = BitsPlace(path, group, row, tuple(mask["shape"]), mask["kept"])
                found.setdefault(mask["trial_id"], {})[tensor] = place
        return found

    def _paths(self, trial_id: str) -> set[str]:
        """Return the files that hold the masks of a trial, found anew if a compaction has merged its own since."""
        paths = {place.path for place in self.places[trial_id].values()}
        own = self.store.path("masks", f"{trial_id}.parquet")
        if own in paths and not self.store.exists(f"masks/{trial_id}.parquet"):
            self._locate([trial_id])
            return {place.path for place in self.places[trial_id].values()}
        return paths

    def load(self, tensor: PrunedTensor, trials: Sequence[str], files: dict[str, pq.ParquetFile]) -> Words:
        """Read one tensor's bits of each trial as (T, W).

        A row that cannot be read, or is not what was recorded, is noted in `damaged`, its trial in `broken`.
        """
        loaded = np.zeros((len(trials), (tensor.size + 63) // 64), np.uint64)
        for row, trial_id in zip(loaded, trials, strict=True):
            place = self.places[trial_id][tensor]
            try:
                self._fill(row, tensor.size, place, files)
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                self.damaged[place.path] = f"{trial_id} {tensor.layer}.{tensor.parameter}: {reason}"
                self.broken.add(trial_id)
        return loaded

    @patient
    def _fill(self, out: Words, size: int, place: BitsPlace, files: dict[str, pq.ParquetFile]) -> None:
        """Read one tensor's bits into `out` (W,). Raises OSError if they are not what was recorded."""
        try:
            group = files[place.path].read_row_group(place.group, ["bits"], use_threads=False)
        except OSError as error:
            if is_stale(error):
                files[place.path] = self._open(place.path)
            raise
        bits = group.column("bits")[place.row].as_buffer()
        if bits.size != (size + 7) // 8 or math.prod(place.shape) != size:
            raise OSError(f"{bits.size:,} bytes hold no mask of {size:,} weights in the shape {place.shape}")
        words(memoryview(bits), out)
        if (ones := count_ones(out)) != place.kept:
            raise OSError(f"{ones:,} weights are kept where {place.kept:,} were recorded")


def _should_have_masks(row: Row) -> bool:
    return bool(row["status"] == "completed" and row["strategy"] != "Dense")


def _may_hold(footer: pq.FileMetaData, group: int, column: int, wanted: Collection[str]) -> bool:
    """Return whether a row group may have rows of the wanted trials, by the statistics of its column of ids."""
    ids = footer.row_group(group).column(column).statistics
    if ids is None or not ids.has_min_max or ids.min != ids.max:
        return True
    return ids.min in wanted
