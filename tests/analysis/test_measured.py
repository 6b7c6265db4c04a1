"""Another split, or a metric that no trial recorded, in every view."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from builders import specs
from builders.rows import row_of, trial, write_trial

import deepcuts as dc
from deepcuts.analysis.arms import agree
from deepcuts.analysis.examples import bootstrap
from deepcuts.analysis.measured import holdouts_in_words
from deepcuts.cli.main import main
from deepcuts.data.splits import locate
from deepcuts.experiment.metrics import balanced_accuracy, in_split, macro_f1, metric_and_split
from deepcuts.experiment.settings import Distill, Training
from deepcuts.store.store import Store

STAGES = ("dense", "pruned", "rewound", "retrained")
LABELS = {"validation": [0, 0, 0, 1, 1], "test": [0, 1, 1, 1, 2, 2]}


def predictions(key: str, stage: str, split: str) -> list[float]:
    drawn = np.random.default_rng([ord(letter) for letter in key + stage + split]).integers(0, 3, len(LABELS[split]))
    return [float(each) for each in drawn]


def fill(store: Store, key: str, strategy: str, seed: int, test: bool = True, **fields: Any) -> None:
    metrics, rows = [], []
    for split in ("validation", "test") if test else ("validation",):
        labels = np.array(LABELS[split], np.float64)
        for stage in STAGES:
            found = np.array(predictions(key, stage, split))
            for epoch in (0, 1):
                value = float(np.mean(labels == found)) if epoch else 0.123
                if epoch or split == "validation":
                    metrics.append(
                        {
                            **{"trial_id": key, "stage": stage, "epoch": epoch, "step": epoch, "split": split},
                            **{"metric": "accuracy", "value": value, "seconds": 0.0},
                        }
                    )
            for example, (label, each) in enumerate(zip(labels, found, strict=True)):
                of = {"trial_id": key, "stage": stage, "split": split, "example": example}
                rows.append({**of, "label": label, "prediction": each, "logits": [0.0, 0.0, 0.0]})
    counts = {
        split: {"labels": {str(c): labels.count(c) for c in range(3)}, "values": None}
        for split, labels in LABELS.items()
    }
    store.write("metrics", key, metrics)
    store.write("predictions", key, rows)
    at = {
        stage: float(np.mean(np.equal(LABELS["validation"], predictions(key, stage, "validation")))) for stage in STAGES
    }
    write_trial(store, trial(key, strategy, seed, data_facts=json.dumps(counts), majority=0.6, **at, **fields))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    for seed in range(3):
        for strategy in ("LayerMagWeight", "LayerSNIP"):
            fill(store, f"{strategy[5:8].lower()}{seed}", strategy, seed)
    write_trial(store, {**trial("lost", "LayerSNIP", 7), "status": "failed"})
    return store


def test_a_test_split_is_in_the_columns_of_the_stages_and_says_so(store: Store) -> None:
    frame = dc.measured(store, dc.trials(store), split="test").set_index("trial_id")
    for stage in STAGES:
        found = predictions("mag1", stage, "test")
        assert frame.loc["mag1", stage] == pytest.approx(sk.accuracy_score(LABELS["test"], found))
    assert set(frame["metric"]) == {"accuracy (test)"}
    assert frame.loc["mag1", "majority"] == pytest.approx(3 / 6)
    table = dc.table(frame.reset_index())
    assert table.loc[table["strategy"] == "LayerSNIP", ["n", "failed"]].to_numpy().tolist() == [[3, 1]]
    assert table["retrained_high"].max() <= 1
    assert set(dc.curves(frame.reset_index())["metric"]) == {"accuracy (test)"}
    compared = dc.compare(frame.reset_index())
    assert "accuracy (test)" in dc.in_words(compared.iloc[0].to_dict(), 0.01)


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        ("macro_f1", lambda labels, found: sk.f1_score(labels, found, average="macro", zero_division=0)),
        (
            "balanced_accuracy",
            lambda labels, found: np.mean([np.equal(found, c)[np.equal(labels, c)].mean() for c in set(labels)]),
        ),
    ],
)
def test_a_metric_that_no_trial_recorded_is_computed_from_the_predictions(
    store: Store, metric: str, reference: Any, split: str
) -> None:
    frame = dc.measured(store, dc.trials(store), metric, split).set_index("trial_id")
    for key in ("mag0", "sni2"):
        for stage in STAGES:
            expected = reference(LABELS[split], predictions(key, stage, split))
            assert frame.loc[key, stage] == pytest.approx(expected), (key, stage)
    level = macro_f1 if metric == "macro_f1" else balanced_accuracy
    labels = np.array(LABELS[split], np.float64)
    assert frame.loc["mag0", "majority"] == pytest.approx(
        level(labels, np.full(len(labels), {"test": 1.0}.get(split, 0.0)))
    )


def test_what_a_trial_recorded_is_not_computed_again(store: Store) -> None:
    row = {"trial_id": "mag0", "stage": "retrained", "epoch": 1, "step": 1, "split": "validation", "seconds": 0.0}
    store.write("metrics", "mag0", [{**row, "metric": "macro_f1", "value": 0.77}])
    frame = dc.measured(store, dc.trials(store), "macro_f1").set_index("trial_id")
    assert frame.loc["mag0", "retrained"] == 0.77
    assert frame.loc["mag1", "retrained"] != 0.77


def test_trials_that_do_not_know_the_facts_of_their_data_have_no_majority(store: Store) -> None:
    fill(store, "bare", "LayerSNIP", 9)
    write_trial(store, trial("bare", "LayerSNIP", 9))  # as an earlier version wrote it
    frame = dc.measured(store, dc.trials(store), "accuracy").set_index("trial_id")
    assert np.isnan(frame.loc["bare", "majority"])
    assert frame.loc["mag0", "majority"] == pytest.approx(3 / 5)


def test_trials_without_the_split_are_left_out_and_an_unknown_split_is_refused(store: Store) -> None:
    fill(store, "old", "LayerSNIP", 9, test=False)
    frame = dc.measured(store, dc.trials(store), split="test")
    assert "old" not in set(frame["trial_id"])
    with pytest.raises(ValueError, match="unknown split 'tset'; did you mean 'test'"):
        dc.measured(store, dc.trials(store), split="tset")
    with pytest.raises(ValueError, match="no completed trial has its metric on split 'test'"):
        dc.measured(store, dc.trials(store, trial_id="old"), split="test")
    with pytest.raises(ValueError, match="unknown metric 'macro_f2'"):
        dc.measured(store, dc.trials(store), "macro_f2")


def test_a_regression_has_no_metric_of_classes(store: Store) -> None:
    fill(store, "reg", "LayerSNIP", 4, dataset="stars", metric="pearson")
    assert "reg" not in set(dc.measured(store, dc.trials(store), "macro_f1")["trial_id"])


def test_examples_are_those_of_the_split(store: Store) -> None:
    ours, theirs = [("sni0", "retrained")], [("mag0", "retrained")]
    for split in ("validation", "test"):
        found = bootstrap(store, ours, theirs, in_split("accuracy", split))
        both = [np.mean(np.equal(LABELS[split], predictions(key, "retrained", split))) for key in ("sni0", "mag0")]
        assert found.difference == pytest.approx(both[0] - both[1])
        row = dc.compare_trials(store, "sni0", "mag0", split=split).iloc[0]
        assert row["n"] == len(LABELS[split])
        assert row["metric"] == in_split("accuracy", split)


@pytest.mark.parametrize("split", ["validation", "test", "validation_mismatched"])
def test_the_name_of_a_metric_and_its_split_are_read_back(split: str) -> None:
    assert metric_and_split(in_split("macro_f1", split)) == ("macro_f1", split)


def test_every_verb_says_which_split(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "curves.svg")
    for arguments, words in (
        (["table", "--split", "test"], "accuracy (test)"),
        (["table", "--metric", "balanced_accuracy"], "balanced_accuracy"),
        (["compare", "--split", "test", "--metric", "macro_f1", "--examples"], "macro_f1 (test)"),
        (["compare", "mag0", "sni0", "--split", "test"], "accuracy (test)"),
        (["curves", "--split", "test", "-o", out], "wrote"),
    ):
        assert main([arguments[0], store.uri, *arguments[1:]]) == 0
        assert words in capsys.readouterr().out, arguments
    assert "accuracy (test)" in Path(out).read_text("utf-8")
    assert main(["curves", store.uri, "--split", "test", "--x", "epoch"]) != 0
    assert "evaluated at the end of each stage alone" in capsys.readouterr().err


def test_results_on_a_holdout_say_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    held, plain = (locate("toy", holdout=share) for share in (0.1, None))
    made = [specs.trial(of=specs.dense(task=task, seed=seed)) for task in (held, plain) for seed in (0, 1)]
    rows = pd.DataFrame([row_of(each, status="completed") for each in made])
    assert holdouts_in_words(rows) == ["toy: 2 of 4 trials: validation is a holdout of 10 % of the training split"]
    assert holdouts_in_words(rows[:2]) == ["toy: validation is a holdout of 10 % of the training split"]
    assert holdouts_in_words(rows[2:]) == []
    assert sum("data.holdout=0.1" in arm for arm in dc.with_arms(rows)["arm"]) == 2
    for row in rows[:2].to_dict("records"):
        write_trial(store, row)
    assert main(["table", store.uri]) == 0
    assert "validation is a holdout of 10 % of the training split" in capsys.readouterr().out


def test_datasets_without_the_numbers_are_named(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, "old", "LayerSNIP", 9, test=False, dataset="cola")
    assert main(["table", store.uri, "--split", "test"]) == 0
    out = capsys.readouterr().out
    assert "left out, as no trial has these numbers: cola" in out
    assert "holdout" not in out


def test_an_arm_with_a_teacher_is_told_by_its_weight_and_never_paired_with_one_without() -> None:
    taught = Training(epochs=12, distill=Distill(temperature=3))
    made = [
        specs.trial(retrain=retrain, of=specs.dense(seed=s))
        for retrain in (Training(epochs=12), taught)
        for s in (0, 1)
    ]
    rows = dc.with_arms(pd.DataFrame([row_of(each) for each in made]))
    arms = ["retrain.distill.weight=0", "retrain.distill.weight=0.9"]
    assert [arm for arm in dict.fromkeys(rows["arm"])] == [f"LayerMagWeight ({arm})" for arm in arms]
    assert not agree(*dict.fromkeys(rows["settings"]))
