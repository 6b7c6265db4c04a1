"""Prints the comparison over datasets: `compare --over datasets`, to a terminal, a program or a paper."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from deepcuts.cli.arguments import argument
from deepcuts.cli.latex import in_latex, print_tabular
from deepcuts.cli.printing import format_asked, in_markdown, print_csv, print_json, print_pipes, print_records
from deepcuts.records import records
from deepcuts.wording import counted, level

if TYPE_CHECKING:
    import pandas as pd

OVER = (
    argument(
        "--over", choices=["datasets"], help="compare over all datasets together: normalised metrics, means, ranks"
    ),
    argument("--csv", action="store_true", help="with --over: print CSV, with every column of the JSON"),
    argument("--latex", action="store_true", help="with --over: print a LaTeX tabular (package booktabs)"),
    argument("--markdown", action="store_true", help="with --over: print a Markdown table"),
)
_FORMATS = ("json", "csv", "latex", "markdown")
_BETTER = "P(better)"


def check_over(args: argparse.Namespace) -> None:
    """Raise ValueError for flags of `compare` that do not go together."""
    asked = format_asked(args, *_FORMATS)
    if not args.over and asked not in (None, "json"):
        raise ValueError(f"--{asked} goes with --over datasets; without it compare prints sentences, or --json")
    if args.over and (args.trials or args.examples):
        given = "--examples" if args.examples else "two trials"
        raise ValueError(f"--over datasets compares arms over seeds; leave out {given}, or --over")


def print_over_datasets(frame: pd.DataFrame, args: argparse.Namespace) -> None:
    """Print a frame of `compare_over_datasets`: a table and sentences, or in the format that was asked for."""
    from deepcuts.analysis.across import by_level, cells_of, difference_in_words, ranks_in_words

    asked = format_asked(args, *_FORMATS)
    for line in frame.attrs["left_out"]:
        (sys.stderr if asked else sys.stdout).write(f"left out: {line}\n")
    if asked == "json":
        print_json(frame)
    elif asked == "csv":
        print_csv(frame)
    elif asked == "latex":
        for part in by_level(frame):
            sys.stdout.write(f"% {in_latex(_about(part, args))}\n")
        sys.stdout.write(f"% {_BETTER}: than {in_latex(frame['baseline'].iloc[0])}, on the same dataset\n")
        header, rows = cells_of(frame, in_latex, r"\textbf{%s}", r" {\scriptsize %s}")
        header = [_BETTER if name.startswith("P(") else name for name in header]  # whose name is long, a baseline's too
        print_tabular(header, rows, [header, *cells_of(frame, str, "%s", " %s")[1]])
    elif asked == "markdown":
        print_pipes(*cells_of(frame, in_markdown, "**%s**", " (%s)"))
    if asked:
        return
    print("normalised metric: 0 is chance, 1 the fine-tuned network of the same seed")
    for part in by_level(frame):
        print(f"\n{_about(part, args)}")
        header, rows = cells_of(part, str, "%s", " (%s)")
        print_records([dict(zip(header[1:], row[1:], strict=True)) for row in rows])
        print(f"{ranks_in_words(part)}.")
        for row in records(part):
            if row["arm"] != row["baseline"]:
                print(difference_in_words(row, args.margin))
    print(
        f"\n(...) 95 % intervals over seeds, not over datasets; normalised differences within {args.margin:g} do not"
        " matter; p values are corrected for all comparisons"
    )


def _about(part: pd.DataFrame, args: argparse.Namespace) -> str:
    row = part.iloc[0]
    datasets, seeds = row["datasets"], len(row["seeds"])
    return (
        f"{level(row['compression'], row['sparsity'])}, {args.stage}: {len(datasets)} datasets ({', '.join(datasets)}),"
        f" {counted(seeds, 'seed')}"
    )
