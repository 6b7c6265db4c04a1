"""Finds the wanted columns among those of a table, and shows names and values in errors."""

from __future__ import annotations

from collections.abc import Sequence
from reprlib import Repr
from typing import Any
from unicodedata import normalize

from deepcuts.names import nearest

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
MOST_NAMES = 20


def shown(value: Any) -> str:
    """Return the repr of a value, shortened where it is long or nested deeply."""
    return _SHORT.repr(value)


def spelling(name: str) -> str:
    """Return a name with each accented letter as one character (NFC): `é` may also be an `e` and an accent."""
    return name if name.isascii() else normalize("NFC", name)


def find_columns(where: object, wanted: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return the wanted columns, each as the table spells it; accents may be composed (NFC) or not (NFD).

    Raises ValueError unless each exists exactly once; `where` begins its message.
    """
    return [_find(where, name, columns) for name in wanted]


def _find(where: object, name: str, columns: Sequence[str]) -> str:
    found = [each for each in columns if each == name]
    found = found or [each for each in columns if spelling(each) == spelling(name)]
    if len(found) > 1:
        raise ValueError(f"{where}: column {name!r} occurs {len(found)} times; rename all but one")
    if not found:
        more = f" and {len(columns) - MOST_NAMES:,} more" if len(columns) > MOST_NAMES else ""
        listed = ", ".join(map(shown, columns[:MOST_NAMES])) + more
        hint = nearest(name, columns[:1000]) or ";"
        raise ValueError(f"{where}: no column {name!r}{hint} it has {listed}")
    return found[0]
