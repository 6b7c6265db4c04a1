from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from builders.rows import trial
from scipy.stats import t, ttest_rel

from deepcuts.analysis.compare import COMPARISON_COLUMNS, compare, in_words, short_verdict
from deepcuts.analysis.significance import seeds_needed
from deepcuts.wording import level

NOISE = np.random.default_rng(0).normal(0, 0.01, 12)


def points(strategy: str, values: list[float] | np.ndarray, **fields: object) -> list[dict]:
    return [
        trial(f"{strategy}{seed}{fields}", strategy, seed, retrained=float(value), compression=None, **fields)
        for seed, value in enumerate(values)
    ]


def frame(*groups: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for rows in groups for row in rows])


def verdict(values: list[float] | np.ndarray, base: list[float] | np.ndarray, **arguments: float) -> str:
    found = compare(frame(points("LayerSNIP", values), points("LayerMagWeight", base)), **arguments)
    return str(found["verdict"].item())


BASE = 0.8 + NOISE


def test_a_row_per_strategy_dataset_and_place_with_exactly_the_columns_promised() -> None:
    groups = [points(name, BASE[:3], sparsity_asked=s) for name in ("LayerMagWeight", "LayerSNIP") for s in (0.5, 0.9)]
    found = compare(frame(*groups, [trial("d", "Dense", compression=None)]))
    assert list(found.columns) == COMPARISON_COLUMNS
    assert found[["strategy", "baseline", "sparsity", "n"]].values.tolist() == [
        ["LayerSNIP", "LayerMagWeight", 0.5, 3],
        ["LayerSNIP", "LayerMagWeight", 0.9, 3],
    ]


def test_differences_are_paired_by_seed() -> None:
    ours, theirs = [0.9, 0.7, 0.8, 0.6], [0.85, 0.64, 0.73, 0.52]
    rows = frame(points("LayerSNIP", ours), points("LayerMagWeight", theirs)[::-1])
    row = compare(rows).iloc[0]
    assert (row["n"], row["difference"]) == (4, pytest.approx(0.065))
    assert row["p_t"] == pytest.approx(ttest_rel(ours, theirs).pvalue)
    assert row["p_signflip"] == 0.125


def test_seeds_that_one_of_them_lacks_are_left_out() -> None:
    rows = frame(points("LayerSNIP", [0.9, 0.8, 0.7]), points("LayerMagWeight", [0.8]))
    assert compare(rows)[["n", "verdict"]].values.tolist() == [[1, "undecided"]]
    alone = frame(points("LayerSNIP", [0.9]), points("LayerMagWeight", [0.8], sparsity_asked=0.9))
    row = compare(alone).iloc[0]
    assert (row["n"], row["verdict"]) == (0, "undecided")
    assert np.isnan(row["difference"])


def test_three_seeds_decide_nothing_however_clear_they_look() -> None:
    rows = frame(points("LayerSNIP", [0.91, 0.9, 0.92]), points("LayerMagWeight", [0.5, 0.5, 0.5]))
    row = compare(rows).iloc[0]
    assert row["p_differs"] < 0.001
    assert (row["p_signflip"], row["verdict"], row["seeds_needed"]) == (0.25, "undecided", 6)
    assert verdict([0.5] * 5, [0.5] * 5) == "undecided"


def test_enough_seeds_say_better_worse_and_equivalent() -> None:
    assert verdict(BASE + 0.05 + NOISE[::-1] / 4, BASE) == "better"
    assert verdict(BASE - 0.05 + NOISE[::-1] / 4, BASE) == "worse"
    assert verdict(BASE + 0.0001 * NOISE[::-1], BASE) == "equivalent"
    assert verdict(BASE + 0.1 * np.sign(NOISE), BASE) == "undecided"


def test_a_difference_below_the_margin_is_none_even_where_it_is_certain() -> None:
    assert verdict(BASE + 0.005 + NOISE[::-1] / 20, BASE) == "equivalent"
    assert verdict(BASE + 0.005 + NOISE[::-1] / 20, BASE, margin=0.001) == "better"


def test_differences_that_are_all_the_same_are_certain_from_six_seeds() -> None:
    for seeds, said in ((6, "better"), (5, "undecided")):
        row = compare(frame(points("LayerSNIP", BASE[:seeds] + 0.05), points("LayerMagWeight", BASE[:seeds]))).iloc[0]
        assert (row["p_differs"], row["p_within"], row["verdict"]) == (0, 1, said)


def test_six_seeds_of_four_equal_strategies_are_equivalent() -> None:
    around = 0.8 + np.array([0.002, -0.002, 0.001, -0.001, 0.002, -0.002])
    names = ["LayerSNIP", "LayerFisher", "LayerWanda", "LayerMagGrad"]
    found = compare(frame(*(points(name, around) for name in names), points("LayerMagWeight", np.full(6, 0.8))))
    # t(5) = (0.01 - 0) sqrt(6) / 0.0018974 = 12.910, one-sided p 0.0000249
    assert found["p_within"].tolist() == pytest.approx([4 * 0.0000249] * 4, rel=0.01)
    assert set(found["verdict"]) == {"equivalent"}


def test_a_verdict_depends_on_the_number_of_rows_and_not_on_what_they_show() -> None:
    base = points("LayerMagWeight", BASE)
    clear, close = BASE + 0.2 + NOISE[::-1] / 9, BASE + 0.03 * NOISE[::-1]
    found = [
        compare(frame(base, points("LayerSNIP", BASE + 0.02), points("LayerFisher", each))) for each in (clear, close)
    ]
    assert found[0].loc[0, "verdict"] != found[1].loc[0, "verdict"]
    columns = ["p_t", "p_differs", "p_within", "seeds_needed"]
    assert found[0].loc[1, columns].tolist() == found[1].loc[1, columns].tolist()


def test_rows_of_different_numbers_of_seeds_are_tested_as_each_alone() -> None:
    """Groups of one size are tested together: every place must have the numbers that it has in a frame of its own."""
    generator, groups = np.random.default_rng(4), []
    for place, (name, seeds) in enumerate(product(("LayerMagWeight", "LayerSNIP", "LayerFisher"), (1, 2, 7, 7, 23))):
        values = generator.normal(0.8, 0.01, seeds)
        some = points(name, values, sparsity_asked=0.1 + 0.1 * (place % 5))
        groups.append([some[each] for each in generator.permutation(seeds)])
    rows = frame(*groups)
    rows.loc[rows["seed"].eq(3) & rows["strategy"].eq("LayerSNIP"), "retrained"] = np.nan
    found, exact = compare(rows), ["n", "difference", "low", "high", "p_t", "p_signflip"]
    assert sorted(found["n"]) == [1, 1, 2, 2, 6, 6, 7, 7, 22, 23]
    for _, row in found.iterrows():
        part = rows[
            rows["sparsity_asked"].eq(row["sparsity"]) & rows["strategy"].isin([row["strategy"], "LayerMagWeight"])
        ]
        [alone] = compare(part).to_dict("records")
        assert row[exact].tolist() == pytest.approx([alone[name] for name in exact], rel=0, abs=0, nan_ok=True)
        pairs = part.pivot(index="seed", columns="strategy", values="retrained").dropna()
        if row["n"] > 1:
            reference = ttest_rel(pairs[row["strategy"]], pairs["LayerMagWeight"])
            assert (row["n"], row["p_t"]) == (len(pairs), pytest.approx(reference.pvalue, rel=1e-9))
            assert row["p_differs"] == min(1, 8 * row["p_t"])


def test_a_lower_squared_error_is_better() -> None:
    rows = frame(
        points("LayerSNIP", BASE - 0.05 + NOISE[::-1] / 4, metric="mse"), points("LayerMagWeight", BASE, metric="mse")
    )
    assert compare(rows)["verdict"].item() == "better"


def test_the_family_is_every_row() -> None:
    names = ["LayerSNIP", "LayerFisher", "LayerWanda", "LayerMagGrad"]
    groups = [points(name, BASE + 0.01 + np.roll(NOISE, place)) for place, name in enumerate(names, 1)]
    found = compare(frame(*groups, points("LayerMagWeight", BASE)))
    assert found["p_differs"].tolist() == pytest.approx(np.minimum(1, 4 * found["p_t"]).tolist())
    row = found.iloc[0]
    spread = (row["high"] - row["difference"]) * math.sqrt(12) / t.ppf(0.975, 11)
    assert row["seeds_needed"] == seeds_needed(row["difference"], spread, 0.01, 4)
    assert row["seeds_needed"] != seeds_needed(row["difference"], spread, 0.01, 1)


def test_dense_and_unpruned_are_baselines_at_every_place() -> None:
    groups = [points("LayerSNIP", [0.7, 0.6], sparsity_asked=s) for s in (0.5, 0.9)]
    unpruned = points("Unpruned", [0.8, 0.8], sparsity_asked=0.0)
    found = compare(frame(*groups, unpruned), "Unpruned")
    assert found["difference"].tolist() == pytest.approx([-0.15, -0.15])
    assert compare(frame(*groups), "Dense")["difference"].tolist() == pytest.approx([-0.25, -0.25])


def test_other_stages_and_metrics() -> None:
    rows = frame(points("LayerSNIP", [0.9], pruned=0.4), points("LayerMagWeight", [0.8], pruned=0.3))
    assert compare(rows, stage="pruned")["difference"].item() == pytest.approx(0.1)
    fields = {"stage": "retrained", "epoch": 0, "step": 0, "split": "validation", "metric": "f1"}
    metrics = pd.DataFrame(
        [{"trial_id": i, "value": v, **fields} for i, v in zip(rows["trial_id"], (0.5, 0.2), strict=True)]
    )
    found = compare(rows, metric="f1", metrics=metrics)
    assert (found["metric"].item(), found["difference"].item()) == ("f1", pytest.approx(0.3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"baseline": "LayerMagWeigth"}, "unknown baseline 'LayerMagWeigth'; did you mean 'LayerMagWeight'"),
        ({"stage": "prunde"}, "unknown stage 'prunde'; did you mean 'pruned'"),
        ({"margin": 0.0}, "margin 0.0 must be above 0"),
        ({"margin": float("inf")}, "margin inf must be above 0 and finite"),
        ({"metric": "f1"}, "give metrics="),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    rows = frame(points("LayerSNIP", BASE), points("LayerMagWeight", BASE))
    with pytest.raises(ValueError, match=message):
        compare(rows, **arguments)


def test_rows_of_a_dataset_in_two_metrics_say_which_is_theirs() -> None:
    both = [
        points(name, BASE[:3] + 0.01 * place, metric=metric, arm=f"{name} {metric}", label=name)
        for metric in ("accuracy", "mse")
        for place, name in enumerate(("LayerMagWeight", "LayerSNIP"))
    ]
    rows = frame(*both)
    found = compare(rows.assign(settings=[f'{{"data.metric": "{each}"}}' for each in rows["metric"]])).set_index(
        "strategy"
    )
    assert found["metric"].to_dict() == {"LayerSNIP accuracy": "accuracy", "LayerSNIP mse": "mse"}
    assert found["difference"].tolist() == pytest.approx([0.01, 0.01])


def test_pairs_that_ran_on_two_devices_are_counted() -> None:
    """Processors of two kinds train the same trial to other bits, and so do other versions of torch."""
    here = {"device": "A", "torch": "2.13", "transformers": "5.17"}
    ours, theirs = points("LayerSNIP", BASE[:7], **here), points("LayerMagWeight", BASE[:7], **here)
    assert compare(frame(ours, theirs))["mixed"].item() == 0
    ours[0]["device"], theirs[1]["torch"] = "B", "2.11"
    ours[2]["device"] = theirs[2]["device"] = "B"
    ours[3]["device"], theirs[4]["transformers"] = None, None
    ours[5] |= {"device": "B", "retrained": None}
    found = compare(frame(ours, theirs[:6]))
    assert found[["n", "mixed"]].values.tolist() == [[5, 2]]


def test_models_are_never_mixed() -> None:
    rows = frame(points("LayerSNIP", BASE), points("LayerMagWeight", BASE, model="other"))
    with pytest.raises(ValueError, match="trials of 2 models are not paired: other, tiny"):
        compare(rows)


def test_a_baseline_alone_and_no_trials() -> None:
    assert list(compare(frame(points("LayerMagWeight", BASE))).columns) == COMPARISON_COLUMNS
    with pytest.raises(ValueError, match="the store has no trials"):
        compare(frame(points("LayerMagWeight", BASE)).iloc[:0])


# A row in words

ROW = {
    "dataset": "cola",
    "compression": 4.0,
    "sparsity": 0.96,
    "strategy": "LayerSNIP",
    "baseline": "LayerMagWeight",
    "metric": "matthews",
    "n": 8,
    "difference": 0.031,
    "low": 0.012,
    "high": 0.05,
    "p_differs": 0.008,
    "p_within": 0.03,
    "seeds_needed": 9.0,
}
PLACE = "LayerMagWeight on cola at 4x: "
PAIR = f"LayerSNIP against {PLACE}undecided, "
SEEN = "matthews +0.031 (95 % interval +0.012 to +0.050, "
FEW = "2 seeds are too few to show anything; about 9 seeds would decide."


@pytest.mark.parametrize(
    ("verdict", "changed", "words"),
    [
        ("better", {}, f"LayerSNIP is better than {PLACE}{SEEN}8 seeds, corrected p = 0.008)."),
        ("worse", {"p_differs": 1e-4}, f"LayerSNIP is worse than {PLACE}{SEEN}8 seeds, corrected p < 0.001)."),
        (
            "equivalent",
            {"p_differs": 0.2},
            f"LayerSNIP is equivalent to {PLACE}{SEEN}8 seeds, within ± 0.01, corrected p = 0.030).",
        ),
        (
            "equivalent",
            {"difference": 0.005, "low": 0.004, "high": 0.006, "p_differs": 1e-8},
            f"LayerSNIP against {PLACE}higher by 0.005, less than the margin of 0.01: matthews +0.005"
            " (95 % interval +0.004 to +0.006, 8 seeds, corrected p < 0.001).",
        ),
        ("undecided", {}, f"{PAIR}{SEEN}8 seeds); about 9 seeds would decide."),
        ("undecided", {"seeds_needed": 8}, f"{PAIR}{SEEN}8 seeds); as many seeds again may decide."),
        ("undecided", {"seeds_needed": None}, f"{PAIR}{SEEN}8 seeds); no number of seeds up to 10,000 would decide."),
        ("undecided", {"n": 2}, f"{PAIR}{SEEN}2 seeds); {FEW}"),
        ("undecided", {"n": 2, "low": math.nan}, f"{PAIR}matthews +0.031 (the same for both seeds); {FEW}"),
        (
            "better",
            {"n": 7, "low": None},
            f"LayerSNIP is better than {PLACE}matthews +0.031 (the same for all 7 seeds, corrected p = 0.008).",
        ),
        (
            "undecided",
            {"n": 3, "seeds_needed": math.nan},
            f"{PAIR}{SEEN}3 seeds); 3 seeds are too few to show anything; no number of seeds up to 10,000"
            " would decide.",
        ),
        (
            "undecided",
            {"n": 1, "seeds_needed": math.nan},
            f"{PAIR}matthews +0.031 with one seed, which says nothing about the spread; at least 6 seeds are needed.",
        ),
        ("undecided", {"n": 0}, f"{PAIR}they share no seed in the same settings; run both alike, with the same seeds."),
    ],
)
def test_every_verdict_is_said_with_its_uncertainty(verdict: str, changed: dict, words: str) -> None:
    assert in_words(ROW | changed | {"verdict": verdict}, 0.01) == words


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "better"),
        ({"verdict": "equivalent"}, "higher by less than the margin"),
        ({"verdict": "equivalent", "difference": -0.005}, "lower by less than the margin"),
        ({"verdict": "equivalent", "p_differs": 0.06}, "equivalent"),
        ({"verdict": "undecided", "n": 0, "p_differs": None}, "undecided"),
    ],
)
def test_a_difference_that_is_shown_is_never_called_equivalent(changed: dict, words: str) -> None:
    assert short_verdict(ROW | {"verdict": "better"} | changed) == words


def test_what_was_asked_for_is_named() -> None:
    assert (level(3.5, 0.914), level(math.nan, 0.9), level(None, 0.955)) == ("3.5x", "90 %", "95.5 %")
    assert level(None, None) == "any sparsity"
