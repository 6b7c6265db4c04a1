"""The table of tasks."""

import pytest
from pydantic import ValidationError

from deepcuts.experiment.tasks import ALIASES, METRICS, TASKS, Task

GLUE = {
    "cola": (("sentence",), 2, "matthews"),
    "sst2": (("sentence",), 2, "accuracy"),
    "mrpc": (("sentence1", "sentence2"), 2, "f1"),
    "qqp": (("question1", "question2"), 2, "f1"),
    "stsb": (("sentence1", "sentence2"), None, "pearson"),
    "mnli": (("premise", "hypothesis"), 3, "accuracy"),
    "qnli": (("question", "sentence"), 2, "accuracy"),
    "rte": (("sentence1", "sentence2"), 2, "accuracy"),
    "wnli": (("sentence1", "sentence2"), 2, "accuracy"),
}


@pytest.mark.parametrize("name", GLUE)
def test_a_glue_task_has_its_columns_classes_and_main_metric(name):
    task = TASKS[name]
    assert (task.text, task.classes, task.main_metric) == GLUE[name]
    assert (task.hub, task.config, task.revision, task.label) == ("nyu-mll/glue", name, "main", "label")
    assert task.outputs == (task.classes or 1)
    assert task.kind == ("classification" if task.classes else "regression")


def test_the_table_holds_glue_and_the_embedded_dataset():
    assert set(TASKS) == {*GLUE, "toy"}
    assert (TASKS["toy"].hub, TASKS["toy"].files) == (None, None)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_trains_and_validates_by_a_metric_of_its_kind(name):
    task = TASKS[name]
    assert list(task.splits)[:2] == ["train", "validation"]
    assert "test" not in task.splits.values()
    assert task.main_metric in METRICS[task.kind]


def test_mnli_validates_on_matched_with_mismatched_beside():
    assert TASKS["mnli"].splits["validation"] == "validation_matched"
    assert TASKS["mnli"].splits["validation_mismatched"] == "validation_mismatched"


def test_the_names_of_the_seed_are_aliases():
    assert ALIASES == {"SST2DATA": "sst2", "COLADATA": "cola", "STSBDATA": "stsb"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "classes is missing"),
        ({"classes": 1}, "at least 2"),
        ({"classes": 2, "kind": "regression"}, "a regression task has no classes"),
        ({"classes": 3, "metric": "f1"}, "'f1' is for two classes, not 3"),
        ({"classes": 2, "metric": "pearson"}, "unknown metric 'pearson' for classification"),
        ({"classes": ("a", "b", "a")}, "repeats a class"),
        ({"classes": 2, "label": "a"}, "both text and label"),
        ({"classes": 2, "text": ("a", "b", "c")}, "text has 3 columns"),
        ({"classes": 2, "colour": "red"}, "colour"),
    ],
)
def test_a_task_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Task(**{"text": ("a",), **fields})
