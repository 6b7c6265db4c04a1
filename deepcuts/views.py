"""The verbs that look at a store: progress, trials, tables, figures, overlap and SQL. Each returns the exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcuts import analysis
from deepcuts.beats import Watch
from deepcuts.names import find_id
from deepcuts.output import DONE, INCOMPLETE, print_json, print_records, say_damaged, shown
from deepcuts.store import Store

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 15

# What the frames below are made of. A file of one trial is read twice as fast as with all of its columns.
NEEDED = (
    *("trial_id", "sweep", "model", "dataset", "strategy", "compression", "sparsity_asked", "seed", "status"),
    *("metric", "dense", "pruned", "rewound", "retrained", "compression_achieved", "sparsity", "dense_id"),
)


def _trials(args: argparse.Namespace, store: Store) -> pd.DataFrame:
    """The trials that `--sweep` and `--only` leave. Raises ValueError where there are none."""
    columns = dict.fromkeys([*NEEDED, *analysis.columns_of(args.only)])
    frame = analysis.trials(store, list(columns), **({"sweep": args.sweep} if args.sweep else {}))
    if frame.empty:
        say_damaged(frame.attrs["damaged"])
        what = f"no trials of sweep {args.sweep!r}" if args.sweep else "no trials"
        raise ValueError(f"store {args.store_uri!r} holds {what} yet; `deepcuts run SWEEP.yaml` fills it")
    return analysis.narrowed(frame, args.only)


def _code(damaged: Mapping[str, str]) -> int:
    return INCOMPLETE if say_damaged(damaged) else DONE


def status(args: argparse.Namespace) -> int:
    """How far every sweep of a store is."""
    store = Store(args.store_uri)
    read = store.read("sweeps", ["sweep", "trial_id"])
    statuses, damaged = store.read_statuses()
    running = Watch(store, "").busy()
    wanted: dict[str, list[str]] = {}
    for row in read.table.to_pylist():
        wanted.setdefault(row["sweep"], []).append(row["trial_id"])
    rows = [_state(sweep, ids, statuses, running) for sweep, ids in sorted(wanted.items())]
    if args.json:
        print_json(rows)
    elif rows:
        print_records(rows)
    else:
        print(f"store {store.uri} holds no sweep yet")
    return INCOMPLETE if say_damaged(damaged | read.damaged) else DONE


def _state(sweep: str, ids: Sequence[str], statuses: Mapping[str, str], running: set[str]) -> dict[str, Any]:
    states = [statuses.get(key) for key in ids]
    done, failed = states.count("completed"), states.count("trial")
    at_work = sum(key in running and statuses.get(key) != "completed" for key in ids)
    return {
        "sweep": sweep,
        "trials": len(ids),
        "completed": done,
        "failed": failed,
        "running": at_work,
        "left": len(ids) - done - failed,
    }


def show(args: argparse.Namespace) -> int:
    """Everything about one trial."""
    store = Store(args.store_uri)
    read = store.read("trials")
    rows = {row["trial_id"]: row for row in read.table.to_pylist()}
    code = _code(read.damaged)
    row = rows[find_id(args.trial, rows)]
    if args.json:
        print_json([row])
        return code
    width = max(len(name) for name in row)
    for name, value in row.items():
        if value is not None and name != "traceback":
            print(f"{name:<{width}}  {value}")
    if row["traceback"]:
        print(f"\n{row['traceback']}")
    print(f"\nrun it again: deepcuts run-one {args.store_uri} {row['trial_id']}")
    return code


def table(args: argparse.Namespace) -> int:
    """Mean and interval over seeds, per dataset, strategy and what was asked."""
    from deepcuts import curves

    frame = _trials(args, Store(args.store_uri))
    results = curves.table(frame)
    if args.json:
        print_json(results)
    else:
        print_records(shown(results))
    return _code(frame.attrs["damaged"])


def curves(args: argparse.Namespace) -> int:
    """Metric against sparsity, a line per strategy."""
    from deepcuts import curves as over_seeds

    store = Store(args.store_uri)
    frame = _trials(args, store)
    metrics = analysis.metrics(store) if args.metric or args.report == "best" or args.x == "epoch" else None
    if args.x == "epoch":
        assert metrics is not None
        made = over_seeds.training(frame, metrics, args.metric)
    else:
        made = over_seeds.curves(frame, args.metric, args.stage, args.x, metrics, args.report)
    if args.json:
        print_json(made)
        return _code(frame.attrs["damaged"])
    from deepcuts.figures import save
    from deepcuts.plots import plot_curves
    from deepcuts.training_plots import plot_training

    out = args.output or "curves.png"
    save(plot_training(made) if args.x == "epoch" else plot_curves(made), out)
    print(f"wrote {out}")
    return _code(frame.attrs["damaged"])


def iou(args: argparse.Namespace) -> int:
    """Overlap of masks between trials, and layer by layer."""
    from deepcuts.overlap import overlap

    store = Store(args.store_uri)
    frame = _trials(args, store)
    pruned = frame[(frame["status"] == "completed") & ~frame["strategy"].isin(["Dense", "Unpruned"])]
    chosen = [find_id(each, frame["trial_id"]) for each in args.trials] or list(pruned["trial_id"])
    made = overlap(store, chosen, args.common, args.by_kind)
    damaged = frame.attrs["damaged"] | made.attrs["damaged"]
    if args.json:
        print_json(made)
        return _code(damaged)
    from deepcuts.pairs import decompose

    whole = made[made["layer"].isna()]
    names = _save_masks(store, frame, made, Path(args.output or "iou.png"))
    if len(whole) <= MOST_ROWS:
        print_records(whole.drop(columns="layer"))
    else:
        print(f"{len(whole)} pairs of trials: --json prints each of them, and each layer")
    print("\nmeans of the pairs that differ in one thing alone:")
    print_records(decompose(made if args.by_kind else whole, frame))
    print(f"\nwrote {', '.join(map(str, names))}")
    return _code(damaged)


def _save_masks(store: Store, trials: pd.DataFrame, overlap: pd.DataFrame, out: Path) -> list[Path]:
    """Draw overlap, and where the weights of its trials went; the files."""
    from deepcuts.dead_plots import plot_dead
    from deepcuts.density import density
    from deepcuts.figures import save
    from deepcuts.mask_plots import plot_density, plot_layers, plot_overlap

    kept = density(store, sorted(set(overlap["trial_a"]) | set(overlap["trial_b"])))
    figures = {"": plot_overlap(overlap, trials), "-layers": plot_layers(overlap)}
    figures |= {"-density": plot_density(kept, trials), "-dead": plot_dead(kept, trials)}
    names = [out.with_name(f"{out.stem}{name}{out.suffix}") for name in figures]
    for figure, path in zip(figures.values(), names, strict=True):
        save(figure, path)
    return names


def compare(args: argparse.Namespace) -> int:
    """Strategies against a baseline over seeds, or two trials over examples."""
    from deepcuts import examples, stats

    store = Store(args.store_uri)
    frame = _trials(args, store)
    if args.trials:
        if len(args.trials) != 2:
            raise ValueError(f"{len(args.trials)} trials are given; compare takes two, or none for all strategies")
        one, other = args.trials
        made = examples.compare_trials(store, one, other, args.stage, args.metric)
        print_json(made) if args.json else print_records(made)
        return _code(frame.attrs["damaged"])
    metrics = analysis.metrics(store) if args.metric else None
    made = stats.compare(frame, args.baseline, args.stage, args.margin, args.metric, metrics)
    if args.examples:
        made = examples.with_examples(store, made, frame, args.stage)
    if args.json:
        print_json(made)
    else:
        _say_verdicts(made, args)
    return _code(frame.attrs["damaged"])


def _say_verdicts(made: pd.DataFrame, args: argparse.Namespace) -> None:
    """A sentence per comparison, by dataset, and the figure where it was asked for."""
    from deepcuts.verdicts import in_words

    if made.empty:
        print(f"nothing to compare: no strategy besides {args.baseline} has completed trials")
        return
    print(
        f"{len(made)} comparisons with {args.baseline}, {args.stage}; differences within {args.margin:g} do not matter"
    )
    for _, part in made.groupby("dataset", sort=False):
        print()
        for row in part.to_dict("records"):
            print(in_words({str(key): value for key, value in row.items()}, args.margin))
    if args.output:
        from deepcuts.figures import save
        from deepcuts.forest import plot_forest

        save(plot_forest(made, args.margin), args.output)
        print(f"\nwrote {args.output}")


def query(args: argparse.Namespace) -> int:
    """SQL over the tables, read-only."""
    frame = analysis.query(Store(args.store_uri), args.sql)
    if args.json:
        print_json(frame)
    elif args.csv:
        frame.to_csv(sys.stdout, index=False)
    else:
        print_records(frame)
    return _code(frame.attrs.get("damaged", {}))
