"""Prints tables in LaTeX, for papers: they fit the width of a page, and say in the caption what all rows share."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from deepcuts.cli.printing import as_text, for_people, numeric, star_in_words
from deepcuts.records import records
from deepcuts.wording import STAGES

if TYPE_CHECKING:
    import pandas as pd

Rows = Sequence[Sequence[str]]

# The columns that a caption has where they are the same in all rows of a dataset, and what it calls them.
_OF_CAPTION = {"metric": "", "asked": "pruned to ", "n": "n = ", "failed": "failed "}
_OF_CAPTION |= {name: f"{name} " for name in ("majority", "dense", "sparsity", "compression")}

# The text of an article's page is this wide in points.
_PAGE = 345.0
# How wide letters are as a part of the size of the text; others are half of it.
_WIDTHS = (
    dict.fromkeys(".,:;il|'()[] ", 0.35)
    | dict.fromkeys("±%MW", 0.9)
    | dict.fromkeys("ABCDEFGHKLNOPQRSTUVXYZmw=+", 0.75)
)
# Sizes of text by how wide it is in points, with the space on each side of a column: the first that fits is taken.
# Computer Modern is wider, for its size, where it is smaller.
_SIZES = {10.0: ("normalsize", 6.0), 9.25: ("small", 4.0), 8.5: ("footnotesize", 3.0), 7.75: ("scriptsize", 2.0)}


def print_latex(results: pd.DataFrame) -> None:
    """Print a frame of `deepcuts.table` as a LaTeX table with a caption, which needs the package booktabs.

    The rows of each of several datasets are below its name. What they share is in the caption; below the table is what
    the stars mean.
    """
    from pandas import concat

    parts = _by_task(results)
    known = list(next(iter(parts.values())))
    shared = [name for name in _OF_CAPTION if name in known and all(p[name].nunique() < 2 for p in parts.values())]
    hidden = ["sparsity"] if not any(map(_differs_from_asked, parts.values())) else []
    said = [_shared(task, part.drop(columns=hidden), shared) for task, part in parts.items()]
    kept = {task: _kept(part.drop(columns={*shared, *hidden})) for task, part in parts.items()}
    header, *rows = as_text(records(concat(kept.values())))
    left = iter(rows)
    groups = {task if len(kept) > 1 else "": list(islice(left, len(part))) for task, part in kept.items()}
    note = star_in_words(results)
    print_floating(header, groups, " ".join([_numbers(kept), *said]), f"* {note}." if note else "")


def print_floating(header: Sequence[str], groups: Mapping[str, Rows], caption: str, note: str = "") -> None:
    """Print text as a LaTeX table with a caption, and a note below; groups of rows are below their names, if any."""
    out = [r"\begin{table}", r"\centering", rf"\caption{{{in_latex(caption)}}}"]
    out += _fitting([header, *(row for rows in groups.values() for row in rows)])
    escaped = {in_latex(name): [list(map(in_latex, row)) for row in rows] for name, rows in groups.items()}
    out += _tabular(list(map(in_latex, header)), escaped)
    if note:
        out += ["", rf"\footnotesize {in_latex(note)}"]
    sys.stdout.write("\n".join([*out, r"\end{table}"]) + "\n")


def _by_task(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return what a person reads of each dataset, and of each model where there are several."""
    shown = for_people(results)
    columns = ["model", "dataset"] if results["model"].nunique() > 1 else ["dataset"]
    tasks = results[columns].astype(str).agg(" · ".join, axis=1)
    shown = shown.drop(columns=[name for name in ("model", "dataset") if name in shown])
    return {task: shown[tasks == task] for task in tasks.unique()}


def _shared(task: str, part: pd.DataFrame, names: Sequence[str]) -> str:
    """Write what all rows of a dataset share: `sst2: accuracy, n = 6, dense 0.861 ± 0.012.`"""
    known = {name: part[name].dropna() for name in names if name in part}
    texts = {name: as_text(records(some.to_frame()))[1][0] for name, some in known.items() if len(some)}
    values = [f"{_OF_CAPTION[name]}{text}" for name, text in texts.items()]
    return f"{task}: {', '.join(values)}." if values else ""


def _differs_from_asked(part: pd.DataFrame) -> bool:
    """Whether the sparsity says more than what was asked for: `50 %` and `50.0%` are the same."""
    pairs = part[["asked", "sparsity"]].dropna() if "asked" in part else part[["sparsity"]]
    texts = ([f"{each}".replace(" ", "").replace(".0%", "%") for each in row] for row in pairs.to_numpy())
    return "asked" not in part or any(len(set(row)) > 1 for row in texts)


def _kept(part: pd.DataFrame) -> pd.DataFrame:
    """Leave out rows without a value, such as Dense's, where the caption has it."""
    stages = [name for name in STAGES if name in part]
    return part[part[stages].notna().any(axis=1)]


def _numbers(parts: Mapping[str, pd.DataFrame]) -> str:
    """Say what the numbers are, as far as they are there."""
    texts = [str(value) for part in parts.values() for name in STAGES if name in part for value in part[name].dropna()]
    words = "Mean ± half of its 95 % interval over seeds" if any("±" in text for text in texts) else ""
    if any(" to " in text for text in texts):
        words = f"{words or 'Mean over seeds'} (or its ends, where the metric ends)"
    return f"{words or 'Values by seed'}."


def _fitting(lines: Rows) -> list[str]:
    """Return the commands for the size of text and the space between columns with which a table fits the page.

    Where it fits at no size, they are those of the smallest, and stderr says so.
    """
    widest = sum(max(map(_width, column)) for column in zip(*lines, strict=True))
    gaps = 2 * (len(lines[0]) - 1)
    widths = {how: points * widest + gaps * how[1] for points, how in _SIZES.items()}
    (size, space), width = next((each for each in widths.items() if each[1] <= _PAGE), list(widths.items())[-1])
    if width > _PAGE:
        sys.stderr.write(
            f"deepcuts: the table is about {width:.0f} pt wide, and the text of an article {_PAGE:.0f} pt: choose"
            " fewer rows by --only, cut columns, or take table* in two columns\n"
        )
    return [rf"\{size}", rf"\setlength{{\tabcolsep}}{{{space:g}pt}}"]


def _width(cell: str) -> float:
    """Estimate how wide a text is, as a multiple of its size."""
    return sum(_WIDTHS.get(letter, 0.5) for letter in cell)


def print_tabular(header: Sequence[str], rows: Rows, plain: Rows) -> None:
    """Print cells that are LaTeX as a tabular (package booktabs), of text that is as small as the page asks for.

    `plain` has the same cells, and the header, as they are read: their length tells the width.
    """
    sizes = "".join(_fitting(plain))
    lines = _tabular(header, {"": rows})
    whole = lines if "normalsize" in sizes else [f"{{{sizes}%", *lines[:-1], f"{lines[-1]}}}"]
    sys.stdout.write("\n".join(whole) + "\n")


def _tabular(header: Sequence[str], groups: Mapping[str, Rows]) -> list[str]:
    """Return the lines of a tabular, numbers at the right; groups of rows each below their names, if any."""
    numbers = numeric(header, [row for rows in groups.values() for row in rows])
    columns = "".join("r" if number else "l" for number in numbers)
    lines = [rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}", r"\toprule", _latex(header)]
    for name, rows in groups.items():
        lines.append(r"\midrule")
        if name:
            lines.append(rf"\multicolumn{{{len(header)}}}{{@{{}}l}}{{\textit{{{name}}}}} \\")
        lines += map(_latex, rows)
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _latex(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def in_latex(text: str) -> str:
    """Escape what LaTeX would read as a command."""
    escaped = "".join(_IN_LATEX.get(letter, letter) for letter in text)
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", escaped)


_IN_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "[": "{[}",  # at the beginning of a row it would be an argument of the end of the one before
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "·": r"$\cdot$",
    "*": r"$^*$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
}
