"""Reads every table of a store to its last byte, and checks that the rows of each trial agree with each other."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from deepcuts.names import COMPACTED
from deepcuts.pruning.bits import count_ones, words
from deepcuts.store.checksums import parquet_state
from deepcuts.store.disk import not_of_its_bytes, patient
from deepcuts.store.store import Store
from deepcuts.store.tables import CHECKED, SCHEMAS, Row

# Computes a metric from labels (N,) and predictions (N,).
Metric = Callable[[NDArray[np.float64], NDArray[np.float64]], float]

_STAGES = ("dense", "pruned", "rewound", "retrained")
_NEEDED = {
    "trials": ["trial_id", "status", "strategy", "sweep", "metric", *_STAGES, "kept", "prunable"],
    "metrics": ["trial_id", "stage", "epoch", "split", "metric", "value"],
    "predictions": ["trial_id", "stage", "split", "label", "prediction"],
    "masks": ["trial_id", "shape", "size", "kept", "bits"],
}


class TableChecks:
    """What was found in the tables of a store, file by file. Of a trial that is there twice the rows that count count.

    `damaged` has the files that cannot be read, are not what was written, or are not of the trial of their name (path
    in the store to reason), and `unverifiable` the names of the files of each table that have no checksum. Metrics are
    compared with the predictions where `functions` has a function for them.
    """

    def __init__(self, store: Store, functions: Mapping[str, Metric]) -> None:
        self.damaged: dict[str, str] = {}
        self.unverifiable: dict[str, list[str]] = {}
        self._store, self._functions = store, functions
        self._rows: dict[str, Row] = {}
        self._files: dict[str, str] = {}
        self._wanted: set[str] = set()
        self._problems: dict[str, str] = {}
        self._there: dict[str, dict[str, str]] = {table: {} for table in ("metrics", "predictions", "masks")}
        self._last: dict[tuple[str, str, str], tuple[int, dict[str, float]]] = {}
        for table in ("trials", "metrics", "predictions", "masks", "sweeps"):
            own, compacted = store.files(table)
            for name in (*own, *compacted):
                # One that is gone was merged into another file by a compaction, since it was listed.
                with suppress(FileNotFoundError), store.local_copy(f"{table}/{name}") as path:
                    self._check_copy(table, name, str(path))

    def _check_copy(self, table: str, name: str, path: str) -> None:
        try:
            self._check_file(table, name, path)
        except (pa.ArrowException, OSError) as error:
            if not_of_its_bytes(error):
                raise
            self.damaged[f"{table}/{name}"] = f"unreadable: {str(error).splitlines()[0]}"

    @patient
    def _check_file(self, table: str, name: str, path: str) -> None:
        with self._store.copies.open_input_file(path) as file:
            state = parquet_state(file)
        found: dict[str, list[str]] = {}
        rows = {}
        # All columns are read, so that all can be: those of SCHEMAS, with their types.
        data = ds.dataset([path], SCHEMAS[table], format=CHECKED, filesystem=self._store.copies)
        of = "sweep" if table == "sweeps" else "trial_id"
        for key, part in _by_key(data.scanner(use_threads=False).to_batches(), of):
            problems = found.setdefault(key, [])
            if key not in self._there.get(table, self._rows):
                rows[key] = self._check_rows(table, key, part, problems)
        if state == "damaged":
            self.damaged[f"{table}/{name}"] = "damaged: it does not have the checksum that it was written with"
            return
        wrong = "; ".join(problem for problems in found.values() for problem in problems)
        if not name.startswith(COMPACTED) and set(found) - {name.removesuffix(".parquet")}:
            wrong = f"it has rows of {', '.join(sorted(found))}"
        if wrong and not name.startswith(COMPACTED):
            self.damaged[f"{table}/{name}"] = f"damaged: {wrong}"
            return
        if state == "unverifiable":
            self.unverifiable.setdefault(table, []).append(name)
        self._keep(table, f"{table}/{name}", rows)
        self._problems |= {key: "; ".join(problems) for key, problems in found.items() if problems}

    def _keep(self, table: str, file: str, rows: Mapping[str, Row]) -> None:
        for key, row in rows.items():
            if table == "trials":
                self._rows[key], self._files[key] = row, file
            elif table == "sweeps":
                self._wanted |= row["wanted"]
            else:
                self._there[table][key] = file
                if table == "masks":
                    self._rows.get(key, {}).update(masks=row)
                elif table == "metrics":
                    self._last |= {(key, *place): values for place, values in row.items()}

    def _check_rows(self, table: str, key: str, part: pa.Table, problems: list[str]) -> Row:
        """Check the rows of one trial in one table, and return what other tables are compared with."""
        if table == "sweeps":
            return {"wanted": set(part["trial_id"].to_pylist())}
        rows = part.select(_NEEDED[table])
        if table == "trials":
            return dict(rows.to_pylist()[-1])
        if table == "masks":
            return _check_masks(rows, problems)
        if table == "metrics":
            return _last_epochs(rows.to_pylist())
        self._compare(key, rows, problems)
        return {}

    def _compare(self, key: str, rows: pa.Table, problems: list[str]) -> None:
        """Compare the metrics of the last epochs with those of the predictions."""
        keys = list(zip(rows["stage"].to_pylist(), rows["split"].to_pylist(), strict=True))
        labels, predictions = rows["label"].to_numpy(), rows["prediction"].to_numpy()
        for stage, split in dict.fromkeys(keys):
            _, values = self._last.get((key, stage, split), (0, {}))
            here = np.array([each == (stage, split) for each in keys])
            for metric, value in values.items():
                if metric not in self._functions:
                    continue
                with warnings.catch_warnings(action="ignore"):  # a metric that is 0/0 is 0.0 in both
                    found = self._functions[metric](labels[here], predictions[here])
                if not math.isclose(found, value, rel_tol=1e-9, abs_tol=1e-12):
                    problems.append(f"its {stage} {metric} is {value!r} in metrics, {found!r} by its predictions")

    def incomplete(self) -> dict[str, str]:
        """Return the completed trials that lack rows, or whose rows disagree (id to what is wrong).

        What they lack in a table with a damaged compacted file is not known before that file is mended.
        """
        wrong, torn = {}, self._torn()
        for key, row in self._rows.items():
            if row["status"] != "completed":
                continue
            unmasked = ("masks",) if row["strategy"] == "Dense" else ()
            lacking = [
                table for table, ids in self._there.items() if key not in ids and table not in (*unmasked, *torn)
            ]
            problems = [f"completed, and has no rows in {', '.join(lacking)}"] if lacking else []
            problems += [*self._odd_values(key, row), *self._odd_masks(row)]
            problems += [self._problems[key]] if key in self._problems else []
            if problems:
                wrong[key] = "; ".join(problems)
        return wrong

    def _torn(self) -> set[str]:
        return {name.partition("/")[0] for name in self.damaged if COMPACTED in name}

    def _odd_values(self, key: str, row: Row) -> Iterator[str]:
        for stage in _STAGES:
            _, values = self._last.get((key, stage, "validation"), (0, {}))
            value = values.get(row["metric"], row[stage])
            if row[stage] is not None and value != row[stage]:
                yield f"its {stage} {row['metric']} is {row[stage]!r} in trials, {value!r} in metrics"

    def _odd_masks(self, row: Row) -> Iterator[str]:
        for column, what in (("kept", "kept weights"), ("prunable", "weights")):
            if "masks" in row and row[column] not in (None, row["masks"][column]):
                yield f"it has {row[column]:,} {what} in trials, {row['masks'][column]:,} in masks"

    def file_of(self, trial_id: str) -> str:
        """Return the path in the store of the file that has a trial's row in `trials`."""
        return self._files[trial_id]

    def without_a_trial(self) -> dict[str, list[str]]:
        """Return the files of other tables that have rows of trials that are not in `trials`, each with these trials.

        A file is its path in the store. Nothing is known before a damaged compacted file of `trials` is mended.
        """
        lost = {name.removeprefix("trials/").removesuffix(".parquet") for name in self.damaged}
        found: dict[str, list[str]] = {}
        for files in self._there.values() if "trials" not in self._torn() else ():
            for key, file in files.items():
                if key not in self._rows and key not in lost:
                    found.setdefault(file, []).append(key)
        return found

    def sweeps_of_trials(self) -> Counter[str]:
        """Count the trials that no sweep wants by the sweep that ran them."""
        left = (row["sweep"] for key, row in self._rows.items() if key not in self._wanted)
        return Counter(str(sweep) for sweep in left if sweep not in (None, "run-one"))


def _by_key(batches: Iterable[pa.RecordBatch], column: str) -> Iterator[tuple[str, pa.Table]]:
    """Yield the rows of each run of one key, such as those of one trial. Raises OSError for a row without a key."""
    waiting: list[pa.Table] = []
    last = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        keys = table[column].to_numpy()
        if table[column].null_count:
            raise OSError(f"rows without a {column}: this is not a file of this table")
        starts = [0, *(np.flatnonzero(keys[1:] != keys[:-1]) + 1), len(keys)]
        for start, end in zip(starts, starts[1:], strict=False):
            if start == end:
                continue
            if waiting and keys[start] != last:
                yield str(last), pa.concat_tables(waiting)
                waiting = []
            last = keys[start]
            waiting.append(table.slice(start, end - start))
    if waiting:
        yield str(last), pa.concat_tables(waiting)


def _check_masks(rows: pa.Table, problems: list[str]) -> Row:
    """Check the bits of each tensor's mask against its size and kept weights; return the sums of both."""
    sizes, kept = rows["size"].to_pylist(), rows["kept"].to_pylist()
    for size, expected, shape, bits in zip(sizes, kept, rows["shape"].to_pylist(), rows["bits"], strict=True):
        packed = bits.as_buffer()
        out = np.zeros((size + 63) // 64, np.uint64)
        if packed.size != (size + 7) // 8 or math.prod(shape) != size:
            problems.append(f"{packed.size:,} bytes hold no mask of {size:,} weights in the shape {shape}")
            continue
        words(memoryview(packed), out)
        if (ones := count_ones(out)) != expected:
            problems.append(f"{ones:,} weights are kept where {expected:,} were recorded")
    return {"kept": sum(kept), "prunable": sum(sizes)}


def _last_epochs(rows: list[dict[str, Any]]) -> Row:
    """Return the metrics of the last epoch of each stage and split: (stage, split) to (epoch, name to value)."""
    last: dict[Any, tuple[int, dict[str, float]]] = {}
    for row in rows:
        place = row["stage"], row["split"]
        epoch, values = last.get(place, (-1, {}))
        if row["epoch"] > epoch:
            epoch, values = row["epoch"], {}
        if row["epoch"] == epoch:
            values[row["metric"]] = row["value"]
        last[place] = epoch, values
    return last
