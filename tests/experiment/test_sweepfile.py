"""The sweep file: its keys, its defaults, and how every mistake in it is told."""

from __future__ import annotations

import pytest
import yaml
from builders.specs import SMALL, write

from deepcuts.experiment.grid import SweepSpec
from deepcuts.experiment.reading import parse_sweep, read_sweep_file
from deepcuts.experiment.spec import ModelSource
from deepcuts.experiment.tasks import TASKS
from deepcuts.experiment.yaml_errors import parse_yaml

TRAINING = {
    "epochs": 5,
    "batch_size": 16,
    "micro_batch": None,
    "optimizer": "adam",
    "lr": 1e-5,
    "betas": (0.9, 0.99),
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0.0,
    "max_grad_norm": None,
    "distill": None,
}
# Every key that is not required, with its default: people's sweeps, and the meaning of old ones, depend on them.
DEFAULTS = {
    "model": "bert-base-uncased",
    "revision": "main",
    "data_dir": None,
    "criteria": [],
    "seeds": [0],
    "precision": "fp32",
    "tf32": False,
    "length_grouping": True,
    "compile": False,
    "max_tokens": 128,
    "max_train_examples": None,
    "head": "linear",
    "keep_head": False,
    "loss": "mean",
    "class_weights": None,
    "holdout": None,
    "prune_biases": False,
    "exclude": [],
    "finetune": TRAINING,
    "scoring": {
        "batches": 1000,
        "smooth_batches": 100,
        "batch_size": 16,
        "micro_batch": None,
        "smoothing_passes": 10,
        "noise_std": 0.001,
        "shift": 10.0,
        "dropout": True,
        "count_padding": False,
        "rounds": 1,
    },
    "rewind": "init",
    "start": "rewind",
    "rounds": None,
    "mask_from": None,
    "keep_models": False,
    "checkpoint_minutes": 5.0,
    "capture": False,
    "trackers": [],
    "resources": {"gpus": None, "cpus": None, "max_concurrent": None, "max_failures": 3},
    "overrides": {},
    "axes": {},
}
LEAST = "datasets: [toy]\nstrategies: [LayerRandom]\ncompressions: [2]\n"


def read(tmp_path, text, *changes):
    return read_sweep_file(write(tmp_path, text), changes)


def problem(tmp_path, text, *changes):
    with pytest.raises(ValueError, match=r".") as caught:
        read(tmp_path, text, *changes)
    return str(caught.value).replace(str(tmp_path / "small.yaml"), "FILE")


def test_every_key_has_its_default(tmp_path):
    file = read(tmp_path, LEAST)
    values = file.model_dump()
    assert file.retraining().model_dump() == TRAINING | {"epochs": 12}
    given = {"name": "small", "datasets": ["toy"], "strategies": ["LayerRandom"], "compressions": [2.0]}
    values.pop("retrain")
    assert values == DEFAULTS | given | {"sparsities": None}


def test_the_name_is_the_stem_of_the_file_unless_it_is_given(tmp_path):
    assert read(tmp_path, LEAST).name == "small"
    assert read(tmp_path, LEAST + "name: other").name == "other"


def test_retraining_takes_what_it_does_not_give_from_fine_tuning(tmp_path):
    file = read(tmp_path, LEAST + "finetune: {lr: 2e-5, epochs: 3, warmup: 0.1}\nretrain: {warmup: 0}")
    made = file.retraining()
    assert (made.lr, made.epochs, made.warmup) == (2e-5, 12, 0.0)


def test_overrides_lie_over_the_settings_key_by_key(tmp_path):
    text = LEAST.replace("[toy]", "[toy, cola]") + "finetune: {lr: 3e-5, epochs: 2}\nretrain: {epochs: 4}\n"
    file = read(tmp_path, text + "overrides: {cola: {finetune: {lr: 2.0e-5}, max_tokens: 8, rewind: none}}")
    cola, toy = file.for_dataset("cola"), file.for_dataset("toy")
    assert (cola.finetune.lr, cola.finetune.epochs, cola.max_tokens, cola.rewind) == (2e-5, 2, 8, "none")
    assert (cola.retraining().lr, cola.retraining().epochs) == (2e-5, 4)
    assert (toy.finetune.lr, toy.max_tokens, toy.rewind) == (3e-5, 128, "init")


@pytest.mark.parametrize(("named", "overridden"), [("STSBDATA", "stsb"), ("stsb", "STSBDATA"), ("STSBDATA",) * 2])
def test_the_names_of_the_seed_are_taken_everywhere(tmp_path, named, overridden):
    file = read(tmp_path, LEAST.replace("toy", named) + f"overrides: {{{overridden}: {{loss: mse_sum}}}}")
    assert list(file.dataset_rows()) == ["stsb"]
    assert file.for_dataset("stsb").loss == "mse_sum"


def test_a_name_of_the_seed_may_be_the_name_of_ones_own_data(tmp_path):
    own = "{STSBDATA: {train: a.csv, validation: b.csv, text: t, classes: 2}}"
    file = read(tmp_path, LEAST.replace("[toy]", own) + "overrides: {STSBDATA: {max_tokens: 9}}")
    assert list(file.dataset_rows()) == ["STSBDATA"]
    assert file.for_dataset("STSBDATA").max_tokens == 9


def test_one_text_column_needs_no_list(tmp_path):
    own = "{mine: {train: a.csv, validation: b.csv, text: body, classes: [a, b]}, toy: null}"
    rows = read(tmp_path, LEAST.replace("[toy]", own)).dataset_rows()
    assert rows["mine"].text == ["body"]
    assert rows["toy"] is None


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ("[false, true]", ["false", "true"]),
        ("[0, 1]", ["0", "1"]),
        ("[no, yes]", ["no", "yes"]),
        ("[1, '1.0']", ["1", "1.0"]),
    ],
)
def test_classes_may_be_numbers_and_truth_values(tmp_path, classes, names):
    own = f"{{mine: {{train: a.csv, validation: b.csv, text: body, classes: {classes}}}}}"
    assert read(tmp_path, LEAST.replace("[toy]", own)).dataset_rows()["mine"].classes == names


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            "hub: a/b, splits: {train: train}",
            r"splits {'train': 'train'} lacks validation; write, for example, splits: {",
        ),
        ("hub: a/b, splits: {train: 'train[:9]', validation: test}", r"'train\[:9\]' is not the name of a split"),
        ("hub: a/b, splits: {train: ../x, validation: test}", r"'\.\./x' is not the name of a split"),
        (
            "train: a, validation: b, splits: {train: train, validation: test}",
            "splits names the splits of a Hub dataset",
        ),
        ("train: a, validation: b, same_data: maybe", "same_data: must be true or false, not 'maybe'"),
        ("train: a, validation: b, classes: [0.5, 1]", "classes.0: must be text"),
        ("file: a.csv", "mine: validation is None; beside file, it is the part of it to hold out: a share of the"),
        ("file: a.csv, validation: b.csv", "mine: validation is 'b.csv'; beside file, it is the part of it to hold"),
        ("file: a.csv, validation: 20 %", "mine: validation is '20 %'; .* a share of the examples such as 0.2"),
        ("file: a.csv, train: b.csv, validation: 0.2", "mine: give either file, which is split, or train and"),
        ("train: a.csv, validation: 0.2", "validation: 0.2 is a part of file; write file: PATH in place of train"),
        ("file: a.csv, hub: a/b", "mine: give either hub, or train and validation, or file and validation"),
        ("hub: a/b, validation: 0.2", "mine: give either hub, or train and validation, or file and validation"),
        ("train: a, validation: b, test: 0.1", "test is 0.1; beside train and validation, it is a file"),
        ("file: a.csv, validation: 0.2, test: t.csv", "test is 't.csv'; beside file, it is a part of it"),
        ("file: a.csv, validation: 0.2, test: 1.5", "mine.test: 1.5 is neither a share of the examples"),
        ("hub: a/b, test: t.csv", "test is 't.csv'; name the test split of a Hub dataset in splits"),
        *(
            (
                f"file: a.csv, validation: {value}",
                rf"small\.yaml:\d+: datasets.mine.validation: {shown} is neither a share of the examples",
            )
            for value, shown in [("0", "0"), ("-0.2", "-0.2"), ("1.5", "1.5"), ("true", "True"), (".inf", "inf")]
        ),
        ("file: a.csv, validation: 0.2, data_seed: -1", "datasets.mine.data_seed: input should be greater than or"),
    ],
)
def test_what_is_wrong_in_ones_own_data_is_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, LEAST.replace("[toy]", f"{{mine: {{text: body, {fields}}}}}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: x", "FILE:5: unknown key 'modle'; did you mean 'model'? known: max_tokens"),
        ("finetune:\n  eopchs: 3", "FILE:6: finetune: unknown key 'eopchs'; did you mean 'epochs'? known: epochs, b"),
        ("scoring: {batch: 3}", "FILE:5: scoring: unknown key 'batch'; did you mean 'batches'"),
        ("overrides: {toy: {seeds: [1]}}", "FILE:5: overrides.toy: unknown key 'seeds'"),
        ("overrides: {tyo: {}}", "FILE:5: overrides.tyo: unknown dataset 'tyo'; did you mean 'toy'?"),
        ("overrides: {toy: {finetune: {lr: x}}}", "FILE:5: overrides.toy.finetune.lr: input should be a valid number"),
        (
            "resources: {gpus: 1.5}",
            "FILE:5: resources.gpus: 1.5 is neither a fraction of one GPU nor a whole num",
        ),
        ("precision: fp16", "FILE:5: precision: input should be 'fp32' or 'bf16', not 'fp16'"),
        ("rewind: later", "FILE:5: rewind: must be init, none, or a step of the fine-tuning (0 or more), not 'later'"),
        ("rewind: -1", "FILE:5: rewind: must be init, none, or a step of the fine-tuning (0 or more), not -1"),
        ("axes: {rewind: [-1]}", "axes.rewind.0: must be init, none, or a step of the fine-tuning (0 or more), not -1"),
        ("lr: 0.5", "FILE:5: unknown key 'lr'; did you mean finetune.lr or retrain.lr? known: "),
        ("seed: 3", "FILE:5: unknown key 'seed'; did you mean 'seeds' or mask_from.seed? known: "),
        ("seeds: []", "FILE:5: seeds: is empty: name at least one"),
        ("seeds: 3", "FILE:5: seeds: must be a list, as in [a, b], not 3"),
        ("seeds: [0, true]", "FILE:5: seeds.1: true is not a number"),
        ("seeds: [99999999999999999999]", "FILE:5: seeds.0: input should be less than"),
        ("sparsities: [0.5]", "FILE: give exactly one of compressions and sparsities; both are given"),
        ("finetune:", "FILE:5: finetune: is empty; give its values, or remove the key"),
        ("overrides: {toy: }", "FILE:5: overrides.toy: is empty"),
        ("finetune: 3", "FILE:5: finetune: must be a mapping of keys to values, not 3"),
        ("finetune: {betas: 0.9}", "FILE:5: finetune.betas: must be a list, as in [a, b], not 0.9"),
        ("name: a/b", "FILE:5: name: 'a/b' is not a valid name"),
        ("name: ../b", "'../b' is not a valid name"),
        ("name: _b", "'_b' is not a valid name"),
        ("name: compact-b", "'compact-b' is not a valid name"),
        ("name: 3", "FILE:5: name: must be text (quote it), not 3"),
        (f"name: {'a' * 65}", "is not a valid name; use 1 to 64"),
    ],
)
def test_a_mistake_is_told_with_its_line_its_value_and_what_is_allowed(tmp_path, text, message):
    assert message in problem(tmp_path, SMALL + text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[toy]", "[]", "FILE:2: datasets: is empty: name at least one"),
        ("[toy]", "{}", "FILE:2: datasets: is empty: name at least one"),
        ("[toy]", "toy", "FILE:2: datasets: must be a list"),
        ("[toy]", "[toy, sst3]", "FILE:2: datasets.1: unknown dataset 'sst3'; did you mean 'sst2'? known: cola"),
        ("[toy]", "{sst3: null}", "FILE:2: datasets.sst3: unknown dataset 'sst3'"),
        ("[toy]", "{a/b: {hub: x, text: t}}", "FILE:2: datasets.a/b: 'a/b' is not a valid name"),
        ("[toy]", "{a: {hub: x, train: y, text: t}}", "datasets.a: give either hub, or train and validation"),
        ("[toy]", "{a: {train: y, text: t}}", "datasets.a: give both files, train and validation"),
        ("[toy]", "{a: {hub: x}}", "FILE:2: datasets.a.text: is required and missing"),
        ("[toy]", "{a: {trian: x, text: t}}", "datasets.a: unknown key 'trian'; did you mean 'train'"),
        (
            "[toy]",
            "{sst2: {hub: x, text: t}, SST2DATA: null}",
            "'SST2DATA' means 'sst2', which is your own data here",
        ),
        ("[LayerMagWeight]", "[LayerMagWieght]", "FILE:3: strategies.0: unknown strategy 'LayerMagWieght'; did you me"),
        ("[LayerMagWeight]", "[LayerSNIP+shufle]", "unknown control 'shufle' of strategy 'LayerSNIP+shufle'"),
        ("[LayerMagWeight]", "LayerMagWeight", "FILE:3: strategies: must be a list, as in [a, b], not 'LayerMagW"),
        ("compressions: [2]", "compressions: [0.5]", "compressions.0: input should be greater than or equal to 1"),
        (
            "compressions: [2]",
            "sparsities: [1]",
            "FILE:4: sparsities.0: a sparsity is a share of the weights below 1, as in 0.5 for 50 %, not 1",
        ),
        ("compressions: [2]", "", "FILE: give exactly one of compressions and sparsities; neither is given"),
        ("strategies: [LayerMagWeight]", "", "FILE: strategies: is required and missing"),
    ],
)
def test_a_wrong_axis_is_told(tmp_path, old, new, message):
    assert message in problem(tmp_path, SMALL.replace(old, new))


def test_all_mistakes_are_told_at_once(tmp_path):
    found = problem(tmp_path, SMALL + "modle: x\nseeds: []\n").splitlines()
    assert [line.split(": ")[0] for line in found] == ["FILE:6", "FILE:5"]


def test_set_changes_one_key_and_leaves_its_neighbours(tmp_path):
    text = SMALL + "finetune: {lr: 3e-5, epochs: 2}"
    changes = ("finetune.epochs=7", "retrain.lr=1e-3", "seeds=[3, 4]", " name =x")
    file = read(tmp_path, text, *changes, "overrides.toy.scoring.batches=2")
    assert (file.finetune.epochs, file.finetune.lr, file.retrain.lr) == (7, 3e-5, 1e-3)
    assert (file.seeds, file.name, file.for_dataset("toy").scoring.batches) == ([3, 4], "x", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "cannot read --set 'epochs'; write key=value"),
        ("=3", "cannot read --set '=3'"),
        ("", "cannot read --set ''"),
        ("seeds=[0,1", "cannot read --set 'seeds=[0,1': expected ',' or ']'"),
        ("model.name=x", "cannot read --set 'model.name=x': 'model' is 'toy', which has no keys"),
        ("seeds=0,1", "seeds: must be a list, as in [a, b], not '0,1'"),
        ("retrain.epoch=3", "retrain: unknown key 'epoch'; did you mean 'epochs'"),
        ("finetune.lr=abc", "finetune.lr: input should be a valid number"),
        ("finetune.lr=", "finetune.lr: input should be a valid number, not None"),
        ("finetune=3", "finetune: must be a mapping"),
        (".epochs=3", "unknown key ''"),
        ("finetune.=3", "finetune: unknown key ''"),
        ("name=../x", "'../x' is not a valid name"),
    ],
)
def test_a_wrong_set_is_told(tmp_path, change, message):
    assert message in problem(tmp_path, SMALL, change)


DICT = {"model": "toy", "datasets": ["toy"], "strategies": ["LayerMagWeight"], "compressions": [2]}


def trial_ids(file):
    return [each.trial_id for each in SweepSpec(file, ModelSource(name="toy"), {"toy": TASKS["toy"]}, "cpu").trials()]


def test_a_dict_gives_the_trials_of_a_file_with_the_same_keys(tmp_path):
    text = SMALL + "finetune: {lr: 3e-5, epochs: 2}\nseeds: [0, 1]\nretrain: {epochs: 4}\n"
    assert trial_ids(parse_sweep(parse_yaml(text))) == trial_ids(read(tmp_path, text))
    assert (parse_sweep(DICT).name, parse_sweep(DICT | {"name": "mine"}).name) == ("sweep", "mine")


def test_a_mapping_of_changes_is_merged_key_by_key_and_replaces_lists(tmp_path):
    text = SMALL + "finetune: {lr: 3e-5, epochs: 2}\nseeds: [0, 1]\n"
    changes = {"finetune": {"epochs": 7}, "seeds": [3], "overrides": {"toy": {"max_tokens": 8}}}
    given = parse_yaml(text)
    for file in (read_sweep_file(write(tmp_path, text), changes), parse_sweep(given, changes)):
        assert (file.finetune.epochs, file.finetune.lr, file.seeds) == (7, 3e-5, [3])
        assert file.for_dataset("toy").max_tokens == 8
    assert parse_sweep(given, ("finetune.epochs=7",)).finetune.epochs == 7
    assert given == parse_yaml(text)


@pytest.mark.parametrize(
    ("raw", "changes", "message"),
    [
        (DICT | {"modle": "x"}, {}, "unknown key 'modle'; did you mean 'model'? known: max_tokens"),
        (DICT, {"finetune": {"eopchs": 3}}, "finetune: unknown key 'eopchs'; did you mean 'epochs'?"),
        (DICT | {"overrides": {"tyo": {}}}, {}, "overrides.tyo: unknown dataset 'tyo'; did you mean 'toy'?"),
        (DICT | {"seeds": 3, "tf32": "maybe"}, {}, "seeds: must be a list, as in [a, b], not 3\ntf32: must be true or"),
        (DICT, {"sparsities": [0.5]}, "give exactly one of compressions and sparsities; both are given"),
        (DICT | {1: 2}, {}, "every key must be text, not [1]"),
        (["toy"], {}, "a sweep is a mapping of keys to values, not list"),
    ],
)
def test_a_mistake_in_a_dict_is_told_by_the_path_of_its_key(raw, changes, message):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_sweep(raw, changes)
    assert str(caught.value).startswith(message)


def test_a_resolved_sweep_file_holds_the_same_trials(tmp_path):
    text = LEAST.replace("[2]", "[2, 4]") + (
        "model: toy\nmax_tokens: 32\nfinetune: {lr: 2.0e-3, max_grad_norm: 0.5}\n"
        "retrain: {epochs: 4, max_grad_norm: null}\noverrides: {toy: {finetune: {warmup: 0.1}}}\n"
    )
    asked = read(tmp_path, text)
    again = read(tmp_path, yaml.safe_dump(asked.resolved(), sort_keys=False))
    for file in (asked, again):
        retraining = file.for_dataset("toy").retraining()
        assert (retraining.epochs, retraining.lr, retraining.warmup) == (4, 2e-3, 0.1)
        assert retraining.max_grad_norm is None
    assert trial_ids(asked) == trial_ids(again)


def test_a_resolved_sweep_file_keeps_what_is_overridden_for_own_data_with_the_name_of_a_task_of_the_seed():
    own = {"file": "some.csv", "validation": 0.5, "text": "text"}
    overrides = {"SST2DATA": {"max_tokens": 64}}
    for data, name in (({"SST2DATA": own}, "SST2DATA"), (["SST2DATA"], "sst2")):
        asked = parse_sweep({**DICT, "datasets": data, "overrides": overrides})
        again = parse_sweep(asked.resolved())
        assert [file.for_dataset(name).max_tokens for file in (asked, again)] == [64, 64]
