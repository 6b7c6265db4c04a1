"""The transfer matrix: what is in its cells, what is never averaged, and what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders.rows import row_of, trial
from builders.specs import sweep
from builders.transfers import CHANCE, DENSE, arms_of, transfers
from scipy.stats import t

from deepcuts.analysis.arms import with_arms
from deepcuts.analysis.transfer import TRANSFER_COLUMNS, transfer, transfer_cells
from deepcuts.experiment.chain import with_mask_in
from deepcuts.experiment.spec import MaskFile
from deepcuts.trial.row import identity_columns


def noisy(row: dict[str, Any]) -> float:
    return 0.6 + 0.3 * np.random.default_rng(int(row["trial_id"][:8], 16)).random()


def cells(frame: pd.DataFrame, control: str = "none") -> dict[tuple[str, str], dict[str, Any]]:
    rows = frame[frame["control"] == control].to_dict("records")
    assert len({(row["source"], row["target"]) for row in rows}) == len(rows)
    return {(row["source"], row["target"]): row for row in rows}


BOTH = {("sst2", "sst2"), ("sst2", "cola"), ("cola", "sst2"), ("cola", "cola")}


def test_a_cell_for_each_source_and_target_with_the_shuffled_masks_beside_it() -> None:
    frame = transfer(transfers())
    assert list(frame) == TRANSFER_COLUMNS
    assert frame.attrs == {"missing": []}
    assert set(frame["control"]) == {"none", "shuffle"}
    assert set(zip(frame["strategy"], frame["arm"], frame["stage"], strict=True)) == {("LayerSNIP", "own", "retrained")}
    for control, lost in (("none", 0.0), ("shuffle", 0.2)):
        found = cells(frame, control)
        assert set(found) == BOTH
        for (source, target), row in found.items():
            assert row["own"] == (source == target)
            assert row["metric"] == {"sst2": "accuracy", "cola": "matthews"}[target]
            assert (row["n"], row["seeds"]) == (3, [0, 1, 2])
            drop = [(lost + 0.1 * (source != target)) * (1 + 0.1 * seed) for seed in (0, 1, 2)]
            above = DENSE[target] - CHANCE[target]
            assert row["values"] == pytest.approx([CHANCE[target] + above * (0.9 - each) for each in drop])
            if row["own"] and control == "none":
                assert (row["pairs"], row["difference"]) == (0, pytest.approx(np.nan, nan_ok=True))
            else:
                assert row["difference"] == pytest.approx(-np.mean(drop))


def test_means_and_paired_differences_have_students_intervals() -> None:
    trials = transfers(noisy, seeds=[0, 1, 2, 3])
    found = cells(transfer(trials), "shuffle")[("sst2", "cola")]

    def values(strategy: str, given: bool) -> list[float]:
        rows = trials[(trials["dataset"] == "cola") & (trials["strategy"] == strategy)]
        rows = rows[rows["mask_from"].map(lambda each: isinstance(each, str)) == given]
        return [rows.set_index("seed")["retrained"][seed] for seed in (0, 1, 2, 3)]

    ours, own = values("LayerSNIP+shuffle", True), values("LayerSNIP", False)
    differences = [(a - b) / 0.5 for a, b in zip(ours, own, strict=True)]
    for name, some in (("mean", ours), ("difference", differences)):
        half = t.ppf(0.975, 3) * np.std(some, ddof=1) / 2
        ends = ("low", "high") if name == "mean" else ("difference_low", "difference_high")
        assert found[name] == pytest.approx(np.mean(some), abs=1e-9)
        expected = [np.mean(some) - half, np.mean(some) + half]
        if name == "mean":
            expected = [max(-1, expected[0]), min(1, expected[1])]
        assert [found[end] for end in ends] == pytest.approx(expected, abs=1e-9)
    assert found["pairs"] == 4


def test_two_seeds_have_no_interval_and_one_that_is_missing_has_no_pair() -> None:
    trials = transfers(seeds=[0, 1])
    own = (trials["arm"] == "own") & (trials["dataset"] == "cola") & (trials["seed"] == 1)
    frame = transfer(trials[~own])
    found = cells(frame)[("sst2", "cola")]
    assert (found["n"], found["pairs"]) == (2, 1)
    assert np.isnan([found["low"], found["high"], found["difference_low"]]).all()
    assert frame.attrs["missing"] == ["own at 64 %: cola with the mask of cola lacks seed 1"]
    header, rows = transfer_cells(frame, str)
    assert header[:6] == ["asked", "mask of", "on", "metric", "as found", "seeds"]
    row = next(each for each in rows if each[1:3] == ["sst2", "cola"])
    assert row[4:7] == ["0.398 (too few seeds)", "2", "-0.100 (too few seeds)"]
    assert next(each for each in rows if each[2] == "cola" and each[1] == "cola (own)")[4:7][1:] == ["1", "–"]


def test_levels_are_apart_and_the_other_stages_can_be_shown() -> None:
    trials = transfers(sparsities=[0.5, 0.64])
    trials["pruned"] = trials["sparsity_asked"]
    frame = transfer(trials, stage="pruned")
    assert frame.groupby("sparsity_asked").size().to_dict() == {0.5: 8, 0.64: 8}
    assert (frame["mean"] == frame["sparsity_asked"]).all()
    assert list(frame["sparsity_asked"]) == sorted(frame["sparsity_asked"])


@pytest.mark.parametrize("settings", [{"rewind": 100}, {"scoring": {"dropout": False}}, {"retrain": {"epochs": 3}}])
@pytest.mark.parametrize("targets", [["sst2", "cola"], ["cola"]])
def test_arms_that_differ_in_a_setting_have_a_matrix_each(settings: dict[str, Any], targets: list[str]) -> None:
    arms = arms_of("LayerSNIP", ["sst2", "cola"])
    arms |= {f"other {name}": arm for name, arm in arms_of("LayerSNIP", ["sst2", "cola"], **settings).items()}
    trials = transfers(noisy, strategies=arms)
    frame = transfer(trials[trials["dataset"].isin(targets)])
    assert set(frame["arm"]) == {"own", "other own"}
    assert frame.attrs["missing"] == []
    for name, part in frame.groupby("arm"):
        found = cells(part)
        assert {target for _, target in found} == set(targets)
        rows = trials[(trials["arm"] == f"{name} of sst2") & (trials["dataset"] == "cola")]
        assert found[("sst2", "cola")]["values"] == list(rows.sort_values("seed")["retrained"])
        of_own = trials[(trials["arm"] == name) & (trials["dataset"] == "cola")].sort_values("seed")["retrained"]
        differences = (rows.sort_values("seed")["retrained"].to_numpy() - of_own.to_numpy()) / 0.5
        assert found[("sst2", "cola")]["difference"] == pytest.approx(differences.mean())


def test_two_arms_with_masks_that_were_found_otherwise_are_two_arms_and_no_older_code() -> None:
    arms = {
        name: {"use": "LayerSNIP", "scoring": {"dropout": dropout}, "mask_from": {"dataset": "sst2"}}
        for name, dropout in (("with", True), ("without", False))
    }
    rows = with_arms(transfers(strategies=arms))
    assert set(rows.loc[rows["mask_from"].notna(), "arm"]) == {"with", "without"}


def test_masks_in_rounds_are_held_against_the_own_mask_in_rounds() -> None:
    arms = arms_of("LayerSNIP", ["sst2", "cola"], rounds={"keep": 0.8})
    once = transfers(noisy)
    both = pd.concat([once, transfers(noisy, strategies=arms, sparsities=[0.5])], ignore_index=True)
    both = both.drop_duplicates("trial_id")
    frame = transfer(both)
    assert frame.groupby("sparsity_asked")["arm"].nunique().to_dict() == {0.5: 1, 0.64: 1}
    deep = cells(frame[frame["sparsity_asked"] == 0.5])
    own = both[(both["dataset"] == "cola") & (both["strategy"] == "LayerSNIP") & (both["sparsity_asked"] == 0.5)]
    own = own[own["mask_from"].isna()].sort_values("seed")
    assert deep[("cola", "cola")]["values"] == list(own["retrained"])


def test_without_an_arm_of_own_masks_the_sources_are_the_diagonal() -> None:
    arms = {f"of {each}": {"use": "LayerSNIP", "mask_from": {"dataset": each}} for each in ("sst2", "cola")}
    frame = transfer(transfers(strategies=arms))
    assert set(frame["arm"]) == {"LayerSNIP"}  # the own masks have two names
    assert set(cells(frame)) == BOTH
    assert frame.attrs["missing"] == [
        "LayerSNIP at 64 %: no trial with the same masks shuffled; add an arm of LayerSNIP+shuffle with mask_from"
    ]


def test_masks_of_other_seeds_are_sources_of_their_own() -> None:
    arms: dict[str, Any] = {"own": {"use": "LayerSNIP"}}
    arms |= {f"of {seed}": {"use": "LayerSNIP", "mask_from": {"seed": seed}} for seed in (0, 1)}
    found = cells(transfer(transfers(strategies=arms, datasets=["sst2"])))
    seeds = {source: row["seeds"] for (source, _), row in found.items()}
    assert seeds == {"sst2": [0, 1, 2], "sst2 seed 0": [1, 2], "sst2 seed 1": [0, 2]}
    assert found[("sst2 seed 0", "sst2")]["difference"] == pytest.approx(-0.1 * (1.1 + 1.2) / 2)


def test_a_seed_of_another_dataset_counts_all_targets_its_own_seed_too() -> None:
    one = {"own": {"use": "LayerSNIP"}, "of 0": {"use": "LayerSNIP", "mask_from": {"dataset": "sst2", "seed": 0}}}
    frame = transfer(transfers(strategies=one))
    found = cells(frame)
    assert set(found) == {("sst2", "sst2"), ("cola", "cola"), ("sst2 seed 0", "sst2"), ("sst2 seed 0", "cola")}
    assert found[("sst2 seed 0", "cola")]["seeds"] == [0, 1, 2]
    assert not any("lacks" in line for line in frame.attrs["missing"])
    both = one | {"of sst2": {"use": "LayerSNIP", "mask_from": {"dataset": "sst2"}}}
    found = cells(transfer(transfers(strategies=both)))
    assert found[("sst2 seed 0", "cola")]["seeds"] == found[("sst2", "cola")]["seeds"] == [0, 1, 2]


def test_what_is_missing_is_named() -> None:
    trials = transfers()
    failed = (trials["arm"] == "own of sst2") & (trials["seed"] == 2)
    trials.loc[failed, ["status", "retrained"]] = ["failed", None]
    frame = transfer(trials)
    assert frame.attrs["missing"] == [
        "own at 64 %: cola with the mask of sst2 lacks seed 2",
        "1 trial of own of sst2 on cola failed",
    ]
    for arm, what in (("own", "own at 64 %"), ("shuffled", "own at 64 %, shuffled")):
        some = transfer(trials[trials["arm"] != f"{arm} of sst2"])
        assert ("sst2", "cola") not in cells(some, "none" if arm == "own" else "shuffle")
        assert f"{what}: no trial of cola with the mask of sst2" in some.attrs["missing"]
    alone = transfer(trials[(trials["arm"] != "own") | (trials["dataset"] != "cola")])
    assert cells(alone)[("sst2", "cola")]["pairs"] == 0
    assert "own at 64 %: no trial of cola with its own mask in these settings" in alone.attrs["missing"]


def test_a_difference_needs_a_network_above_chance_and_a_known_chance() -> None:
    trials = transfers()
    trials.loc[(trials["dataset"] == "sst2") & (trials["seed"] == 0), "dense"] = 0.54
    frame = transfer(trials)
    assert cells(frame)[("cola", "sst2")]["pairs"] == 2
    trials = transfers(datasets=["sst2", "stsb"], strategies=arms_of("LayerSNIP", ["sst2", "stsb"]))
    assert cells(transfer(trials))[("sst2", "stsb")]["pairs"] == 3  # a correlation is 0 by chance
    trials.loc[trials["dataset"] == "stsb", "metric"] = "pearson (test)"
    assert cells(transfer(trials))[("sst2", "stsb")]["pairs"] == 3
    trials.loc[trials["dataset"] == "stsb", "metric"] = "mse"
    found = cells(transfer(trials))[("sst2", "stsb")]
    assert (found["n"], found["pairs"]) == (3, 0)
    assert np.isnan(found["difference"])


def test_two_masks_of_one_file_are_two_sources() -> None:
    spec = sweep(strategies=["LayerSNIP"], datasets=["sst2"], sparsities=[0.64], seeds=[0, 1, 2])
    plain = [each for each in spec.trials() if each.prunes]
    rows = []
    for number, one in enumerate(plain):
        files = [MaskFile(name="m", digest="d" * 64, trial=whose * 16) for whose in "ab"]
        for each in (one, *(with_mask_in(one, file) for file in files)):
            told = {key: each for key, each in identity_columns(each, "some").items() if key != "torch"}
            rows.append(row_of(each) | told | {"majority": 0.5, "retrained": 0.8 - 0.01 * number})
    found = cells(transfer(pd.DataFrame(rows)))
    assert set(found) == {("sst2", "sst2"), *((f"file dddddddd trial {whose * 8}", "sst2") for whose in "ab")}
    assert {row["n"] for row in found.values()} == {3}
    assert found["file dddddddd trial aaaaaaaa", "sst2"]["difference"] == 0


def test_older_rows_and_stores_without_masks_of_others_have_an_empty_frame() -> None:
    for trials in (pd.DataFrame([trial("a", compression=None)]), transfers(strategies=["LayerSNIP"])):
        frame = transfer(trials)
        assert frame.empty
        assert list(frame) == TRANSFER_COLUMNS
        assert frame.attrs == {"missing": []}
    with pytest.raises(ValueError, match="unknown stage 'retraind'"):
        transfer(transfers(), stage="retraind")  # type: ignore[arg-type]
