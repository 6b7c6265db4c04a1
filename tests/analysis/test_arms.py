"""What is averaged or paired agrees in all settings but the seed, and views name what differs."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
from builders.rows import row_of
from builders.specs import dense, sweep, trial

from deepcuts.analysis.arms import agree, with_arms
from deepcuts.analysis.checklist import checklist
from deepcuts.analysis.compare import compare, in_words
from deepcuts.analysis.curves import curves, table
from deepcuts.analysis.pairs import decompose, related
from deepcuts.experiment.settings import Scoring, Training
from deepcuts.experiment.spec import ModelSource, ScoreSpec, TrialSpec
from deepcuts.experiment.tasks import TASKS, Holdout, Task

ONE, MANY = Training(epochs=1), Training(epochs=12)


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype({"compression": float, "sparsity_asked": float})


def arms(*specs: TrialSpec) -> list[str]:
    return list(with_arms(frame(*map(row_of, specs)))["arm"])


def seeds(count: int, criterion: str = "MagWeight", **fields: Any) -> list[TrialSpec]:
    return [trial(criterion, of=dense(seed=seed), **fields) for seed in range(count)]


def test_a_sweep_has_one_arm_for_each_strategy_whatever_its_criterion_uses() -> None:
    strategies = ["LayerMagWeight", "GlobalSNIP", "RowWanda", "LayerSmoothGradCAMShift+shuffle", "LayerRandom"]
    made = sweep(strategies=strategies, seeds=[0, 1], compressions=[1, 2, 3], scoring={"shift": 3}).trials()
    assert set(arms(*made)) == {"Dense", "Unpruned", *strategies}


def test_the_passes_of_owl_are_settings_of_scoring_like_those_of_other_strategies() -> None:
    strategies = ["OwlMagWeight", "OwlSmoothGrad", "LayerMagWeight", "LampSNIP"]
    few, many = (sweep(strategies=strategies, scoring={"batches": count}).trials() for count in (10, 1000))
    assert set(arms(*few)) == {"Dense", *strategies}
    each = {trial.trial_id: trial for trial in (*few, *many)}.values()
    found = set(arms(*each)) - {"Dense", "LayerMagWeight"}
    assert found == {
        f"{name} (scoring.batches={count})"
        for name in strategies
        if name[0] == "O" or "SNIP" in name
        for count in (10, 1000)
    }


def test_excluded_tensors_tell_arms_apart() -> None:
    whole, part = (sweep(exclude=globs).trials() for globs in ([], ["pooler", "layer.0.*"]))
    assert {arm for arm in arms(*whole, *part) if arm.startswith("LayerMagWeight")} == {
        "LayerMagWeight (exclude=[])",
        'LayerMagWeight (exclude=["layer.0.*", "pooler"])',
    }


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ({}, {"retrain": ONE}, ("(retrain.epochs=12)", "(retrain.epochs=1)")),
        ({}, {"rewind": 7}, ("(rewind=init)", "(rewind=7)")),
        ({"of": dense(device="cuda")}, {}, ("(device=cuda)", "(device=cpu)")),
        ({"of": dense(precision="bf16")}, {}, ("(precision=bf16)", "(precision=fp32)")),
        ({"of": dense(length_grouping=False)}, {}, ("(length_grouping=false)", "(length_grouping=true)")),
        ({"of": dense(max_train_examples=9)}, {}, ("(max_train_examples=9)", "(max_train_examples=null)")),
        ({"of": dense(finetune=Training(lr=0.5))}, {}, ("(finetune.lr=0.5)", "(finetune.lr=1e-05)")),
        ({"scoring": Scoring(batches=10)}, {}, ("(scoring.batches=10)", "(scoring.batches=1000)")),
        ({"of": dense(model=ModelSource(name="toy", digest="abcdefghij"))}, {}, ("abcdefgh)", "toy-1)")),
        ({"of": dense(task=TASKS["toy"].model_copy(update={"metric": "f1"}))}, {}, ("=f1)", "=null)")),
    ],
)
def test_what_differs_is_named_as_in_the_sweep_file(one: Any, other: Any, names: tuple[str, str]) -> None:
    found = arms(trial("SNIP", **one), trial("SNIP", **other))
    assert all(arm.startswith("LayerSNIP (") for arm in found)
    assert all(arm.endswith(name) for arm, name in zip(found, names, strict=True)), found


def test_names_paths_seeds_and_levels_are_no_settings() -> None:
    tasks = [Task(text=("t",), classes=2, files={"train": name}, digest="d") for name in "ab"]
    tasks[1] = tasks[1].model_copy(update={"holdout": Holdout(size=0.2)})  # split into the same examples
    sources = [ModelSource(name="toy", digest="d", revision=name) for name in "ab"]
    given = [{"task": task, "model": model} for task, model in zip(tasks, sources, strict=True)]
    made = [trial(of=dense(**given[0])), trial(of=dense(**given[1], seed=1), compression=3.0)]
    assert arms(*made) == ["LayerMagWeight"] * 2
    assert dense(**given[0]).dense_id == dense(**given[1]).dense_id


def test_a_setting_of_retraining_that_follows_the_fine_tuning_is_not_named_twice() -> None:
    made = [trial(of=dense(finetune=Training(lr=lr)), retrain=Training(epochs=12, lr=lr)) for lr in (0.1, 0.2)]
    assert arms(*made) == ["LayerMagWeight (finetune.lr=0.1)", "LayerMagWeight (finetune.lr=0.2)"]


def test_a_spec_without_its_defaults_or_with_fields_to_come_is_read() -> None:
    rows = [row_of(trial("SNIP", of=dense(seed=seed), retrain=MANY)) for seed in range(4)]
    bare = json.loads(rows[1]["spec"])
    del bare["score"]["dense"]["length_grouping"], bare["score"]["dense"]["finetune"], bare["retrain"]["lr"]
    del bare["score"]["dense"]["task"]["metric"], bare["rewind"], bare["score"]["dropout"]
    rows[1]["spec"] = json.dumps(bare)
    rows[2]["spec"] = json.dumps(json.loads(rows[2]["spec"]) | {"rounds": 3})
    rows[3]["spec"] = "half {"
    rest = ["LayerSNIP", "LayerSNIP", "LayerSNIP (rounds=3)", "LayerSNIP (settings=unknown)"]
    assert list(with_arms(frame(*rows))["arm"]) == rest


def test_trials_of_older_code_are_apart_from_those_of_today() -> None:
    today = [row_of(spec) for spec in seeds(3)]
    old = [row | {"trial_id": f"old{i}"} for i, row in enumerate(today[:2])]
    older = [today[0] | {"trial_id": "older", "finished_at": pd.Timestamp(0)}]
    rows = frame(*old, *today, *older).fillna({"finished_at": pd.Timestamp(1)})
    name = "LayerMagWeight (code=older"
    assert list(with_arms(rows)["arm"]) == [f"{name})"] * 2 + ["LayerMagWeight"] * 3 + [f"{name} 2)"]


def test_strategies_agree_where_one_sweep_could_have_made_both() -> None:
    rows = with_arms(
        frame(*(row_of(trial(name, scoring=Scoring(batches=9))) for name in ("MagWeight", "SNIP", "SmoothGrad")))
    )
    one, two, three = rows["settings"]
    assert agree(one, two)
    assert agree(two, three)  # batches and smooth_batches are two settings
    other = with_arms(frame(row_of(trial("MagGrad", scoring=Scoring(batches=8)))))["settings"].item()
    assert agree(one, other)
    assert not agree(two, other)


def test_means_are_over_trials_that_agree_and_views_name_the_others() -> None:
    few = [row_of(spec, retrained=0.6) for spec in seeds(3, retrain=ONE)]
    many = [row_of(spec, retrained=0.8) for spec in seeds(5, retrain=MANY)[2:]]
    found = curves(frame(*few, *many))[["arm", "n", "mean"]].values.tolist()
    expected = [("LayerMagWeight (retrain.epochs=12)", 3, 0.8), ("LayerMagWeight (retrain.epochs=1)", 3, 0.6)]
    assert sorted(found) == sorted([arm, n, pytest.approx(mean)] for arm, n, mean in expected)
    assert sorted(table(frame(*few, *many))[["arm", "n", "retrained"]].values.tolist()) == sorted(found)
    assert curves(frame(*few))["arm"].tolist() == ["LayerMagWeight"]


def test_levels_are_of_networks_in_the_settings_of_the_arm() -> None:
    rows = []
    for epochs, value in ((1, 0.7), (3, 0.9)):
        of = dense(finetune=Training(epochs=epochs))
        rows.append(row_of(trial(of=of), dense=value))
        for retrained in (1, 2):
            unpruned = TrialSpec(score=ScoreSpec(dense=of), retrain=Training(epochs=retrained))
            rows.append(row_of(unpruned, dense=value, retrained=value - 0.1 * retrained))
    rows.append(row_of(trial(of=of, retrain=Training(epochs=2)), dense=0.9))
    found = curves(frame(*rows)).set_index("arm")
    first, second, third = (
        f"LayerMagWeight (finetune.epochs={f}, retrain.epochs={r})" for f, r in ((1, 12), (3, 12), (3, 2))
    )
    assert found["dense"].to_dict() == {first: 0.7, second: 0.9, third: 0.9}
    assert found.loc[third, "unpruned"] == pytest.approx(0.7)
    assert found.loc[[first, second], "unpruned"].isna().all()


def test_arms_in_other_settings_are_not_paired() -> None:
    baseline = [row_of(spec, retrained=0.8 + 0.01 * i) for i, spec in enumerate(seeds(6, retrain=MANY))]
    snip = [row_of(spec, retrained=0.5) for spec in seeds(6, "SNIP", retrain=ONE)]
    (row,) = compare(frame(*baseline, *snip)).to_dict("records")
    assert (row["strategy"], row["baseline"]) == ("LayerSNIP (retrain.epochs=1)", "LayerMagWeight")
    assert (row["n"], row["verdict"]) == (0, "undecided")
    assert "share no seed in the same settings" in in_words(row, 0.01)
    alike = [row_of(spec, retrained=0.7) for spec in seeds(6, "SNIP", retrain=MANY)]
    found = compare(frame(*baseline, *snip, *alike)).set_index("strategy")
    assert found.loc["LayerSNIP (retrain.epochs=12)", ["n", "baseline"]].tolist() == [
        6,
        "LayerMagWeight (retrain.epochs=12)",
    ]
    assert found.loc["LayerSNIP (retrain.epochs=1)", "n"] == 0


def test_an_arm_is_compared_with_every_arm_of_the_baseline_that_agrees_and_never_with_their_mean() -> None:
    baseline = [
        row_of(s, retrained=v) for b, v in ((5, 0.6), (9, 0.8)) for s in seeds(6, "SNIP", scoring=Scoring(batches=b))
    ]
    ours = [row_of(spec, retrained=0.7 + 0.001 * i) for i, spec in enumerate(seeds(6))]
    found = compare(frame(*baseline, *ours), "LayerSNIP").set_index("baseline")
    assert found["n"].to_dict() == {"LayerSNIP (scoring.batches=5)": 6, "LayerSNIP (scoring.batches=9)": 6}
    assert found["difference"].tolist() == pytest.approx([0.1025, -0.0975])


@pytest.mark.parametrize("baseline", ["Dense", "Unpruned"])
def test_networks_that_are_not_pruned_are_paired_in_the_same_settings(baseline: str) -> None:
    rows = []
    for epochs, value in ((1, 0.7), (3, 0.9)):
        for seed in range(2):
            of = dense(seed=seed, finetune=Training(epochs=epochs))
            whole = ScoreSpec(dense=of)
            rows.append(row_of(TrialSpec(score=whole), dense=value))
            rows.append(row_of(TrialSpec(score=whole, retrain=MANY), dense=value, retrained=value))
            rows.append(row_of(trial(of=of), dense=value, retrained=value - 0.1))
    found = compare(frame(*rows), baseline)
    assert found["difference"].tolist() == pytest.approx([-0.1, -0.1])
    assert found["baseline"].tolist() == [f"{baseline} (finetune.epochs={epochs})" for epochs in (1, 3)]


def overlaps(rows: pd.DataFrame) -> pd.DataFrame:
    """All pairs of the trials, every measure of a pair its number."""
    ids = list(rows["trial_id"])
    pairs = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    found = pd.DataFrame(pairs, columns=["trial_a", "trial_b"]).assign(layer=None)
    names = ("pruned_iou", "pruned_iou_chance", "kept_iou", "kept_iou_chance", "kappa", "kappa_highest")
    return found.assign(**{name: range(len(found)) for name in names})


def test_masks_of_trials_in_other_settings_are_no_other_seed() -> None:
    specs = [*seeds(2, "SNIP", scoring=Scoring(batches=10)), *seeds(2, "SNIP", scoring=Scoring(batches=1000))]
    rows = frame(*map(row_of, specs), *map(row_of, seeds(1, "MagGrad", scoring=Scoring(batches=10))))
    found = related(overlaps(rows), rows)
    pairs = set(zip(found["arm"], found["arm_b"], found["relation"], strict=True))
    few, many = "LayerSNIP (scoring.batches=10)", "LayerSNIP (scoring.batches=1000)"
    other = (few, "LayerMagGrad (scoring.batches=10)", "other strategy")
    assert pairs == {(few, few, "other seed"), (many, many, "other seed"), (few, many, "other settings"), other}


def test_starts_and_rounds_of_scoring_are_settings_by_the_names_that_a_sweep_file_has() -> None:
    specs = [trial("SNIP"), trial("SNIP", scoring_rounds=8), trial("SNIP", start="shuffled")]
    assert list(with_arms(frame(*map(row_of, specs)))["arm"]) == [
        "LayerSNIP (scoring.rounds=1, start=rewind)",
        "LayerSNIP (scoring.rounds=8, start=rewind)",
        "LayerSNIP (scoring.rounds=1, start=shuffled)",
    ]


def test_controls_have_rows_of_their_own_in_the_decomposition() -> None:
    specs = [*seeds(2), *seeds(2, "SNIP"), *seeds(2, "Random"), *seeds(2, "SNIP", control="shuffle")]
    rows = frame(*map(row_of, specs))
    pairs = overlaps(rows)
    control = dict(zip(rows["trial_id"], rows["strategy"].str.contains("Random|shuffle"), strict=True))
    pairs["kappa"] = [
        0.0 if control[a] or control[b] else 0.5 for a, b in zip(pairs["trial_a"], pairs["trial_b"], strict=True)
    ]
    found = decompose(pairs, rows)
    columns = ["relation", "of", "arms", "names", "pairs", "kappa"]
    methods, controls = "LayerMagWeight, LayerSNIP", "LayerRandom, LayerSNIP+shuffle"
    assert found[columns].values.tolist() == [
        ["other seed", "methods", 2, methods, 2, 0.5],
        ["other seed", "controls", 2, controls, 2, 0.0],
        ["other strategy", "methods", 2, methods, 2, 0.5],
        ["other strategy", "controls", 2, controls, 10, 0.0],
    ]


def test_a_point_with_a_seed_of_each_setting_has_no_spread() -> None:
    rows = frame(*(row_of(spec) for spec in (trial(retrain=ONE), trial(of=dense(seed=1), retrain=MANY))))
    rows = rows.assign(**dict.fromkeys(["flops", "flops_nonzero"], 1), deepcuts="1", torch="2", transformers="5")
    found = checklist(rows.assign(device="cpu", precision="fp32", git_commit="a")).set_index("item")
    row = found.filter(like="several seeds", axis=0).iloc[0]
    assert (row["met"], row["why"]) == (False, "2 of 2 points have one seed, and so no spread")
