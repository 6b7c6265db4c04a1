"""The test split of one's own data, and a part of the training split in place of the validation split."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders.specs import dense

from deepcuts.data.facts import check, facts_in_words
from deepcuts.data.holdout import split_of
from deepcuts.data.splits import load_split, locate
from deepcuts.experiment.own_data import OwnData
from deepcuts.experiment.reading import parse_sweep
from deepcuts.experiment.tasks import TASKS, Holdout, Task
from deepcuts.sweep.prepare import prepare_sweep

COUNT = 200


def saved(folder: Path, name: str, first: int = 0, count: int = COUNT) -> str:
    rows = [{"text": f"text {first + row}", "label": ["a", "b", "b", "b"][row % 4]} for row in range(count)]
    pd.DataFrame(rows).to_csv(folder / name, index=False)
    return str(folder / name)


def one_file(folder: Path, **fields: Any) -> OwnData:
    return OwnData(**{"file": saved(folder, "a.csv"), "validation": 0.2, "text": "text", **fields})


def texts(task: Task) -> dict[str, set[str]]:
    return {split: {text for (text,) in load_split(task, split).texts} for split in task.splits}


def test_three_parts_of_one_file_share_no_text_and_every_class_has_its_share(tmp_path):
    task = locate("mine", one_file(tmp_path, test=0.1))
    facts = check("mine", task)
    counts = {split: list(each.labels.values()) for split, each in facts.items()}
    assert counts == {"train": [35, 105], "validation": [10, 30], "test": [5, 15]}
    assert len(set().union(*texts(task).values())) == COUNT
    words = "validation is 20 % and test is 10 % of a.csv, stratified by class, data_seed 0"
    assert task.split_in_words == words
    assert texts(locate("mine", one_file(tmp_path, test=20))) == texts(task)
    assert "in test 5 of a, 15 of b" in facts_in_words(facts, task)[0]


def test_a_test_part_takes_nothing_from_validation(tmp_path):
    without, beside = (texts(locate("mine", one_file(tmp_path, **fields))) for fields in ({}, {"test": 0.1}))
    assert without["validation"] == beside["validation"]
    assert without["train"] == beside["train"] | beside["test"]


def test_the_examples_of_each_part_are_pinned():
    """If this changes, so do the ids of trials."""
    made = [(f"text {number}",) for number in range(20)]
    held = Holdout(size=0.2, test=0.2, of_train=0.25)
    splits = split_of(made, np.array([0.0, 1.0] * 10), held, ["a", "b"])
    found = {name: [place for place, split in enumerate(splits) if split == name] for name in (None, "test")}
    assert found[None] == [2, 10, 11, 13]  # the validation part, which is in no split
    assert found["test"] == [4, 5, 7, 18]
    assert [place for place, split in enumerate(splits) if split == "validation"] == [0, 12, 17]


def test_a_test_file_decides_the_ids_and_names_classes_too(tmp_path):
    parts = {"train": saved(tmp_path, "a.csv"), "validation": saved(tmp_path, "b.csv", 1000, 20)}
    two = locate("mine", OwnData(**parts, text="text"))
    pd.DataFrame({"text": ["x", "y"], "label": ["a", "c"]}).to_csv(tmp_path / "t.csv", index=False)
    three = locate("mine", OwnData(**parts, test=str(tmp_path / "t.csv"), text="text"))
    assert list(three.splits) == ["train", "validation", "test"]
    assert three.classes == ("a", "b", "c")
    assert dense(task=two).dense_id != dense(task=three).dense_id
    facts = check("mine", three)
    assert (facts["test"].in_train, facts["test"].in_validation, facts["validation"].in_validation) == (0, 0, None)


def test_texts_of_the_test_split_that_are_elsewhere_are_told_and_equal_splits_refused(tmp_path):
    parts = {"train": saved(tmp_path, "a.csv"), "validation": saved(tmp_path, "b.csv", 1000, 40)}
    leaking = OwnData(**parts, test=saved(tmp_path, "t.csv", 1020, 40), text="text")
    task = locate("mine", leaking)
    facts = check("mine", task)
    assert facts["test"].in_validation == 20
    assert any("40 texts in test: 20 also in validation" in line for line in facts_in_words(facts, task))
    for other in ("train", "validation"):
        same = leaking.model_copy(update={"test": parts[other]})
        with pytest.raises(ValueError, match=f"'mine': {other} and test have the same examples .* other test data"):
            check("mine", locate("mine", same))
        check("mine", locate("mine", same), same_data=True)


@pytest.mark.parametrize("test", [0.001, 0.9])
def test_a_test_part_that_leaves_a_side_empty_is_refused(tmp_path, test):
    with pytest.raises(ValueError, match=r"test: \d+ is \d+ of 160 examples; both sides need at least"):
        locate("mine", one_file(tmp_path, test=test))


# A part of the training split


def test_a_holdout_is_a_share_of_the_training_split_and_the_validation_split_is_not_read(tmp_path):
    parts = {"train": saved(tmp_path, "a.csv"), "validation": saved(tmp_path, "b.csv", 1000, 20)}
    own = OwnData(**parts, test=saved(tmp_path, "t.csv", 2000, 20), text="text", classes=["a", "b"])
    whole, task = texts(locate("mine", own)), locate("mine", own, holdout=0.1)
    Path(parts["validation"]).unlink()
    found = texts(task)
    assert found["train"] | found["validation"] == whole["train"]
    assert (len(found["train"]), len(found["validation"]), found["test"]) == (180, 20, whole["test"])
    labels = np.bincount(load_split(task, "validation").labels.astype(int)).tolist()
    assert labels == [5, 15]
    words = (
        "validation is a holdout of 10 % of the training split, stratified by class, data_seed 0; the real validation"
    )
    assert task.split_in_words == f"{words} split is not looked at"
    assert texts(locate("mine", own.model_copy(update={"data_seed": 1}), holdout=0.1)) != found


def test_a_holdout_of_one_file_leaves_its_validation_part_out(tmp_path):
    own = one_file(tmp_path, test=0.1)
    whole, found = texts(locate("mine", own)), texts(locate("mine", own, holdout=0.1))
    assert found["train"] | found["validation"] == whole["train"]
    assert not found["validation"] & whole["validation"]
    assert found["test"] == whole["test"]


def test_a_holdout_of_the_toy_and_of_the_hub_is_in_the_ids(monkeypatch):
    toy = [locate("toy", holdout=share) for share in (None, 0.1, 0.2)]
    assert len({dense(task=task).dense_id for task in toy}) == 3
    assert [len(load_split(toy[1], split).texts) for split in ("train", "validation")] == [3600, 400]
    mnli = locate("mnli", holdout=0.25)
    assert mnli.splits == {"train": "train", "validation": "train"}
    assert dense(task=mnli).dense_id != dense(task=TASKS["mnli"]).dense_id
    read: list[str] = []
    columns = {"premise": ["p"] * 20, "hypothesis": [f"h {i}" for i in range(20)], "label": [0, 1, 2, 0] * 5}
    monkeypatch.setattr("deepcuts.data.splits.read_hub_columns", lambda task, split: read.append(split) or columns)
    assert len(load_split(mnli, "train").texts) + len(load_split(mnli, "validation").texts) == 20


def test_a_sweep_holds_out_where_it_says_so():
    raw = {"model": "toy", "datasets": ["toy"], "strategies": ["LayerMagWeight"], "compressions": [2], "seeds": [0, 1]}
    raw["max_tokens"] = 32
    plain, held = (prepare_sweep(parse_sweep(raw | more), "cpu") for more in ({}, {"holdout": 0.1}))
    assert plain.examples["toy"] == {"train": 4000, "validation": 500}
    assert held.examples["toy"] == {"train": 3600, "validation": 400}
    over = prepare_sweep(parse_sweep(raw | {"overrides": {"toy": {"holdout": 0.1}}}), "cpu")
    assert over.spec.trials() == held.spec.trials()
    assert not {t.trial_id for t in plain.spec.trials()} & {t.trial_id for t in held.spec.trials()}
    assert len({trial.dense.task.digest for trial in held.spec.trials()}) == 1  # the same examples for every seed
    for share in (0, 1, 80, "a"):
        with pytest.raises(ValueError, match="holdout"):
            parse_sweep(raw | {"holdout": share})


def test_a_seed_that_draws_nothing_is_refused(tmp_path):
    parts = {"train": saved(tmp_path, "a.csv"), "validation": saved(tmp_path, "b.csv", 1000, 20), "text": "text"}
    raw = {"model": "toy", "strategies": ["LayerMagWeight"], "compressions": [2], "max_tokens": 32}
    raw["datasets"] = {"mine": {**parts, "data_seed": 1}}
    with pytest.raises(ValueError, match="'mine': data_seed 1 draws the parts of file, or with holdout that"):
        prepare_sweep(parse_sweep(raw), "cpu")
    prepare_sweep(parse_sweep(raw | {"holdout": 0.1}), "cpu")
