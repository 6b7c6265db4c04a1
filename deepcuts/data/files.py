"""Reads the wanted columns of a data file, as lists.

- `.parquet`: typed values.
- `.csv`: commas, `"` around a field that holds a comma, a quote or a line end, quotes inside it doubled.
- `.tsv`: tabs and no quoting, as in GLUE's own files: a quote is part of the text, which cannot hold a tab or a
  line end.
- `.jsonl`: one JSON object per line.

Text is UTF-8, with or without a byte-order mark. No type is guessed: every value of a csv or tsv file is text, so "NA",
"null" and "007" stay as they are.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepcuts.names import nearest

FORMATS = (".parquet", ".csv", ".tsv", ".jsonl")


def read_columns(path: Path, wanted: Sequence[str]) -> dict[str, list[Any]]:
    """Return the wanted columns of a file, with one value for each row. Raises ValueError that names the file."""
    reader = {".parquet": _parquet, ".csv": _delimited, ".tsv": _delimited, ".jsonl": _jsonl}
    read = reader.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path}: unknown format {path.suffix!r}; known: {', '.join(FORMATS)}")
    try:
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty")
        return read(path, wanted)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); convert it") from None


def require(where: object, wanted: Sequence[str], columns: Sequence[str]) -> None:
    """Raise ValueError unless each wanted column exists exactly once; `where` begins its message."""
    for name in wanted:
        if name not in columns:
            hint = nearest(name, columns) or ";"
            raise ValueError(f"{where}: no column {name!r}{hint} it has {', '.join(map(repr, columns))}")
        if columns.count(name) > 1:
            raise ValueError(f"{where}: column {name!r} occurs {columns.count(name)} times; rename all but one")


def _parquet(path: Path, wanted: Sequence[str]) -> dict[str, list[Any]]:
    import pandas

    try:
        try:
            frame = pandas.read_parquet(path, columns=list(dict.fromkeys(wanted)))
        except (ValueError, LookupError):  # damaged, or a column is missing; with all read, the error lists them
            frame = pandas.read_parquet(path)
    except (ValueError, OSError, LookupError, NotImplementedError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None
    require(path, wanted, [str(name) for name in frame.columns])
    values = {name: frame[name].astype(object) for name in wanted}
    return {name: column.where(column.notna(), None).tolist() for name, column in values.items()}


def _delimited(path: Path, wanted: Sequence[str]) -> dict[str, list[Any]]:
    tabs = path.suffix.lower() == ".tsv"
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"delimiter": ","}
    values: dict[str, list[Any]] = {name: [] for name in wanted}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True, **dialect)
        try:
            header = next(rows, [])
            require(path, wanted, header)
            places = [(values[name], header.index(name)) for name in wanted]
            for row in rows:
                if row and len(row) != len(header):
                    why = "a tab or line end in a text? use another format" if tabs else "a comma in a text? quote it"
                    raise ValueError(
                        f"{path}: line {rows.line_num} has {len(row)} fields, the header {len(header)}: {why}"
                    )
                for column, place in places if row else ():  # no row: a blank line
                    column.append(row[place])
        except csv.Error as error:
            raise ValueError(f"{path}: line {rows.line_num}: {error}; is a quote left open?") from None
    return values


def _jsonl(path: Path, wanted: Sequence[str]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {name: [] for name in wanted}
    keys: dict[str, None] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}: line {number} is not JSON: {error.msg} at character {error.pos}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}: line {number} is {type(row).__name__}, not an object such as {{...}}")
            keys.update(dict.fromkeys(row))
            for name in values:
                values[name].append(row.get(name))
    if keys:
        require(path, wanted, list(keys))
    return values
