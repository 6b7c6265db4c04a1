"""What sweep files call their arms: one experiment has one name, and experiments that differ are kept apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders.arms import EPOCHS, LABELLED, LEVELS, ONCE, armed_store, write_arm, write_sweep
from builders.rows import row_of
from builders.specs import dense, trial

from deepcuts.analysis.arms import with_arms
from deepcuts.analysis.compare import compare
from deepcuts.analysis.curves import curves, setting_columns, table, training_curves
from deepcuts.analysis.frames import metrics, query, show, status, trials
from deepcuts.analysis.overlap import overlap
from deepcuts.analysis.pairs import decompose, related
from deepcuts.analysis.selection import chosen_trials, narrowed
from deepcuts.experiment.settings import Scoring, Training
from deepcuts.experiment.spec import ScoreSpec, TrialSpec
from deepcuts.store.store import Store

EDITED = {f"LayerMagWeight (retrain.epochs={epochs})" for epochs in EPOCHS}
ARMS = {*LABELLED, *EDITED}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return armed_store(Store(str(tmp_path_factory.mktemp("arms"))))


def named(*made: tuple[TrialSpec, str | None], **fields: Any) -> list[str]:
    rows = [row_of(spec, arm=label, **fields) for spec, label in made]
    return list(with_arms(pd.DataFrame(rows))["arm"])


def test_a_label_says_what_its_arm_is_and_only_what_it_does_not_say_is_added(store: Store) -> None:
    rows = with_arms(trials(store))
    assert set(rows["arm"]) == {"Dense", *ARMS}
    assert set(rows["label"]) == {"Dense", "LayerMagWeight", *LABELLED}
    assert rows.groupby("arm")["settings"].nunique().eq(1).all()


def test_a_label_in_several_settings_is_told_apart_by_what_differs_between_its_own() -> None:
    made = [trial("SNIP", retrain=ONCE), trial("SNIP"), trial("SNIP", scoring=Scoring(batches=7))]
    rows = named((made[0], "mine"), (made[1], "mine"), (made[2], "other"))
    assert rows == ["mine (retrain.epochs=1)", "mine (retrain.epochs=12)", "other"]
    assert named((made[0], "mine"), (trial(retrain=ONCE), "mine")) == [
        "mine (use=LayerSNIP)",
        "mine (use=LayerMagWeight)",
    ]


def test_labels_that_are_strategies_say_nothing_of_settings() -> None:
    made = [(trial("SNIP", retrain=ONCE), "LayerSNIP"), (trial(), None), (trial(rewind=7), "late")]
    assert named(*made) == ["LayerSNIP (retrain.epochs=1)", "LayerMagWeight (retrain.epochs=12)", "late"]


def test_a_network_that_is_not_pruned_says_what_only_it_has_otherwise() -> None:
    """No name of the others becomes longer by it, but a view says that they leave it out."""
    pruned = [trial("SNIP"), trial()]

    def unpruned(epochs: int) -> TrialSpec:
        return TrialSpec(score=ScoreSpec(dense=dense()), retrain=Training(epochs=epochs))

    for epochs, names, unsaid in (
        ([12], ["Unpruned"], []),
        ([5], ["Unpruned (retrain.epochs=5)"], ["retrain.epochs"]),
        ([5, 12], [f"Unpruned (retrain.epochs={each})" for each in (5, 12)], ["retrain.epochs"]),
    ):
        rows = with_arms(pd.DataFrame([row_of(spec) for spec in (*pruned, *map(unpruned, epochs))]))
        assert rows["arm"].tolist() == ["LayerSNIP", "LayerMagWeight", *names]
        assert rows.attrs["unsaid"] == unsaid


def test_no_two_arms_have_one_name() -> None:
    made = [(trial(), "a (rewind=7)"), (trial(rewind=7), "a"), (trial(rewind=8), "a")]
    names = named(*made)
    assert len(set(names)) == 3, names


def test_what_older_code_made_says_so_whatever_it_is_called() -> None:
    today, old = (row_of(trial("SNIP"), arm=arm) for arm in ("mine", None))
    rows = pd.DataFrame([today, old | {"trial_id": "older"}])
    assert with_arms(rows)["arm"].tolist() == ["mine", "LayerSNIP (code=older)"]


def test_an_experiment_with_two_names_is_one_arm_with_the_name_of_its_last_trial() -> None:
    rows = [
        row_of(
            trial("SNIP", of=dense(seed=seed)), arm=label, finished_at=pd.Timestamp(2026, 1, day), retrained=0.1 * seed
        )
        for seed, label, day in ((0, None, 1), (1, "mine", 3), (2, "LayerSNIP", 2))
    ]
    found = curves(pd.DataFrame(rows))
    assert found[["arm", "n"]].values.tolist() == [["mine", 3]]
    assert found["mean"].item() == pytest.approx(0.1)


def test_a_trial_is_called_as_the_selected_sweep_calls_it_else_as_the_newest(tmp_path: Path) -> None:
    store, spec = Store(str(tmp_path)), trial("SNIP")
    write_arm(store, spec, "first name", 0.8, sweep="a")
    assert trials(store)["arm"].tolist() == ["first name"]
    for place, (sweep, label) in enumerate({"b": "newest", "a": "older", "c": None}.items()):
        write_sweep(store, sweep, [(spec, label)])
        os.utime(tmp_path / "sweeps" / f"{sweep}.parquet", (9 - place, 9 - place))
    assert trials(store)["arm"].tolist() == show(store, spec.trial_id)["arm"].tolist() == ["newest"]
    assert [trials(store, ["arm"], sweep=name)["arm"].item() for name in "abc"] == ["older", "newest", "LayerSNIP"]
    assert trials(store, arm="newest")["trial_id"].tolist() == [spec.trial_id]
    assert trials(store, arm=["older", "first name"]).empty
    assert chosen_trials(store, [], only={"sweep": "a"})["arm"].tolist() == ["older"]  # it ran the trial


def test_an_experiment_is_called_as_the_newest_sweep_calls_a_part_of_it(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    made = [trial("SNIP", of=dense(seed=seed)) for seed in range(4)]
    for spec in made:
        write_arm(store, spec, "first", 0.8)
    for place, (sweep, label, wanted) in enumerate((("a", "first", made), ("b", "second", made[:1]))):
        write_sweep(store, sweep, [(spec, label) for spec in wanted])
        os.utime(tmp_path / "sweeps" / f"{sweep}.parquet", (place, place))
    assert curves(trials(store))[["arm", "n"]].values.tolist() == [["second", 4]]
    assert curves(trials(store, sweep="a"))["arm"].tolist() == ["first"]


def test_arms_are_chosen_by_name_or_label_and_called_as_without_the_choice(store: Store) -> None:
    one = chosen_trials(store, [], only={"arm": "LayerMagWeight (retrain.epochs=3)", "seed": "1"})
    assert set(one["arm"]) == {"LayerMagWeight (retrain.epochs=3)"}
    assert set(chosen_trials(store, [], only={"arm": ["no dropout", "LayerMagWeight"]})["arm"]) == {
        "no dropout",
        *EDITED,
    }
    assert set(chosen_trials(store, [], sweep="labelled")["arm"]) == {"Dense", *LABELLED}
    with pytest.raises(ValueError, match=r"--only arm=no dropuot: no trial has it; did you mean 'no dropout'\?"):
        narrowed(trials(store), {"arm": "no dropuot"})


def test_every_frame_keeps_the_arms_apart(store: Store) -> None:
    rows = trials(store)
    found = table(rows)
    assert found[found["arm"] != "Dense"].groupby("arm")["n"].sum().to_dict() == dict.fromkeys(ARMS, 2 * len(LEVELS))
    assert curves(rows).groupby("arm").size().to_dict() == dict.fromkeys(ARMS, len(LEVELS))
    assert set(training_curves(rows, metrics(store))["arm"]) == {"Dense", *ARMS}
    assert set(compare(rows, "dropout")["strategy"]) == ARMS - {"dropout"}
    assert set(setting_columns(rows)) >= {"retrain.epochs", "scoring.dropout", "scoring.shift", "rewind"}
    pairs = overlap(store)
    known = related(pairs, rows)
    assert {*known["arm"], *known["arm_b"]} == ARMS
    other = known[known["relation"] == "other settings"]
    assert {frozenset(each) for each in zip(other["arm"], other["arm_b"], strict=True)} >= {
        frozenset(("dropout", "no dropout")),
        frozenset(("LayerGradCAMShift shift=0.1", "LayerGradCAMShift shift=10")),
    }
    assert "other settings" in set(decompose(pairs, rows)["relation"])
    assert status(store, by_arm=True).set_index(["sweep", "arm"])["completed"].to_dict() == {
        ("labelled", "Dense"): 2,
        ("edited", "LayerMagWeight"): 12,
        **{("labelled", label): 4 for label in LABELLED},
    }


def test_sql_has_the_names_of_the_views_beside_the_labels(store: Store) -> None:
    found = query(store, "select s.arm, count(*) as n from trials join settings s using (trial_id) group by 1")
    assert set(found["arm"]) == {"Dense", *ARMS}
    assert query(store, "select count(*) as n from trials where arm is null")["n"].item() == 12


def seeds(
    count: int, label: str | None, value: float, criterion: str = "MagWeight", **fields: Any
) -> list[dict[str, Any]]:
    made = [trial(criterion, of=dense(seed=seed), **fields) for seed in range(count)]
    noise = np.random.default_rng(int(100 * value)).normal(0, 0.05, count)
    return [row_of(spec, arm=label, retrained=value + noise[seed]) for seed, spec in enumerate(made)]


def mean_difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    return float(np.mean([one["retrained"] - other["retrained"] for one, other in zip(ours, theirs, strict=True)]))


def test_a_baseline_is_an_arm_a_label_or_the_strategy_of_one_label() -> None:
    late = seeds(6, "late", 0.7, rewind=9)
    rows = pd.DataFrame([*late, *seeds(6, "LayerSNIP", 0.8, "SNIP"), *seeds(6, "mine", 0.6, "SNIP", retrain=ONCE)])
    for name in ("late", "LayerMagWeight"):
        assert compare(rows, name)["baseline"].unique().tolist() == ["late"]
    assert compare(rows, "mine").set_index("strategy")["n"].to_dict() == {"LayerSNIP": 6, "late": 6}
    with pytest.raises(
        ValueError, match=r"unknown baseline 'lat'; did you mean 'late'\? the store has LayerSNIP, late"
    ):
        compare(rows, "lat")
    more = rows.assign(arm=rows["arm"].replace("LayerSNIP", "yours"))
    with pytest.raises(ValueError, match="baseline 'LayerSNIP' is the strategy of mine, yours; choose one of them"):
        compare(more, "LayerSNIP")


def test_a_labelled_arm_is_paired_with_the_baseline_that_differs_in_the_fewest_settings() -> None:
    many, one = seeds(6, None, 0.7), seeds(6, None, 0.6, retrain=ONCE)
    late = seeds(6, "late", 0.8, retrain=ONCE, rewind=9)
    rows = pd.DataFrame([*many, *one, *late])
    found = compare(rows)
    assert found[["strategy", "baseline", "n"]].values.tolist() == [["late", "LayerMagWeight (retrain.epochs=1)", 6]]
    assert found["difference"].item() == pytest.approx(mean_difference(late, one))
    exact = compare(rows, "LayerMagWeight (retrain.epochs=12)").set_index("strategy")
    expected = {"LayerMagWeight (retrain.epochs=1)": mean_difference(one, many), "late": mean_difference(late, many)}
    assert exact["difference"].to_dict() == pytest.approx(expected)


def test_arms_of_other_fine_tuned_networks_are_not_paired() -> None:
    other = [trial(of=dense(seed=seed, finetune=Training(epochs=9))) for seed in range(6)]
    rows = [*seeds(6, "base", 0.7), *(row_of(spec, arm="longer") for spec in other)]
    assert compare(pd.DataFrame(rows), "base")["n"].tolist() == [0]


def test_rows_that_cannot_be_tested_do_not_count_in_the_correction() -> None:
    rows = [*seeds(8, None, 0.7), *seeds(8, None, 0.8, "SNIP"), *seeds(8, None, 0.75, "Wanda")]
    alone = compare(pd.DataFrame(rows))
    lonely = [*rows, *seeds(8, None, 0.6, "SNIP", retrain=ONCE), *seeds(1, None, 0.6, "Fisher")]
    older = [row | {"trial_id": f"old{i}", "retrained": 0.1} for i, row in enumerate(rows[8:16])]
    found = compare(pd.DataFrame([*lonely, *older])).set_index("strategy")
    assert sorted(found["n"]) == [0, 1, 8, 8]
    assert not any("code=" in arm for arm in found.index)
    tested = found[found["n"] == 8]
    assert tested["p_differs"].between(1e-9, 0.9).all()
    assert tested["p_differs"].tolist() == pytest.approx(alone["p_differs"].tolist(), rel=1e-12)
    assert tested["seeds_needed"].tolist() == alone["seeds_needed"].tolist()
    assert tested["p_differs"].tolist() == pytest.approx((2 * tested["p_t"]).clip(upper=1).tolist(), rel=1e-12)
