"""Turns rows and frames into plain Python values, for JSON and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Records = Sequence[Mapping[str, Any]]


def records(rows: Records | pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as dicts of plain Python values; undefined ones are None."""
    found: Any = rows if isinstance(rows, Sequence) else rows.to_dict("records")
    return [{str(key): _plain(value) for key, value in row.items()} for row in found]


def _plain(value: Any) -> Any:
    if type(value) is float:  # which most values are
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Decimal):  # DuckDB's sums
        value = int(value) if value == value.to_integral_value() else float(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, date):
        return value.isoformat() if value == value else None  # pandas' NaT is a date, too
    return None if str(value) in ("<NA>", "NaT") else str(value)
