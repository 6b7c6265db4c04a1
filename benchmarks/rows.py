"""Times how fast the rows of 10,000 trials become frames, curves, comparisons and answers to SQL.

    python -m benchmarks.rows [--trials 10000] [--compacted] [--folder DIR]

The store is synthetic: 4 datasets, 16 criteria in two scopes, 8 compressions and as many seeds as it takes, each trial
with a spec and 24 rows of metrics. Measured with a file per trial, as a sweep writes them, and compacted, into a file
per table for every 10,000 trials, as launches leave it that each end with a compaction. The peak memory is that of the
process, which also holds what the views returned.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

from deepcuts.analysis import frames
from deepcuts.analysis.across import compare_over_datasets
from deepcuts.analysis.checklist import checklist
from deepcuts.analysis.compare import compare
from deepcuts.analysis.curves import best_epoch, curves, table, training_curves
from deepcuts.analysis.measured import measured
from deepcuts.analysis.selection import shown_trials
from deepcuts.analysis.transfer import transfer
from deepcuts.cli.shown import NEEDED
from deepcuts.experiment.settings import Scoring, Training
from deepcuts.experiment.spec import DenseSpec, ModelSource, ScoreSpec, TrialSpec, canonical, score_spec
from deepcuts.experiment.tasks import TASKS
from deepcuts.pruning.criteria import CRITERIA, NOT_PRUNED, parse_strategy
from deepcuts.publish.report import report
from deepcuts.store.store import Store, encode

SQL = "SELECT strategy, avg(value) AS f1 FROM trials JOIN metrics USING (trial_id) WHERE stage = 'retrained' GROUP BY 1"

AT_ONCE = 10_000
SEED = 987_654_321  # no other number of a spec
COMPRESSIONS = (1.5, 2, 2.5, 3, 3.5, 4, 4.2, 4.5)


def spec_text(dataset: str, strategy: str, compression: float) -> str:
    """Return the spec of a trial as its row holds it, with SEED where the seed belongs."""
    dense = DenseSpec(
        model=ModelSource(name="bert-base"),
        dataset=dataset,
        task=TASKS[dataset],
        seed=SEED,
        finetune=Training(epochs=3),
    )
    score, after = ScoreSpec(dense=dense), {"retrain": Training(epochs=3)}
    if strategy in NOT_PRUNED:
        spec = TrialSpec(score=score, **(after if strategy == "Unpruned" else {}))
    else:
        criterion, scope, control = parse_strategy(strategy)
        score = score_spec(dense, criterion, Scoring(), prune_biases=False)
        spec = TrialSpec(score=score, scope=scope, control=control, compression=compression, **after)
    return canonical(spec.model_dump(mode="json"))


def trial_rows(count: int) -> list[dict[str, Any]]:
    """Return `count` rows of the trials table."""
    generator = np.random.default_rng(0)
    strategies = [scope + criterion for scope in ("Layer", "Global") for criterion in CRITERIA]
    kinds = [(name, 1.0) for name in NOT_PRUNED] + list(product(strategies, COMPRESSIONS))
    combinations = product(range(count), ("cola", "sst2", "stsb", "mrpc"), kinds)
    text, rows = cache(spec_text), []
    for number, (seed, dataset, (strategy, compression)) in enumerate(islice(combinations, count)):
        value = float(0.9 - 0.05 * compression + generator.normal(0, 0.01))
        row = {"trial_id": f"{number:016x}", "sweep": "synthetic", "model": "bert-base", "dataset": dataset}
        row |= {"strategy": strategy, "arm": strategy, "compression": compression, "seed": seed, "status": "completed"}
        row |= {"metric": "accuracy", "dense": 0.92, "pruned": 0.6, "rewound": 0.5, "retrained": value}
        row |= {"sparsity": 1 - 1 / compression, "compression_achieved": compression, "majority": 0.5}
        row |= {"spec": text(dataset, strategy, compression).replace(str(SEED), str(seed))}
        row |= {"finished_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)}
        rows.append(row | {"dense_id": f"{dataset}-{seed}", "flops": 100, "flops_nonzero": 50})
    return rows


def metric_rows(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the metrics table for a trial."""
    common = {"trial_id": row["trial_id"], "split": "validation", "seconds": 1.0}
    return [
        {**common, "stage": stage, "epoch": epoch, "step": 10 * epoch + 10, "metric": metric, "value": row["retrained"]}
        for stage in ("dense", "retrained")
        for epoch in range(6)
        for metric in ("accuracy", "f1")
    ]


def write(folder: Path, rows: list[dict[str, Any]], compacted: bool) -> Store:
    """Write the trials with their metrics, compacted or with a file for each trial."""
    for name in ("trials", "metrics"):
        (folder / name).mkdir(parents=True)
    wanted = ("sweep", "trial_id", "strategy", "arm", "dataset", "seed")
    Store(str(folder)).write("sweeps", "synthetic", [{name: row[name] for name in wanted} for row in rows])
    if compacted:
        for number, start in enumerate(range(0, len(rows), AT_ONCE), 1):
            some = rows[start : start + AT_ONCE]
            name = f"compact-{number:06}-{number:016x}.parquet"
            (folder / f"trials/{name}").write_bytes(encode("trials", some))
            every = [metric for row in some for metric in metric_rows(row)]
            (folder / f"metrics/{name}").write_bytes(encode("metrics", every))
        return Store(str(folder))
    for row in rows:
        (folder / f"trials/{row['trial_id']}.parquet").write_bytes(encode("trials", [row]))
        (folder / f"metrics/{row['trial_id']}.parquet").write_bytes(encode("metrics", metric_rows(row)))
    return Store(str(folder))


def timed(name: str, work: Callable[[], Any]) -> Any:
    """Print the seconds that `work` takes, and the length of its result; return the result."""
    started, busy = time.perf_counter(), time.process_time()
    found = work()
    elapsed, cpu = time.perf_counter() - started, time.process_time() - busy
    print(f"  {name:<44}{elapsed:>7.2f} s{cpu:>7.2f} s CPU{len(found):>10,} rows")
    return found


def time_views(store: Store) -> None:
    """Time everything that reads the store."""
    timed("statuses", store.statuses)
    timed("status", lambda: frames.status(store))
    timed("show", lambda: frames.show(store, f"{7:016x}"))
    timed("what `table`, `curves` and `compare` read", lambda: shown_trials(store, NEEDED))
    trials = timed("trials", lambda: frames.trials(store))
    timed("trials of a dataset, three columns", lambda: frames.trials(store, ["strategy", "seed"], dataset="cola"))
    metrics = timed("metrics", lambda: frames.metrics(store))
    timed("curves", lambda: curves(trials))
    timed("curves of another metric", lambda: curves(trials, "f1", metrics=metrics))
    timed("`--metric`", lambda: measured(store, trials, "f1"))
    timed("curves by epoch", lambda: training_curves(trials, metrics))
    timed("best epochs", lambda: best_epoch(trials, metrics))
    timed("table", lambda: table(trials))
    timed("compare", lambda: compare(trials))
    timed("compare over datasets", lambda: compare_over_datasets(trials))
    timed("transfer", lambda: transfer(trials))
    timed("checklist", lambda: checklist(trials))
    timed("report", lambda: [report(store)])
    timed("query, one table", lambda: frames.query(store, "SELECT status, count(*) FROM trials GROUP BY 1"))
    timed("query, two tables", lambda: frames.query(store, SQL))
    timed("query, settings", lambda: frames.query(store, "SELECT arm, count(*) FROM settings GROUP BY 1"))
    timed("SQL with a mistake, refused", lambda: refused(store))


def refused(store: Store) -> str:
    """Return the error for a statement with a misspelt column."""
    try:
        frames.query(store, "SELECT sed FROM trials")
    except ValueError as error:
        return str(error)
    raise AssertionError("the mistake was not noticed")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the frames of many trials.")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--compacted", action="store_true", help="without a file per trial, which takes long to write")
    parser.add_argument("--folder", help="where to write the store, which is removed at the end; default: temporary")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="deepcuts-rows-", dir=args.folder))
    try:
        rows = trial_rows(args.trials)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{before / 1024**2:.2f} GiB before anything is written or read")
        for compacted in (True,) if args.compacted else (True, False):
            store = write(folder / str(compacted), rows, compacted)
            print(f"{args.trials:,} trials, {'compacted' if compacted else 'a file per trial'}")
            time_views(store)
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2:.2f} GiB")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
