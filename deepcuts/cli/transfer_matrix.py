"""Prints the transfer matrix to a terminal, a program or a paper."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from deepcuts.cli.arguments import argument
from deepcuts.cli.latex import Rows, print_floating
from deepcuts.cli.printing import (
    format_asked,
    in_markdown,
    mean_in_words,
    print_csv,
    print_json,
    print_pipes,
    print_records,
)
from deepcuts.records import records

if TYPE_CHECKING:
    import pandas as pd

    from deepcuts.store.tables import Row

TABLE_FORMATS = (
    argument("--csv", action="store_true", help="print CSV, with every column of the JSON"),
    argument("--latex", action="store_true", help="print a LaTeX table (package booktabs)"),
    argument("--markdown", action="store_true", help="print a Markdown table"),
)


def print_transfer(frame: pd.DataFrame, args: argparse.Namespace) -> None:
    """Print a frame of `transfer` as a table, or in the format that was asked for; say what is missing.

    Raises ValueError where two formats are asked for.
    """
    from deepcuts.analysis.transfer import transfer_cells

    asked = format_asked(args, "json", "csv", "latex", "markdown")
    for line in frame.attrs["missing"]:
        (sys.stderr if asked else sys.stdout).write(f"missing: {line}\n")
    if asked == "json":
        print_json(frame)
    elif asked == "csv":
        print_csv(frame)
    elif frame.empty:
        print(
            "nothing to show: no completed trial takes the mask of another one; mask_from in a sweep file asks for it",
            file=sys.stderr if asked else sys.stdout,
        )
    elif asked == "latex":
        _print_latex(frame)
    elif asked == "markdown":
        print_pipes(*transfer_cells(frame, in_markdown))
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
    print("(...) 95 % intervals over seeds; not corrected for the number of cells, so no verdicts")


def _print_latex(frame: pd.DataFrame) -> None:
    """Print a LaTeX table: below each target a row for each mask, as found and by each control."""
    from deepcuts.analysis.transfer import about_matrix, control_in_words, matrices

    parts, seeds = matrices(frame), frame["n"].nunique() > 1
    controls = list(dict.fromkeys(frame["control"]))
    of_control = [[control_in_words(each), *(["n"] if seeds else []), "from own mask"] for each in controls]
    groups: dict[str, Rows] = {}
    for part in parts:
        about = f"{about_matrix(part.iloc[0], frame['model'].nunique() > 1)}: " if len(parts) > 1 else ""
        for (target, metric), on in part.groupby(["target", "metric"], sort=False):
            rows = [_latex_row(records(of), controls, seeds) for _, of in on.groupby("source", sort=False)]
            groups[f"{about}{target} ({metric})"] = rows
    shared = [about_matrix(parts[0].iloc[0])] if len(parts) == 1 else []
    shared += [str(frame["stage"].iloc[0])] + ([] if seeds else [f"n = {frame['n'].iloc[0]}"])
    caption = f"Masks of one dataset on the network and data of another ({', '.join(shared)})."
    caption += " From own mask: the difference from the target's own mask, by seed, as a part of how far the fine-tuned"
    caption += " network is above chance."
    if frame["low"].notna().any():
        caption += " ± is half of a 95 % interval over seeds, not corrected for the number of cells."
    header = ["mask of", *(name for names in of_control for name in names)]
    print_floating(header, groups, caption)


def _latex_row(found: list[Row], controls: list[str], seeds: bool) -> list[str]:
    """Return the cells of one source and target: by control the mean, the seeds where they differ, the difference."""
    cells = [f"{found[0]['source']} (own)" if found[0]["own"] else found[0]["source"]]
    by_control = {row["control"]: row for row in found}
    for control in controls:
        row = by_control.get(control, {})
        n = [str(row.get("n", "–"))] if seeds else []
        cells += [_with_interval(row, "mean", ""), *n, _with_interval(row, "difference", "difference_")]
    return cells


def _with_interval(row: Row, name: str, of: str) -> str:
    """Write a number with the interval in the columns `low` and `high`, where it has one; a dash where it is none."""
    value, low, high = row.get(name), row.get(f"{of}low"), row.get(f"{of}high")
    if value is None:
        return "–"
    if low is None or high is None:
        return f"{value:z.3f}"
    return mean_in_words(value, max(high - value, value - low), low, high)
