from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from builders.many_datasets import ARMS, many_datasets, noisy
from builders.rows import trial
from scipy.stats import trim_mean, ttest_rel

from deepcuts.analysis.across import (
    OVER_DATASETS_COLUMNS,
    cells_of,
    compare_over_datasets,
    difference_in_words,
    rank_groups,
    ranks_in_words,
)


def test_a_metric_is_normalised_by_chance_and_the_fine_tuned_network_of_its_seed() -> None:
    def of(dataset: str, seed: int, retrained: float, dense: float, **fields: object) -> dict:
        made = {"dataset": dataset, "dense": dense, "retrained": retrained, "compression": None} | fields
        return trial(f"{dataset}{seed}", seed=seed, **made)

    rows = [
        of("cola", 0, 0.4, 0.5, metric="matthews"),  # 0.8: chance is 0, whatever the row has
        of("cola", 1, 0.3, 0.6, metric="matthews", majority=0.0),  # 0.5
        of("sst2", 0, 0.7, 0.9, majority=0.5),  # 0.5
        of("sst2", 1, 0.4, 0.7, majority=0.5),  # -0.5
    ]
    row = compare_over_datasets(pd.DataFrame(rows)).iloc[0]
    assert row["mean"] == pytest.approx((0.8 + 0.5 + 0.5 - 0.5) / 4)
    assert row["iqm"] == pytest.approx(0.5)
    assert (row["datasets"], row["seeds"]) == (["cola", "sst2"], [0, 1])


def test_a_row_per_arm_with_exactly_the_columns_promised_the_best_first() -> None:
    found = compare_over_datasets(many_datasets(noisy(0)))
    assert list(found) == OVER_DATASETS_COLUMNS
    assert list(found["arm"]) == list(ARMS)
    assert found["compression"].tolist() == [4.0] * 3
    assert found.attrs == {"left_out": []}
    first = found.iloc[0]
    assert (first["baseline"], first["rank"]) == ("LayerMagWeight", 1)
    assert found.loc[0, ["difference", "verdict", "improvement"]].isna().all()
    assert found.loc[1:, "improvement"].tolist() == [0, 0]


def test_aggregates_are_over_all_datasets_and_seeds() -> None:
    value = noisy(1)
    row = compare_over_datasets(many_datasets(value, datasets=4, seeds=5)).iloc[1]
    values = np.array([[value(1, dataset, seed) for seed in range(5)] for dataset in range(4)])
    assert row["mean"] == pytest.approx(values.mean())
    assert row["iqm"] == pytest.approx(trim_mean(values.ravel(), 0.25))
    assert row["mean_low"] < row["mean"] < row["mean_high"]
    assert row["iqm_low"] < row["iqm"] < row["iqm_high"]


def test_the_verdict_is_the_paired_test_of_compare_over_the_seeds_means() -> None:
    value = noisy(2)
    found = compare_over_datasets(many_datasets(value, seeds=6))
    means = np.array([[np.mean([value(arm, data, seed) for data in range(3)]) for seed in range(6)] for arm in (0, 1)])
    row = found.iloc[1]
    p = ttest_rel(means[1], means[0]).pvalue
    assert (row["difference"], row["p_t"]) == pytest.approx(((means[1] - means[0]).mean(), p))
    assert row["p_differs"] == pytest.approx(2 * p)  # two arms are compared with the baseline
    assert list(found["verdict"].iloc[1:]) == ["worse", "worse"]
    assert compare_over_datasets(many_datasets(value, seeds=5))["verdict"].iloc[1] == "undecided"


def test_differences_within_the_margin_are_equivalent() -> None:
    noise = noisy(3, 0.002)
    trials = many_datasets(lambda arm, data, seed: noise(0, data, seed) + 1e-4 * arm * seed, seeds=6)
    assert list(compare_over_datasets(trials)["verdict"].dropna()) == ["equivalent"] * 2


def test_ranks_with_ties_by_hand() -> None:
    by_dataset = [[0.9, 0.8, 0.8], [0.7, 0.9, 0.6]]  # ranks 1, 2.5, 2.5 and 2, 1, 3
    found = compare_over_datasets(many_datasets(lambda arm, data, _: by_dataset[data][arm], datasets=2))
    assert dict(zip(found["arm"], found["rank"], strict=True)) == dict(zip(ARMS, (1.5, 1.75, 2.75), strict=True))


def test_means_that_differ_by_rounding_share_their_rank() -> None:
    by_seed = [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.1, 0.1, 0.1]]  # the first two sum to 0.6000000000000001 and 0.6
    found = compare_over_datasets(many_datasets(lambda arm, _, seed: by_seed[arm][seed]))
    assert sorted(found["rank"]) == [1.5, 1.5, 3]


def test_unpruned_networks_are_no_arms() -> None:
    trials = many_datasets(noisy(0))
    whole = trials[trials["strategy"] == "LayerSNIP"].assign(compression=1.0, sparsity=0.0)
    levels = [whole.assign(strategy=name, trial_id=name + whole["trial_id"]) for name in ("Dense", "Unpruned")]
    pd.testing.assert_frame_equal(compare_over_datasets(pd.concat([trials, *levels])), compare_over_datasets(trials))


# What is left out


def left_out(trials: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    found = compare_over_datasets(trials)
    return found, found.attrs["left_out"]


def test_a_dataset_without_one_of_the_arms_is_left_out_and_named() -> None:
    trials = many_datasets(noisy(0))
    found, said = left_out(trials[~((trials["dataset"] == "data1") & (trials["strategy"] == "LayerSNIP"))])
    assert found["datasets"].tolist() == [["data0", "data2"]] * 3
    assert said == ["data1 at 4x: no trial of 'LayerSNIP' is there"]


def test_a_seed_that_one_arm_lacks_on_one_dataset_is_left_out_and_named() -> None:
    trials = many_datasets(noisy(0))
    gone = (trials["dataset"] == "data1") & (trials["strategy"] == "LayerSNIP") & (trials["seed"] == 1)
    for part in (trials[~gone], trials.assign(status=trials["status"].mask(gone, "failed"))):
        found, said = left_out(part)
        assert found["seeds"].tolist() == [[0, 2]] * 3
        assert said == ["seed 1 at 4x: not there for LayerSNIP on data1"]


def test_a_dataset_whose_fine_tuned_network_is_at_chance_is_left_out_and_named() -> None:
    trials = many_datasets(noisy(0))
    found, said = left_out(trials.assign(dense=trials["dense"].mask(trials["dataset"] == "data2", 0.52)))
    assert found["datasets"].iloc[0] == ["data0", "data1"]
    assert said == [
        "data2: the fine-tuned network is +0.020 from chance (accuracy), and is divided by only where it is 0.05 above"
    ]
    one = (trials["dataset"] == "data0") & (trials["seed"] == 2)
    found, said = left_out(trials.assign(dense=trials["dense"].mask(one, 0.0)))
    assert found["seeds"].iloc[0] == [0, 1]
    assert said[0].startswith("data0, seed 2: the fine-tuned network is +0.000 from chance (matthews)")


def test_a_metric_without_a_known_chance_is_left_out_and_named() -> None:
    trials = many_datasets(noisy(0))
    for change in ({"metric": "mse", "majority": None}, {"majority": None}):
        there = trials["dataset"] == "data1"
        changed = trials.assign(**{name: trials[name].mask(there, value) for name, value in change.items()})
        found, said = left_out(changed)
        assert found["datasets"].iloc[0] == ["data0", "data2"]
        metric = change.get("metric", "accuracy")
        assert said == [f"data1: no level of chance is known for its metric, {metric}, in these trials"]


def test_a_level_that_is_not_complete_is_left_out_and_one_without_the_baseline_has_no_verdicts() -> None:
    trials, sparse = many_datasets(noisy(0)), many_datasets(noisy(0), compression=9.0)
    found, said = left_out(pd.concat([trials, sparse[sparse["dataset"] == "data1"]]))
    assert set(found["compression"]) == {4.0}
    assert said == ["9x: fewer than two datasets are complete"]
    found, _ = left_out(pd.concat([trials, sparse[sparse["strategy"] != "LayerMagWeight"]]))
    assert list(found.loc[found["compression"] == 9, "verdict"]) == ["undecided"] * 2
    assert "share no seed" in difference_in_words(found.to_dict("records")[-1], 0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"baseline": "LayerSNAP"}, "unknown baseline 'LayerSNAP'; did you mean 'LayerSNIP'"),
        ({"baseline": "Dense"}, "the fine-tuned network is 1 by definition; choose LayerMagWeight"),
        ({"stage": "prunde"}, "unknown stage 'prunde'; did you mean 'pruned'"),
        ({"margin": 0.0}, "margin 0.0 must be above 0"),
        ({"metric": "f1"}, "give metrics="),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_over_datasets(many_datasets(noisy(0)), **arguments)


def test_trials_that_cannot_be_compared_are_refused_with_what_to_do() -> None:
    trials = many_datasets(noisy(0))
    with pytest.raises(ValueError, match="of one dataset, 'data0': over datasets needs two or more; add datasets"):
        compare_over_datasets(trials[trials["dataset"] == "data0"])
    with pytest.raises(ValueError, match="trials are not there"):
        compare_over_datasets(trials.iloc[:0])
    with pytest.raises(ValueError, match="trials of 2 models are not paired: other, tiny"):
        compare_over_datasets(trials.assign(model=trials["model"].mask(trials["seed"] == 0, "other")))
    apart = trials[trials["dataset"].eq("data0") == (trials["strategy"] == "LayerSNIP")]
    with pytest.raises(ValueError, match=r"run what is missing.*no trial of 'LayerMagWeight', 'LayerRandom' is there"):
        compare_over_datasets(apart)
    no_seed = trials[trials["dataset"].eq("data0") == (trials["seed"] == 1)]
    with pytest.raises(ValueError, match="4x: no seed is complete on all datasets"):
        compare_over_datasets(no_seed)


def test_arms_are_compared_and_a_baseline_of_several_arms_is_asked_for_by_its_arm() -> None:
    trials = many_datasets(noisy(0))
    trials["label"] = trials["strategy"].replace("LayerRandom", "late")
    arms = trials.assign(arm=trials["label"], settings="{}", strategy="LayerMagWeight")
    found = compare_over_datasets(arms, "late")
    assert (set(found["arm"]), found["baseline"].iloc[0]) == ({"LayerMagWeight", "LayerSNIP", "late"}, "late")
    with pytest.raises(ValueError, match="'LayerFisher' is the strategy of LayerMagWeight, LayerSNIP, late; choose"):
        compare_over_datasets(arms.assign(strategy="LayerFisher"), "LayerFisher")
    with pytest.raises(ValueError, match="'late' has 3 arms; choose one: LayerMagWeight, LayerSNIP, late 2"):
        compare_over_datasets(arms.assign(label="late", arm=arms["arm"].replace("late", "late 2")), "late")


# In words


def test_ranks_decide_nothing_below_six_datasets_and_where_friedman_shows_nothing() -> None:
    few = compare_over_datasets(many_datasets(noisy(0), datasets=5))
    assert rank_groups(few) == [list(ARMS)]
    assert ranks_in_words(few) == "5 datasets cannot decide about ranks: at least 6 are needed"
    equal = compare_over_datasets(many_datasets(lambda arm, data, _: 0.5 + 0.1 * ((arm + data) % 3), datasets=6))
    assert [sorted(group) for group in rank_groups(equal)] == [sorted(ARMS)]
    assert ranks_in_words(equal) == "ranks over 6 datasets show no difference between the arms (Friedman, p = 1.000)"


def test_arms_whose_ranks_differ_by_less_than_the_critical_difference_are_groups() -> None:
    found = compare_over_datasets(many_datasets(noisy(0), datasets=8))
    assert rank_groups(found) == [["LayerMagWeight", "LayerSNIP"], ["LayerSNIP", "LayerRandom"]]  # 1.17 apart or more
    assert ranks_in_words(found) == (
        "ranks over 8 datasets differ (Friedman, p < 0.001); two arms are told apart where theirs differ by 1.17 or"
        " more (Nemenyi, 5 %)"
    )
    clear = found.assign(critical_difference=0.5)
    assert rank_groups(clear) == []


def test_a_verdict_is_said_as_that_of_one_dataset() -> None:
    found = compare_over_datasets(many_datasets(noisy(0), seeds=6)).to_dict("records")
    said = difference_in_words(found[1], 0.01)
    assert said.startswith("LayerSNIP is worse than LayerMagWeight on 3 datasets at 4x: normalised metric -0.")
    assert "6 seeds, corrected p < 0.001" in said


def test_the_best_of_each_level_is_bold_and_the_spread_stands_beside() -> None:
    both = pd.concat([many_datasets(noisy(0)), many_datasets(noisy(0), compression=9.0, sparsity=0.95)])
    found = compare_over_datasets(both)
    header, rows = cells_of(found, str, "<%s>", " (%s)")
    assert header == ["asked", "strategy", "mean", "IQM", "P(better than LayerMagWeight)", "rank"]
    assert [row[:2] for row in rows[::3]] == [["4x", "LayerMagWeight"], ["9x", "LayerMagWeight"]]
    bold = [[cell.startswith("<") for cell in row] for row in rows]
    assert bold == [[False, False, True, True, False, True], [False] * 6, [False] * 6] * 2
    row = found.iloc[1]
    assert rows[1][2] == f"{row['mean']:.3f} ({row['mean_low']:.3f} to {row['mean_high']:.3f})"
    assert (rows[0][4], rows[1][4], rows[1][5]) == ("–", "0.000 (0.000 to 0.000)", "2.00")
