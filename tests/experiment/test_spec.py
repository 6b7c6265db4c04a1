"""What decides an id, and what does not."""

from __future__ import annotations

import pytest
from builders.specs import TOY, dense, trial
from pydantic import ValidationError

from deepcuts.experiment.settings import Scoring, Training
from deepcuts.experiment.spec import (
    VERSIONS,
    DenseSpec,
    ModelSource,
    ScoreSpec,
    TrialSpec,
    canonical,
    outlier_pass,
    score_spec,
)
from deepcuts.experiment.tasks import TASKS, Task
from deepcuts.pruning.criteria import CRITERIA

BERT = ModelSource(name="bert-base-uncased")


def test_ids_are_pinned():
    """Where this fails, every result of every store is out of reach: raise a stage's version instead."""
    bert = dense(model=BERT, dataset="sst2", task=TASKS["sst2"])
    pruned = trial("SmoothGradCAMShift", of=bert, compression=3.5)
    whole = ScoreSpec(dense=bert)
    assert bert.dense_id == "ca6f00dd5e3efebf"
    assert dense().dense_id == "a5890af8631aa283"
    assert pruned.score.score_id == "8c044aacfab7a6b9"
    assert pruned.score.pass_id == "3103ec5ec87a32e4"
    assert pruned.trial_id == "f8d9439a3503db62"
    assert TrialSpec(score=whole).trial_id == "2226a1b26261e3dd"
    assert TrialSpec(score=whole, retrain=Training(epochs=12)).trial_id == "012365c171dce650"
    assert trial("Random").trial_id == "54c246a0c6e6f0f6"
    assert trial("SNIP", control="shuffle").trial_id == "649781c1019d999d"


def test_an_id_is_16_lowercase_hex_digits():
    for key in (dense().dense_id, trial("SNIP").score.score_id, trial("SNIP").score.pass_id, trial().trial_id):
        assert len(key) == 16
        assert set(key) <= set("0123456789abcdef")


def test_a_new_field_with_a_default_changes_no_id():
    class Newer(DenseSpec):
        layers_frozen: int = 0
        extras: dict[str, int] = {}

    fields = {"model": TOY, "dataset": "toy", "task": TASKS["toy"], "seed": 3}
    assert Newer(**fields).dense_id == DenseSpec(**fields).dense_id
    assert Newer(**fields, layers_frozen=2).dense_id != DenseSpec(**fields).dense_id


def test_a_default_that_is_written_out_changes_no_id():
    assert dense(max_tokens=128, finetune=Training(lr=1e-5)).dense_id == dense().dense_id


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"head": "sigmoid5"},
        {"keep_head": True},
        {"head_in_weights": True},
        {"loss": "mse_sum"},
        {"max_tokens": 64},
        {"max_train_examples": 100},
        {"precision": "bf16"},
        {"tf32": True},
        {"length_grouping": False},
        {"compile": True},
        {"device": "cuda"},
        {"finetune": Training(micro_batch=4)},
        {"model": ModelSource(name="toy", digest="toy-2")},
        {"task": TASKS["cola"]},
    ],
)
def test_what_changes_bits_changes_every_id(change):
    one, other = trial("SNIP"), trial("SNIP", of=dense(**change))
    assert one.dense.dense_id != other.dense.dense_id
    assert one.score.score_id != other.score.score_id
    assert one.trial_id != other.trial_id


@pytest.mark.parametrize(
    "change", [{"compression": 3.0}, {"scope": "global"}, {"control": "shuffle"}, {"rewind": "none"}, {"rewind": 7}]
)
def test_what_comes_after_the_scores_leaves_them_shared(change):
    one, other = trial("SNIP"), trial("SNIP", **change)
    assert one.score.score_id == other.score.score_id
    assert one.trial_id != other.trial_id


def test_the_name_of_a_dataset_and_of_a_folder_enter_no_id():
    content = Task(text=("a",), classes=2, files={"train": "/x/a.csv", "validation": "/x/b.csv"}, digest="d" * 32)
    moved = content.model_copy(update={"files": {"train": "/y/z.tsv", "validation": "/y/b.csv"}, "text": ("b",)})
    assert dense(task=content, dataset="mine").dense_id == dense(task=moved, dataset="yours").dense_id
    other = content.model_copy(update={"digest": "e" * 32})
    assert dense(task=content).dense_id != dense(task=other).dense_id


def test_a_folder_enters_by_its_content_and_a_hub_id_by_name_and_revision():
    at = [ModelSource(name=name, digest="f" * 32) for name in ("/a", "/b")]
    assert dense(model=at[0]).dense_id == dense(model=at[1]).dense_id
    ids = {dense(model=ModelSource(name=name, revision=at)).dense_id for name in ("a", "b") for at in ("main", "v1")}
    assert len(ids) == 4


@pytest.mark.parametrize("criterion", CRITERIA)
def test_settings_that_a_criterion_does_not_use_do_not_enter_its_id(criterion):
    row = CRITERIA[criterion]
    uses = {
        "batches": row.data in ("plain", "forward", "curvature"),
        "batch_size": row.data != "none",
        "micro_batch": row.data != "none",
        "smooth_batches": row.data == "smoothed",
        "smoothing_passes": row.data == "smoothed",
        "noise_std": row.data == "smoothed",
        "dropout": row.data in ("plain", "smoothed", "curvature"),
        "shift": "Shift" in criterion,
        "count_padding": "CAM" in criterion or row.data == "forward",
    }
    assert {*uses, "rounds"} == set(Scoring.model_fields)  # rounds are of the trial
    other = {"dropout": False, "count_padding": True, "noise_std": 0.5}
    plain = trial(criterion)
    for key, used in uses.items():
        changed = trial(criterion, Scoring(**{key: other.get(key, 7)}))
        assert (changed.score.score_id != plain.score.score_id) == used, key
        assert (changed.trial_id != plain.trial_id) == used, key


def test_criteria_of_one_kind_share_a_pass_and_no_others_do():
    passes = {name: trial(name).score.pass_id for name in CRITERIA}
    plain = [passes[name] for name in ("MagGrad", "SNIP", "Fisher", "GradCAM", "GradCAMShift")]
    smoothed = [passes[name] for name in ("SmoothGrad", "SmoothGradCAM", "SmoothGradCAMShift")]
    assert len(set(plain)) == len(set(smoothed)) == 1
    assert plain[0] != smoothed[0]
    assert passes["MagAct"] == passes["Wanda"] != plain[0]


def test_a_version_makes_just_its_own_stage_and_what_follows_stale(monkeypatch):
    def ids():
        whole = ScoreSpec(dense=dense())
        unpruned = TrialSpec(score=whole, retrain=Training())
        scored = trial("SNIP")
        return [dense().dense_id, unpruned.trial_id, scored.score.score_id, scored.trial_id]

    before = ids()
    for stage, stale in (
        ("dense", [True, True, True, True]),
        ("score", [False, False, True, True]),
        ("trial", [False, True, False, True]),
        ("control", [False, False, False, False]),
    ):
        with monkeypatch.context() as patched:
            patched.setitem(VERSIONS, stage, 99)
            assert [new != old for new, old in zip(ids(), before, strict=True)] == stale, stage


def test_the_version_of_controls_is_in_their_ids_alone(monkeypatch):
    def ids():
        return [each.trial_id for each in (trial("Random"), trial("SNIP", control="shuffle"), trial("SNIP"))]

    before = ids()
    monkeypatch.setitem(VERSIONS, "control", 99)
    assert [new != old for new, old in zip(ids(), before, strict=True)] == [True, True, False]


def test_a_control_draws_by_seed_strategy_and_data_but_not_by_level_or_name():
    cola = dense(dataset="cola", task=TASKS["cola"])
    some = [
        trial("Random"),
        trial("Random", scope="global"),
        trial("SNIP", control="shuffle"),
        trial("Random", of=cola),
    ]
    some += [trial("Random", of=dense(seed=1)), trial("Random", control="shuffle")]
    assert len({each.control_seed for each in some}) == len(some)
    renamed = trial("Random", compression=None, sparsity=0.9, of=dense(dataset="mine"))
    assert renamed.control_seed == some[0].control_seed
    moved = [Task(text=("t",), classes=2, files={"train": name}, digest="d") for name in "ab"]
    assert len({trial("Random", of=dense(task=task)).control_seed for task in moved}) == 1


@pytest.mark.parametrize("criterion", ["MagWeight", "SmoothGradCAMShift"])
def test_a_spec_survives_json(criterion):
    one = trial(criterion, rewind=5)
    again = TrialSpec.model_validate_json(canonical(one.model_dump(mode="json")))
    assert again == one
    assert again.trial_id == one.trial_id


def test_canonical_json_is_sorted_ascii_and_strict():
    assert canonical({"b": 1e-5, "a": "é"}) == '{"a":"\\u00e9","b":1e-05}'
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": True},
        {"epochs": -1},
        {"lr": 0},
        {"lr": float("nan")},
        {"betas": (0.9, 1.0)},
        {"warmup": 1.5},
        {"batch_size": 0},
        {"momentum": 0.9},
    ],
)
def test_wrong_training_settings_are_refused(fields):
    with pytest.raises(ValidationError):
        Training(**fields)


def test_specs_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        dense().seed = 1


def test_excluded_tensors_enter_every_id_but_that_of_fine_tuning_in_any_order():
    plain, pooler = (score_spec(dense(), "SNIP", Scoring(), False, globs) for globs in ((), ("pooler",)))
    assert plain == score_spec(dense(), "SNIP", Scoring(), False)
    assert plain.score_id != pooler.score_id
    assert plain.pass_id != pooler.pass_id
    ids = {TrialSpec(score=score, scope="layer", sparsity=0.5).trial_id for score in (plain, pooler)}
    assert len(ids) == 2
    one, other = (score_spec(dense(), "SNIP", Scoring(), False, globs) for globs in (("a", "b", "b"), ("b", "a")))
    assert one.score_id == other.score_id


def test_owl_needs_the_wanda_scores_that_other_strategies_have():
    scoring = Scoring(batches=7, count_padding=True, dropout=False, smooth_batches=3)
    wanda = trial("Wanda", scoring).score
    owl = {name: trial(name, scoring, scope="owl", outliers=outlier_pass("owl", scoring)) for name in CRITERIA}
    assert {each.wanda.score_id for each in owl.values()} == {wanda.score_id}
    assert [spec.criterion for spec in owl["MagWeight"].passes] == ["Wanda"]
    assert [spec.criterion for spec in owl["MagGrad"].passes] == ["MagGrad", "Wanda"]
    assert owl["Wanda"].passes == (wanda,)
    assert {spec.pass_id for spec in owl["MagAct"].passes} == {wanda.pass_id}
    assert trial("MagGrad", scoring).passes == (trial("MagGrad", scoring).score,)
    assert trial("MagWeight").passes == ()
    assert outlier_pass("lamp", scoring) is None
    own, wanda = (score_spec(dense(), name, scoring, True, ("pooler",)) for name in ("MagWeight", "Wanda"))
    assert TrialSpec(score=own, scope="owl", outliers=outlier_pass("owl", scoring)).wanda == wanda


def test_the_id_of_owl_knows_its_outliers_and_that_of_others_does_not():
    few, many = (outlier_pass("owl", Scoring(batches=batches)) for batches in (7, 1000))
    ids = {trial(scope="owl", outliers=given).trial_id for given in (few, many)} | {trial().trial_id}
    assert len(ids) == 3
    assert TrialSpec.model_validate_json(trial(scope="owl", outliers=few).model_dump_json()).trial_id in ids
