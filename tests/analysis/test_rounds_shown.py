"""Views of trials that build on trials: rounds of iterative pruning, and masks of other trials."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from builders.rows import row_of, write_trial
from builders.specs import sweep

from deepcuts.analysis.arms import levels_only, with_arms
from deepcuts.analysis.chains import rounds
from deepcuts.analysis.checklist import checklist
from deepcuts.analysis.curves import curves, table
from deepcuts.analysis.frames import trials
from deepcuts.analysis.selection import chosen_trials
from deepcuts.cli.main import main
from deepcuts.experiment.chain import is_step
from deepcuts.experiment.grid import SweepSpec
from deepcuts.store.store import Store
from deepcuts.sweep.launch import _write_sweep
from deepcuts.trial.row import identity_columns

BOTH = {
    "strategies": {
        "at once": {"use": "LayerMagWeight"},
        "imp": {"use": "LayerMagWeight", "rounds": {"keep": 0.8, "retrain": {"epochs": 1}}},
    },
    "sparsities": [0.36, 0.488],
    "seeds": [0, 1],
}


def filled(store: Store, **changes: Any) -> SweepSpec:
    """Write a row for each trial of a sweep that the store lacks, completed, with the columns of a launch."""
    spec, there = sweep(**(BOTH | changes)), store.statuses()
    for trial in (each for each in spec.trials() if each.trial_id not in there):
        told = identity_columns(trial, "some", spec.labels.get(trial.trial_id))
        write_trial(store, row_of(trial) | {key: value for key, value in told.items() if key != "torch"})
    _write_sweep(store, spec)
    return spec


def test_at_once_and_in_rounds_are_two_lines_and_steps_are_left_out(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    filled(store)
    frame = trials(store)
    assert frame["step"].sum() == 2 * 2  # rounds 1 and 2 are retrained for one epoch, and no level asks for that
    assert sorted(set(frame["arm"].dropna())) == ["Dense", "at once", "imp"]
    for made in (curves(frame), table(frame)):
        places = made[made["strategy"] == "LayerMagWeight"].groupby("arm")["sparsity_asked"].apply(list)
        assert places.to_dict() == {"at once": [0.36, 0.488], "imp": [0.36, 0.488]}
    assert len(levels_only(frame)) == len(frame) - 4
    points = checklist(frame).set_index("item").loc["at least 5 operating points over a range of compressions", "why"]
    assert points.startswith("2 per dataset")
    assert not chosen_trials(store, [])["step"].any()
    assert len(chosen_trials(store, ["step"], only={"step": "True"})) == 4


def test_the_first_round_is_on_the_line_of_the_deeper_ones_however_these_are_retrained_between(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    imp = {"use": "LayerMagWeight", "rounds": {"keep": 0.8, "retrain": {"epochs": 1}}}
    filled(store, strategies={"imp": imp}, sparsities=[0.2, 0.36, 0.488], seeds=[0])
    found = curves(trials(store))
    assert found.loc[found["arm"] == "imp", "sparsity_asked"].tolist() == [0.2, 0.36, 0.488]


ONCE, IMP = {"use": "LayerMagWeight"}, {"use": "LayerMagWeight", "rounds": {"keep": 0.8}}


@pytest.mark.parametrize(
    "sweeps",
    [
        [{"strategies": {"once": ONCE, "imp": IMP}}],
        [{"strategies": {"imp": IMP, "once": ONCE}}],
        [{"strategies": {"imp": IMP}, "sparsities": [0.36]}, {"strategies": {"once": ONCE}}],
        [{"strategies": {"imp": IMP}}, {"strategies": {"once": ONCE}}],
        [{"strategies": {"once": ONCE}}, {"strategies": {"imp": IMP}}],
    ],
    ids=["one sweep", "one sweep, the other order", "as a step before", "as a level before", "at once before"],
)
def test_a_first_round_is_of_the_arm_that_prunes_at_once_whoever_asked_for_it_first(
    sweeps: list[dict[str, Any]], tmp_path: Path
) -> None:
    store = Store(str(tmp_path))
    for number, keys in enumerate(sweeps):
        filled(store, **{"sparsities": [0.2, 0.36], "name": f"sweep-{number}", **keys})
        written = tmp_path / "sweeps" / f"sweep-{number}.parquet"
        os.utime(written, (number + 1, number + 1))
    found = curves(trials(store))
    lines = found[found["strategy"] == "LayerMagWeight"].groupby("arm")["sparsity_asked"].apply(list)
    assert lines.to_dict() == {"once": [0.2, 0.36], "imp": [0.36]}
    assert set(found.loc[found["strategy"] == "LayerMagWeight", "n"]) == {2}


def test_arms_without_names_are_told_apart_by_their_rounds(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    filled(store, strategies=["LayerMagWeight"])
    filled(store, strategies=["LayerMagWeight"], rounds={"keep": 0.8}, name="other")
    filled(store, strategies=["LayerMagWeight"], rounds={"keep": 0.8, "rewind_head": False}, name="third")
    names = set(with_arms(levels_only(trials(store)))["arm"]) - {"Dense"}
    assert names == {
        "LayerMagWeight",
        "LayerMagWeight (rounds=keep 0.8)",
        "LayerMagWeight (rounds=keep 0.8, rounds.rewind_head=false)",
    }


def test_a_step_that_another_sweep_asks_for_is_a_level(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    spec = filled(store, strategies=["LayerMagWeight"], rounds={"keep": 0.8}, sparsities=[0.36], seeds=[0])
    first = next(trial for trial in spec.trials() if trial.prunes)
    assert trials(store, trial_id=first.trial_id)["step"].tolist() == [True]
    asking = sweep(name="asking", sparsities=[0.2], rounds={"keep": 0.8})
    _write_sweep(store, asking)
    assert trials(store, trial_id=first.trial_id)["step"].tolist() == [False]


def test_the_rounds_of_a_trial_are_its_chain(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    spec = filled(store, strategies=["LayerMagWeight"], rounds={"keep": 0.8}, seeds=[0])
    first, second, third = (trial.trial_id for trial in spec.trials() if trial.prunes)
    for trial_id in (first, second, third):
        found = rounds(store, trial_id)
        assert found[["round", "trial_id", "step"]].values.tolist() == [
            [1, first, True],
            [2, second, False],
            [3, third, False],
        ]
    assert rounds(store, spec.trials()[0].trial_id).empty
    with pytest.raises(ValueError, match="unknown trial"):
        rounds(store, "nothing")


def test_arms_are_told_apart_by_whose_mask_they_take(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    arms = {"own": {"use": "LayerMagWeight"}}
    arms |= {f"of {seed}": {"use": "LayerMagWeight", "mask_from": {"seed": seed}} for seed in (0, 1)}
    filled(store, strategies=arms, sparsities=[0.5], seeds=[2, 3])
    frame = with_arms(trials(store))
    assert {name for name in frame["arm"] if name.startswith("of")} == {"of 0", "of 1"}
    taken = frame[frame["mask_from"].notna()]
    of_seeds = set(zip(taken["seed"], taken["mask_from"], strict=True))
    assert of_seeds == {(seed, f"toy seed {of}") for seed in (2, 3) for of in (0, 1)}
    assert taken["mask_trial"].isin(frame["trial_id"]).all()


def test_removing_a_sweep_removes_its_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(str(tmp_path))
    spec = filled(store, strategies=["LayerMagWeight"], rounds={"keep": 0.8}, seeds=[0])
    assert any(is_step(trial) for trial in spec.trials())
    assert main(["rm", store.uri, "--sweep", spec.name, "--yes"]) == 0
    assert f"removed {len(spec.trials())} trials" in capsys.readouterr().out
    assert store.statuses() == {}
