"""The facts of a dataset are counted, said, and refused where nothing can be learned or measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepcuts.data.facts import check, count_facts, facts_in_words, inferred_in_words
from deepcuts.data.splits import Split, locate
from deepcuts.experiment.metrics import accuracy, majority_score
from deepcuts.experiment.own_data import OwnData
from deepcuts.experiment.tasks import Task
from deepcuts.seeds import derive

TASK = Task(text=("text",), classes=("bad", "fine", "good"))


def split(*examples: tuple[str, float]) -> Split:
    return Split([(text,) for text, _ in examples], np.array([label for _, label in examples], np.float64))


TRAIN = split(("a", 0), ("b", 1), ("a", 0), ("c", 0), ("c", 1), ("c", 0), ("", 0), ("d", 0))
VALIDATION = split(("a", 0), ("a", 0), ("b", 2), ("c", 1), ("e", 0), ("f", 0), ("f", 1), (" \t", 2), ("g", 1))


def test_facts_are_counted_as_by_hand():
    facts = count_facts({"train": TRAIN, "validation": VALIDATION}, TASK)
    train, validation = facts["train"], facts["validation"]
    assert (train.examples, train.labels, train.absent) == (8, {"bad": 6, "fine": 2, "good": 0}, ["good"])
    assert (train.empty, train.repeated, train.in_train, train.contradictory) == (1, 3, None, 3)
    assert (validation.examples, validation.labels) == (9, {"bad": 4, "fine": 3, "good": 2})
    # in train: a, a, b, c; with another label: b (2, in train 1), c (both in train), f, f
    assert (validation.empty, validation.repeated, validation.in_train, validation.contradictory) == (1, 2, 4, 4)
    assert (train.values, train.truncated) == (None, None)


def test_a_pair_is_repeated_only_as_a_pair_and_empty_if_either_text_is():
    pairs = Split([("a", "b"), ("b", "a"), ("a", "b"), ("a", " ")], np.array([0.0, 1.0, 0.0, 1.0]))
    task = Task(text=("one", "two"), classes=2)
    facts = count_facts({"train": pairs, "validation": pairs}, task)["train"]
    assert (facts.repeated, facts.contradictory, facts.empty) == (1, 0, 1)


def test_a_regression_has_a_range_and_no_classes():
    task = Task(text=("text",), kind="regression")
    facts = count_facts({"train": split(("a", 1), ("b", 4)), "validation": split(("a", 2), ("c", 2))}, task)
    assert (facts["train"].labels, facts["train"].values) == ({}, (1.0, 2.5, 4.0))
    assert facts["validation"].contradictory == 1
    assert facts_in_words(facts, task) == [
        "labels in train 1 to 4 (mean 2.5); in validation 2 to 2 (mean 2)",
        "note: 2 texts in validation: 1 also in train, 1 that also have another label; every label in validation is 2",
    ]


def test_the_words_are_one_line_for_clean_data_and_one_more_for_each_split_with_a_problem():
    clean = count_facts(
        {"train": split(("a", 0), ("b", 1), ("c", 2)), "validation": VALIDATION.select(np.array([4]))}, TASK
    )
    assert facts_in_words({"train": clean["train"], "validation": clean["train"]}, TASK) == [
        "labels in train 1 of bad, 1 of fine, 1 of good; in validation 1 of bad, 1 of fine, 1 of good;"
        " always predicting bad: accuracy 0.333"
    ]
    facts = count_facts({"train": TRAIN, "validation": VALIDATION}, TASK)
    assert facts_in_words(facts, TASK) == [
        "labels in train 6 of bad, 2 of fine, 0 of good; in validation 4 of bad, 3 of fine, 2 of good;"
        " always predicting bad: accuracy 0.444",
        "note: 8 texts in train: 1 empty, 3 repeated, 3 that also have another label; train has no example of 'good'",
        "note: 9 texts in validation: 1 empty, 2 repeated, 4 also in train, 4 that also have another label",
    ]


def test_classes_that_are_numbers_are_called_classes():
    stars = Task(text=("text",), classes=("1", "4.5", "-1", "v2", "none"))
    some = split(*((str(label), label) for label in range(5)))
    facts = count_facts({"train": some, "validation": some}, stars)
    said = "1 of class 1, 1 of class 4.5, 1 of class -1, 1 of v2, 1 of none"
    assert facts_in_words(facts, stars) == [
        f"labels in train {said}; in validation {said}; always predicting class 1: accuracy 0.200",
        "note: 5 texts in validation: 5 also in train",
    ]


def test_many_classes_are_summed_up():
    task = Task(text=("text",), classes=50)
    many = split(*((str(number), number % 49) for number in range(98)))
    facts = count_facts({"train": many, "validation": many}, task)
    assert "(of all" not in facts_in_words(facts, task, len(many.texts))[0]
    assert (
        f" (of all {len(many.texts)}; each seed draws 5 of them); in validation " in facts_in_words(facts, task, 5)[0]
    )
    words = facts_in_words(facts, task)
    assert "labels in train 50 classes of 0 to 2 examples; in validation" in words[0]
    assert "train has no example of '49'" in words[1]


def test_the_majority_score_is_the_metric_of_a_constant_prediction():
    labels = np.array([0, 0, 1, 0, 1, 0, 1], np.float64)
    assert majority_score("accuracy", labels) == 4 / 7 == accuracy(labels, np.zeros(7))
    assert majority_score("matthews", labels) == majority_score("f1", labels) == 0
    assert majority_score("f1", 1 - labels) == 2 * 4 / (2 * 4 + 3)
    assert majority_score("f1", np.array([1.0, 0.0])) == 0  # of two that are equally frequent, class 0


def test_what_the_sweep_file_left_out_is_said(tmp_path):
    def told(labels: list[str], **fields: Any) -> list[str]:
        path = tmp_path / "a.csv"
        path.write_text("\n".join(["text,label", *(f"t{row},{label}" for row, label in enumerate(labels * 10))]))
        own = OwnData(**{"file": str(path), "validation": 0.2, "text": "text", **fields})
        task = locate("reviews", own)
        return inferred_in_words(own, task, check("reviews", task))

    by_class = "validation is 20 % of a.csv, stratified by class, data_seed 0; equal texts stay on one side"
    inferred = "classes: [1, 2, 5], inferred from the labels"
    assert told(["5", "1", "2"]) == [by_class, f"{inferred}; if they are numbers to predict, say kind: regression"]
    assert told(["5", "1", "2"], kind="classification") == [by_class, inferred]
    assert told(["5", "1", "2"], classes=[1, 2, 5]) == [by_class]
    assert told(["b", "a"]) == [by_class, "classes: [a, b], inferred from the labels"]
    at_random = "validation is 7 examples of a.csv, data_seed 3; equal texts stay on one side"
    assert told(["5", "1", "3.5"], validation=7, data_seed=3) == [
        at_random,
        "kind: regression, guessed from labels that are not all whole numbers (1 to 5); say kind: regression to be"
        " sure, or kind: classification",
    ]
    assert told(["5", "1", "3.5"], validation=7, data_seed=3, kind="regression") == [at_random]
    assert inferred_in_words(None, TASK, {}) == []


# What is refused


def files(folder: Path, train: str, validation: str, **fields: Any) -> OwnData:
    for name, rows in (("a.csv", train), ("b.csv", validation)):
        (folder / name).write_text("text,label\n" + "".join(f"{row}\n" for row in rows.split()), "utf-8")
    paths = {"train": str(folder / "a.csv"), "validation": str(folder / "b.csv")}
    return OwnData(**{**paths, "text": "text", "classes": 2, **fields})


def checked(own: OwnData, *more: Any) -> dict[str, Any]:
    return {**check("reviews", locate("reviews", own), own.same_data, *more)}


def test_a_validation_split_that_is_the_training_split_is_refused_unless_that_is_said(tmp_path):
    same = files(tmp_path, "x,0 y,1", "x,0 y,1")
    for own in (same, same.model_copy(update={"validation": same.train}), files(tmp_path, "x,0 y,1", "y,1 x,0")):
        with pytest.raises(
            ValueError, match=r"^dataset 'reviews': train and validation have the same .*same_data: true"
        ):
            checked(own)
    facts = checked(same.model_copy(update={"same_data": True}))
    assert facts["validation"].in_train == 2
    task, said = locate("reviews", same), locate("reviews", same.model_copy(update={"same_data": True}))
    assert task == said  # and so the ids of its trials


@pytest.mark.parametrize("validation", ["x,0", "x,0 y,0", "x,0 z,1", "x,0 y,1 y,1"])
def test_a_validation_split_that_only_resembles_the_training_split_is_let_through(tmp_path, validation):
    assert checked(files(tmp_path, "x,0 y,1", validation))["train"].in_train is None


def test_a_selection_of_one_class_is_refused_for_each_seed(tmp_path):
    own = files(tmp_path, " ".join(f"t{number},{number % 2}" for number in range(10)), "x,0 y,1")
    assert checked(own, None, [0, 1, 2]) == checked(own, 10, [0, 1, 2])
    with pytest.raises(ValueError, match=r"'reviews': max_train_examples: the 1 that seed 0 selects all have"):
        checked(own, 1, [0])
    refused = 0
    for seed in range(20):
        chosen = np.sort(np.random.default_rng(derive(seed, "max_train_examples")).permutation(10)[:2])
        if chosen[0] % 2 == chosen[1] % 2:
            refused += 1
            with pytest.raises(ValueError, match=rf"the 2 that seed {seed} selects .* the label '{chosen[0] % 2}'"):
                checked(own, 2, [seed])
        else:
            checked(own, 2, [seed])
    assert 0 < refused < 20


def test_a_regression_may_select_one_label(tmp_path):
    own = files(tmp_path, "x,2.5 y,1", "z,1 y,1", kind="regression", classes=None)
    assert checked(own, 1, [0])["train"].values == (1.0, 1.75, 2.5)
