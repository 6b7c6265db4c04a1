"""What a trial measures: the test split at the end of each stage alone, a holdout in place of validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.toy_trials import TRAINING, context, dense, rows, trial

from deepcuts.data.splits import load_split, locate
from deepcuts.experiment.metrics import UndefinedMetric, macro_f1
from deepcuts.experiment.own_data import OwnData
from deepcuts.experiment.settings import Training
from deepcuts.experiment.tasks import Task
from deepcuts.store.store import Store
from deepcuts.training.train import evaluate
from deepcuts.trial.trial import run_stages

pytestmark = [
    pytest.mark.usefixtures("torch_state", "few_sentences"),
    pytest.mark.filterwarnings(f"ignore::{UndefinedMetric.__module__}.UndefinedMetric"),
]
TWO_EPOCHS = TRAINING.model_copy(update={"epochs": 2})
STAGES = ("dense", "pruned", "rewound", "retrained")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def reviews(folder: Path, holdout: float | None = None, **fields: Any) -> Task:
    lines = [f"the film was {word} {'very ' * i}good,{word}" for i in range(20) for word in ("not", "really", "hardly")]
    (folder / "reviews.csv").write_text("\n".join(["body,stars", *lines]))
    given = {"file": str(folder / "reviews.csv"), "validation": 0.2, "text": ["body"], "label": "stars", **fields}
    return locate("mine", OwnData(**given), holdout=holdout)


def run(store: Store, task: Task, finetune: Training = TWO_EPOCHS, **fields: Any) -> tuple[dict[str, Any], Any]:
    spec = trial("LayerMagWeight", of=dense(task, finetune=finetune), retrain=TWO_EPOCHS, **fields)
    row = run_stages(spec, "test", context(store))
    assert row["status"] == "completed", row.get("traceback")
    return row, spec


def test_the_test_split_is_looked_at_once_at_the_end_of_each_stage(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, looked = reviews(tmp_path, test=0.1), []

    def noting(network: Any, tokens: Any) -> Any:
        looked.append(len(tokens))
        return evaluate(network, tokens)

    monkeypatch.setattr("deepcuts.trial.fitting.evaluate", noting)
    row, spec = run(store, task)
    assert looked == [12, 12, 6, 12, 6, 12, 6, 12, 12, 6]  # dense, dense, pruned, rewound, retrained, retrained
    metrics = rows(store, "metrics", spec)
    at = {
        stage: [
            (m["epoch"], m["step"])
            for m in metrics
            if (m["stage"], m["split"], m["metric"]) == (stage, "test", "accuracy")
        ]
        for stage in STAGES
    }
    assert at == {"dense": [(1, 6)], "pruned": [(0, 0)], "rewound": [(0, 0)], "retrained": [(1, 6)]}
    for stage in STAGES:
        found = [each for each in rows(store, "predictions", spec) if (each["stage"], each["split"]) == (stage, "test")]
        assert [each["label"] for each in found] == load_split(task, "test").labels.tolist()
        of_test, of_validation = (
            [m["value"] for m in metrics if (m["stage"], m["split"], m["metric"]) == (stage, split, "accuracy")][-1]
            for split in ("test", "validation")
        )
        assert of_test == pytest.approx(np.mean([each["label"] == each["prediction"] for each in found]))
        assert row[stage] == of_validation
    facts = json.loads(row["data_facts"])
    assert facts["test"]["examples"] == 6
    assert facts["test"]["in_validation"] == 0
    assert "in_validation" not in facts["validation"]


def test_the_test_split_changes_no_weight_and_no_other_number(tmp_path: Path) -> None:
    """Two files of the same training and validation examples, with and without a third."""
    parts = reviews(tmp_path, test=0.1)
    files = {}
    for split in parts.splits:
        part = load_split(parts, split)
        lines = [
            f"{text},{parts.class_names[int(label)]}" for (text,), label in zip(part.texts, part.labels, strict=True)
        ]
        files[split] = str(tmp_path / f"{split}.csv")
        Path(files[split]).write_text("\n".join(["body,stars", *lines]))
    found = []
    for names in (("train", "validation"), ("train", "validation", "test")):
        own = OwnData(**{name: files[name] for name in names}, text=["body"], label="stars")
        store = Store(str(tmp_path / f"store{len(names)}"))
        _, spec = run(store, locate("mine", own))
        kept = [rows(store, table, spec) for table in ("metrics", "predictions", "masks")]
        found.append([[{**row, "trial_id": ""} for row in table if row.get("split") != "test"] for table in kept])
    assert found[0] == found[1]


def test_a_holdout_is_measured_as_validation_and_the_row_says_so(tmp_path: Path, store: Store) -> None:
    task = reviews(tmp_path, holdout=0.25)
    row, spec = run(store, task)
    words = "validation is a holdout of 25 % of the training split, stratified by class, data_seed 0"
    assert row["data_split"].startswith(words)
    facts = json.loads(row["data_facts"])
    assert {split: each["examples"] for split, each in facts.items()} == {"train": 36, "validation": 12}
    assert facts["validation"]["in_train"] == 0
    labels = [r["label"] for r in rows(store, "predictions", spec) if r["stage"] == "retrained"]
    assert labels == load_split(task, "validation").labels.tolist()
    assert {r["split"] for r in rows(store, "metrics", spec)} == {"train", "validation"}


def test_a_main_metric_of_ones_own_is_recorded_beside_the_others(tmp_path: Path, store: Store) -> None:
    row, spec = run(store, reviews(tmp_path, metric="macro_f1"), finetune=TRAINING)
    found = {r["metric"] for r in rows(store, "metrics", spec) if r["split"] == "validation"}
    assert found == {"accuracy", "matthews", "macro_f1"}
    made = [r for r in rows(store, "predictions", spec) if r["stage"] == "retrained"]
    expected = macro_f1(np.array([r["label"] for r in made]), np.array([r["prediction"] for r in made]))
    assert row["metric"] == "macro_f1"
    assert row["retrained"] == pytest.approx(expected)
    assert row["majority"] == pytest.approx(2 * 4 / (4 + 12) / 3)
