"""Turns the values of a label column into class numbers, or into the numbers of a regression. N = examples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcuts.data.columns import shown, spelling
from deepcuts.experiment.tasks import Task
from deepcuts.names import nearest


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
    if hasattr(value, "__len__") and not isinstance(value, str | bytes):  # a list, a mapping, an array
        return -1
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value)
    others = [text, spelling(text)]
    if isinstance(value, bool):
        others += [text.lower(), str(int(value))]
    elif text in ("True", "False", "TRUE", "FALSE"):  # as spreadsheets and pandas write the booleans of a CSV file
        others.append(text.lower())
    return next((place[name] for name in others if name in place), -1)
