"""Prints the transfer matrix to a terminal, a program or a paper."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from deepcuts.cli.arguments import argument
from deepcuts.cli.latex import in_latex, print_tabular
from deepcuts.cli.printing import in_markdown, print_json, print_pipes, print_records

if TYPE_CHECKING:
    import pandas as pd

TABLE_FORMATS = (
    argument("--csv", action="store_true", help="print CSV, with every column of the JSON"),
    argument("--latex", action="store_true", help="print a LaTeX tabular (package booktabs)"),
    argument("--markdown", action="store_true", help="print a Markdown table"),
)


def print_transfer(frame: pd.DataFrame, args: argparse.Namespace) -> None:
    """Print a frame of `transfer` as a table, or in the format that was asked for; say what is missing.

    Raises ValueError where two formats are asked for.
    """
    from deepcuts.analysis.transfer import transfer_cells

    asked = [name for name in ("json", "csv", "latex", "markdown") if getattr(args, name)]
    if len(asked) > 1:
        raise ValueError(f"a table has one format; --{' and --'.join(asked)} are given")
    for line in frame.attrs["missing"]:
        (sys.stderr if asked else sys.stdout).write(f"missing: {line}\n")
    if asked == ["json"]:
        print_json(frame)
    elif asked == ["csv"]:
        lists = {name: [" ".join(map(str, each)) for each in frame[name]] for name in ("seeds", "values")}
        frame.assign(**lists).to_csv(sys.stdout, index=False)
    elif asked == ["latex"]:
        print_tabular(*transfer_cells(frame, in_latex))
    elif asked == ["markdown"]:
        print_pipes(*transfer_cells(frame, in_markdown))
    elif frame.empty:
        print(
            "nothing to show: no completed trial takes the mask of another one; mask_from in a sweep file asks for it"
        )
    else:
        _print_table(frame)


def _print_table(frame: pd.DataFrame) -> None:
    from deepcuts.analysis.transfer import transfer_cells

    header, rows = transfer_cells(frame, str)
    print(f"{frame['stage'].iloc[0]}: the metric with the mask of one dataset on the network and data of another")
    print_records([dict(zip(header, row, strict=True)) for row in rows])
    print(
        "\nfrom own mask: the difference from the target's own mask, by seed, as a part of how far the fine-tuned"
        " network is above chance"
    )
    print("(...) 95 % intervals over seeds, not corrected for the number of cells: no verdicts")
