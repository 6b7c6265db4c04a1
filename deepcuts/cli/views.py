"""The verbs that look at a store: progress, trials, tables, figures, overlap, comparisons, SQL.

Each returns the exit code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deepcuts
from deepcuts.cli.arguments import (
    FIGURE,
    JSON,
    METRIC,
    OUTPUT,
    SPLIT,
    STAGE,
    STORE,
    TRIAL,
    WHICH,
    argument,
    existing,
    opened,
    verb,
)
from deepcuts.cli.drawing import as_asked, save_by_arm
from deepcuts.cli.latex import print_latex
from deepcuts.cli.over_datasets import OVER, check_over, print_over_datasets
from deepcuts.cli.printing import (
    DONE,
    INCOMPLETE,
    print_csv,
    print_degenerate,
    print_json,
    print_markdown,
    print_records,
    print_results,
    say_damaged,
    say_measured,
)
from deepcuts.cli.transfer_matrix import TABLE_FORMATS, print_transfer
from deepcuts.cli.trials import print_again, print_failures, print_trial
from deepcuts.experiment.metrics import in_split
from deepcuts.pruning.criteria import NOT_PRUNED
from deepcuts.wording import counted

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 15

# The columns that tables, curves and comparisons are made of. A file of one trial is read twice as fast with these
# alone as with all that it has.
NEEDED = (
    *("trial_id", "sweep", "model", "dataset", "strategy", "arm", "compression", "sparsity_asked", "seed", "status"),
    *("metric", "dense", "pruned", "rewound", "retrained", "compression_achieved", "sparsity", "dense_id"),
    *("majority", "finished_at", "spec", "mask_from", "mask_trial"),
)


def _trials(args: argparse.Namespace) -> pd.DataFrame:
    """The trials to show, with their arms; say which these are. Raises ValueError where there are none."""
    from deepcuts.analysis.selection import shown_trials

    store = existing(args.store_uri)
    of_program = args.json or getattr(args, "csv", False)  # which finds an arm by the same name in all selections
    frame = shown_trials(store, NEEDED, args.sweep, args.only, anew=not of_program)
    if frame.empty:
        say_damaged(frame.attrs["damaged"])
        what = f"no trials of sweep {args.sweep!r}" if args.sweep else "no trials"
        raise ValueError(f"store {store.uri!r} holds {what} yet; `deepcuts run SWEEP.yaml` fills it")
    aside = of_program or any(getattr(args, name, False) for name in ("latex", "markdown"))
    for line in frame.attrs["about"]:
        (sys.stderr if aside else sys.stdout).write(f"{line}\n")
    return frame


def _code(damaged: Mapping[str, str]) -> int:
    return INCOMPLETE if say_damaged(damaged) else DONE


def _print(rows: pd.DataFrame, args: argparse.Namespace) -> None:
    print_json(rows) if args.json else print_records(rows)


@verb(
    "status",
    "show how far each sweep of a store has come",
    STORE,
    argument("--watch", action="store_true", help="follow it live, until Ctrl-C"),
    argument("--by-arm", action="store_true", help="show a row for each arm of a sweep"),
    JSON,
)
def status_verb(args: argparse.Namespace) -> int:
    """How far every sweep of a store is; with --watch again and again, until Ctrl-C."""
    store = opened(args.store_uri) if args.watch else existing(args.store_uri)  # one may watch before the run begins
    if args.watch:
        from deepcuts.cli.watch import watch_store

        watch_store(store)
        return DONE
    frame = deepcuts.status(store, args.by_arm)
    if args.json or len(frame):
        _print(frame, args)
    else:
        print(f"store {store.uri} holds no sweep yet")
    if frame["failed"].any() and not args.json:
        print_failures(store)
    if (others := frame.attrs["unwanted"]) and not args.json:
        print(f"{counted(others, 'completed trial')} that no sweep wants now; --sweep all shows them, too")
    return _code(frame.attrs["damaged"])


@verb("show", "show all of one trial: its error, results, settings and how to run it again", STORE, TRIAL, JSON)
def show_verb(args: argparse.Namespace) -> int:
    """Everything about one trial."""
    store = existing(args.store_uri)
    frame = deepcuts.show(store, args.trial)
    row, code = frame.iloc[0].to_dict(), _code(frame.attrs["damaged"])
    if args.json:
        print_json(frame)
        return code
    print_trial(row)
    chain = deepcuts.rounds(store, row["trial_id"])
    if len(chain):
        print("\nrounds:")
        print_records(chain)
    print_degenerate(store, frame)
    print_again(row, store.uri)
    return code


@verb(
    "table",
    "print the results: mean and 95 %% interval over seeds",
    STORE,
    *WHICH,
    METRIC,
    SPLIT,
    argument("--columns", default="", metavar="KEY,...", help="show settings as columns, such as retrain.epochs"),
    argument("--csv", action="store_true", help="print CSV, with every column of the JSON"),
    argument("--latex", action="store_true", help="print a LaTeX table (package booktabs)"),
    argument("--markdown", action="store_true", help="print a Markdown table"),
    JSON,
)
def table_verb(args: argparse.Namespace) -> int:
    """Mean and interval over seeds, per dataset, arm and what was asked."""
    frame = _trials(args)
    shown = deepcuts.measured(existing(args.store_uri), frame, args.metric, args.split)
    columns = [name.strip() for name in args.columns.split(",") if name.strip()]
    results = deepcuts.table(shown, columns)
    formats = {"json": print_json, "csv": print_csv, "latex": print_latex, "markdown": print_markdown}
    asked = [name for name in formats if getattr(args, name)]
    if len(asked) > 1:
        raise ValueError(f"a table has one format; --{' and --'.join(asked)} are given")
    if asked:
        formats[asked[0]](results)
    else:
        print_results(results)
        print_degenerate(existing(args.store_uri), frame)
        say_measured(frame, shown)
    return _code(frame.attrs["damaged"])


@verb(
    "curves",
    "draw the metric against sparsity, a line per arm",
    STORE,
    *WHICH,
    OUTPUT,
    METRIC,
    SPLIT,
    STAGE,
    *FIGURE,
    argument("--x", default="auto", choices=["auto", "sparsity", "compression", "epoch"], help="the horizontal axis"),
    argument(
        "--report",
        default="last",
        choices=["last", "best"],
        help="take the last epoch of the stage, or as the original study did the best epoch of all stages, by accuracy"
        " (regression: squared error), which flatters",
    ),
    JSON,
)
def curves_verb(args: argparse.Namespace) -> int:
    """Metric against sparsity, or against the epochs of training, a line per arm."""
    frame, epochs = _trials(args), args.x == "epoch"
    if args.split == "test" and (epochs or args.report == "best"):
        raise ValueError("--split test: it is evaluated at the end of each stage alone; there are no values of epochs")
    with as_asked(args, frame, frame["arm"].unique().tolist()) as arms:
        some = frame[frame["strategy"].isin(NOT_PRUNED) | frame["arm"].isin(arms)]
        shown, made = _curves(args, some)
        if args.json:
            print_json(made)
            return _code(frame.attrs["damaged"])
        out = args.output or "curves.png"
        deepcuts.save_figure(deepcuts.plot_training(made) if epochs else deepcuts.plot_curves(made), out)
    print(f"wrote {out}")
    say_measured(some, shown)
    return _code(frame.attrs["damaged"])


def _curves(args: argparse.Namespace, frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the trials with the numbers that were asked for, and the curves or the training that they make."""
    store = existing(args.store_uri)
    if args.x == "epoch":
        made = deepcuts.training_curves(frame, deepcuts.metrics(store), args.metric, args.split)
        return frame, made.assign(metric=[in_split(metric, args.split) for metric in made["metric"]])
    if args.report == "best":
        metrics = deepcuts.metrics(store)
        return frame, deepcuts.curves(frame, args.metric, args.stage, args.x, metrics, args.report)
    shown = deepcuts.measured(store, frame, args.metric, args.split)
    return shown, deepcuts.curves(shown, None, args.stage, args.x)


@verb(
    "iou",
    "draw how much the masks of trials overlap, as a whole and layer by layer",
    STORE,
    *WHICH,
    OUTPUT,
    *FIGURE,
    argument("--trials", nargs="+", action="extend", default=[], metavar="TRIAL", help="compare only these trials"),
    argument("--common", action="store_true", help="compare the tensors that all models have, where models differ"),
    argument("--by-kind", action="store_true", help="group the layers by kind (query, key, ...)"),
    JSON,
)
def iou_verb(args: argparse.Namespace) -> int:
    """Overlap of masks between trials, and layer by layer."""
    frame = _trials(args)
    pruned = frame[(frame["status"] == "completed") & ~frame["strategy"].isin(NOT_PRUNED)]
    with as_asked(args, frame, pruned["arm"].unique().tolist()) as arms:
        damaged = _iou(args, frame, list(pruned.loc[pruned["arm"].isin(arms), "trial_id"]))
    return _code(frame.attrs["damaged"] | damaged)


def _iou(args: argparse.Namespace, frame: pd.DataFrame, pruned: list[str]) -> Mapping[str, str]:
    """Print and draw the overlap of the masks of trials; return the files that could not be read."""
    from deepcuts.names import find_id

    store = existing(args.store_uri)
    chosen = [find_id(each, frame["trial_id"]) for each in args.trials] or pruned
    if args.json:
        made = deepcuts.overlap(store, chosen, args.common, args.by_kind)
        print_json(made)
        return dict(made.attrs["damaged"])
    made, kept = deepcuts.overlap_and_density(store, chosen, args.common, args.by_kind)
    figures, left_out = _iou_figures(made, kept, frame)
    out = Path(args.output or "iou.png")
    names = [out.with_name(f"{out.stem}{name}{out.suffix}") for name in figures]
    for figure, path in zip(figures.values(), names, strict=True):
        deepcuts.save_figure(figure, path)
    whole = made[made["layer"].isna()]
    if len(whole) <= MOST_ROWS:
        print_records(whole.drop(columns="layer"))
    else:
        print(f"{len(whole):,} pairs of trials: --json prints each of them, and each layer")
    print("\nmeans of the pairs that differ in one thing alone:")
    print_records(deepcuts.decompose(made if args.by_kind else whole, frame))
    print(f"\nwrote {', '.join(map(str, names))}{left_out}")
    return dict(made.attrs["damaged"])


def _iou_figures(made: pd.DataFrame, kept: pd.DataFrame, frame: pd.DataFrame) -> tuple[dict[str, Any], str]:
    """Draw the figures of `iou` by the end of their names; say why there is one fewer."""
    figures = {"": deepcuts.plot_overlap(made, frame), "-layers": deepcuts.plot_layers(made, frame)}
    left_out = ""
    try:
        figures["-density"] = deepcuts.plot_density(kept, frame)
    except ValueError as error:
        left_out = f"; no figure of the density per layer: {error}"
    return figures | {"-dead": deepcuts.plot_dead(kept, frame)}, left_out


@verb(
    "compare",
    "compare arms with a baseline over seeds, or two trials over examples, by paired statistics",
    STORE,
    *WHICH,
    OUTPUT,
    METRIC,
    SPLIT,
    STAGE,
    *FIGURE,
    argument("trials", nargs="*", metavar="TRIAL", help="compare only these two, example by example"),
    argument("--baseline", metavar="ARM", help="also Dense, Unpruned (default: LayerMagWeight, where it is there)"),
    argument(
        "--margin", type=float, default=0.01, metavar="M", help="differences within M do not matter (default: 0.01)"
    ),
    argument("--examples", action="store_true", help="make intervals hold for other validation examples too (slower)"),
    *OVER,
    JSON,
)
def compare_verb(args: argparse.Namespace) -> int:
    """Arms against a baseline over seeds, or two trials over examples."""
    check_over(args)
    store, frame = existing(args.store_uri), _trials(args)
    if args.trials:
        if len(args.trials) != 2:
            raise ValueError(f"{len(args.trials)} trials are given; compare takes two, or none for all arms")
        one, other = args.trials
        _print(deepcuts.compare_trials(store, one, other, args.stage, args.metric, args.split), args)
        return _code(frame.attrs["damaged"])
    shown = deepcuts.measured(store, frame, args.metric, args.split)
    args.baseline = _baseline(args, frame, shown)
    if args.over:
        made = deepcuts.compare_over_datasets(shown, args.baseline, args.stage, args.margin)
        print_over_datasets(made, args)
        save_by_arm(args, frame, made, deepcuts.plot_ranks)
        return _code(frame.attrs["damaged"])
    made = deepcuts.compare(shown, args.baseline, args.stage, args.margin)
    if args.examples:
        made = deepcuts.with_examples(store, made, shown, args.stage)
    if args.json:
        print_json(made)
    elif made.empty:
        print(f"nothing to compare: no arm besides {args.baseline} has completed trials")
    else:
        _print_verdicts(made, args, frame)
        say_measured(frame, shown)
    return _code(frame.attrs["damaged"])


def _baseline(args: argparse.Namespace, frame: pd.DataFrame, shown: pd.DataFrame) -> str:
    """Return the baseline that was asked for, as its arm is called now, or the usual one of these trials."""
    from deepcuts.analysis.compare import usual_baseline
    from deepcuts.analysis.selection import formerly_called

    if args.baseline is None:
        return usual_baseline(shown)
    now = formerly_called(existing(args.store_uri), frame, args.baseline)
    if len(now) == 1:
        sys.stderr.write(f"{args.baseline} is now called {now[0]}\n")
    return now[0] if len(now) == 1 else str(args.baseline)


def _print_verdicts(made: pd.DataFrame, args: argparse.Namespace, frame: pd.DataFrame) -> None:
    """A sentence per comparison, by dataset, and the figure where it was asked for."""
    from deepcuts.analysis.compare import FEWEST_TESTED

    compared = f"{counted(len(made), 'comparison')} with {args.baseline}, {args.stage}"
    tested = int((made["n"] >= FEWEST_TESTED).sum())
    family = "the number of comparisons" if tested == len(made) else f"the {tested} with {FEWEST_TESTED} seeds or more"
    print(f"{compared}; differences within {args.margin:g} do not matter; p values are corrected for {family}")
    for _, part in made.groupby("dataset", sort=False):
        print()
        for row in part.to_dict("records"):
            print(deepcuts.in_words({str(key): value for key, value in row.items()}, args.margin))
    if args.output:
        with as_asked(args, frame, list({*made["strategy"], *made["baseline"]})) as arms:
            some = made[made["strategy"].isin(arms)]
            deepcuts.save_figure(deepcuts.plot_forest(some, args.margin), args.output)
        print(f"\nwrote {args.output}")


@verb(
    "transfer",
    "show what masks of other datasets and seeds (mask_from) are worth, beside the same masks shuffled",
    STORE,
    *WHICH,
    OUTPUT,
    METRIC,
    SPLIT,
    STAGE,
    *FIGURE,
    *TABLE_FORMATS,
    JSON,
)
def transfer_verb(args: argparse.Namespace) -> int:
    """The transfer matrix of the trials with `mask_from`."""
    frame = _trials(args)
    shown = deepcuts.measured(existing(args.store_uri), frame, args.metric, args.split)
    made = deepcuts.transfer(shown, args.stage)
    print_transfer(made, args)
    save_by_arm(args, frame, made, deepcuts.plot_transfer)
    return _code(frame.attrs["damaged"])


@verb(
    "query",
    "run read-only SQL over the tables trials, metrics, predictions, masks, sweeps and the view settings",
    STORE,
    argument("sql", metavar="SQL", help='such as "select strategy, avg(retrained) from trials group by 1"'),
    argument("--csv", action="store_true", help="print CSV"),
    JSON,
)
def query_verb(args: argparse.Namespace) -> int:
    """SQL over the tables, read-only."""
    frame = deepcuts.query(existing(args.store_uri), args.sql)
    if args.csv and not args.json:
        frame.to_csv(sys.stdout, index=False)
    else:
        _print(frame, args)
    return _code(frame.attrs.get("damaged", {}))
