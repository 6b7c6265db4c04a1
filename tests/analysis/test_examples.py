from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from builders.rows import trial, write_trial

from deepcuts.analysis.compare import compare
from deepcuts.analysis.examples import bootstrap, compare_trials, with_examples
from deepcuts.analysis.frames import trials
from deepcuts.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two seeds of two strategies on 40 examples, and one trial on others."""
    store = Store(str(tmp_path))
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 40).astype(float)
    for place, (name, rate) in enumerate([("aaaa", 0.9), ("bbbb", 0.8), ("cccc", 0.6), ("dddd", 0.5)]):
        write_trial(store, trial(name, "LayerSNIP" if place < 2 else "LayerMagWeight", seed=place % 2))
        predictions = np.where(generator.random(40) < rate, labels, 1 - labels)
        write_predictions(store, name, labels, predictions)
    write_trial(store, trial("eeee", dataset="cola"))
    write_predictions(store, "eeee", 1 - labels, labels)
    write_trial(store, trial("ffff", status="failed"))
    write_trial(store, trial("gggg", seed=4))
    return store


def write_predictions(store: Store, trial_id: str, labels: np.ndarray, predictions: np.ndarray) -> None:
    rows = [
        {
            "trial_id": trial_id,
            "stage": stage,
            "split": "validation",
            "example": i,
            "label": label,
            "prediction": {"retrained": value, "pruned": 0.0, "dense": label}[stage],
        }
        for stage in ("retrained", "pruned", "dense")
        for i, (label, value) in enumerate(zip(labels, predictions, strict=True))
    ]
    store.write("predictions", trial_id, rows[::-1])


def retrained(*ids: str) -> list[tuple[str, str]]:
    return [(trial_id, "retrained") for trial_id in ids]


def test_two_trials_are_compared_example_by_example(store: Store) -> None:
    row = compare_trials(store, "aaaa", "dddd").iloc[0]
    read = store.read("predictions").table.to_pandas().query("stage == 'retrained'")
    right = read.assign(right=read["label"] == read["prediction"]).pivot(index="example", columns="trial_id")["right"]
    assert row["n"] == 40
    assert (row["value_a"], row["value_b"]) == (right["aaaa"].mean(), right["dddd"].mean())
    assert row["only_a"] == (right["aaaa"] & ~right["dddd"]).sum()
    assert row["only_b"] == (right["dddd"] & ~right["aaaa"]).sum()
    assert row["low"] < row["difference"] < row["high"]
    assert row["p_mcnemar"] < 0.05
    assert compare_trials(store, "aaaa", "dddd", "pruned")["difference"].item() == 0


def test_a_regression_has_no_mcnemar_test(store: Store) -> None:
    write_trial(store, trial("aaaa", metric="pearson"))
    row = compare_trials(store, "aaaa", "bbbb").iloc[0]
    assert row[["only_a", "only_b", "p_mcnemar"]].isna().all()


def test_seeds_and_examples_are_resampled_together(store: Store) -> None:
    found = bootstrap(store, retrained("aaaa", "bbbb"), retrained("cccc", "dddd"), "accuracy")
    values = [compare_trials(store, a, b)["difference"].item() for a, b in (("aaaa", "cccc"), ("bbbb", "dddd"))]
    assert found.difference == pytest.approx(np.mean(values))
    assert found.low < found.difference < found.high


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ("aaab", "bbbb", "unknown trial 'aaab'; did you mean 'aaaa'"),
        ("aaaa", "eeee", "'aaaa' and 'eeee' were evaluated on other examples or labels"),
        ("aaaa", "ffff", "'ffff' failed"),
        ("aaaa", "gggg", "'gggg' has no predictions of stage 'retrained'"),
    ],
)
def test_trials_that_cannot_be_compared_are_refused(store: Store, one: str, other: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_trials(store, one, other)


def test_a_damaged_part_is_named_where_predictions_are_missing(store: Store) -> None:
    store.write_bytes("predictions/aaaa.parquet", b"cut")
    with pytest.raises(ValueError, match=r"no predictions of stage .*aaaa\.parquet: "):
        compare_trials(store, "aaaa", "bbbb")


def test_pairs_need_one_of_each(store: Store) -> None:
    with pytest.raises(ValueError, match="2 trials and 1 baselines do not pair up"):
        bootstrap(store, retrained("aaaa", "bbbb"), retrained("cccc"), "accuracy")


@pytest.mark.parametrize("asked", [{}, {"compression": 4.0, "sparsity_asked": None}])
def test_the_intervals_of_a_comparison_hold_for_other_examples(store: Store, asked: dict) -> None:
    for name, strategy in zip(
        ("aaaa", "bbbb", "cccc", "dddd"), ("SNIP", "SNIP", "MagWeight", "MagWeight"), strict=True
    ):
        write_trial(store, trial(name, f"Layer{strategy}", seed="bd".count(name[0]), **asked))
    rows = trials(store, dataset="toy", seed=[0, 1])
    found = with_examples(store, compare(rows), rows, "retrained").iloc[0]
    expected = bootstrap(store, retrained("aaaa", "bbbb"), retrained("cccc", "dddd"), "accuracy")
    assert (found["low"], found["high"]) == (expected.low, expected.high)
    fine_tuned = with_examples(store, compare(rows, "Dense"), rows, "retrained").set_index("strategy")
    expected = bootstrap(store, retrained("aaaa", "bbbb"), [("aaaa", "dense"), ("bbbb", "dense")], "accuracy")
    assert fine_tuned.loc["LayerSNIP", "low"] == expected.low < 0


def test_a_row_without_a_pair_of_seeds_has_no_interval(store: Store) -> None:
    rows = trials(store, dataset="toy", seed=[0, 1])
    here, there = (json.dumps({"retrain.epochs": epochs}) for epochs in (1, 2))
    ours = rows["strategy"] == "LayerSNIP"
    rows = rows.assign(
        label=rows["strategy"],
        settings=[here if each else there for each in ours],
        arm=[f"{name} (retrain.epochs={2 - each})" for name, each in zip(rows["strategy"], ours, strict=True)],
    )
    (row,) = with_examples(store, compare(rows), rows, "retrained").to_dict("records")
    assert (row["baseline"], row["n"]) == ("LayerMagWeight", 0)  # which is no arm, so that nobody can be paired with it
    assert np.isnan([row["low"], row["high"]]).all()


def test_an_unknown_metric_of_two_trials_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="unknown metric 'acuracy'; did you mean 'accuracy'"):
        compare_trials(store, "aaaa", "bbbb", metric="acuracy")
