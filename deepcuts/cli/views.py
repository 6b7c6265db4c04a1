"""The verbs that look at a store: progress, trials, tables, figures, overlap, comparisons, SQL.

Each returns the exit code.
"""

from __future__ import annotations

import argparse
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
from deepcuts.cli.drawing import as_asked, figure_file, save_by_arm, say_wrote
from deepcuts.cli.latex import print_latex
from deepcuts.cli.printing import (
    DONE,
    format_asked,
    print_csv,
    print_degenerate,
    print_json,
    print_markdown,
    print_records,
    print_results,
    say_measured,
)
from deepcuts.cli.shown import code_of, is_aside, print_frame, trials_asked
from deepcuts.cli.transfer_matrix import TABLE_FORMATS, print_transfer
from deepcuts.cli.trials import print_again, print_failures, print_trial
from deepcuts.experiment.metrics import in_split
from deepcuts.names import nearest
from deepcuts.pruning.criteria import NOT_PRUNED
from deepcuts.wording import counted

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 15


@verb(
    "status",
    "show how far each sweep of a store has come",
    STORE,
    argument("--watch", action="store_true", help="follow it live, until Ctrl-C (in a pipe: until all has ended)"),
    argument("--by-arm", action="store_true", help="show a row for each arm of a sweep"),
    JSON,
)
def status_verb(args: argparse.Namespace) -> int:
    """How far every sweep of a store is; with --watch again and again, until Ctrl-C."""
    store = opened(args.store_uri) if args.watch else existing(args.store_uri)  # one may watch before the run begins
    if args.watch:
        if ignored := [flag for flag, given in (("--json", args.json), ("--by-arm", args.by_arm)) if given]:
            raise ValueError(f"status: --watch shows what it shows, without {' and '.join(ignored)}: leave out one")
        from deepcuts.cli.watch import watch_store

        watch_store(store)
        return DONE
    frame = deepcuts.status(store, args.by_arm)
    if args.json or len(frame):
        print_frame(frame, args)
    else:
        print(f"store {store.uri} holds no sweep yet")
    if frame["failed"].any() and not args.json:
        print_failures(store)
    if (others := frame.attrs["unwanted"]) and not args.json:
        print(f"{counted(others, 'completed trial')} that no sweep wants now; --sweep all shows them, too")
    return code_of(frame.attrs["damaged"])


@verb("show", "show all of one trial: its error, results, settings and how to run it again", STORE, TRIAL, JSON)
def show_verb(args: argparse.Namespace) -> int:
    """Everything about one trial."""
    store = existing(args.store_uri)
    frame = deepcuts.show(store, args.trial)
    row, code = frame.iloc[0].to_dict(), code_of(frame.attrs["damaged"])
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
    frame = trials_asked(args)
    shown = deepcuts.measured(existing(args.store_uri), frame, args.metric, args.split)
    columns = [name.strip() for name in args.columns.split(",") if name.strip()]
    results = deepcuts.table(shown, columns)
    formats = {"json": print_json, "csv": print_csv, "latex": print_latex, "markdown": print_markdown}
    asked = format_asked(args, *formats)
    formats.get(asked or "", print_results)(results)
    if asked is None:
        print_degenerate(existing(args.store_uri), frame)
    say_measured(frame, shown, is_aside(args))
    return code_of(frame.attrs["damaged"])


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
    epochs, out = args.x == "epoch", figure_file(args, "curves.png")
    if args.split == "test" and (epochs or args.report == "best"):
        raise ValueError("--split test: it is evaluated at the end of each stage alone; there are no values of epochs")
    if args.split != "validation" and args.report == "best":
        raise ValueError(f"--split {args.split}: the best epoch is that of the validation split; leave out one of them")
    frame = trials_asked(args)
    with as_asked(args, frame, frame["arm"].unique().tolist()) as arms:
        some = frame[frame["strategy"].isin(NOT_PRUNED) | frame["arm"].isin(arms)]
        shown, made = _curves(args, some)
        if args.json:
            print_json(made)
        if out:
            deepcuts.save_figure(deepcuts.plot_training(made) if epochs else deepcuts.plot_curves(made), out)
            say_wrote(args, out)
    say_measured(some, shown, args.json)
    return code_of(frame.attrs["damaged"])


def _curves(args: argparse.Namespace, frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the trials with the numbers that were asked for, and the curves or the training that they make."""
    store = existing(args.store_uri)
    if args.x == "epoch":
        metrics = deepcuts.metrics(store)
        if args.split not in (known := sorted(metrics["split"].unique())):
            raise ValueError(
                f"unknown split {args.split!r}{nearest(args.split, known) or ';'} known: {', '.join(known)}"
            )
        made = deepcuts.training_curves(frame, metrics, args.metric, args.split)
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
    argument("--by-arm", action="store_true", help="print the means of each arm and each pair of arms"),
    JSON,
)
def iou_verb(args: argparse.Namespace) -> int:
    """Overlap of masks between trials, and layer by layer."""
    out, frame = figure_file(args, "iou.png"), trials_asked(args)
    pruned = frame[(frame["status"] == "completed") & ~frame["strategy"].isin(NOT_PRUNED)]
    with as_asked(args, frame, pruned["arm"].unique().tolist()) as arms:
        damaged = _iou(args, frame, list(pruned.loc[pruned["arm"].isin(arms), "trial_id"]), out)
    return code_of(frame.attrs["damaged"] | damaged)


def _iou(args: argparse.Namespace, frame: pd.DataFrame, pruned: list[str], out: Path | None) -> Mapping[str, str]:
    """Print and draw the overlap of the masks of trials; return the files that could not be read."""
    from deepcuts.names import find_id

    store = existing(args.store_uri)
    chosen = [find_id(each, frame["trial_id"]) for each in args.trials] or pruned
    if out is None:
        made = deepcuts.overlap(store, chosen, args.common, args.by_kind)
        print_json(_means(args, made, frame) if args.by_arm else made)
        return dict(made.attrs["damaged"])
    made, kept = deepcuts.overlap_and_density(store, chosen, args.common, args.by_kind)
    figures, left_out = _iou_figures(made, kept, frame)
    names = [out.with_name(f"{out.stem}{name}{out.suffix}") for name in figures]
    for figure, path in zip(figures.values(), names, strict=True):
        deepcuts.save_figure(figure, path)
    if args.json:
        print_json(_means(args, made, frame) if args.by_arm else made)
    else:
        _print_overlap(args, made, frame)
    say_wrote(args, f"{', '.join(map(str, names))}{left_out}")
    return dict(made.attrs["damaged"])


def _means(args: argparse.Namespace, made: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the means of the pairs that differ in one thing alone: of whole masks, or of each kind of layer."""
    return deepcuts.decompose(made if args.by_kind else made[made["layer"].isna()], frame, args.by_arm)


def _print_overlap(args: argparse.Namespace, made: pd.DataFrame, frame: pd.DataFrame) -> None:
    """Print the pairs of trials, where they are few, and the means of those that differ in one thing alone."""
    whole = made[made["layer"].isna()]
    if len(whole) <= MOST_ROWS:
        print_records(whole.drop(columns="layer"))
    else:
        print(f"{len(whole):,} pairs of trials: --json prints each of them, and each layer")
    print("\nmeans of the pairs that differ in one thing alone:")
    print_records(_means(args, made, frame))
    print()


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
    figure_file(args)
    frame = trials_asked(args)
    shown = deepcuts.measured(existing(args.store_uri), frame, args.metric, args.split)
    made = deepcuts.transfer(shown, args.stage)
    print_transfer(made, args)
    save_by_arm(args, frame, made, deepcuts.plot_transfer)
    say_measured(frame, shown, is_aside(args))
    return code_of(frame.attrs["damaged"])


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
    asked = format_asked(args, "json", "csv")
    frame = deepcuts.query(existing(args.store_uri), args.sql)
    if asked == "csv":
        print_csv(frame)
    elif asked == "json":
        print_json(frame)
    else:
        print_records(frame, list(map(str, frame)))
    return code_of(frame.attrs.get("damaged", {}))
