"""A folder with a head of its own: trials say where theirs came from, keep their ids apart, and match it by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.tiny_models import remove_tensors, tiny_folder
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from deepcuts.experiment.reading import parse_sweep
from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.store import Store
from deepcuts.sweep.prepare import prepare_sweep
from deepcuts.trial.context import Context
from deepcuts.trial.trial import run_stages

TEXTS = {"no": "the film was awful", "yes": "the cast was good"}
HEAD = {"classifier.weight", "classifier.bias"}

pytestmark = [
    pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric"),
    pytest.mark.usefixtures("torch_state"),
]


@pytest.fixture
def knowing(tmp_path: Path) -> str:
    """A folder whose head tells the two texts apart; its outputs are named in the other order than the classes."""
    folder = tiny_folder(tmp_path / "model", labels=["yes", "no"])
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        no, yes = (model.bert(**tokenizer(text, return_tensors="pt")).pooler_output[0] for text in TEXTS.values())
    towards_yes = (yes - no) / (yes - no).square().sum()
    middle = towards_yes @ (yes + no) / 2
    head = {
        "classifier.weight": torch.stack([towards_yes, -towards_yes]),
        "classifier.bias": torch.stack([-middle, middle]),
    }
    save_file({**remove_tensors(folder, HEAD), **head}, Path(folder) / "model.safetensors", {"format": "pt"})
    return folder


def sweep_of(folder: str, tmp_path: Path, classes: Any = ("no", "yes"), **changes: Any) -> list[TrialSpec]:
    """The trials of a sweep over the texts; the first two classes are those of the texts (None: a regression)."""
    labels = dict(zip(TEXTS, classes or (0, 1), strict=False))
    rows = [json.dumps({"text": TEXTS[name], "label": label}) + "\n" for name, label in labels.items()] * 4
    data = {}
    for split in ("train", "validation"):
        data[split] = str(tmp_path / f"{split}.jsonl")
        Path(data[split]).write_text("".join(rows))
    kind = {"classes": list(classes)} if classes else {"kind": "regression"}
    own = {**data, "text": "text", "same_data": True, **kind}
    common = {"max_tokens": 16, "finetune": {"epochs": 0}, "retrain": {"epochs": 0}, "strategies": ["LayerMagWeight"]}
    raw = {"model": folder, "datasets": {"own": own}, "sparsities": [0.5], "seeds": [0, 1], **common, **changes}
    return prepare_sweep(parse_sweep(raw), "cpu").spec.trials()


def test_a_head_that_is_kept_predicts_the_classes_that_its_labels_name(knowing: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    for number, trial in enumerate(sweep_of(knowing, tmp_path, keep_head=True)):
        row = run_stages(trial, "some", Context(store, threads=1))
        assert row["status"] == "completed", row["traceback"]
        assert (number, row["dense"], row["head_from"]) == (number, 1.0, "weights")


def test_the_head_is_drawn_from_the_seed_and_the_row_says_so(knowing: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    trials = [trial for trial in sweep_of(knowing, tmp_path) if trial.retrain is None]
    rows = [run_stages(trial, "some", Context(store, threads=1)) for trial in trials]
    assert [row["head_from"] for row in rows] == ["seed", "seed"]
    logits = [row["logits"] for row in store.read("predictions").table.to_pylist()]
    assert len({tuple(each) for each in logits}) == 4  # two texts under two heads


def test_only_trials_whose_head_would_have_been_kept_before_have_new_ids(knowing: str, tmp_path: Path) -> None:
    def ids(**changes: Any) -> set[str]:
        return {trial.trial_id for trial in sweep_of(knowing, tmp_path, **changes)}

    assert {trial.dense.head_in_weights for trial in sweep_of(knowing, tmp_path)} == {True}
    assert not ids() & ids(keep_head=True)
    three = sweep_of(knowing, tmp_path, classes=["no", "yes", "other"])
    assert {trial.dense.head_in_weights for trial in three} == {False}
    remove_tensors(knowing, HEAD)
    assert {trial.dense.head_in_weights for trial in sweep_of(knowing, tmp_path)} == {False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "toy"}, "hold no classification head; remove the key"),
        ({"classes": ["no", "yes", "other"]}, "has 2 outputs, and the dataset needs 3"),
        ({"classes": None}, "has 2 outputs, and the dataset needs 1"),
        ({"classes": ["no", "YES"]}, r"are \['yes', 'no'\], and the classes of the dataset \['no', 'YES'\]"),
    ],
)
def test_a_head_that_cannot_be_kept_is_refused_before_launch(
    changes: dict[str, Any], message: str, knowing: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"^keep_head: 'own' cannot begin with the head of the weights: .*{message}"):
        sweep_of(knowing, tmp_path, keep_head=True, **changes)
