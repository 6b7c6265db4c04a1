"""Datasets are found, read and checked; everything that can be wrong with one is refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepcuts.data.facts import Facts, check
from deepcuts.data.splits import Split, content_digest, data_commit, first_of_shuffle, load_split, locate
from deepcuts.experiment.own_data import OwnData
from deepcuts.experiment.tasks import TASKS, Task

TRAPS = ["null", "NA", "None", "nan", "", "007", "1e5", " spaces ", "Zoë 日本 🙂"]
QUOTED = ['a "quoted" word', '"', "a, comma", "two\nlines", "a\r\nb"]


def write(frame: pd.DataFrame, path: Path, **options: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False, **options)
    elif path.suffix == ".jsonl":
        rows = [json.dumps(row, ensure_ascii=False) for row in frame.to_dict("records")]
        path.write_text("\n".join(rows) + "\n\n", "utf-8")
    elif path.suffix == ".tsv":
        rows = ["\t".join(map(str, row)) for row in [tuple(frame.columns), *frame.itertuples(index=False)]]
        path.write_text("\n".join(rows) + "\n", "utf-8")
    else:
        frame.to_csv(path, index=False, **options)
    return str(path)


def examples(texts: list[str], column: str = "body") -> pd.DataFrame:
    return pd.DataFrame({column: texts, "label": [row % 2 for row in range(len(texts))]})


def own(train: str, validation: str | None = None, **fields: object) -> OwnData:
    return OwnData(**{"train": train, "validation": validation or train, "text": "body", "classes": 2, **fields})


def problem(tmp_path: Path, train: str | pd.DataFrame, suffix: str = ".csv", **fields: object) -> str:
    """Return the message with which a training file is refused; it always names the dataset and the file."""
    path = tmp_path / f"bad{suffix}"
    if isinstance(train, str):
        path.write_text(train, "utf-8")
    else:
        write(train, path)
    with pytest.raises(ValueError, match="dataset 'reviews'") as caught:
        locate("reviews", own(str(path), **fields))
    assert str(path) in str(caught.value)
    return str(caught.value)


def sizes(facts: dict[str, Facts]) -> dict[str, int]:
    return {split: each.examples for split, each in facts.items()}


# The same content is the same dataset


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_every_format_reads_the_same_texts_and_labels(tmp_path, suffix):
    texts = TRAPS + ([] if suffix == ".tsv" else QUOTED)
    path = write(examples(texts), tmp_path / f"a{suffix}")
    task = locate("reviews", own(path))
    split = load_split(task, "train")
    assert split.texts == [(text,) for text in texts]
    assert split.labels.dtype == np.float64
    assert split.labels.tolist() == [row % 2 for row in range(len(texts))]
    assert sizes(check("reviews", task, same_data=True)) == {"train": len(texts), "validation": len(texts)}


def test_a_digest_depends_only_on_the_content(tmp_path):
    frame = examples(TRAPS)
    variants = {
        write(frame, tmp_path / "a.parquet"): "body",
        write(frame, tmp_path / "groups.parquet", row_group_size=2): "body",
        write(frame, tmp_path / "b.csv"): "body",
        write(frame, tmp_path / "b.jsonl"): "body",
        write(frame, tmp_path / "other" / "c.tsv"): "body",
        write(frame, tmp_path / "bom.csv", encoding="utf-8-sig"): "body",
        write(frame.assign(label=frame["label"].astype("float32"), more=1), tmp_path / "d.parquet"): "body",
        write(frame.rename(columns={"body": "text"})[["label", "text"]], tmp_path / "e.csv"): "text",
    }
    tasks = [locate("reviews", own(path, text=column)) for path, column in variants.items()]
    assert {task.digest for task in tasks} == {tasks[0].digest}
    assert len(tasks[0].digest or "") >= 16
    assert all(Path(path).is_absolute() for task in tasks for path in (task.files or {}).values())


def test_a_digest_changes_with_any_text_label_or_order(tmp_path):
    base = pd.DataFrame({"body": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]})
    frames = [
        base,
        base.assign(body=["a", "b", "c", "D"]),
        base.assign(body=["ab", "", "c", "d"]),
        base.assign(label=[0, 1, 1, 1]),
        base.iloc[::-1],
        base.iloc[:3],
    ]
    paths = [write(frame, tmp_path / f"{number}.csv") for number, frame in enumerate(frames)]
    digests = [locate("reviews", own(path)).digest for path in paths]
    digests.append(locate("reviews", own(paths[0], paths[1])).digest)
    digests.append(locate("reviews", own(paths[1], paths[0])).digest)
    assert len(set(digests)) == len(digests)


def test_smaller_selections_are_nested_and_in_their_original_order():
    assert first_of_shuffle(5, None, 0).tolist() == first_of_shuffle(5, 9, 0).tolist() == [0, 1, 2, 3, 4]
    few, many = first_of_shuffle(100, 10, 3), first_of_shuffle(100, 20, 3)
    assert len(set(few)) == 10
    assert set(few) < set(many)
    assert list(few) == sorted(few)
    assert list(few) != list(first_of_shuffle(100, 10, 4))


def test_a_digest_is_pinned():
    split = Split([("a", "bc"), ("ü", "")], np.array([1.0, -0.0]))
    assert content_digest({"train": split}) == "78af0f6d3d82153e86ede83a67831ffe"


def test_pairs_class_names_and_values_are_read(tmp_path):
    frame = pd.DataFrame({"a": ["x", "y"], "b": ["u", "v"], "label": ["no", "yes"], "score": [0.25, -5.0]})
    path = write(frame, tmp_path / "a.csv")
    named = load_split(locate("p", own(path, text=["a", "b"], classes=["yes", "no"])), "train")
    assert named.texts == [("x", "u"), ("y", "v")]
    assert named.labels.tolist() == [1, 0]
    value = own(path, text="a", label="score", kind="regression", classes=None)
    assert load_split(locate("p", value), "train").labels.tolist() == [0.25, -5.0]


def test_class_names_may_be_numbers(tmp_path):
    frame = pd.DataFrame({"body": ["x", "y", "z"], "label": [5, 1, 3]})
    for suffix in (".csv", ".parquet", ".jsonl"):
        path = write(frame.astype({"label": "float64" if suffix == ".parquet" else int}), tmp_path / f"a{suffix}")
        split = load_split(locate("stars", own(path, classes=["1", "2", "3", "4", "5"])), "train")
        assert split.labels.tolist() == [4, 0, 2]


def test_relative_paths_are_taken_from_the_working_directory(tmp_path, monkeypatch):
    write(examples(["a", "b"]), tmp_path / "a.csv")
    monkeypatch.chdir(tmp_path)
    assert (locate("reviews", own("a.csv")).files or {})["train"] == str(tmp_path / "a.csv")


# A folder of data


def test_a_data_dir_replaces_the_hub_and_only_used_splits_are_read(tmp_path):
    frame = examples(["a", "b", "c"], "sentence")
    write(frame, tmp_path / "sst2" / "train.tsv")
    write(frame.iloc[:2], tmp_path / "sst2" / "validation.jsonl")
    (tmp_path / "sst2" / "test.csv").write_bytes(b"\xff\x00 not read")
    task = locate("SST2DATA", None, str(tmp_path))
    assert sizes(check("sst2", task)) == {"train": 3, "validation": 2}
    assert (task.hub, task.config, data_commit(task)) == (None, None, None)
    assert task.digest is not None


def test_mnli_validates_on_matched_and_also_has_mismatched(tmp_path):
    frame = pd.DataFrame({"premise": list("abc"), "hypothesis": list("def"), "label": [0, 1, 2]})
    for number, name in enumerate(["train", "validation_matched", "validation_mismatched"], 1):
        write(frame.iloc[:number] if name != "train" else frame, tmp_path / "mnli" / f"{name}.parquet")
    task = locate("mnli", None, str(tmp_path))
    assert sizes(check("mnli", task)) == {"train": 3, "validation": 2, "validation_mismatched": 3}


def test_an_own_dataset_of_the_hub_comes_from_the_data_dir_too(tmp_path):
    for split, texts in (("train", ["a", "b"]), ("validation", ["c", "d"])):
        write(examples(texts), tmp_path / "mine" / f"{split}.csv")
    task = locate("mine", OwnData(hub="someone/mine", text="body", classes=2), str(tmp_path))
    assert sizes(check("mine", task)) == {"train": 2, "validation": 2}


def test_named_splits_of_the_hub_come_from_a_data_dir_by_their_names(tmp_path):
    for stem, texts in (("train", ["a", "b", "c"]), ("test", ["d", "e"]), ("hard", ["f"])):
        write(examples(texts), tmp_path / "mine" / f"{stem}.csv")
    splits = {"train": "train", "validation": "test", "difficult": "hard"}
    task = locate("mine", OwnData(hub="someone/mine", text="body", classes=2, splits=splits), str(tmp_path))
    assert sizes(check("mine", task)) == {"train": 3, "validation": 2, "difficult": 1}
    plain = OwnData(hub="someone/mine", text="body", classes=2)
    named = plain.model_copy(update={"splits": {"validation": "validation", "train": "train"}})
    assert locate("mine", plain) == locate("mine", named)  # and so the ids of its trials
    assert locate("mine", plain).splits == TASKS["sst2"].splits


def test_a_hub_dataset_is_located_without_reading_it():
    task = locate("cola")
    assert (task.hub, task.config, task.files, task.digest) == ("nyu-mll/glue", "cola", None, None)


def test_the_toy_dataset_is_built_in(tmp_path):
    toy = pytest.importorskip("deepcuts.data.toy")
    task = locate("toy", None, str(tmp_path))
    assert task.digest == toy.VERSION
    assert all(count > 0 for count in sizes(check("toy", task)).values())


def test_errors_name_missing_folders_and_files(tmp_path):
    write(examples(["a", "b"], "sentence"), tmp_path / "sst2" / "train.csv")
    with pytest.raises(ValueError, match=r"'validation'.*validation\.parquet, .*csv, .*tsv, .*jsonl"):
        locate("sst2", None, str(tmp_path))
    with pytest.raises(ValueError, match=r"no folder '.*rte' in data_dir; it has sst2"):
        locate("rte", None, str(tmp_path))
    with pytest.raises(ValueError, match="data_dir itself does not exist"):
        locate("rte", None, str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"cannot read .*absent\.csv: No such file"):
        locate("reviews", own(str(tmp_path / "absent.csv")))
    (tmp_path / "sst2.csv").mkdir()
    with pytest.raises(ValueError, match=r"cannot read .*sst2\.csv: Is a directory"):
        locate("reviews", own(str(tmp_path / "sst2.csv")))


def test_two_files_for_one_split_are_refused(tmp_path):
    for suffix in (".csv", ".parquet"):
        write(examples(["a", "b"], "sentence"), tmp_path / "sst2" / f"train{suffix}")
    with pytest.raises(ValueError, match=r"train\.parquet and train\.csv are both in"):
        locate("sst2", None, str(tmp_path))


def test_errors_for_unknown_names_have_the_nearest_known():
    with pytest.raises(ValueError, match="dataset 'sts-b': unknown; did you mean 'stsb'"):
        locate("sts-b")
    with pytest.raises(ValueError, match=r"no split 'test'; the task has 'train', 'validation'"):
        load_split(locate("sst2"), "test")


# Bad content


def test_a_split_without_examples_is_refused(tmp_path):
    assert "holds no examples" in problem(tmp_path, "body,label\n")
    assert "holds no examples" in problem(tmp_path, "\n\n", ".jsonl")
    assert "holds no examples" in problem(tmp_path, examples(["a"]).iloc[:0], ".parquet")
    assert "is empty" in problem(tmp_path, "")


def test_texts_that_are_missing_or_not_text_are_refused(tmp_path):
    frame = pd.DataFrame({"body": ["a", None, None], "label": [0, 1, 0]})
    for suffix in (".parquet", ".jsonl"):
        assert "column 'body' is missing in row 1 (from 0), 2 such rows" in problem(tmp_path, frame, suffix)
    numbers = pd.DataFrame({"body": [12, 13], "label": [0, 1]})
    assert "column 'body' is 12, not text in row 0" in problem(tmp_path, numbers, ".parquet")
    lists = pd.DataFrame({"body": [["a", "b"], ["c"]], "label": [0, 1]})
    assert "not text in row 0" in problem(tmp_path, lists, ".parquet")
    assert "surrogate pair in row 0" in problem(tmp_path, '{"body": "\\ud800", "label": 1}', ".jsonl")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, 2, 3],
            "label '2' in row 2 (from 0) of column 'label' is out of range; allowed are 0 to 1 (they",
        ),
        ([0, 1, -2, 0], "label '-2' in row 2 (from 0) of column 'label' is out of range"),
        ([0, -1, -1, 1], "label '-1' in row 1 (from 0) of column 'label' marks a hidden test label"),
        ([0, 0.5, 1, 1], "label '0.5' in row 1 (from 0) of column 'label' is not a whole number"),
        ([0, "", 1, 1], "label '' in row 1 (from 0) of column 'label' is missing; 1 of 4 rows are wrong"),
        ([0, "nan", 1, 1], "label 'nan' in row 1 (from 0) of column 'label' is NaN"),
        (["pos", "neg", "pos", "neg"], "name the classes instead: classes: ['neg', 'pos']; 4 of 4 rows"),
        ([1, 1, 1, 1], "every label of the training split is '1': there is nothing to learn"),
    ],
)
def test_bad_class_numbers_are_refused(tmp_path, labels, message):
    assert message in problem(tmp_path, pd.DataFrame({"body": list("abcd"), "label": labels}))


def test_missing_labels_of_typed_files_are_refused(tmp_path):
    frame = pd.DataFrame({"body": list("abc"), "label": [0, None, 1]})
    for suffix in (".parquet", ".jsonl"):
        assert "in row 1 (from 0) of column 'label' is missing" in problem(tmp_path, frame, suffix)
    nullable = frame.assign(label=frame["label"].astype("Int64"))
    assert "label None in row 1 (from 0)" in problem(tmp_path, nullable, ".parquet")


def test_errors_name_unknown_classes(tmp_path):
    frame = pd.DataFrame({"body": list("abcd"), "label": ["yes", "no", "Yes", "maybe"]})
    message = problem(tmp_path, frame, classes=["yes", "no"])
    assert "label 'Yes' in row 2" in message
    assert "is none of classes ['yes', 'no']; unknown: 'Yes', 'maybe'; did you mean 'yes'? 2 of 4 rows" in message
    frame = frame.assign(label=["yes", "no", "", "no"])
    assert "is missing" in problem(tmp_path, frame, classes=["yes", "no"])


@pytest.mark.parametrize(("bad", "what"), [("high", "is not a number"), ("inf", "is infinite"), ("nan", "is NaN")])
def test_bad_values_of_a_regression_are_refused(tmp_path, bad, what):
    frame = pd.DataFrame({"body": list("abc"), "label": ["1.5", bad, "2"]})
    message = problem(tmp_path, frame, kind="regression", classes=None)
    assert f"label {bad!r} in row 1 (from 0) of column 'label' {what}" in message


def test_one_class_is_refused_in_training_and_allowed_in_validation(tmp_path):
    both = write(examples(["a", "b"]), tmp_path / "train.csv")
    one = write(examples(["a"]), tmp_path / "validation.csv")
    assert sizes(check("reviews", locate("reviews", own(both, one)))) == {"train": 2, "validation": 1}
    with pytest.raises(ValueError, match="nothing to learn"):
        locate("reviews", own(one, both))


def test_check_refuses_files_that_became_wrong(tmp_path):
    path = write(examples(["a", "b"]), tmp_path / "a.csv")
    task = locate("reviews", own(path))
    Path(path).write_text("body,label\na,7\n")
    with pytest.raises(ValueError, match=r"dataset 'reviews': .*a\.csv: label '7'"):
        check("reviews", task)


def test_an_own_dataset_that_is_not_a_task_says_why(tmp_path):
    path = write(examples(["a", "b"]), tmp_path / "a.csv")
    with pytest.raises(ValueError, match="^dataset 'reviews': classes is missing; give the number"):
        locate("reviews", OwnData(hub="someone/reviews", text="body"))
    with pytest.raises(ValueError, match="repeats a class; name each once"):
        locate("reviews", own(path, classes=["a", "a"]))
    with pytest.raises(ValueError, match="both text and label"):
        Task(text=("a",), label="a", classes=2)
