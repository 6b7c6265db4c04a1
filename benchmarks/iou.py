"""Times the comparison of masks: all pairs of 84 masks of bert-base size from disk, against three other ways.

    python -m benchmarks.iou [--masks 84] [--folder DIR]

Each way runs in its own process, so that its peak memory can be measured. The slow ones run on fewer pairs, or on one
matrix, as the table says, and their time for all pairs is extrapolated by the number of weights. Ways are compared by
CPU time, which hardly depends on what else the machine is doing; `took` is wall time. Packed ways read their masks from
disk within that time; the others already have them in memory. The limit of the machine is measured as well: bitwise and
plus population count on words in the cache, which no way of counting can beat.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from deepcuts.analysis.frames import mask_counts
from deepcuts.analysis.overlap import overlap
from deepcuts.pruning.bits import unpack
from deepcuts.store.store import Store, encode

DEPTH, HIDDEN, INNER = 12, 768, 3072
SHAPES = {
    **{
        f"bert.encoder.layer.{depth}.{name}": shape
        for depth in range(DEPTH)
        for name, shape in {
            "attention.self.query": (HIDDEN, HIDDEN),
            "attention.self.key": (HIDDEN, HIDDEN),
            "attention.self.value": (HIDDEN, HIDDEN),
            "attention.output.dense": (HIDDEN, HIDDEN),
            "intermediate.dense": (INNER, HIDDEN),
            "output.dense": (HIDDEN, INNER),
        }.items()
    },
    "bert.pooler.dense": (HIDDEN, HIDDEN),
}
WEIGHTS = sum(rows * columns for rows, columns in SHAPES.values())
FIRST = "bert.encoder.layer.0.attention.self.query"


def write_masks(store: Store, count: int) -> list[str]:
    """Write random masks that keep 1/2, 1/4, 1/8 or 1/16 of their weights as trials; return the ids of these."""
    generator = np.random.default_rng(0)
    ids = [f"{number:016x}" for number in range(count)]
    for number, trial_id in enumerate(ids):
        rows = []
        for layer, shape in SHAPES.items():
            packed = np.full(shape[0] * shape[1] // 8, 255, np.uint8)
            for _ in range(1 + number % 4):
                packed &= np.frombuffer(generator.bytes(len(packed)), np.uint8)
            kept = int(np.bitwise_count(packed).sum(dtype=np.int64))
            row = {"trial_id": trial_id, "layer": layer, "parameter": "weight", "shape": list(shape)}
            rows.append({**row, "size": packed.size * 8, "kept": kept, "bits": packed.tobytes()})
        store.write_bytes(f"masks/{trial_id}.parquet", encode("masks", rows))
        trial = {"trial_id": trial_id, "model": "bert-base", "strategy": "LayerRandom", "seed": number}
        store.write("trials", trial_id, [{**trial, "dataset": "none", "status": "completed"}])
    return ids


# A way takes the store and the ids. It returns how many pairs of how many weights it compares, and a function to time,
# which returns the kept IoU of the first pair. The last two ways load their masks before the timed part.

Way = Callable[[str, list[str]], tuple[int, int, Callable[[], float]]]


def all_pairs(uri: str, ids: list[str]) -> tuple[int, int, Callable[[], float]]:
    return len(ids) * (len(ids) - 1) // 2, WEIGHTS, lambda: _iou(overlap(Store(uri), ids))


def pair_by_pair(uri: str, ids: list[str]) -> tuple[int, int, Callable[[], float]]:
    others = ids[1:6]
    return len(others), WEIGHTS, lambda: [_iou(overlap(Store(uri), [ids[0], each])) for each in others][0]


def boolean_arrays(uri: str, ids: list[str]) -> tuple[int, int, Callable[[], float]]:
    ours, *others = (_unpacked(uri, trial_id, list(SHAPES)) for trial_id in ids[:4])

    def work() -> float:
        found = []
        for theirs in others:
            both = sum(int((ours[layer] & theirs[layer]).sum()) for layer in SHAPES)
            either = sum(int((ours[layer] | theirs[layer]).sum()) for layer in SHAPES)
            found.append(both / either)
        return found[0]

    return len(others), WEIGHTS, work


def sets_of_indices(uri: str, ids: list[str]) -> tuple[int, int, Callable[[], float]]:
    """The seed's way, on one matrix of 768 x 768: each mask as a set of the positions that it keeps."""
    ours, theirs = (set(np.flatnonzero(_unpacked(uri, each, [FIRST])[FIRST]).tolist()) for each in ids[:2])
    return 1, HIDDEN * HIDDEN, lambda: len(ours & theirs) / len(ours | theirs)


def _iou(frame: Any) -> float:
    return float(frame.loc[frame["layer"].isna(), "kept_iou"].iloc[0])


def _unpacked(uri: str, trial_id: str, layers: list[str]) -> dict[str, np.ndarray]:
    frame = mask_counts(Store(uri), ["layer", "size", "bits"], trial_id=trial_id, layer=layers)
    return {row.layer: unpack(row.bits, row.size) for row in frame.itertuples()}


def _in_process(way: Way, uri: str, ids: list[str]) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measured, args=(there, way, uri, ids))
    process.start()
    measured: dict[str, Any] = here.recv()
    process.join()
    return measured


def _measured(there: Connection, way: Way, uri: str, ids: list[str]) -> None:
    before = _peak()
    pairs, weights, work = way(uri, ids)
    started, busy = time.perf_counter(), time.process_time()
    iou = work()
    found = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - busy, "iou": iou}
    there.send(found | {"pairs": pairs, "weights": weights, "peak": _peak(), "before": before})


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2  # GiB, on Linux


def limits() -> tuple[float, float]:
    """Return the bytes of a mask that and + population count process per second in the cache, and memory's speed."""
    a, b = (np.random.default_rng(seed).integers(0, 2**63, 4096, np.uint64) for seed in (0, 1))
    common, ones = np.empty_like(a), np.empty(len(a), np.uint8)

    def count() -> None:
        np.bitwise_and(a, b, out=common)
        np.bitwise_count(common, out=ones)

    large = np.ones(1 << 25, np.uint64)
    return a.nbytes / _fastest(count, 2000), large.nbytes / _fastest(lambda: large.max(), 5)


def _fastest(work: Callable[[], Any], times: int) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the overlap of masks of bert-base size.")
    parser.add_argument("--masks", type=int, default=84)
    parser.add_argument(
        "--folder", help="where to write the masks, 0.9 GB that are removed at the end (default: a temporary folder)"
    )
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="deepcuts-iou-", dir=args.folder))
    try:
        report(Store(str(folder)), args.masks)
    finally:
        shutil.rmtree(folder)


def report(store: Store, count: int) -> None:
    ids = write_masks(store, count)
    pairs = count * (count - 1) // 2
    print(f"{count} masks of {WEIGHTS:,} weights in {len(SHAPES)} matrices, {pairs:,} pairs, layers included")
    ways = {"all pairs, packed (ours)": all_pairs, "one pair at a time, packed": pair_by_pair}
    ways |= {"boolean arrays": boolean_arrays, "sets of indices (the seed's)": sets_of_indices}
    found = {name: _in_process(way, store.uri, ids) for name, way in ways.items()}
    ours = next(iter(found.values()))
    each = {name: one["cpu"] / one["pairs"] * WEIGHTS / one["weights"] for name, one in found.items()}
    heads = ("measured on", "took", "CPU", "CPU per pair", "all pairs", "slower", "memory")
    print(f"{'way':<30}" + "".join(f"{head:>{w}}" for head, w in zip(heads, (26, 9, 9, 15, 12, 10, 10), strict=True)))
    for name, one in found.items():
        measured = f"{one['pairs']:,} pairs of {one['weights'] / 1e6:.1f} M"
        print(
            f"{name:<30}{measured:>26}{one['seconds']:>7.2f} s{one['cpu']:>7.2f} s{1000 * each[name]:>12.1f} ms"
            f"{each[name] * pairs:>10.0f} s{each[name] / each[next(iter(each))]:>9,.0f}x"
            f"{one['peak'] - one['before']:>6.2f} GiB"
        )
    assert abs(found["boolean arrays"]["iou"] - ours["iou"]) < 1e-12
    counting, reading = limits()
    ideal = pairs * WEIGHTS / 8 / counting
    print(f"peak memory of ours with Python and its packages: {ours['peak']:.2f} GiB")
    print(f"limit: and + count {counting / 1e9:.1f} GB/s in the cache, memory {reading / 1e9:.1f} GB/s, one core each")
    print(f"       counting alone {ideal:.1f} s at the cache's limit, and {pairs * WEIGHTS / 4 / reading:.1f} s")
    print("       if every pair were read from memory;")
    print(
        f"       ours, from disk, with checks and layers: {ideal / ours['cpu']:.0%} of the cache's limit, by CPU time"
    )


if __name__ == "__main__":
    main()
