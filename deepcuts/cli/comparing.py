"""The verb that compares: arms with a baseline, over seeds or over datasets, or two trials over examples."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import deepcuts
from deepcuts.cli.arguments import FIGURE, JSON, METRIC, OUTPUT, SPLIT, STAGE, STORE, WHICH, argument, existing, verb
from deepcuts.cli.drawing import as_asked, figure_file, save_by_arm, say_wrote
from deepcuts.cli.over_datasets import OVER, check_over, print_over_datasets
from deepcuts.cli.printing import print_json, say_measured
from deepcuts.cli.shown import code_of, is_aside, print_frame, trials_asked
from deepcuts.wording import counted

if TYPE_CHECKING:
    import pandas as pd


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
    out = figure_file(args)
    if args.trials:
        return _compare_two(args)
    store, frame = existing(args.store_uri), trials_asked(args)
    shown = deepcuts.measured(store, frame, args.metric, args.split)
    args.baseline = _baseline(args, frame, shown)
    if args.over:
        made = deepcuts.compare_over_datasets(shown, args.baseline, args.stage, args.margin)
        print_over_datasets(made, args)
        save_by_arm(args, frame, made, deepcuts.plot_ranks)
        say_measured(frame, shown, is_aside(args))
        return code_of(frame.attrs["damaged"])
    made = deepcuts.compare(shown, args.baseline, args.stage, args.margin)
    if args.examples:
        made = deepcuts.with_examples(store, made, shown, args.stage)
    if args.json:
        print_json(made)
    elif made.empty:
        print(_nothing(shown, args.baseline))
    else:
        _print_verdicts(made, args)
    if out and len(made):
        with as_asked(args, frame, list({*made["strategy"], *made["baseline"]})) as arms:
            some = made[made["strategy"].isin(arms)]
            deepcuts.save_figure(deepcuts.plot_forest(some, args.margin), out)
        say_wrote(args, out)
    say_measured(frame, shown, args.json)
    return code_of(frame.attrs["damaged"])


def _nothing(shown: pd.DataFrame, baseline: str) -> str:
    """Say that no arm could be compared, and with what the others can be."""
    from deepcuts.pruning.criteria import NOT_PRUNED

    done = deepcuts.with_arms(shown[shown["status"] == "completed"])
    arms = sorted(set(done.loc[~done["strategy"].isin(NOT_PRUNED), "arm"]) - {baseline})
    if len(arms) < 2:
        return f"nothing to compare: no arm besides {baseline} has completed trials"
    return (
        f"nothing to compare: no arm has {baseline} in its own settings beside it; the arms are {', '.join(arms)}: name"
        " one of them with --baseline"
    )


def _compare_two(args: argparse.Namespace) -> int:
    """Two trials, of whichever sweeps, over examples."""
    if len(args.trials) != 2:
        raise ValueError(f"compare takes two trials, or none for all arms, and not {len(args.trials)}")
    for flag, value in (("--output", args.output), ("--only", args.only), ("--sweep", args.sweep)):
        if value:
            raise ValueError(f"{flag} goes with arms; two trials are compared as they are, without a figure")
    store, (one, other) = existing(args.store_uri), args.trials
    print_frame(deepcuts.compare_trials(store, one, other, args.stage, args.metric, args.split), args)
    return code_of(store.read_statuses()[1])


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


def _print_verdicts(made: pd.DataFrame, args: argparse.Namespace) -> None:
    """A sentence per comparison, by dataset."""
    from deepcuts.analysis.compare import FEWEST_TESTED

    compared = f"{counted(len(made), 'comparison')} with {args.baseline}, {args.stage}"
    tested = int((made["n"] >= FEWEST_TESTED).sum())
    family = "the number of comparisons" if tested == len(made) else f"the {tested} with {FEWEST_TESTED} seeds or more"
    print(f"{compared}; differences within {args.margin:g} do not matter; p values are corrected for {family}")
    for _, part in made.groupby("dataset", sort=False):
        print()
        for row in part.to_dict("records"):
            print(deepcuts.in_words({str(key): value for key, value in row.items()}, args.margin))
    if mixed := int(made["mixed"].sum()):
        print(
            f"\nnote: {mixed} of {int(made['n'].sum())} pairs ran on two devices, or with two versions of torch or"
            " transformers, which has a part in their differences (--json: mixed; the report's checklist says which)"
        )
