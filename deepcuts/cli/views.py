"""The verbs that look at a store: progress, trials, tables, figures, overlap, SQL, the report, an exported network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcuts.analysis.frames import columns_of, metrics, narrowed, query, trials
from deepcuts.cli.printing import DONE, INCOMPLETE, for_people, print_json, print_records, say_damaged
from deepcuts.names import find_id
from deepcuts.store.live import Watch
from deepcuts.store.store import Store

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
    columns = dict.fromkeys([*NEEDED, *columns_of(args.only)])
    frame = trials(store, list(columns), **({"sweep": args.sweep} if args.sweep else {}))
    if frame.empty:
        say_damaged(frame.attrs["damaged"])
        what = f"no trials of sweep {args.sweep!r}" if args.sweep else "no trials"
        raise ValueError(f"store {args.store_uri!r} holds {what} yet; `deepcuts run SWEEP.yaml` fills it")
    return narrowed(frame, args.only)


def _code(damaged: Mapping[str, str]) -> int:
    return INCOMPLETE if say_damaged(damaged) else DONE


def _status(args: argparse.Namespace) -> int:
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


def show_verb(args: argparse.Namespace) -> int:
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


def table_verb(args: argparse.Namespace) -> int:
    """Mean and interval over seeds, per dataset, strategy and what was asked."""
    from deepcuts.analysis.curves import table

    frame = _trials(args, Store(args.store_uri))
    results = table(frame)
    if args.json:
        print_json(results)
    else:
        print_records(for_people(results))
    return _code(frame.attrs["damaged"])


def curves_verb(args: argparse.Namespace) -> int:
    """Metric against sparsity, a line per strategy."""
    from deepcuts.analysis.curves import curves, training_curves

    store = Store(args.store_uri)
    frame = _trials(args, store)
    values = metrics(store) if args.metric or args.report == "best" or args.x == "epoch" else None
    if args.x == "epoch":
        assert values is not None
        made = training_curves(frame, values, args.metric)
    else:
        made = curves(frame, args.metric, args.stage, args.x, values, args.report)
    if args.json:
        print_json(made)
        return _code(frame.attrs["damaged"])
    from deepcuts.figures.curves import plot_curves, plot_training
    from deepcuts.figures.style import save_figure

    out = args.output or "curves.png"
    save_figure(plot_training(made) if args.x == "epoch" else plot_curves(made), out)
    print(f"wrote {out}")
    return _code(frame.attrs["damaged"])


def iou_verb(args: argparse.Namespace) -> int:
    """Overlap of masks between trials, and layer by layer."""
    from deepcuts.analysis.overlap import overlap

    store = Store(args.store_uri)
    frame = _trials(args, store)
    pruned = frame[(frame["status"] == "completed") & ~frame["strategy"].isin(["Dense", "Unpruned"])]
    chosen = [find_id(each, frame["trial_id"]) for each in args.trials] or list(pruned["trial_id"])
    made = overlap(store, chosen, args.common, args.by_kind)
    damaged = frame.attrs["damaged"] | made.attrs["damaged"]
    if args.json:
        print_json(made)
        return _code(damaged)
    from deepcuts.analysis.pairs import decompose

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
    from deepcuts.analysis.density import density
    from deepcuts.figures.density import plot_dead, plot_density
    from deepcuts.figures.overlap import plot_layers, plot_overlap
    from deepcuts.figures.style import save_figure

    kept = density(store, sorted(set(overlap["trial_a"]) | set(overlap["trial_b"])))
    figures = {"": plot_overlap(overlap, trials), "-layers": plot_layers(overlap)}
    figures |= {"-density": plot_density(kept, trials), "-dead": plot_dead(kept, trials)}
    names = [out.with_name(f"{out.stem}{name}{out.suffix}") for name in figures]
    for figure, path in zip(figures.values(), names, strict=True):
        save_figure(figure, path)
    return names


def compare_verb(args: argparse.Namespace) -> int:
    """Strategies against a baseline over seeds, or two trials over examples."""
    from deepcuts.analysis.compare import compare
    from deepcuts.analysis.examples import compare_trials, with_examples

    store = Store(args.store_uri)
    frame = _trials(args, store)
    if args.trials:
        if len(args.trials) != 2:
            raise ValueError(f"{len(args.trials)} trials are given; compare takes two, or none for all strategies")
        one, other = args.trials
        made = compare_trials(store, one, other, args.stage, args.metric)
        print_json(made) if args.json else print_records(made)
        return _code(frame.attrs["damaged"])
    values = metrics(store) if args.metric else None
    made = compare(frame, args.baseline, args.stage, args.margin, args.metric, values)
    if args.examples:
        made = with_examples(store, made, frame, args.stage)
    if args.json:
        print_json(made)
    else:
        _say_verdicts(made, args)
    return _code(frame.attrs["damaged"])


def _say_verdicts(made: pd.DataFrame, args: argparse.Namespace) -> None:
    """A sentence per comparison, by dataset, and the figure where it was asked for."""
    from deepcuts.analysis.compare import in_words

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
        from deepcuts.figures.forest import plot_forest
        from deepcuts.figures.style import save_figure

        save_figure(plot_forest(made, args.margin), args.output)
        print(f"\nwrote {args.output}")


def query_verb(args: argparse.Namespace) -> int:
    """SQL over the tables, read-only."""
    frame = query(Store(args.store_uri), args.sql)
    if args.json:
        print_json(frame)
    elif args.csv:
        frame.to_csv(sys.stdout, index=False)
    else:
        print_records(frame)
    return _code(frame.attrs.get("damaged", {}))


def status_verb(args: argparse.Namespace) -> int:
    """How far every sweep of a store is; with --watch again and again, until Ctrl-C."""
    if not args.watch:
        return _status(args)
    from deepcuts.cli.watch import watch_store

    watch_store(Store(args.store_uri))
    return DONE


def report_verb(args: argparse.Namespace) -> int:
    """One HTML page of a store or of one sweep."""
    from deepcuts.publish.report import report

    out = Path(args.output)
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ValueError(f"--output {args.output!r}: name a file, such as report.html, in a folder that is there")
    made = report(Store(args.store_uri), args.sweep, args.baseline, args.only)
    made.save(out)
    print(f"wrote {out} ({len(made.text.encode()) / 1e6:.1f} MB): open it in a browser; it needs no network")
    return INCOMPLETE if say_damaged(made.damaged) else DONE


def export_verb(args: argparse.Namespace) -> int:
    """The pruned network of a trial as a transformers folder."""
    from deepcuts.publish.export import export as write

    try:
        row = write(Store(args.store_uri), args.trial, Path(args.folder))
    except OSError as error:
        print(f"deepcuts: {error}", file=sys.stderr)
        return INCOMPLETE
    print(f"wrote {args.folder}: {row['strategy']} on {row['dataset']}, {row['metric']} {row['retrained']:.3f}")
    return DONE
