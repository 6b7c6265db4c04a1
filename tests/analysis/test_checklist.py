from __future__ import annotations

import json
import math

import pandas as pd
import pytest
from builders.rows import trial

from deepcuts.analysis.checklist import checklist

DECLINES = "compressions up to where the network clearly declines"
STRATEGIES = ("LayerMagWeight", "LayerRandom", "LayerFisher", "RowWanda")


def spec(revision: str = "0123abc") -> str:
    source = {"name": "bert", "revision": revision}
    return json.dumps({"score": {"dense": {"model": source, "dataset": "cola", "task": source}}})


def good() -> list[dict]:
    """A sweep that meets every recommendation."""
    return [
        trial(
            f"{dataset}{strategy}{compression}{seed}",
            strategy,
            seed,
            dataset=dataset,
            compression=compression,
            sparsity_asked=math.nan,
            compression_achieved=compression,
            retrained=0.9 / compression,
            spec=spec(),
        )
        | {"flops": 100, "flops_nonzero": 10, "deepcuts": "0.1.0", "torch": "2.11", "transformers": "5"}
        | {"device": "cpu", "precision": "fp32", "git_commit": "abc"}
        for dataset in ("cola", "sst2", "stsb")
        for strategy in STRATEGIES
        for compression in (2.0, 4.0, 8.0, 16.0, 32.0)
        for seed in (0, 1)
    ]


def broken(**changes: object) -> pd.DataFrame:
    return pd.DataFrame([row | changes for row in good()])


def test_a_good_sweep_meets_every_recommendation() -> None:
    found = checklist(pd.DataFrame(good()))
    assert list(found.columns) == ["item", "met", "why"]
    assert found["met"].all(), found[~found["met"]]
    assert found["item"].is_unique
    assert (found["why"].str.len() > 0).all()


def test_a_network_that_has_come_to_one_class_is_pruned_enough() -> None:
    for majority, met in ((0.89, True), (0.88, False), (math.nan, False)):
        found = checklist(broken(retrained=0.89, majority=majority)).set_index("item")["met"]
        assert found[DECLINES] == met


@pytest.mark.parametrize(("retrained", "met"), [(0.6, True), (0.54, False), (0.3, False)])
def test_an_error_that_grows_is_a_decline(retrained: float, met: bool) -> None:
    found = checklist(broken(metric="mse", dense=0.5, retrained=retrained)).set_index("item")
    assert found.loc[DECLINES, "met"] == met


def test_a_network_of_another_model_that_declines_is_no_decline_of_this_one() -> None:
    other = [row | {"trial_id": f"o{row['trial_id']}", "model": "other", "retrained": 0.89} for row in good()]
    row = checklist(pd.DataFrame([*good(), *other])).set_index("item").loc[DECLINES]
    assert not row["met"]
    assert "on cola with other, sst2 with other, stsb with other: prune more" in row["why"]


@pytest.mark.parametrize(
    ("trials", "item", "why"),
    [
        (broken(model="toy"), "at least 3 pairs", "0: only toys"),
        (broken(dataset="cola").drop_duplicates("trial_id"), "at least 3 pairs", "1: cola with tiny"),
        (broken(compression=4.0), "at least 5 operating points", "1 per dataset"),
        (broken(retrained=0.89), "clearly declines", "no strategy is 10 % worse than the dense network on cola"),
        (broken(majority=0.9), "clearly declines", "the fine-tuned networks of cola, sst2, stsb do no better"),
        (broken(flops=math.nan), "theoretical speed-up", "120 of 120 trials lack"),
        (broken(dense=math.nan), "the network before pruning", "120 trials have no dense metric"),
        (broken(strategy="LayerSNIP"), "a magnitude baseline", "none: add LayerMagWeight"),
        (broken(strategy="LayerSNIP"), "a random baseline over", "none: add GlobalRandom"),
        (broken(strategy="LayerSNIP"), "random baseline with the same share of every layer", "LayerSNIP: none"),
        (broken(strategy="LayerSNIP"), "magnitude baseline with the same share", "none: add LayerMagWeight"),
        (broken(strategy="GlobalSNIP"), "magnitude baseline with the same share", "GlobalSNIP: none, and there is no"),
        (broken(metric=None), "the exact models", "trials without a metric"),
        (broken(retrained=None), "the raw metric", "120 trials have no metric"),
        (broken(torch=None), "libraries and hardware described", "trials without torch"),
        (
            broken(strategy="LayerSNIP").drop_duplicates(["dataset", "compression", "seed"]),
            "every method at every",
            "3 curves with all points of their dataset",
        ),
        (broken(strategy="LayerMagWeight"), "before the 2010s", "none: add LayerFisher"),
        (broken(strategy="LayerMagWeight"), "recently published", "none: add RowWanda"),
        (
            broken(seed=0).drop_duplicates(["dataset", "strategy", "compression"]),
            "several seeds",
            "60 of 60 points have one seed",
        ),
        (broken(spec=spec("main")), "found again", "no fixed revision: bert, cola"),
        (broken(spec=None), "all hyper-parameters", "120 trials lack their resolved settings"),
    ],
)
def test_what_is_missing_is_named_with_what_would_meet_it(trials: pd.DataFrame, item: str, why: str) -> None:
    found = checklist(trials)
    row = found[found["item"].str.contains(item)].iloc[0]
    assert not row["met"]
    assert row["why"].startswith(why)


def test_a_method_that_lacks_a_point_or_started_elsewhere_is_named() -> None:
    rows = pd.DataFrame(good())
    short = checklist(
        rows[(rows["strategy"] != "LayerFisher") | (rows["compression"] < 32) | (rows["dataset"] != "cola")]
    )
    row = short[short["item"].str.startswith("every method")].iloc[0]
    assert (row["met"], row["why"]) == (False, "LayerFisher has 4 of 5 points on cola (1 such curves)")
    few = rows[~rows["strategy"].isin(["LayerRandom", "GlobalRandom"]) | (rows["compression"] == 2)]
    row = checklist(few).set_index("item").filter(like="every method", axis=0).iloc[0]
    assert row["met"]  # random masks are not a method
    rows.loc[0, "dense_id"] = "another"
    row = checklist(rows).set_index("item").loc["all methods start from the same fine-tuned network"]
    assert (row["met"], row["why"]) == (False, "cola with tiny, seed 0: 2 fine-tuned networks")


def test_one_fine_tuning_on_two_kinds_of_processor_makes_two_networks() -> None:
    rows = pd.DataFrame(good())
    again = (rows["dataset"] == "cola") & (rows["seed"] == 0) & (rows["strategy"] == "LayerRandom")
    rows.loc[again, ["dense", "device"]] = 0.8076, "AMD EPYC (avx512_bf16)"
    found = checklist(rows).set_index("item")
    row = found.loc["all methods start from the same fine-tuned network"]
    assert (row["met"], row["why"]) == (False, "cola with tiny, seed 0: 2 fine-tuned networks")
    row = found.loc["the same libraries, hardware and precision for all"]
    assert (row["met"], row["why"]) == (False, "mixed: device (AMD EPYC (avx512_bf16), cpu)")


def test_a_recent_method_comes_with_its_year() -> None:
    row = checklist(pd.DataFrame(good())).set_index("item").loc["a recently published method"]
    assert row["why"] == "RowWanda (2023)"


def test_other_libraries_or_devices_are_named() -> None:
    rows = pd.DataFrame(good())
    rows.loc[0, "device"] = "cuda"
    row = checklist(rows).set_index("item").loc["the same libraries, hardware and precision for all"]
    assert (row["met"], row["why"]) == (False, "mixed: device (cpu, cuda)")


def test_a_global_strategy_needs_its_own_masks_shuffled() -> None:
    item = "a random baseline with the same share of every layer"
    rows = pd.DataFrame([*good(), trial("g", "GlobalSNIP", compression=2.0, dataset="cola")])
    assert checklist(rows).set_index("item").loc[item, "why"].startswith("GlobalSNIP: none")
    shuffled = pd.concat([rows, rows.tail(1).assign(strategy="GlobalSNIP+shuffle")])
    assert checklist(shuffled).set_index("item").loc[item, "met"]


@pytest.mark.parametrize("rows", [[trial("d", "Dense")], [trial("f", status="failed")]])
def test_a_store_without_pruned_trials_meets_nothing(rows: list[dict]) -> None:
    found = checklist(pd.DataFrame(rows))
    assert not found["met"].any()
    assert set(found["why"]) == {"the store has no completed pruned trial"}
