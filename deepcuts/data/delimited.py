"""Reads files of comma- or tab-separated values, and says which line is wrong and why.

By the csv module, in its strict mode: pyarrow and pandas read `"x"y` as xy, and where a quote is left open they take
all rows up to the next quote for one text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepcuts.data.columns import find_columns, shown, spelling
from deepcuts.wording import counted

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_LONGEST_FIELD = 2**31 - 1  # characters; the csv module's own limit is 131,072


def read_delimited(path: Path, text: str, wanted: Sequence[str], *, tabs: bool) -> dict[str, list[str]]:
    """Return the wanted columns of a text whose first line names the columns: values separated by tabs, or by commas.

    Raises ValueError with the line and what is wrong with it; `path` begins each message.
    """
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"delimiter": ","}
    values: list[list[str]] = [[] for _ in wanted]
    rows = csv.reader(io.StringIO(text, newline=""), strict=True, **dialect)
    first = 1  # the line in which the row begins
    with _fields_of_any_length():
        try:
            header = _header(path, text, wanted, rows, dialect["delimiter"])
            places = [header.index(name) for name in find_columns(path, wanted, header)]
            columns, width = list(zip(values, places, strict=True)), len(header)
            first = rows.line_num + 1
            for row in rows:
                if len(row) == width:
                    for column, place in columns:
                        column.append(row[place])
                elif row:  # else a blank line
                    raise ValueError(f"{path}: {_wrong_width(row, width, first, rows.line_num, tabs)}")
                first = rows.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path}: {_wrong_quote(text, first, rows.line_num, error)}") from None
    return dict(zip(wanted, values, strict=True))


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _header(path: Path, text: str, wanted: Sequence[str], rows: Iterator[list[str]], separator: str) -> list[str]:
    """Return the names in the first line. Raises ValueError for a blank one, and for names with another separator."""
    line = re.split(r"[\r\n]", text, maxsplit=1)[0]
    try:
        header = next(rows, [])
    except csv.Error:
        _check_separator(path, line, wanted, 1, separator)
        raise
    if not header:
        raise ValueError(f"{path}: line 1 is blank; it must name the columns, such as {', '.join(wanted)}")
    if not {spelling(name) for name in wanted} <= {spelling(name) for name in header}:
        _check_separator(path, line, wanted, len(header), separator)
    return header


def _check_separator(path: Path, line: str, wanted: Sequence[str], fields: int, separator: str) -> None:
    """Raise ValueError if another separator gives the wanted columns, or the only one that gives more than one."""
    for other, named in _SEPARATORS.items():
        names = {spelling(name.strip().strip('"')) for name in line.split(other)}
        if other == separator or len(names) < 2:
            continue
        if fields == 1 or {spelling(name) for name in wanted} <= names:
            raise ValueError(
                f"{path}: the columns are separated by {named}: line 1 is {shown(line)}; {_instead(path, other)}"
            )


def _instead(path: Path, found: str) -> str:
    """Say what to do about a file whose separator is not that of its suffix."""
    if found == ",":
        return "rename it to .csv"
    if path.suffix.lower() == ".tsv":
        return "a .tsv has tabs: save it again with tabs"
    tsv = "rename it to .tsv if no text is quoted, or " if found == "\t" else ""
    return f"a .csv has commas: {tsv}save it again with commas, and with quotes around texts that hold a comma"


def _wrong_width(row: Sequence[str], width: int, first: int, last: int, tabs: bool) -> str:
    """Say that a row of the lines `first` to `last` has too few or too many fields, and what may be the cause."""
    fields = counted(len(row), "field")
    if first < last:
        return (
            f"lines {first:,} to {last:,} are one row of {fields}, the header has {width}:"
            f" is the quote that opens in line {first:,} closed too late?"
        )
    if tabs:
        why = "a tab in a text?" if len(row) > width else "a line end in a text, or a field left out?"
        why += " A .tsv has no quoting: use another format"
    elif len(row) > width:
        why = "a comma in a text? Put quotes around the text"
    else:
        why = "a line end in a text, or a field left out? Put quotes around the text, and write empty fields too"
    return f"line {first:,} has {fields}, the header {width}: {why}"


def _wrong_quote(text: str, first: int, last: int, error: csv.Error) -> str:
    """Say what is wrong with the quotes of the row that begins in line `first` and fails in line `last`."""
    advice = 'write a quote inside a text twice (""), and close each quote that opens a field'
    lines = list(io.StringIO(text, newline=""))[first - 1 : last]
    if "unexpected end" in str(error):
        return f"line {_open_line(lines, first):,}: a quote opens here and is never closed; {advice}"
    if "expected after" in str(error):
        opened = f", in a row that begins in line {first:,}" if first < last else ""
        return f"line {last:,}: a quote closes and more text follows{opened}; {advice}"
    return f"line {last:,}: {error}; {advice}"


def _open_line(lines: Sequence[str], first: int) -> int:
    """Return the number of the line in which the last quote opens that is never closed; `lines` begin at `first`."""
    opened, inside = first, False
    for number, line in enumerate(lines, first):
        for quotes in re.finditer('"+', line):
            starts = quotes.start() == 0 or line[quotes.start() - 1] == ","
            if len(quotes[0]) % 2 and (inside or starts):  # of an even number, each pair is a quote in the text
                inside, opened = not inside, opened if inside else number
    return opened
