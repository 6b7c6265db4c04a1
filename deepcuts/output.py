"""Records and frames to a terminal, a pipe or a program."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Records = Sequence[Mapping[str, Any]]


def records(rows: Records | pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python values, undefined ones None."""
    found: Any = rows if isinstance(rows, Sequence) else rows.to_dict("records")
    return [{str(key): _plain(value) for key, value in row.items()} for row in found]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Decimal):  # what DuckDB's sums are
        value = int(value) if value == value.to_integral_value() else float(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, date):
        return value.isoformat() if value == value else None  # not a time: pandas' NaT
    return None if str(value) in ("<NA>", "NaT") else str(value)


def print_json(rows: Records | pd.DataFrame) -> None:
    """A list of objects in strict JSON, null for what is undefined."""
    sys.stdout.write(json.dumps(records(rows), indent=1, allow_nan=False) + "\n")


def print_records(rows: Records | pd.DataFrame) -> None:
    """A table: ruled on a terminal, plain aligned columns in a pipe; columns that are empty throughout left out."""
    found = records(rows)
    names = [name for name in (found[0] if found else {}) if any(row[name] is not None for row in found)]
    cells = [[_text(row[name]) for name in names] for row in found]
    if sys.stdout.isatty():
        _ruled(names, cells, found)
        return
    widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(names)]
    for line in (names, *cells):
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n")


def _ruled(names: list[str], cells: list[list[str]], found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold", pad_edge=False)
    for name in names:
        number = all(isinstance(row[name], int | float | None) for row in found)
        table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
