"""Who was made with which shared stage, how `cache` names them, and what goes with the last trial that used it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.rows import row_of, write_trial
from builders.specs import dense, sweep, trial
from builders.stores import write_artifact

from deepcuts.experiment.settings import Distill, Scoring, Training
from deepcuts.experiment.spec import DenseSpec, ScoreSpec, TrialSpec, outlier_pass, score_spec
from deepcuts.store.cache import shared_stages
from deepcuts.store.removal import plan_removal, remove
from deepcuts.store.store import Store
from deepcuts.store.used_stages import used_stages
from deepcuts.trial.row import identity_columns

DENSE = dense()
PADDED = Scoring(count_padding=True)
OWL = {"scope": "owl", "outliers": outlier_pass("owl", Scoring())}
TAUGHT = Training(epochs=2, distill=Distill())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def ran(store: Store, *specs: TrialSpec) -> None:
    """Write the rows of trials, and the artifacts that they leave, with metas as trials write them."""
    for spec in specs:
        told = identity_columns(spec, "some", None)
        write_trial(store, row_of(spec) | {name: each for name, each in told.items() if name != "torch"})
        write_artifact(store, "dense", spec.dense.dense_id, **about(spec.dense))
        for score in spec.passes:
            write_scores(store, score)
        if spec.distills:
            write_artifact(store, "teachers", spec.dense.dense_id, dense_id=spec.dense.dense_id)
        if spec.previous is not None:
            write_artifact(store, "rounds", spec.previous.trial_id, trial_id=spec.previous.trial_id)


def about(spec: DenseSpec) -> dict[str, Any]:
    return {"dense_id": spec.dense_id, "spec": spec.model_dump(mode="json")}


def write_scores(store: Store, score: ScoreSpec) -> None:
    settings = score.model_dump(mode="json", exclude={"dense"})
    write_artifact(store, "scores", str(score.score_id), dense_id=score.dense.dense_id, spec=settings)


def listed(store: Store) -> dict[str, int]:
    return {f"{row['kind']} {row['what']}": row["used_by"] for row in shared_stages(store)}


def test_wanda_scores_count_for_owl_and_a_teacher_for_those_that_it_taught(store: Store) -> None:
    owl = trial(**OWL)
    excluding = TrialSpec(**dict(owl) | {"score": score_spec(DENSE, "MagWeight", Scoring(), False, ["*.query.*"])})
    ran(store, owl, excluding, trial("Wanda"), trial("Wanda", PADDED), trial("Wanda", **OWL), trial(retrain=TAUGHT))
    used = used_stages(store)
    for each in (owl, excluding):
        of_magnitude = ("scores", each.score.score_id)  # which nothing stores
        assert used[each.trial_id] == {("dense", DENSE.dense_id), of_magnitude, ("scores", each.wanda.score_id)}
    assert listed(store) == {
        "dense toy seed 0": 6,
        "teachers toy seed 0": 1,
        "scores toy seed 0 Wanda (count_padding=False, exclude=[])": 3,  # of Owl, of the plain Wanda, and of its Owl
        "scores toy seed 0 Wanda (count_padding=True, exclude=[])": 1,
        "scores toy seed 0 Wanda (count_padding=False, exclude=['*.query.*'])": 1,
    }


def test_stages_of_one_name_are_told_apart_by_what_differs(store: Store) -> None:
    longer = dense(finetune=Training(epochs=7))
    ran(store, *(trial("GradCAMShift", Scoring(shift=shift)) for shift in (0.1, 10)), trial("SNIP"))
    ran(store, trial("SNIP", of=longer), trial("SNIP", of=dense(seed=1)))
    assert listed(store) == {
        "dense toy seed 0 (finetune.epochs=5)": 3,
        "dense toy seed 0 (finetune.epochs=7)": 1,
        "dense toy seed 1": 1,
        "scores toy seed 0 GradCAMShift (shift=0.1)": 1,
        "scores toy seed 0 GradCAMShift (shift=10.0)": 1,
        "scores toy seed 0 SNIP (finetune.epochs=5)": 1,
        "scores toy seed 0 SNIP (finetune.epochs=7)": 1,
        "scores toy seed 1 SNIP": 1,
    }


def test_the_networks_of_rounds_are_told_apart_by_their_levels(store: Store) -> None:
    for keep in (0.8, 0.5):
        ran(store, *sweep(sparsities=[0.75], rounds={"keep": keep}).trials())
    names = sorted(name for name in listed(store) if name.startswith("rounds"))
    assert names[0] == "rounds toy seed 0 LayerMagWeight round 1 (sparsity=0.2)"
    assert "rounds toy seed 0 LayerMagWeight round 1 (sparsity=0.5)" in names
    assert len(set(names)) == len(names) == 6 + 1


def test_stages_go_with_the_last_trial_that_was_made_with_them(store: Store) -> None:
    owl, plain, taught = trial(**OWL), trial(), trial(retrain=TAUGHT)
    *_, last = rounds = [each for each in sweep(sparsities=[0.36], rounds={"keep": 0.8}).trials() if each.prunes]
    ran(store, owl, plain, taught, *rounds)
    going = {
        "owl": (owl, [("scores", owl.wanda.score_id)]),
        "taught": (taught, [("teachers", DENSE.dense_id)]),
        "last round": (last, [("rounds", rounds[0].trial_id)]),
        "first round": (rounds[0], [("rounds", rounds[0].trial_id)]),
        "plain": (plain, []),
    }
    for name, (spec, expected) in going.items():
        found = [(stage["kind"], stage["id"]) for stage in plan_removal(store, [spec.trial_id]).stages]
        assert found == expected, name
    everything = [each.trial_id for each in (owl, plain, taught, *rounds)]
    remove(store, plan_removal(store, everything))
    assert shared_stages(store) == []
