from __future__ import annotations

import math

import pandas as pd
import pytest
from builders import specs
from builders.rows import row_of, trial

from deepcuts.analysis.curves import best_epoch, curves, table, training_curves, with_metric
from deepcuts.experiment.settings import Training


def frame(*rows: dict) -> pd.DataFrame:
    columns = ["compression", "sparsity_asked", "pruned", "rewound", "retrained", "failure"]
    return pd.DataFrame(rows).reindex(columns=[*dict.fromkeys([*columns, *(key for row in rows for key in row)])])


def asked(compression: float, **fields: object) -> dict:
    return {"compression": compression, "sparsity_asked": None, **fields}


THREE_SEEDS = [trial(f"{seed}", seed=seed, retrained=0.7 + 0.1 * seed, dense=0.9 + 0.01 * seed) for seed in range(3)]


def test_mean_and_interval_over_three_seeds_by_hand() -> None:
    # 0.7, 0.8, 0.9: mean 0.8, sd 0.1, half width 4.30265 * 0.1 / sqrt(3) = 0.248414
    row = curves(frame(*THREE_SEEDS)).iloc[0]
    assert (row["n"], row["mean"], row["sd"]) == (3, pytest.approx(0.8), pytest.approx(0.1))
    assert (row["low"], row["high"]) == (pytest.approx(0.551586, abs=1e-6), 1.0)  # 1.048414 is no accuracy
    row = curves(frame(*THREE_SEEDS).assign(metric="mse")).iloc[0]
    assert row["high"] == pytest.approx(1.048414, abs=1e-6)
    assert (row["seeds"], row["values"]) == ([0, 1, 2], pytest.approx([0.7, 0.8, 0.9]))
    assert (row["axis"], row["x"]) == ("sparsity", 0.5)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    row = curves(frame(THREE_SEEDS[0])).iloc[0]
    assert (row["n"], row["mean"]) == (1, 0.7)
    assert math.isnan(row["sd"])
    assert math.isnan(row["low"])


def test_curves_group_by_what_was_asked_and_not_by_what_was_achieved() -> None:
    rows = [trial(f"{seed}", seed=seed, sparsity=0.5 + 1e-6 * seed) for seed in range(3)]
    assert curves(frame(*rows))["n"].tolist() == [3]
    rows = [trial(f"{seed}", seed=seed, **asked(2.0, sparsity=0.64 + 0.01 * seed)) for seed in range(3)]
    found = curves(frame(*rows), x="sparsity")
    assert found["n"].tolist() == [3]
    assert found["x"].item() == pytest.approx(0.65)


def test_the_axis_is_what_every_trial_was_asked_for() -> None:
    by_compression = [trial(str(c), **asked(c, sparsity=1 - 1 / c)) for c in (2.0, 4.0)]
    assert curves(frame(*by_compression))[["axis", "x"]].values.tolist() == [
        ["compression", 2],
        ["compression", 4],
    ]
    both = curves(frame(*by_compression, trial("s", sparsity_asked=0.9, sparsity=0.9)))
    assert both[["axis", "x"]].values.tolist() == [["sparsity", 0.5], ["sparsity", 0.75], ["sparsity", 0.9]]


def test_levels_stand_beside_the_curves_and_are_none() -> None:
    levels = [
        trial("d", "Dense", dense=0.9),
        trial("e", "Dense", seed=1, dense=0.94),
        trial("u", "Unpruned", retrained=0.88),
    ]
    found = curves(frame(*THREE_SEEDS[:2], *levels))
    assert found["strategy"].tolist() == ["LayerMagWeight"]
    # every fine-tuned network counts once, whichever trials report it: seeds 0 and 1
    assert found["dense"].item() == pytest.approx((0.9 + 0.91) / 2)
    assert found["unpruned"].item() == 0.88
    assert math.isnan(curves(frame(*THREE_SEEDS))["unpruned"].item())


def test_tasks_and_models_are_never_mixed() -> None:
    rows = [trial("a"), trial("b", dataset="cola", metric="matthews"), trial("c", model="other")]
    assert curves(frame(*rows))["n"].tolist() == [1, 1, 1]


def test_other_stages_and_failed_trials() -> None:
    rows = frame(trial("a", pruned=0.3), trial("b", seed=1, status="failed"), trial("c", seed=2, pruned=None))
    found = curves(rows, stage="pruned")
    assert (found["n"].item(), found["mean"].item(), found["stage"].item()) == (1, 0.3, "pruned")


def test_a_seed_that_occurs_twice_makes_two_lines_and_no_mean() -> None:
    rows = frame(
        trial("a", retrained=0.7), trial("b", sweep="second", retrained=0.9), trial("c", seed=1, retrained=0.8)
    )
    found = curves(rows)
    assert found["arm"].tolist() == ["LayerMagWeight", "LayerMagWeight (code=older)"]
    assert sorted(found["n"]) == [1, 2]
    assert table(rows)["arm"].tolist() == found["arm"].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage": "retraind"}, "unknown stage 'retraind'; did you mean 'retrained'"),
        ({"metric": "f1"}, "give metrics="),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        curves(frame(*THREE_SEEDS), **arguments)


def test_no_trials_give_no_curves() -> None:
    assert len(curves(frame(trial("a")).iloc[:0])) == 0
    assert len(table(frame(trial("a")).iloc[:0])) == 0
    assert len(curves(frame(trial("d", "Dense")))) == 0


METRICS = pd.DataFrame(
    [
        ("0", "retrained", epoch, epoch * 10, split, metric, value)
        for split, metric, epoch, value in [
            ("validation", "f1", 1, 0.9),
            ("validation", "f1", 2, 0.4),
            ("train", "f1", 2, 0.99),
            ("validation", "accuracy", 2, 0.5),
        ]
    ],
    columns=["trial_id", "stage", "epoch", "step", "split", "metric", "value"],
)


def test_another_metric_is_that_of_the_last_epoch_on_the_validation_split() -> None:
    found = curves(frame(*THREE_SEEDS), metric="f1", metrics=METRICS)
    assert found[["metric", "n", "mean"]].values.tolist() == [["f1", 1, 0.4]]


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown metric 'acuracy'; did you mean 'accuracy'"):
        with_metric(frame(*THREE_SEEDS), METRICS, "acuracy")


def test_the_table_has_every_stage_with_its_interval_and_counts_failures() -> None:
    failed = trial("f", seed=3, status="failed", metric=None, pruned=None, rewound=None, retrained=None)
    found = table(frame(*THREE_SEEDS, failed, trial("u", "Unpruned"), trial("d", "Dense")))
    assert found["strategy"].tolist() == ["Dense", "Unpruned", "LayerMagWeight"]
    assert found[["n", "failed"]].values.tolist() == [[1, 0], [1, 0], [3, 1]]
    row = found.iloc[2]
    assert (row["retrained"], row["retrained_half_width"]) == (
        pytest.approx(0.8),
        pytest.approx(0.248414, abs=1e-6),
    )
    assert (row["dense"], row["pruned"], row["sparsity"]) == (pytest.approx(0.91), 0.6, 0.5)
    assert math.isnan(found.iloc[0]["retrained"])


def test_the_table_marks_stages_in_which_a_seed_is_no_better_than_the_most_frequent_class() -> None:
    rows = [row | {"majority": 0.6} for row in THREE_SEEDS]  # every seed has 0.6 pruned
    rows += [row | {"trial_id": f"x{seed}", "strategy": "LayerSNIP"} for seed, row in enumerate(rows)]
    for row, pruned, retrained in zip(rows[3:], (0.5, 0.7, 0.8), (0.7, 0.6, 0.7), strict=True):
        row |= {"pruned": pruned, "retrained": retrained}
    rows.append(trial("y", "LayerRandom", pruned=0.6) | {"majority": None})  # of an older version
    found = table(frame(*rows)).set_index("strategy")
    assert found["at_majority"].to_dict() == {"LayerMagWeight": "pruned", "LayerRandom": None, "LayerSNIP": "retrained"}
    assert found.loc["LayerSNIP", "majority"] == 0.6
    assert math.isnan(found.loc["LayerRandom", "majority"])
    assert table(frame(*THREE_SEEDS))["at_majority"].tolist() == [None]


def epochs(trial_id: str, stage: str, metric: str, *values: float) -> pd.DataFrame:
    fields = {"trial_id": trial_id, "stage": stage, "split": "validation", "metric": metric}
    steps = 0 if stage == "rewound" else 10
    return pd.DataFrame([{**fields, "epoch": i, "step": steps * (i + 1), "value": v} for i, v in enumerate(values)])


def test_the_seed_studys_report_is_the_best_epoch_of_all_stages_by_accuracy() -> None:
    rows = frame(trial("a", metric="matthews"), trial("b", seed=1, metric="matthews"))
    parts = [
        epochs("a", "dense", "accuracy", 0.7, 0.9, 0.8),
        epochs("a", "retrained", "accuracy", 0.6, 0.85),
        epochs("a", "retrained", "matthews", 0.99),
        epochs("b", "dense", "accuracy", 0.7),
        epochs("b", "retrained", "accuracy", 0.8, 0.6),
    ]
    metrics = pd.concat(parts)
    assert best_epoch(rows, metrics)["best"].tolist() == [0.9, 0.8]
    found = curves(rows, report="best", metrics=metrics)
    assert found[["metric", "stage", "n", "mean"]].values.tolist() == [
        ["accuracy", "best epoch", 2, pytest.approx(0.85)]
    ]
    assert curves(rows)["stage"].item() == "retrained"


def test_the_best_epoch_of_a_regression_has_the_lowest_squared_error() -> None:
    metrics = pd.concat([epochs("a", "dense", "mse", 0.5, 0.3), epochs("a", "retrained", "pearson", 0.9)])
    found = best_epoch(frame(trial("a", metric="pearson")), metrics)
    assert found[["metric", "best"]].values.tolist() == [["mse", 0.3]]


def test_the_best_epoch_has_a_metric_of_its_own() -> None:
    with pytest.raises(ValueError, match="best epoch is chosen by its own metric"):
        curves(frame(*THREE_SEEDS), metric="f1", metrics=METRICS, report="best")


def test_training_starts_where_the_rewind_left_off_and_shows_a_fine_tuning_once() -> None:
    rows = frame(trial("a"), trial("b", "LayerSNIP"))
    shared = [epochs(trial_id, "dense", "accuracy", 0.8, 0.9) for trial_id in ("a", "b")]
    own = [epochs("a", "rewound", "accuracy", 0.5), epochs("a", "retrained", "accuracy", 0.6, 0.7)]
    found = training_curves(rows, pd.concat([*shared, *own, epochs("a", "pruned", "accuracy", 0.4)]))
    assert found[["stage", "epochs", "value"]].values.tolist() == [
        ["dense", 1, 0.8],
        ["dense", 2, 0.9],
        ["retrained", 0, 0.5],
        ["retrained", 1, 0.6],
        ["retrained", 2, 0.7],
    ]


def test_a_fine_tuning_is_of_dense_in_its_settings_whichever_trial_it_is_read_from() -> None:
    made = [specs.trial(of=specs.dense(seed=seed, finetune=Training(lr=lr))) for lr in (0.1, 0.2) for seed in (0, 1)]
    rows = frame(*(row_of(each) for each in made))
    metrics = [epochs(each.trial_id, stage, "accuracy", 0.5, 0.6) for each in made for stage in ("dense", "retrained")]
    found = training_curves(rows, pd.concat(metrics))
    names = [f"{name} (finetune.lr={lr})" for name in ("Dense", "LayerMagWeight") for lr in (0.1, 0.2)]
    assert found.groupby(["stage", "arm"]).size().to_dict() == {
        (stage, name): 4 for stage, name in zip(("dense", "dense", "retrained", "retrained"), names, strict=True)
    }
    assert found.loc[found["stage"] == "dense", "compression"].isna().all()
    assert set(training_curves(rows[:2], pd.concat(metrics))["arm"]) == {"Dense", "LayerMagWeight"}


def test_training_in_another_metric() -> None:
    metrics = pd.concat([epochs("a", "dense", "loss", 0.7, 0.2).assign(split="train"), epochs("a", "dense", "f1", 0.9)])
    assert training_curves(frame(trial("a")), metrics, "loss", "train")["value"].tolist() == [0.7, 0.2]
    with pytest.raises(ValueError, match="unknown metric 'f2'; did you mean 'f1'"):
        training_curves(frame(trial("a")), metrics, "f2")
