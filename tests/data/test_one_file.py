"""One file of data: validation is split off, and the classes and the kind follow from the labels."""

from pathlib import Path

import pandas as pd
import pytest
from builders.specs import dense

from deepcuts.data.facts import check
from deepcuts.data.splits import load_split, locate
from deepcuts.experiment.own_data import OwnData


def saved(frame: pd.DataFrame, path: Path) -> str:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return str(path)


def stars(count: int = 100) -> pd.DataFrame:
    return pd.DataFrame(
        {"body": [f"text {row}" for row in range(count)], "label": [row * row % 5 + 1 for row in range(count)]}
    )


def one_file(path: str, **fields: object) -> OwnData:
    return OwnData(**{"file": path, "validation": 0.2, "text": "body", **fields})


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_one_file_is_both_splits_with_the_classes_that_occur(tmp_path, suffix):
    frame = stars()
    task = locate("reviews", one_file(saved(frame, tmp_path / f"a{suffix}")))
    assert (task.kind, task.classes) == ("classification", ("1", "2", "5"))
    train, validation = load_split(task, "train"), load_split(task, "validation")
    found = pd.DataFrame({"body": [text for (text,) in [*train.texts, *validation.texts]]})
    found["label"] = [int(task.classes[int(label)]) for label in [*train.labels, *validation.labels]]
    pd.testing.assert_frame_equal(
        found.sort_values("body", ignore_index=True), frame.sort_values("body", ignore_index=True)
    )
    counts = {split: list(each.labels.values()) for split, each in check("reviews", task).items()}
    assert counts == {"train": [16, 32, 32], "validation": [4, 8, 8]}
    order = [int(text.split()[1]) for (text,) in train.texts]
    assert order == sorted(order)


def test_one_file_is_the_dataset_of_the_two_files_that_it_is_split_into(tmp_path):
    frame = stars()
    task = locate("reviews", one_file(saved(frame, tmp_path / "a.csv")))
    parts = {}
    for split in ("train", "validation"):
        texts = [text for (text,) in load_split(task, split).texts]
        parts[split] = saved(frame[frame["body"].isin(texts)], tmp_path / f"{split}.csv")
    two = locate("reviews", OwnData(**parts, text="body", classes=["1", "2", "5"]))
    inferred = locate("reviews", OwnData(**parts, text="body"))
    asked = locate("reviews", one_file(str(tmp_path / "a.csv"), validation=20))
    ids = {dense(task=each).dense_id for each in (task, two, inferred, asked)}
    assert len(ids) == 1


def test_the_share_the_seed_and_the_content_of_one_file_decide_the_ids(tmp_path):
    path, longer = saved(stars(), tmp_path / "a.csv"), saved(stars(101), tmp_path / "b.csv")
    rows = [one_file(path), one_file(path, validation=0.3), one_file(path, data_seed=1), one_file(longer)]
    tasks = [locate("reviews", own) for own in rows]
    assert len({dense(task=task).dense_id for task in tasks}) == 4
    assert tasks[0] == locate("reviews", one_file(path, data_seed=0))
    assert tasks[2].split_in_words == "validation is 20 % of a.csv, stratified by class, data_seed 1"
    moved = locate("reviews", one_file(saved(stars(), tmp_path / "c" / "d.jsonl")))
    assert dense(task=moved).dense_id == dense(task=tasks[0]).dense_id


def test_the_kind_of_one_file_follows_from_its_labels_unless_it_is_said(tmp_path):
    frame = stars().assign(label=lambda rows: rows["label"] + 0.5)
    path = saved(frame, tmp_path / "a.csv")
    task = locate("reviews", one_file(path))
    assert (task.kind, task.classes, task.main_metric) == ("regression", None, "pearson")
    assert task.split_in_words == "validation is 20 % of a.csv, data_seed 0"
    assert task == locate("reviews", one_file(path, kind="regression"))
    assert locate("reviews", one_file(path, kind="classification")).classes == ("1.5", "2.5", "5.5")
    whole = saved(stars(), tmp_path / "b.csv")
    assert locate("reviews", one_file(whole, kind="regression")).kind == "regression"


def test_classes_of_two_files_are_those_of_both(tmp_path):
    train = saved(pd.DataFrame({"body": ["a", "b"], "label": ["no", "yes"]}), tmp_path / "a.csv")
    validation = saved(pd.DataFrame({"body": ["c", "d"], "label": ["maybe", "yes"]}), tmp_path / "b.csv")
    assert locate("reviews", OwnData(train=train, validation=validation, text="body")).classes == ("maybe", "no", "yes")
    values = saved(pd.DataFrame({"body": ["c", "d"], "label": ["1", "0"]}), tmp_path / "c.csv")
    assert (
        locate("reviews", OwnData(train=values, validation=values, text="body", kind="regression")).kind == "regression"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": ["1", ""] * 50}, "dataset 'reviews': .*a.csv: every label of column 'label' is '1'"),
        ({"label": ["1", "2", "2", ""] * 25}, r"a.csv: label '' in row 3 \(from 0\) of column 'label' is missing"),
        ({"label": ["1"] * 99 + ["2"]}, "a.csv: cannot be split: class '2' has a single text"),
        ({"body": "same"}, "a.csv: cannot be split: class '1' has a single text; class '2' has a single text"),
        ({"label": range(100)}, "a.csv: cannot be split: class '0' has a single text"),
    ],
)
def test_one_file_that_cannot_be_split_is_refused(tmp_path, change, message):
    path = saved(stars().assign(**change), tmp_path / "a.csv")
    with pytest.raises(ValueError, match=message):
        locate("reviews", one_file(path))
