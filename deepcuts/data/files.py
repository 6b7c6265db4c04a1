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

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepcuts.data.columns import find_columns, shown, spelling
from deepcuts.data.delimited import read_delimited
from deepcuts.data.encoding import read_utf8

FORMATS = (".parquet", ".csv", ".tsv", ".jsonl")


def read_columns(path: Path, wanted: Sequence[str]) -> dict[str, list[Any]]:
    """Return the wanted columns of a file, with one value for each row. Raises ValueError that names the file."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: unknown format {path.suffix!r}; known: {', '.join(FORMATS)}")
    try:
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty")
        if suffix == ".parquet":
            return _parquet(path, wanted)
        text = read_utf8(path)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    if suffix == ".jsonl":
        return _jsonl(path, text, wanted)
    return read_delimited(path, text, wanted, tabs=suffix == ".tsv")


def _parquet(path: Path, wanted: Sequence[str]) -> dict[str, list[Any]]:
    import pandas

    try:
        try:
            frame = pandas.read_parquet(path, columns=list(dict.fromkeys(wanted)))
        except (ValueError, LookupError):  # damaged, or a column is missing; with all read, the error lists them
            frame = pandas.read_parquet(path)
    except (ValueError, OSError, LookupError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is not a readable Parquet file: {reason}") from None
    columns = [str(name) for name in frame.columns]
    places = [columns.index(name) for name in find_columns(path, wanted, columns)]
    values = [frame.iloc[:, place].astype(object) for place in places]
    found = [column.where(column.notna(), None).tolist() for column in values]
    return dict(zip(wanted, found, strict=True))


def _jsonl(path: Path, text: str, wanted: Sequence[str]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {name: [] for name in wanted}
    keys: dict[str, str] = {name: name for name in wanted}  # each wanted column, as the file spells it
    there: dict[str, None] = {}
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if not line.strip():
            continue
        row = _object(path, number, line)
        for key in row:
            if key not in there:
                there[key] = None
                meant = (name for name in wanted if name not in there or name == key)
                keys |= {name: key for name in meant if spelling(name) == spelling(key)}
        for name, column in values.items():
            column.append(row.get(keys[name]))
    if there:
        find_columns(path, wanted, list(there))
    return values


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    """Parse one line. Raises ValueError with its number for anything but an object."""
    advice = 'each line is one object, such as {"text": "fine", "label": 1}'
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        found = f"{error.msg} at character {error.pos} of {shown(line.rstrip())}"
        raise ValueError(f"{path}: line {number} is not JSON: {found}; {advice}") from None
    except RecursionError:
        raise ValueError(f"{path}: line {number} is nested too deeply: {shown(line.rstrip())}; {advice}") from None
    except ValueError:  # Python reads no number of more than 4,300 digits
        raise ValueError(f"{path}: line {number} has a number of thousands of digits; shorten it") from None
    if not isinstance(row, dict):
        raise ValueError(f"{path}: line {number} is {type(row).__name__}, not an object; {advice}")
    return row
