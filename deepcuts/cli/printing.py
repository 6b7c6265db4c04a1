"""Prints records and frames: to a terminal, a pipe or a program."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import deepcuts
from deepcuts.pruning.criteria import NOT_PRUNED
from deepcuts.records import Records, records
from deepcuts.wording import STAGES, level

if TYPE_CHECKING:
    import pandas as pd

    from deepcuts.store.store import Store


# Exit codes: everything is there; something failed, is missing or damaged, and is named.
DONE, INCOMPLETE = 0, 1


def print_json(rows: Records | pd.DataFrame) -> None:
    """Print a list of objects in strict JSON, null for what is undefined."""
    sys.stdout.write(json.dumps(records(rows), indent=1, allow_nan=False) + "\n")


def print_records(rows: Records | pd.DataFrame, columns: Sequence[str] | None = None) -> None:
    """Print a table: ruled on a terminal that is wide enough, else in plain aligned columns.

    It has the `columns`, by default those that are not empty; nothing where there are none.
    """
    found = records(rows)
    names, *cells = as_text(found, columns)
    if not names:
        return
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    if sys.stdout.isatty() and sum(widths) + 3 * len(widths) <= get_terminal_size().columns:
        _ruled(names, cells, found)
        return
    for line in (names, *cells):
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n")


def _ruled(names: list[str], cells: list[list[str]], found: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in names:
        number = all(isinstance(row[name], int | float | None) for row in found)
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=True)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def for_people(results: pd.DataFrame) -> pd.DataFrame:
    """Write results as a person reads them: the level in one column, the mean over the seeds ± half its 95 % interval.

    The column `arm` is called `strategy` where every arm is that and nothing more.

    An interval that is cut at a bound of the metric has its two ends in place of ±; of two seeds both values are shown.
    Models, datasets and failures that are the same in all rows are left out. A star marks the value of a seed, or the
    mean of seeds of which one is, exactly what always predicting the most frequent class has. Settings that are columns
    are no part of the names of arms.
    """
    frame = results.drop(columns=["majority", "at_majority"])
    if results["majority"].notna().any():
        levels = [None if value != value else f"{value:z.3f}" for value in results["majority"]]
        frame.insert(list(frame).index(STAGES[0]), "majority", levels)
    for stage in STAGES:
        names = [stage, *(f"{stage}_{of}" for of in ("half_width", "low", "high", "values"))]
        rows = frame[names].assign(majority=results["majority"])
        frame[stage] = [_of_seeds(*row) for row in rows.itertuples(index=False, name=None)]
        frame = frame.drop(columns=names[1:])
    frame = frame.drop(columns=[name for name in ("model", "dataset") if frame[name].nunique() == 1])
    if not frame["failed"].any():
        frame = frame.drop(columns="failed")
    frame["arm"] = frame["arm"].replace(results.attrs.get("called", {}))
    plain = frame["arm"].eq(frame["strategy"]).all()
    asked = zip(frame.pop("strategy"), frame.pop("compression"), frame.pop("sparsity_asked"), strict=True)
    frame.insert(list(frame).index("n"), "asked", [_asked(*each) for each in asked])
    frame = frame.rename(columns={"arm": "strategy"}) if plain else frame
    frame["sparsity"] = [None if value != value else f"{value:.1%}" for value in frame["sparsity"]]
    if results["compression"].notna().all():  # it was asked for, and reached to the weight
        frame = frame.drop(columns="compression_achieved")
    return frame.rename(columns={"compression_achieved": "compression"})


def _asked(strategy: str, compression: float, sparsity: float) -> str | None:
    if strategy in NOT_PRUNED:
        return None
    return level(compression, sparsity)


def _of_seeds(
    mean: float, half: float, low: float, high: float, values: Sequence[float], majority: float
) -> str | None:
    """Write the mean over seeds with its interval; the values themselves where there are too few for one."""
    if half != half:
        return ", ".join(f"{value:z.3f}{'*' if value == majority else ''}" for value in values) or None
    return mean_in_words(mean, half, low, high) + ("*" if majority in values else "")


def mean_in_words(mean: float, half: float, low: float, high: float) -> str:
    """Write a mean with half of its interval, or with both ends where the metric's bounds cut it."""
    if mean - half < low - 1e-9 or high + 1e-9 < mean + half:
        return f"{mean:z.3f} ({low:z.3f} to {high:z.3f})"
    return f"{mean:z.3f} ± {half:.3f}"


def print_results(results: pd.DataFrame) -> None:
    """Print a frame of `table` as a person reads it; below it what the stars mean and, on a terminal, the ±."""
    shown = for_people(results)
    print_records(shown)
    if sys.stdout.isatty() and any(
        "±" in str(value) or " to " in str(value) for stage in STAGES for value in shown[stage]
    ):
        print(
            "mean ± half of its 95 % interval (or from ... to ..., within the metric's bounds): Student's t over the n"
        )
        print("seeds, of this row alone; below 3 seeds the values themselves")
    if note := star_in_words(results):
        sys.stdout.write(f"\n* {note}\n")


def star_in_words(results: pd.DataFrame) -> str:
    """Say what the stars of `for_people` mean; nothing where there are none."""
    marked = results[results["at_majority"].notna()].drop_duplicates(["dataset", "metric"])
    if marked.empty:
        return ""
    scores = ", ".join(f"{row.dataset} {row.metric} {row.majority:z.3f}" for row in marked.itertuples())
    what = "exactly the score of always predicting the most frequent class"
    return f"{what}, or the mean of seeds of which one has that ({scores})"


def print_csv(results: pd.DataFrame) -> None:
    """Print all columns as CSV, with the values of a list, such as those of the seeds, separated by spaces."""
    texts = {str(name): list(map(_in_csv, results[name])) for name in results if results[name].dtype == object}
    results.assign(**texts).to_csv(sys.stdout, index=False)


def _in_csv(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    values = value.tolist() if hasattr(value, "tolist") else value
    return " ".join(map(str, values)) if isinstance(values, list) else value


def format_asked(args: Namespace, *formats: str) -> str | None:
    """Return which of the formats the flags ask for. Raises ValueError where they ask for two."""
    asked = [name for name in formats if getattr(args, name)]
    if len(asked) > 1:
        raise ValueError(f"a table has one format; {' and '.join(f'--{name}' for name in asked)} are given")
    return asked[0] if asked else None


# An underscore within a word is no mark-up.
_IN_MARKDOWN = re.compile(r"[\\`*|\[\]<>]|(?<!\w)_|_(?!\w)")


def print_markdown(results: pd.DataFrame) -> None:
    """Print the table as a person reads it in Markdown, and below it what the stars mean."""
    header, *rows = ([in_markdown(cell) for cell in line] for line in as_text(records(for_people(results))))
    print_pipes(header, rows)
    if note := star_in_words(results):
        sys.stdout.write(f"\n{in_markdown(f'* {note}')}\n")


def print_pipes(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print cells that are Markdown as a table, numbers to the right."""
    rules = ["---:" if number else "---" for number in numeric(header, rows)]
    for cells in (header, rules, *rows):
        sys.stdout.write(f"| {' | '.join(cells)} |\n")


def numeric(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    """Tell which columns have numbers alone, with what stands beside them; a dash is a number that is missing."""
    columns = zip(*rows, strict=True) if rows else [[] for _ in header]
    return [all(re.match(_NUMBER, cell) for cell in column) for column in columns]


# A number, or one that is missing, with what LaTeX, Markdown or a person has before it.
_NUMBER = re.compile(r"(\\textbf\{|\*\*)?(\$-\$|[-+−–])*(\d|$)")


def in_markdown(text: str) -> str:
    """Escape what would end a cell of a Markdown table, or be read as mark-up."""
    return _IN_MARKDOWN.sub(r"\\\g<0>", text)


def as_text(found: list[dict[str, Any]], columns: Sequence[str] | None = None) -> list[list[str]]:
    """Return the names of columns, by default of those that are not empty, and the rows, as text."""
    filled = (name for name in (found[0] if found else {}) if any(row[name] is not None for row in found))
    names = list(filled if columns is None else columns)
    return [names, *([_text(row[name]) for name in names] for row in found)]


def print_degenerate(store: Store, trials: pd.DataFrame) -> None:
    """Print a warning for each arm that pruning has broken: one class predicted, tensors or heads without a weight."""
    lines = deepcuts.degenerate_in_words(deepcuts.degenerate(store, trials), trials)
    if lines:
        sys.stdout.write("\n" + "".join(f"warning: {line}\n" for line in lines))


def say_damaged(damaged: Mapping[str, str]) -> bool:
    """Name the files that could not be read on stderr; return whether there are any."""
    for path, reason in damaged.items():
        sys.stderr.write(f"deepcuts: damaged and left out: {path}: {reason}\n")
    return bool(damaged)


def say_measured(trials: pd.DataFrame, shown: pd.DataFrame, aside: bool = False) -> None:
    """Say below results which of the trials do not have them, and which were measured on a part of the training split.

    `shown` are the trials as `measured` gave them. It is said on stderr where the results are not for a person.
    """
    from deepcuts.analysis.measured import holdouts_in_words

    to = sys.stderr if aside else sys.stdout
    if missing := sorted(set(trials["dataset"]) - set(shown["dataset"])):
        print(f"left out, as no trial has these numbers: {', '.join(missing)}", file=to)
    for line in holdouts_in_words(shown[~shown["metric"].astype(str).str.endswith(")")]):
        print(line, file=to)
