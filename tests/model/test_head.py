"""The head is drawn from the seed, whatever head the weights hold, unless it is asked for: then rows match by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders.hub_cache import COMMIT, fill_cache
from builders.tiny_models import KINDS, remove_tensors, tiny_folder, tiny_model

from deepcuts.experiment.spec import ModelSource
from deepcuts.experiment.tasks import Task
from deepcuts.model.folder import find_model
from deepcuts.model.head import head_rows, weights_hold_head
from deepcuts.model.load import head_layout, load_model

NAMED = Task(text=("t",), classes=("no", "yes"))
STARS = Task(text=("t",), kind="regression")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPCUTS_CACHE", str(tmp_path / "cache"))


def loaded(folder: str, outputs: int = 2, seed: int = 0, rows: list[int] | None = None) -> dict[str, torch.Tensor]:
    model = load_model(folder, "main", outputs, outputs == 1, seed, rows)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_head_is_drawn_from_the_seed_as_if_it_were_not_stored(kind, tmp_path):
    folder = tiny_folder(tmp_path / kind, kind)
    head, labels = head_layout(folder, "main", 2)
    assert labels
    drawn, other = loaded(folder), loaded(folder, seed=1)
    source = find_model(folder, "main")
    assert weights_hold_head(source, 2)
    stored = remove_tensors(folder, set(head))
    assert not weights_hold_head(find_model(folder, "main"), 2)
    assert equal(drawn, loaded(folder))
    for name in drawn:
        assert torch.equal(drawn[name], other[name]) == (name not in head or name.endswith(("bias", "norm.weight")))
        if name not in head:
            assert torch.equal(drawn[name], stored[name])


def test_a_head_that_comes_from_pretraining_is_loaded(tmp_path):
    folder = tiny_folder(tmp_path / "m", "modernbert")  # its masked language model has head.dense and head.norm too
    stored = remove_tensors(folder, {"classifier.weight", "classifier.bias"})
    assert torch.equal(loaded(folder)["head.dense.weight"], stored["head.dense.weight"])
    assert not weights_hold_head(find_model(folder, "main"), 2)


@pytest.mark.parametrize(("kind", "part"), [("bert", False), ("distilbert", True)])
def test_of_a_head_for_other_classes_only_what_fits_counts_as_held(kind, part, tmp_path):
    folder = tiny_folder(tmp_path / "m", kind, outputs=3)
    assert weights_hold_head(find_model(folder, "main"), 3)
    assert weights_hold_head(find_model(folder, "main"), 2) == part
    drawn = loaded(folder)
    remove_tensors(folder, set(head_layout(folder, "main", 2)[0]))
    assert equal(drawn, loaded(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_to_be_kept_has_its_rows_in_the_order_of_the_classes(kind, tmp_path):
    folder = tiny_folder(tmp_path / kind, kind, labels=["yes", "no"])
    stored = {name: each.detach() for name, each in tiny_model(kind).named_parameters()}
    labels = head_layout(folder, "main", 2)[1]
    rows = head_rows(find_model(folder, "main"), NAMED)
    assert rows == [1, 0]
    kept = loaded(folder, rows=rows)
    assert equal(kept, {name: each[[1, 0]] if name in labels else each for name, each in stored.items()})
    assert equal(kept, loaded(folder, seed=7, rows=rows))


def test_numbered_classes_and_a_regression_match_too(tmp_path):
    numbered = find_model(tiny_folder(tmp_path / "two", labels=["1", "0"]), "main")
    assert head_rows(numbered, Task(text=("t",), classes=2)) == [1, 0]
    assert head_rows(find_model(tiny_folder(tmp_path / "one", outputs=1), "main"), STARS) == [0]


@pytest.mark.parametrize(
    ("outputs", "labels", "task", "message"),
    [
        (3, ["a", "b", "c"], NAMED, r"has 3 outputs, and the dataset needs 2"),
        (2, ["no", "yes"], STARS, r"has 2 outputs, and the dataset needs 1"),
        (1, None, NAMED, r"has 1 outputs, and the dataset needs 2"),
        (2, None, NAMED, r"are None, and the classes of the dataset \['no', 'yes'\]; change one or the other"),
        (3, None, Task(text=("t",), classes=3), r"are \['LABEL_0', 'LABEL_1', 'LABEL_2'\], and the classes .*'0', '1'"),
        (2, ["No", "yes"], NAMED, r"are \['No', 'yes'\]"),
    ],
)
def test_a_head_whose_rows_cannot_be_matched_is_refused(outputs, labels, task, message, tmp_path):
    source = find_model(tiny_folder(tmp_path / "m", outputs=outputs, labels=labels), "main")
    with pytest.raises(ValueError, match=message):
        head_rows(source, task)


def test_weights_without_a_whole_head_are_refused(tmp_path):
    folder = tiny_folder(tmp_path / "m", "distilbert", labels=["no", "yes"])
    remove_tensors(folder, {"pre_classifier.weight"})
    with pytest.raises(ValueError, match=r"hold a part of a head: 'pre_classifier.weight' is missing"):
        head_rows(find_model(folder, "main"), NAMED)
    with pytest.raises(ValueError, match="'pre_classifier.weight' of the head is not in the weights"):
        loaded(folder, rows=[0, 1])
    remove_tensors(folder, {"classifier.weight"})
    for source in (find_model(folder, "main"), find_model("toy", "main")):
        with pytest.raises(ValueError, match="hold no classification head"):
            head_rows(source, NAMED)


def test_names_of_rows_that_do_not_exist_match_no_class(tmp_path):
    folder = Path(tiny_folder(tmp_path / "m", labels=["no", "yes"]))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "no", "5": "yes"}}))
    with pytest.raises(ValueError, match="change one or the other"):
        head_rows(find_model(str(folder), "main"), NAMED)


@pytest.mark.parametrize(
    ("architecture", "outputs", "held"),
    [
        ("BertForSequenceClassification", 2, True),
        ("BertForSequenceClassification", 3, False),
        ("BertForMaskedLM", 2, False),
        (None, 2, False),
    ],
)
def test_the_config_of_a_hub_model_says_whether_its_weights_hold_a_head(
    architecture, outputs, held, tmp_path, monkeypatch
):
    config = tiny_model("bert").config.to_dict() | {"architectures": [architecture] if architecture else None}
    fill_cache(tmp_path, "someone/model", {"config.json": json.dumps(config).encode()}, "models")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert weights_hold_head(ModelSource(name="someone/model", revision=COMMIT), outputs) == held


def test_looking_for_a_head_a_second_time_loads_no_torch(tmp_path):
    folder = tiny_folder(tmp_path / "m")
    assert weights_hold_head(find_model(folder, "main"), 2)
    code = (
        "import sys; from deepcuts.model.folder import find_model; from deepcuts.model.head import weights_hold_head;"
    )
    code += f"print(weights_hold_head(find_model({folder!r}, 'main'), 2), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
    [entry] = (tmp_path / "cache/heads").iterdir()
    entry.write_text("[1]")  # damaged: found again
    assert weights_hold_head(find_model(folder, "main"), 2)
    assert entry.read_text() != "[1]"
