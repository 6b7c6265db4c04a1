"""Labels of every spelling become class numbers or values; what is none is refused, with its row."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from deepcuts.data.labels import infer_labels, read_labels
from deepcuts.experiment.own_data import OwnData
from deepcuts.experiment.tasks import Kind, Task


def task(classes: Any = 2, kind: Kind = "classification") -> Task:
    """A task with its classes as a sweep file gives them."""
    own = OwnData(train="a", validation="b", text=["text"], kind=kind, classes=classes)
    return Task(text=("text",), kind=kind, classes=tuple(own.classes) if isinstance(own.classes, list) else own.classes)


def problem(values: list[Any], *asked: Any) -> str:
    with pytest.raises(ValueError, match="of column 'label'") as caught:
        read_labels(values, task(*asked))
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([True, False, True], 2),
        ([True, False, True], [False, True]),
        ([True, False, True], [0, 1]),
        ([True, False, True], ["False", "True"]),
        ([1, 0, 1], [0, 1]),
        (["1", "0", "1"], [0, 1]),
        ([1.0, 0.0, 1.0], 2),
        ([1.0, 0.0, 1.0], [0, 1]),
        (["1.0", " 0 ", "1"], 2),
        ([Decimal(1), Decimal(0), Decimal(1)], 2),
        (["True", "False", "True"], [False, True]),
        (["TRUE", "FALSE", "TRUE"], [False, True]),
        (["true", "false", "true"], [False, True]),
        (["e\u0301", "a", "\u00e9"], ["a", "\u00e9"]),
        (["e\u0301", "a", "\u00e9"], ["a", "e\u0301"]),
    ],
)
def test_a_label_and_its_class_may_be_spelled_in_several_ways(values, classes):
    assert read_labels(values, task(classes)).tolist() == [1, 0, 1]


def test_a_class_that_is_named_exactly_goes_before_other_spellings():
    both = ["e\u0301", "\u00e9", "True", "true", "1"]
    assert read_labels([*both, True, 1], task(both)).tolist() == [0, 1, 2, 3, 4, 2, 4]


@pytest.mark.parametrize("classes", [2, [0, 1]])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_of_400_digits_is_refused(classes, sign):
    message = problem([0, sign * int("1" * 400)], classes)
    assert "in row 1 (from 0)" in message
    assert len(message) < 400
    assert "is infinite, or too large" in problem([0, sign * 10**400], None, "regression")


@pytest.mark.parametrize("value", [[1], {}, {"a": 1}, np.array([1]), [[[[[[[[[[1]]]]]]]]]]])
@pytest.mark.parametrize("asked", [(2,), ([0, 1],), (None, "regression")])
def test_a_label_that_holds_others_is_refused(value, asked):
    assert "in row 1 (from 0)" in problem([0, value], *asked)


@pytest.mark.parametrize(
    ("values", "classes", "message"),
    [
        ([0, float("nan")], 2, "label nan in row 1 (from 0) of column 'label' is missing"),
        ([0, None], 2, "label None in row 1 (from 0) of column 'label' is missing"),
        ([0, float("inf")], 2, "is infinite"),
        (["true", "false"], 2, "name the classes instead: classes: ['false', 'true']"),
        ([0, "b"], 2, "label 'b' in row 1 (from 0) of column 'label' is not a class number, 0 to 1; 1 of 2 rows"),
        ([0, 2], 2, "is out of range"),
        ([1.5, 0], 2, "is not a whole number"),
        (["pos", " neg"], ["pos", "neg"], "unknown: ' neg' (without the spaces around it, it is a class: remove them)"),
        (["pos", "Neg"], ["pos", "neg"], "unknown: 'Neg'; did you mean 'neg'? 1 of 2 rows are wrong"),
        ([0, "z" * 10_000], 2, "label 'zzz"),
        (["z" * 10_000, "y" * 10_000], 2, "name the classes instead"),
    ],
)
def test_a_label_that_is_no_class_is_refused_with_advice(values, classes, message):
    found = problem(values, classes)
    assert message in found
    assert len(found) < 500


def test_a_truth_value_is_no_number_of_a_regression():
    assert "label True in row 0 (from 0) of column 'label' is not a number" in problem([True, 2.5], None, "regression")


# Classes that nobody named

STARS = ("1", "2", "3", "4", "5")


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["5", "1", "3", "2", "4", "1"], STARS),
        ([5, 1, 3, 2, 4], STARS),
        ([5.0, 1.0, 3.0, 2.0, 4.0], STARS),
        ([Decimal(5), 1, 3.0, 2, 4], STARS),
        (["10", "9", "-1", "0"], ("-1", "0", "9", "10")),
        (["1.0", "2.0", "10.0"], ("1.0", "2.0", "10.0")),
        (["tell", "ask", "Zoë", "tell"], ("Zoë", "ask", "tell")),
        (["Zoe\u0308", "Zoë", "a"], ("Zoë", "a")),
        ([True, False], ("false", "true")),
        (["True", "False"], ("false", "true")),
        (["TRUE", "FALSE", "true"], ("false", "true")),
        (["yes", "no"], ("no", "yes")),
        (["nan", "None", "null"], ("None", "nan", "null")),
        (["2024", "sport", "news"], ("2024", "news", "sport")),
    ],
)
def test_classes_are_the_labels_that_occur_in_order(values, classes):
    kind, found = infer_labels(values, "label")
    assert (kind, found) == ("classification", classes)
    numbers = read_labels(values, Task(text=("text",), classes=found))  # and each label has its class
    assert sorted(set(numbers.tolist())) == list(range(len(classes)))


@pytest.mark.parametrize("values", [["3.5", "1", "2"], [0.5, 1.0], ["1e-3", "2"]])
def test_numbers_that_are_not_all_whole_are_a_regression_unless_classes_are_asked_for(values):
    assert infer_labels(values, "label") == ("regression", None)
    kind, classes = infer_labels(values, "label", "classification")
    assert kind == "classification"
    assert read_labels(values, Task(text=("text",), classes=classes)).max() == len(values) - 1


def test_missing_labels_are_no_class_and_are_refused_when_they_are_read():
    values = ["1", "", "2", None]
    _, classes = infer_labels(values, "label")
    assert classes == ("1", "2")
    with pytest.raises(ValueError, match=r"in row 1 \(from 0\) of column 'label' is missing"):
        read_labels(values, Task(text=("text",), classes=classes))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "holds no examples"),
        (["", None], "column 'label' holds no label"),
        ([[1], [2]], "column 'label' holds no label"),
        (["5", "5"], "every label of column 'label' is '5': there is nothing to learn"),
        (["1", "2", "N/A", "3"], "are numbers, except 1 of 4, such as 'N/A'; remove those rows, or name all classes"),
        ([1, 2, True], "are numbers, except 1 of 3, such as 'true'"),
        (["1", "1.0", "2"], "the labels '1' and '1.0' of column 'label' differ only in how they are written"),
        (["good", "Good", "bad"], "the labels 'Good' and 'good' of column"),
        (["good", "good ", "bad"], "the labels 'good' and 'good ' of column"),
        (list(range(101)), "has 101 different labels, from '0' to '100', too many .* give kind: regression; if they"),
        ([f"t{i}" for i in range(101)], "has 101 different labels, .*take them for classes; if they are, name them"),
    ],
)
def test_labels_that_are_no_classes_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        infer_labels(values, "label")
    if len(values) == 101:
        assert len(infer_labels(values[1:], "label")[1] or ()) == 100
