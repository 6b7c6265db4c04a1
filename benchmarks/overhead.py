"""Times the orchestration alone: launches of trials whose stages are stubs, and plans and compaction at scale.

    python -m benchmarks.overhead [--trials 100 1000] [--plan 10000] [--chains]

Prints the seconds per trial, without the start of Ray and its workers, and how much the driver grows per trial. With
--chains also for chains of nine rounds of iterative pruning, each of which waits for the one before.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from deepcuts.analysis.curves import table
from deepcuts.analysis.frames import trials
from deepcuts.experiment.spec import TrialSpec
from deepcuts.experiment.sweepfile import SweepFile
from deepcuts.store.compact import compact
from deepcuts.store.live import new_launch_id
from deepcuts.store.store import Store
from deepcuts.store.tables import encode
from deepcuts.sweep.cluster import start_ray
from deepcuts.sweep.pace import Pace
from deepcuts.sweep.plan import make_plan
from deepcuts.sweep.prepare import prepare_sweep
from deepcuts.sweep.progress import Progress
from deepcuts.sweep.tune import run_plan
from deepcuts.sweep.worker import Launch


def specs(count: int, chains: bool = False) -> list[TrialSpec]:
    """Return `count` trials of the toy: a Dense and nine sparsities for each seed; with `chains` in nine rounds."""
    file = SweepFile(
        name="stubs",
        model="toy",
        datasets=["toy"],
        strategies=["LayerMagWeight"],
        sparsities=[number / 10 for number in range(1, 10)],
        rounds={"remove": 0.1} if chains else None,
        seeds=list(range((count + 9) // 10)),
        max_tokens=32,
    )
    return prepare_sweep(file, "cpu").spec.trials()[:count]


def stub(launch: Launch, trial: TrialSpec, store: Store, beat: Any) -> Mapping[str, Any]:
    """Run a trial that only writes its row."""
    row = completed(trial)
    store.write("trials", trial.trial_id, [row])
    return row


def completed(trial: TrialSpec) -> dict[str, Any]:
    """Return the row of a completed trial."""
    return {
        "trial_id": trial.trial_id,
        "sweep": "stubs",
        "model": "toy",
        "dataset": "toy",
        "strategy": trial.strategy,
        "sparsity_asked": trial.sparsity or 0.0,
        "seed": trial.dense.seed,
        "status": "completed",
        "metric": "accuracy",
        "dense": 1.0,
        "retrained": None if trial.strategy == "Dense" else 0.9,
        "sparsity": trial.sparsity or 0.0,
        "total_seconds": 0.0,
    }


def launched(count: int, chains: bool = False) -> tuple[float, float]:
    """Launch `count` stubs; return the seconds, and the kilobytes that the driver grew, per trial."""
    with tempfile.TemporaryDirectory() as folder:
        store, wanted = Store(folder), specs(count, chains)
        plan = make_plan(wanted, store)
        ids = {trial.trial_id: trial for trial in wanted}
        launch = Launch(ids, wanted, "stubs", store.address, new_launch_id(), 1, False, 5, False, stub)
        progress = Progress(Console(quiet=True), count, 0, Pace(wanted, {}))
        before, began = resident(), time.monotonic()
        run_plan(plan, launch, store, progress, gpus=0)
        seconds = time.monotonic() - began
        grown = resident() - before
        assert set(store.statuses().values()) == {"completed"}
        assert len(store.statuses()) == count
        return seconds / count, grown / count


def resident() -> float:
    """Return the kilobytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1000


def at_scale(count: int) -> None:
    """Time plans over a store of `count` trials, and its compaction."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        began = time.monotonic()
        wanted = specs(count)
        plan = make_plan(wanted, store)
        print(f"plan of {len(plan.to_run):,} trials, empty store: {time.monotonic() - began:.2f} s")
        for trial in wanted:
            loss = {"trial_id": trial.trial_id, "metric": "loss", "value": 1.0}
            for name, row in (("trials", completed(trial)), ("metrics", loss)):
                (Path(folder) / name).mkdir(exist_ok=True)
                (Path(folder) / name / f"{trial.trial_id}.parquet").write_bytes(encode(name, [row]))
        began = time.monotonic()
        assert not make_plan(wanted, store).to_run
        print(f"plan, all of them completed: {time.monotonic() - began:.2f} s")
        before = table(trials(store))
        began = time.monotonic()
        merged = compact(store)
        print(f"compact: {time.monotonic() - began:.2f} s for {sum(row['files'] for row in merged):,} files")
        began = time.monotonic()
        after = table(trials(store))
        print(
            f"table of the compacted store: {time.monotonic() - began:.2f} s; the same answer: {after.equals(before)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--plan", type=int, default=10_000)
    parser.add_argument("--chains", action="store_true")
    args = parser.parse_args()
    if args.plan:
        at_scale(args.plan)
    if not args.trials:
        return
    start_ray(None)
    launched(10)  # starts the workers, which import their modules
    first = None
    for count in args.trials:
        seconds, kilobytes = launched(count)
        first = first or seconds
        cost = f"{seconds * 1000:.0f} ms and {kilobytes:.0f} kB of driver a trial"
        print(f"{count:,} trials: {cost}, x {seconds / first:.2f}")
        if args.chains:
            chained, _ = launched(count, chains=True)
            print(f"{count:,} trials in chains: {chained * 1000:.0f} ms a trial, x {chained / seconds:.2f} of these")


if __name__ == "__main__":
    main()
