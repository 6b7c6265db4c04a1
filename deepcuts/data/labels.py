"""Turns the values of a label column into class numbers, or into the numbers of a regression. N = examples.

Where the user does not name the classes, `infer_labels` finds them among the values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcuts.data.columns import shown, spelling
from deepcuts.experiment.tasks import Kind, Task
from deepcuts.names import nearest

_WRITTEN_BOOLEANS = ("True", "False", "TRUE", "FALSE")  # as pandas and spreadsheets write them in a CSV file
MOST_INFERRED = 100  # classes; with more, the column is more likely not a class at all


def read_labels(values: Sequence[Any], task: Task) -> NDArray[np.float64]:
    """Return the labels (N,) of a task: the index of each one's class, or its value.

    Raises ValueError for the first label that is wrong, with its row.
    """
    if task.kind == "regression":
        return _numbers(task.label, values, "a number", booleans=False)
    if isinstance(task.classes, int):
        return _class_numbers(task.label, values, task.classes)
    return _class_names(task.label, values, task.classes or ())


def is_missing(value: Any) -> bool:
    """Whether a value is null, NaN or an empty text."""
    return value is None or (isinstance(value, float) and value != value) or (isinstance(value, str) and not value)


def _refuse(label: str, wrong: NDArray[np.bool_], values: Sequence[Any], what: str) -> None:
    """Raise ValueError with the first wrong label (`wrong` is (N,)), if there is one; `what` says what is wrong."""
    if wrong.any():
        row = int(wrong.argmax())
        count = f"{int(wrong.sum()):,} of {len(values):,} rows"
        raise ValueError(
            f"label {shown(values[row])} in row {row} (from 0) of column {label!r} {what}"
            f"{'' if what.endswith('?') else ';'} {count} are wrong"
        )


def _numbers(label: str, values: Sequence[Any], wanted: str, booleans: bool) -> NDArray[np.float64]:
    """Return labels as numbers (N,), of booleans 1 for true where they are allowed; `wanted` says what is allowed."""
    _refuse(label, np.array([is_missing(value) for value in values]), values, "is missing")
    found = [None if isinstance(value, bool) and not booleans else _number(value) for value in values]
    _refuse(label, np.array([number is None for number in found]), values, f"is not {wanted}")
    numbers = np.array(found, np.float64)
    _refuse(label, np.isnan(numbers), values, "is NaN")
    _refuse(label, np.isinf(numbers), values, "is infinite, or too large for a floating-point number")
    return numbers


def _number(value: Any) -> float | None:
    """Return a value, or a text of a number, as a float; None if it is neither."""
    try:
        return float(value)
    except OverflowError:  # an integer beyond 1e308
        return math.inf
    except (TypeError, ValueError):
        return None


def _class_numbers(label: str, values: Sequence[Any], classes: int) -> NDArray[np.float64]:
    allowed = f"0 to {classes - 1}"
    names = sorted({value for value in values if isinstance(value, str)})
    advice = f"; name the classes instead: classes: [{', '.join(map(shown, names[:20]))}]" if len(names) > 1 else ""
    numbers = _numbers(label, values, f"a class number, {allowed}{advice}", booleans=True)
    _refuse(
        label,
        numbers == -1,
        values,
        "marks a hidden test label, as in GLUE's test splits: use a labelled split",
    )
    allowed += f" (they run from {numbers.min():g} to {numbers.max():g}: number them from 0 or raise classes)"
    _refuse(label, (numbers < 0) | (numbers >= classes), values, f"is out of range; allowed are {allowed}")
    _refuse(label, numbers != np.floor(numbers), values, f"is not a whole number, {allowed}")
    return numbers


def _class_names(label: str, values: Sequence[Any], classes: Sequence[str]) -> NDArray[np.float64]:
    place = {spelling(name): index for index, name in enumerate(classes)}
    place |= {name: index for index, name in enumerate(classes)}
    numbers = np.array([_class_of(value, place) for value in values], np.float64)
    missing = np.array([is_missing(value) and str(value) not in place for value in values])
    _refuse(label, missing, values, "is missing")
    unknown = Counter(shown(value) for value, number in zip(values, numbers, strict=True) if number < 0)
    found = ", ".join(name for name, _ in unknown.most_common(5))
    first = str(values[int((numbers < 0).argmax())])
    spaces = " (without the spaces around it, it is a class: remove them)" if first.strip() in place else ""
    hint = spaces or nearest(first, classes)
    _refuse(label, numbers < 0, values, f"is none of classes {list(classes)!r}; unknown: {found}{hint}")
    return numbers


def _class_of(value: Any, place: Mapping[str, int]) -> int:
    """Return the index of a label's class, -1 if it has none; 1.0 is the class 1, and true is true, True or 1."""
    if isinstance(value, str) and value in place:
        return place[value]
    if _is_nested(value):
        return -1
    text = _plain(value)
    others = [text, spelling(text)]
    if isinstance(value, bool):
        others += [text.lower(), str(int(value))]
    elif text in _WRITTEN_BOOLEANS:
        others.append(text.lower())
    return next((place[name] for name in others if name in place), -1)


def _plain(value: Any) -> str:
    """Return a value as text, 1.0 as 1."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _is_nested(value: Any) -> bool:
    """Whether a value is a list, a mapping or an array."""
    return hasattr(value, "__len__") and not isinstance(value, str | bytes)


# Finding the classes


def _class_name(value: Any) -> str:
    """Return what a class with this label is called; `read_labels` finds the label by that name."""
    text = _plain(value)
    return text.lower() if isinstance(value, bool) or text in _WRITTEN_BOOLEANS else spelling(text)


def infer_labels(values: Sequence[Any], label: str, kind: Kind | None = None) -> tuple[Kind, tuple[str, ...] | None]:
    """Return the kind of task that the labels ask for, and their classes in order (None for a regression).

    Numbers are in the order of their values, everything else in the order of Unicode, so `false` comes before `true`.
    Without a `kind`, numbers that are not all whole are a regression. Missing values are left to `read_labels`. Raises
    ValueError where the labels are no classes: fewer than 2 or more than MOST_INFERRED, two that differ only in how
    they are written, or a few among numbers that are none.
    """
    if not values:
        raise ValueError("holds no examples")
    counts = Counter(_class_name(value) for value in values if not is_missing(value) and not _is_nested(value))
    if not counts:
        raise ValueError(f"column {label!r} holds no label; give the column that does as label")
    numbers = {name: number for name in counts if (number := _number(name)) is not None and math.isfinite(number)}
    others = Counter({name: count for name, count in counts.items() if name not in numbers})
    if 0 < others.total() < counts.total() / 2:
        raise ValueError(
            f"the labels of column {label!r} are numbers, except {others.total():,} of {counts.total():,}, such as"
            f" {shown(next(iter(others)))}; remove those rows, or name all classes in classes"
        )
    if not others and kind is None and not all(number.is_integer() for number in numbers.values()):
        return "regression", None
    if others:
        names = sorted(counts)
        meanings: list[Any] = [name.strip().casefold() for name in names]
    else:
        names = sorted(numbers, key=numbers.__getitem__)
        meanings = [numbers[name] for name in names]
    _check_classes(label, names, meanings, numbers=not others)
    return "classification", tuple(names)


def _check_classes(label: str, names: Sequence[str], meanings: Sequence[Any], numbers: bool) -> None:
    """Raise ValueError where the sorted names are no classes; names of one meaning are one class in two spellings."""
    if len(names) < 2:
        raise ValueError(f"every label of column {label!r} is {shown(names[0])}: there is nothing to learn")
    if len(names) > MOST_INFERRED:
        advice = "to predict them as numbers, give kind: regression; if they are classes" if numbers else "if they are"
        raise ValueError(
            f"column {label!r} has {len(names):,} different labels, from {shown(names[0])} to {shown(names[-1])}, too"
            f" many to take them for classes; {advice}, name them in classes"
        )
    seen: dict[Any, str] = {}
    for name, meaning in zip(names, meanings, strict=True):
        if seen.setdefault(meaning, name) != name:
            raise ValueError(
                f"the labels {shown(seen[meaning])} and {shown(name)} of column {label!r} differ only in how they are"
                " written; make them one, or name all classes in classes"
            )
