"""Arms and axes: what they are called, which trials they are, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from builders.specs import sweep, write

from deepcuts.experiment.arms import setting_text, with_settings_of
from deepcuts.experiment.reading import parse_sweep, read_sweep_file
from deepcuts.experiment.sweepfile import SweepFile

SHIFTED, LATE = "LayerGradCAMShift", {"use": "LayerMagWeight", "rewind": 100}
HEAD = "model: toy\ndatasets: [toy]\ncompressions: [2]\n"
ARMS = "strategies:\n  LayerGradCAMShift:\n  late: {use: LayerMagWeight, rewind: 100}\n"


def labels(**fields: Any) -> list[str]:
    return [arm.label for arm in parse_sweep({"datasets": ["toy"], "compressions": [2], **fields}).arms]


def read(tmp_path, text, *changes) -> SweepFile:
    return read_sweep_file(write(tmp_path, HEAD + text), changes)


def problem(tmp_path, text, *changes) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        read(tmp_path, text, *changes)
    return str(caught.value).replace(str(tmp_path / "small.yaml"), "FILE")


def ids(spec, arm=None):
    return {trial_id for trial_id, label in spec.labels.items() if arm in (None, label)}


def test_an_arm_is_a_strategy_with_what_differs_and_the_trial_of_a_sweep_with_these_settings():
    scoring = {"dropout": False, "batches": 7}
    made = sweep(
        strategies={
            "LayerMagWeight": None,
            "late": {"use": "LayerMagWeight", "rewind": 100},
            "no dropout": {"use": "LayerSNIP", "scoring": {"dropout": False}},
            "LayerWanda": {"retrain": {"lr": 1e-3}},
        },
        scoring={"batches": 7},
        retrain={"epochs": 3},
        finetune={"lr": 2e-5, "epochs": 1},
    )
    rest = {"finetune": {"lr": 2e-5, "epochs": 1}, "scoring": {"batches": 7}, "retrain": {"epochs": 3}}
    alone = {
        "LayerMagWeight": sweep(**rest),
        "late": sweep(**rest, rewind=100),
        "no dropout": sweep(**rest | {"scoring": scoring}, strategies=["LayerSNIP"]),
        "LayerWanda": sweep(**rest | {"retrain": {"epochs": 3, "lr": 1e-3}}, strategies=["LayerWanda"]),
    }
    assert list(dict.fromkeys(made.labels.values())) == ["Dense", *alone]
    for label, other in alone.items():
        assert ids(made, label) == ids(other, "LayerMagWeight" if label == "late" else made_by(other)), label
    assert len({trial.dense.dense_id for trial in made.trials()}) == 1


def made_by(spec):
    return next(trial.strategy for trial in spec.trials() if trial.prunes)


def test_an_arm_lies_over_the_overrides_of_a_dataset_which_lie_over_the_sweep():
    file = parse_sweep(
        {
            "datasets": ["toy", "cola"],
            "compressions": [2],
            "rewind": 5,
            "retrain": {"epochs": 3},
            "strategies": {"LayerSNIP": None, "arm": {"use": "LayerSNIP", "rewind": 7, "retrain": {"lr": 0.1}}},
            "overrides": {"cola": {"rewind": 6, "retrain": {"lr": 0.2, "warmup": 0.5}}},
        }
    )
    plain, arm = file.arms
    found = {}
    for dataset in ("toy", "cola"):
        for each in (plain, arm):
            settings = file.for_arm(dataset, each)
            retrain = settings.retraining()
            found[dataset, each.label] = (settings.rewind, retrain.epochs, retrain.lr, retrain.warmup)
    assert found == {
        ("toy", "LayerSNIP"): (5, 3, 1e-5, 0.0),
        ("toy", "arm"): (7, 3, 0.1, 0.0),
        ("cola", "LayerSNIP"): (6, 3, 0.2, 0.5),
        ("cola", "arm"): (7, 3, 0.1, 0.5),
    }


def test_an_axis_multiplies_the_arms_that_it_changes_and_no_others():
    strategies = ["LayerMagWeight", "LayerGradCAM", SHIFTED, "LayerSmoothGradCAMShift+shuffle"]
    assert labels(strategies=strategies, axes={"scoring.shift": [0, 0.1]}) == [
        "LayerMagWeight",
        "LayerGradCAM",
        *("LayerGradCAMShift shift=0", "LayerGradCAMShift shift=0.1"),
        *("LayerSmoothGradCAMShift+shuffle shift=0", "LayerSmoothGradCAMShift+shuffle shift=0.1"),
    ]
    assert labels(strategies=strategies[:2], axes={"rewind": ["init", 100]}) == [
        *("LayerMagWeight rewind=init", "LayerMagWeight rewind=100"),
        *("LayerGradCAM rewind=init", "LayerGradCAM rewind=100"),
    ]
    assert labels(strategies=["LayerSNIP", "LayerSmoothGrad"], axes={"scoring.smooth_batches": [3]}) == [
        *("LayerSNIP", "LayerSmoothGrad smooth_batches=3")
    ]


def test_axes_multiply_each_other_and_an_arm_keeps_what_it_sets_itself():
    arms = {SHIFTED: None, "late": {"use": SHIFTED, "rewind": 100}}
    assert labels(strategies=arms, axes={"scoring.shift": [1, 2], "rewind": ["init", 5]}) == [
        *(f"{SHIFTED} shift={shift} rewind={rewind}" for shift in (1, 2) for rewind in ("init", 5)),
        *("late shift=1", "late shift=2"),
    ]


def test_an_axis_leaves_an_arm_alone_that_has_no_teacher_by_its_own_settings():
    arms = {"LayerMagWeight": None, "plain": {"use": "LayerMagWeight", "retrain": {"distill": None}}}
    assert labels(strategies=arms, axes={"retrain.distill.weight": [0.1, 0.5]}) == [
        *("LayerMagWeight weight=0.1", "LayerMagWeight weight=0.5", "plain")
    ]


def test_an_axis_over_a_part_of_a_key_leaves_the_rest_of_it():
    rounds = {"keep": 0.8, "rewind_head": False, "retrain": {"epochs": 1}}
    made = parse_sweep(
        {
            **{"datasets": ["toy"], "strategies": ["LayerMagWeight"], "sparsities": [0.5], "rounds": rounds},
            "axes": {"rounds.keep": [0.7, 0.8], "rounds.retrain.lr": [0.1]},
        }
    )
    found = [made.for_arm("toy", arm).rounds.model_dump(exclude_unset=True) for arm in made.arms]
    assert found == [rounds | {"keep": keep, "retrain": {"epochs": 1, "lr": 0.1}} for keep in (0.7, 0.8)]


def test_axes_whose_keys_end_alike_are_called_by_their_whole_keys():
    axes = {"retrain.batch_size": [8], "scoring.batch_size": [4], "retrain.betas": [[0.9, 0.99]]}
    assert labels(strategies=["LayerMagWeight", "LayerSNIP"], axes=axes) == [
        "LayerMagWeight retrain.batch_size=8 betas=0.9 0.99",
        "LayerSNIP retrain.batch_size=8 scoring.batch_size=4 betas=0.9 0.99",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "0.1"), (1e-5, "1e-05"), (10, "10"), (10.0, "10"), (0.1234567891, "0.1234567891"), (None, "null")],
)
def test_numbers_are_written_short_and_exactly(value, text):
    key = "retrain.max_grad_norm"
    assert labels(strategies=["LayerSNIP"], axes={key: [value]}) == [f"LayerSNIP max_grad_norm={text}"]


def test_lists_are_written_with_spaces_and_an_empty_one_in_words():
    axes = {"exclude": [[], ["pooler"], ["pooler", "encoder.layer.0.*"]]}
    found = [f"LayerSNIP exclude={text}" for text in ("none", "pooler", "pooler encoder.layer.0.*")]
    assert labels(strategies=["LayerSNIP"], axes=axes) == found


def test_an_arm_of_an_axis_is_the_trial_of_a_sweep_with_its_value():
    made = sweep(strategies=[SHIFTED], axes={"scoring.shift": [0, 10]})
    for shift in (0, 10):
        alone = sweep(strategies=[SHIFTED], scoring={"shift": shift})
        assert ids(made, f"{SHIFTED} shift={shift}") == ids(alone, SHIFTED)


def test_labels_enter_no_id():
    named, plain = sweep(strategies={"mine": {"use": "LayerSNIP"}}), sweep(strategies=["LayerSNIP"])
    assert ids(named) == ids(plain)
    assert ids(named, "mine") == ids(plain, "LayerSNIP")


def test_unpruned_is_one_trial_for_each_way_to_rewind_and_retrain_and_called_by_what_differs():
    arms = {
        "LayerSNIP": None,
        "late": LATE,
        "late no dropout": {"use": "LayerSNIP", "rewind": 100, "scoring": {"dropout": False}},
        "long": {"use": "LayerSNIP", "rewind": 100, "retrain": {"epochs": 9, "lr": 0.1}},
    }
    made = sweep(strategies=arms, compressions=[1, 2])
    unpruned = {made.labels[trial.trial_id]: trial for trial in made.trials() if trial.strategy == "Unpruned"}
    assert list(unpruned) == [
        "Unpruned",
        "Unpruned (rewind=100)",
        "Unpruned (rewind=100 retrain.epochs=9 retrain.lr=0.1)",
    ]
    assert ids(made, "Unpruned") == ids(sweep(compressions=[1]), "Unpruned")
    assert ids(made, "Unpruned (rewind=100)") == ids(sweep(compressions=[1], rewind=100), "Unpruned")
    assert len(ids(made, "Dense")) == 1


def test_arms_that_are_the_same_experiment_are_named_and_run_once():
    arms = {"LayerMagWeight": None, "again": {"use": "LayerMagWeight", "scoring": {"dropout": False}}, "late": LATE}
    made = sweep(strategies=arms, datasets=["toy", "cola"], overrides={"cola": {"rewind": 100}}, compressions=[2, 4])
    assert made.repeated() == [
        "arm 'again', which is the same experiment as 'LayerMagWeight'",
        "arm 'late', which is the same experiment as 'LayerMagWeight' on cola",
    ]
    assert "again" not in made.labels.values()
    assert {made.labels[t.trial_id] for t in made.trials() if t.dense.dataset == "cola"} == {"Dense", "LayerMagWeight"}
    assert sweep(strategies=["LayerSNIP", "LayerSNIP"]).repeated() == ["toy LayerSNIP 2x seed 0"]


def test_of_arms_that_agree_in_a_part_of_their_trials_the_part_is_named():
    arms = {
        "once": {"use": "GlobalMagWeight"},
        "imp": {"use": "GlobalMagWeight", "rounds": {"keep": 0.6}},
        "of seed 1": {"use": "GlobalMagWeight", "mask_from": {"seed": 1}},
    }
    made = sweep(strategies=arms, sparsities=[0, 0.4, 0.64], seeds=[0, 1])
    assert made.repeated() == [
        "arm 'imp', which is the same experiment as 'once' at 40 %",
        "arm 'of seed 1', which is the same experiment as 'once' with seed 1",
    ]


def test_settings_that_change_nothing_are_named():
    arms = {"a": {"use": "LayerMagWeight", "scoring": {"shift": 1, "dropout": False}, "rewind": 3}, SHIFTED: None}
    arms |= {"b": {"use": SHIFTED, "scoring": {"shift": 1}}}
    file = parse_sweep({"datasets": ["toy"], "compressions": [2], "strategies": arms})
    assert file.without_effect() == [
        "scoring.shift, scoring.dropout of arm 'a', because LayerMagWeight does not use it"
    ]


def test_a_resolved_sweep_keeps_arms_and_axes(tmp_path):
    text = ARMS + "axes: {scoring.shift: [0, 10], retrain.max_grad_norm: [null, 1]}\nfinetune: {lr: 3.0e-5}\n"
    asked = read(tmp_path, text + "overrides: {toy: {rewind: 5, retrain: {epochs: 2}}}")
    resolved = asked.resolved()
    assert resolved["strategies"] == {SHIFTED: None, "late": LATE}
    again = parse_sweep(yaml.safe_load(yaml.safe_dump(resolved, sort_keys=False)))
    assert again.arms == asked.arms
    for arm in asked.arms:
        ours, theirs = (file.for_arm("toy", arm) for file in (asked, again))
        assert (ours.scoring, ours.rewind) == (theirs.scoring, theirs.rewind)
        assert ours.retraining() == theirs.retraining()
    assert parse_sweep(parse_sweep({**resolved, "axes": {}}).resolved()).arms[0].label == SHIFTED


def test_set_changes_arms_and_axes(tmp_path):
    text = ARMS + "  lr 0.1: {use: LayerSNIP}\n"
    changes = ("strategies.late.rewind=200", "axes.scoring.shift=[0,1]", "strategies.lr 0.1.retrain.lr=0.1")
    file = read(tmp_path, text, *changes, "strategies.new={use: LayerWanda}")
    assert [(arm.label, with_settings_of(arm, {})) for arm in file.arms] == [
        (f"{SHIFTED} shift=0", {"scoring": {"shift": 0}}),
        (f"{SHIFTED} shift=1", {"scoring": {"shift": 1}}),
        ("late", {"rewind": 200}),
        ("lr 0.1", {"retrain": {"lr": 0.1}}),
        ("new", {}),
    ]
    assert [arm.label for arm in read(tmp_path, text + "axes: {scoring.shift: [3]}", "axes={}").arms][0] == SHIFTED
    assert read(tmp_path, text + "axes: {scoring.shift: [3]}", "axes.scoring.shift=[4]").axes == {"scoring.shift": [4]}


SAME = "all arms of a sweep prune the same fine-tuned networks; set it for the whole sweep, or write another sweep file"
AXES = ARMS + "axes:\n  "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "FILE:4: strategies: is empty: name at least one"),
        ("\n  late: {}", "FILE:5: strategies.late: is empty; write null for the strategy itself"),
        ("\n  late:", "FILE:5: strategies.late: unknown strategy 'late'; known: Layer, Global"),
        ("\n  late:", "an arm of another name says which strategy it uses: `use: LayerMagWeight`"),
        ("{LayerMagWieght: {rewind: 3}}", "unknown strategy 'LayerMagWieght'; did you mean 'LayerMagWeight'"),
        ("{LayerMagWieght: {rewind: 3}, LayerMagWeight x: {use: LayerSNIP}}", "did you mean 'LayerMagWeight'?"),
        (
            "{late: {use: LayerSNIP}, lat: {rewind: 3}}",
            "FILE:4: strategies.lat: 'lat' is neither a strategy nor an arm that this sweep has; did you mean 'late'?",
        ),
        (
            "\n  - LayerSNIP: {rewind: 3}\n  - LayerWanda",
            "FILE:5: strategies.0: in a list must be text, not {'LayerSNIP': {'rewind': 3}}; to give settings, write"
            " all of strategies as a mapping, without dashes",
        ),
        ("{a: {use: LayerSNP}}", "FILE:4: strategies.a.use: unknown strategy 'LayerSNP'; did you mean 'LayerSNIP'?"),
        ("{a: 3}", "FILE:4: strategies.a: must be a mapping of keys to values, not 3"),
        ("{3: {use: LayerSNIP}}", "FILE:4: strategies.3: must be text (quote it), not 3"),
        (
            "\n  a:\n    use: LayerSNIP\n    rewnid: 3",
            "FILE:7: strategies.a: unknown key 'rewnid'; did you mean 'rewind'",
        ),
        (
            "{a: {use: LayerSNIP, scoring: {shfit: 3}}}",
            "strategies.a.scoring: unknown key 'shfit'; did you mean 'shift'",
        ),
        (
            "{a: {use: LayerSNIP, rewind: -1}}",
            "strategies.a.rewind: must be init, none, or a step of the fine-tuning (0 or more), not -1",
        ),
        ("\n  a:\n    finetune: {lr: 1}", f"FILE:6: strategies.a.finetune: an arm may not set 'finetune': {SAME}"),
        ("{a: {use: LayerSNIP, datasets: [toy]}}", f"an arm may not set 'datasets': {SAME}"),
        ("{a: {use: LayerSNIP, max_tokens: 8}}", f"an arm may not set 'max_tokens': {SAME}"),
        ("{a: {use: LayerSNIP, compressions: [3]}}", "an arm may not set 'compressions': all arms share it"),
        ("{LayerSNIP: {use: LayerWanda}}", "'LayerSNIP' is the name of a strategy, and this arm uses 'LayerWanda'"),
        ("{Dense: {use: LayerSNIP}}", "'Dense' cannot be the name of an arm: Dense and Unpruned prune nothing"),
        ("{Unpruned late: {use: LayerSNIP}}", "Dense and Unpruned prune nothing"),
    ],
)
def test_a_mistake_in_an_arm_is_refused_with_its_line_and_what_to_do(tmp_path, text, message):
    assert message in problem(tmp_path, f"strategies: {text}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("finetune.lr: [1]", f"FILE:8: axes.finetune.lr: an axis may not change 'finetune': {SAME}"),
        ("seeds: [1]", f"FILE:8: axes.seeds: an axis may not change 'seeds': {SAME}"),
        (
            "scoring: [1]",
            "FILE:8: axes.scoring: unknown axis 'scoring'; did you mean 'scoring.shift'? known: ",
        ),
        (
            "scoring.shfit: [1]",
            "axes.scoring.shfit: unknown axis 'scoring.shfit'; did you mean 'scoring.shift'? known: ",
        ),
        ("use: [LayerSNIP]", "unknown axis 'use'; known: "),
        ("scoring.shift: []", "FILE:8: axes.scoring.shift: is empty: name at least one"),
        ("scoring.shift: 3", "FILE:8: axes.scoring.shift: must be a list, as in [a, b], not 3"),
        ("scoring.shift: [1, x]", "FILE:8: axes.scoring.shift.1: input should be a valid number"),
        ("scoring.shift:\n  - 1\n  - x", "FILE:10: axes.scoring.shift.1: input should be a valid number"),
        ("rewind: [init, 1.5]", "FILE:8: axes.rewind.1: must be init, none, or a step of the fine-tuning"),
        ("scoring.shift: [1, 1.0]", "FILE:8: axes.scoring.shift.1: 1.0 is repeated; name each value once"),
        ("scoring.noise_std: [0, 1]", "FILE:8: axes.scoring.noise_std: 'scoring.noise_std' changes no arm: of the"),
        ("scoring.noise_std: [0, 1]", "criteria only SmoothGrad, SmoothGradCAM, SmoothGradCAMShift use it; remove it"),
    ],
)
def test_a_mistake_in_an_axis_is_refused_with_its_line_and_what_to_do(tmp_path, text, message):
    assert message in problem(tmp_path, AXES + text)


def test_an_axis_over_what_all_arms_set_themselves_changes_none(tmp_path):
    text = "strategies: {late: {use: LayerSNIP, rewind: 3}}\naxes: {rewind: [1]}"
    assert "'rewind' changes no arm: those that it could change set it themselves" in problem(tmp_path, text)
    assert "axes: must be a mapping of keys to values, not [1]" in problem(tmp_path, ARMS + "axes: [1]")


@pytest.mark.parametrize(
    "label",
    [
        *(
            "a,b",
            "a=1",
            "a\nb",
            "a\tb",
            "\x1b[1m",
            "<b>",
            "a&b",
            '"a"',
            "a'b",
            "$x$",
            "a/b",
            "a\\b",
            "*a",
            "a|b",
            "a{b}",
        ),
        *("#a", "_a", "-a", "+a", ".a", " a", "a ", "a  b", "", "a" * 61, "a\u200bb", "\u65e5\u672c", "a\u0301"),
    ],
)
def test_a_label_that_would_break_a_selection_a_file_a_figure_or_a_page_is_refused(label):
    with pytest.raises(ValueError, match="cannot be the name of an arm") as caught:
        labels(strategies={label: {"use": "LayerSNIP"}})
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("label", ["no dropout", "σ 0.1", "Größe 50 %", "a-b_c.d (e)", "2+2", "a" * 60])
def test_a_label_may_be_words_in_latin_and_greek_letters(label):
    assert labels(strategies={label: {"use": "LayerSNIP"}}) == [label]


def test_no_two_arms_of_a_sweep_are_called_alike():
    found = labels(strategies={"a": LATE | {"rewind": 1}, SHIFTED: None}, axes={"scoring.shift": [0, -0.0001, 1e-30]})
    assert len(set(found)) == len(found) == 4


def test_the_label_of_an_axis_keeps_the_stars_of_globs() -> None:
    assert setting_text("exclude", ["*.pooler.*", "layer.[01]"]) == "exclude=*.pooler.* layer.[01]"
    assert setting_text("exclude", []) == "exclude=none"
