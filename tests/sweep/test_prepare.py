"""What is found and refused before anything is launched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from builders.model_folder import model_folder
from builders.specs import SMALL, write

from deepcuts.experiment.reading import read_sweep_file
from deepcuts.pruning.compression import Counts
from deepcuts.sweep.prepare import prepare_sweep

COUNTS = SimpleNamespace(parameters=1000, prunable=800, positions=128)
REVIEWS = "datasets: {reviews: {train: train.csv, validation: validation.csv, text: body, classes: 2}}"


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch, tmp_path):
    """The counts of a network of 1,000 parameters, without torch; and no folder of data from outside."""
    monkeypatch.setattr("deepcuts.sweep.prepare.count_parameters", lambda model, outputs, biases: COUNTS)
    monkeypatch.delenv("DEEPCUTS_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)


def prepare(tmp_path, text, *changes):
    return prepare_sweep(read_sweep_file(write(tmp_path, text), changes), "cpu")


def reviews(tmp_path, train="good,1\nbad,0\n", validation="fine,1\n", under="."):
    (tmp_path / under).mkdir(exist_ok=True, parents=True)
    (tmp_path / under / "train.csv").write_text("body,label\n" + train)
    (tmp_path / under / "validation.csv").write_text("body,label\n" + validation)
    return SMALL.replace("datasets: [toy]", REVIEWS)


def test_a_sweep_that_can_run_is_prepared_with_its_counts(tmp_path):
    ready = prepare(tmp_path, reviews(tmp_path).replace("classes: 2}", "classes: 2}, toy: null"))
    assert ready.examples == {"reviews": {"train": 2, "validation": 1}, "toy": {"train": 4000, "validation": 500}}
    assert [trial.strategy for trial in ready.spec.trials()] == ["Dense", "LayerMagWeight"] * 2
    assert ready.spec.tasks["reviews"].files["train"] == str(tmp_path / "train.csv")


def test_the_facts_of_the_data_are_prepared_and_what_cannot_be_learned_or_measured_is_refused(tmp_path):
    text = reviews(tmp_path, "good,1\nbad,0\nbad,1\n", "bad,0\n")
    facts = prepare(tmp_path, text).facts["reviews"]
    assert facts["train"].labels == {"0": 1, "1": 2}
    assert (facts["train"].repeated, facts["validation"].in_train, facts["validation"].contradictory) == (1, 1, 1)
    for change in ("max_train_examples=1", "overrides.reviews.max_train_examples=1"):
        with pytest.raises(ValueError, match="dataset 'reviews': max_train_examples: the 1 that seed 0 selects"):
            prepare(tmp_path, text, change)
    twice = text.replace("validation.csv", "train.csv")
    with pytest.raises(ValueError, match="dataset 'reviews': train and validation have the same examples"):
        prepare(tmp_path, twice)
    said = prepare(tmp_path, twice.replace("classes: 2", "classes: 2, same_data: true"))
    assert said.facts["reviews"]["validation"].in_train == 3


def test_moved_data_and_a_moved_model_give_the_same_trials(tmp_path, monkeypatch):
    text = reviews(tmp_path).replace("model: toy", "model: ./m")
    model_folder(tmp_path / "m")
    here = prepare(tmp_path, text).spec.trials()
    (tmp_path / "away").mkdir()
    for name in ("train.csv", "validation.csv", "m"):
        (tmp_path / name).rename(tmp_path / "away" / name)
    monkeypatch.chdir(tmp_path / "away")
    there = prepare(tmp_path, text, "name=other").spec.trials()
    assert [trial.trial_id for trial in here] == [trial.trial_id for trial in there]
    (tmp_path / "away/train.csv").write_text("body,label\ngood,1\nbad!,0\n")
    changed = prepare(tmp_path, text).spec.trials()
    assert not {trial.trial_id for trial in here} & {trial.trial_id for trial in changed}


@pytest.mark.parametrize("by", ["key", "environment"])
def test_known_tasks_come_from_the_folder_that_is_given(tmp_path, monkeypatch, by):
    reviews(tmp_path, under="glue/sst2")
    for split in ("train", "validation"):
        path = tmp_path / f"glue/sst2/{split}.csv"
        path.write_text(path.read_text().replace("body", "sentence"))
    if by == "environment":
        monkeypatch.setenv("DEEPCUTS_DATA_DIR", str(tmp_path / "glue"))
    changes = ["datasets=[SST2DATA]"] + ["data_dir=glue"] * (by == "key")
    ready = prepare(tmp_path, SMALL, *changes)
    assert ready.examples == {"sst2": {"train": 2, "validation": 1}}
    assert ready.spec.tasks["sst2"].files["train"] == str(tmp_path / "glue/sst2/train.csv")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["compressions=[2, 5.1]"],
            "compressions: 'toy' on model 'toy': compression 5.1 cannot .* compression is 5.0",
        ),
        (["max_tokens=129"], "max_tokens: 129 is more than the 128 positions of model 'toy'; set it to 128 or less"),
        (["overrides.toy.max_tokens=129"], "max_tokens: 129 is more than the 128"),
        (["head=sigmoid5"], "head: 'sigmoid5' is for a regression, and 'toy' is a classification; .* overrides"),
        (["loss=mse_sum"], "loss: 'mse_sum' is for a regression"),
        (["rewind=1251"], "rewind: step 1251 is beyond the 1250 steps of fine-tuning on 'toy'"),
        (["rewind=36", "max_train_examples=100"], "beyond the 35 steps"),
        (["rewind=1", "finetune.epochs=0"], "beyond the 0 steps"),
        (["rewind=1251"], "^rewind: step 1251 is"),
        (
            ["strategies={late: {use: LayerSNIP, rewind: 1251}}"],
            "^arm 'late': rewind: step 1251 is beyond the 1250 steps",
        ),
        (["axes.rewind=[init, 1251]"], "rewind: step 1251 is beyond the 1250 steps"),
        (["model=./none"], "model './none': there is no folder"),
        (["data_dir=none", "datasets=[cola]"], "dataset 'cola': .*none.* does not exist"),
    ],
)
def test_what_cannot_run_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, SMALL, *changes)


@pytest.mark.parametrize("changes", [["rewind=1250"], ["rewind=35", "max_train_examples=100"], ["compressions=[5]"]])
def test_the_most_that_can_be_asked_for_is_allowed(tmp_path, changes):
    assert len(prepare(tmp_path, SMALL, *changes).spec.trials()) == 2


SHAPES = {
    **{f"bert.encoder.layer.{n}.{kind}.weight": (4, 8) for n in (0, 1, 10) for kind in ("query", "output")},
    "bert.pooler.dense.weight": (8, 8),
}


@pytest.fixture
def shaped(monkeypatch):
    counts = Counts(1000, 256, 128, 300, (), SHAPES)
    monkeypatch.setattr("deepcuts.sweep.prepare.count_parameters", lambda model, outputs, biases: counts)


@pytest.mark.usefixtures("shaped")
def test_excluded_tensors_do_not_count_as_prunable_and_the_plan_says_so(tmp_path):
    text = SMALL.replace("compressions: [2]", "compressions: [1.1]")
    ready = prepare(tmp_path, text, 'exclude=[pooler, "layer.1.*"]')
    counts = ready.counts["toy"]
    assert counts.prunable == 4 * 32
    assert [*counts.excluded] == [name for name in SHAPES if "pooler" in name or "layer.1." in name]
    assert {*counts.tensors, *counts.excluded} == set(SHAPES)
    assert counts.notes() == [
        "excluded from pruning: 128 parameters of bert.encoder.layer.1.query.weight,"
        " bert.encoder.layer.1.output.weight, bert.pooler.dense.weight (3 in all)"
    ]
    assert {trial.score.exclude for trial in ready.spec.trials()} == {("layer.1.*", "pooler")}
    with pytest.raises(ValueError, match=r"1\.1 cannot be reached: 64 of 1,000 parameters are prunable"):
        prepare(tmp_path, text, 'exclude=[pooler, "layer.1", query]', "overrides.toy.exclude=[pooler, layer.1, query]")
    with pytest.raises(ValueError, match=r"1\.1 cannot be reached: 64 of 1,000 parameters are prunable"):
        prepare(tmp_path, text, "axes.exclude=[[pooler], [pooler, layer.1, query]]")


@pytest.mark.usefixtures("shaped")
@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ("[poler]", "exclude: 'poler' matches no prunable tensor of model 'toy'; did you mean 'pooler'"),
        ("[pooler, layer.2]", "'layer.2' matches no .* there are bert.encoder.layer.0.query.weight, "),
        ("[dense.wieght]", r"'dense\.wieght' matches no .*did you mean"),
        ("['*']", r"\['\*'\] leaves nothing to prune: it matches all 7 prunable tensors"),
        ("[encoder, pooler]", "leaves nothing to prune"),
    ],
)
def test_what_excludes_nothing_or_everything_is_refused(tmp_path, exclude, message):
    for changes in (f"exclude={exclude}", f"strategies={{a: {{use: LayerSNIP, exclude: {exclude}}}}}"):
        with pytest.raises(ValueError, match=message):
            prepare(tmp_path, SMALL, changes)


@pytest.mark.usefixtures("shaped")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["compressions=[1.1]"], "NM24 .* not compressions; use sparsities: "),
        (["compressions=null", "sparsities=[0.5, 0.9]"], r"not sparsity 0\.9; use sparsities: \[0\.5\]"),
    ],
)
def test_two_of_four_at_another_sparsity_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"strategies: 'NM24SNIP' on 'toy': .*{message}"):
        prepare(tmp_path, SMALL, "strategies=[LayerSNIP, NM24SNIP]", *changes)


def test_two_of_four_of_inputs_that_4_does_not_divide_is_refused_unless_they_are_excluded(tmp_path, monkeypatch):
    odd = Counts(1000, 256, 128, 300, (), {**SHAPES, "bert.pooler.dense.weight": (8, 6)})
    monkeypatch.setattr("deepcuts.sweep.prepare.count_parameters", lambda model, outputs, biases: odd)
    changes = ["strategies=[NM24SNIP]", "compressions=null", "sparsities=[0, 0.5]"]
    message = r"'bert\.pooler\.dense\.weight' has 6 inputs, .* write exclude: \[bert\.pooler\.dense\.weight\]"
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, SMALL, *changes)
    ready = prepare(tmp_path, SMALL, *changes, "exclude=[bert.pooler.dense.weight]")
    assert [trial.strategy for trial in ready.spec.trials()] == ["Dense", "Unpruned", "NM24SNIP"]
    assert prepare(tmp_path, SMALL, *changes, "axes.exclude=[[bert.pooler.dense.weight]]").spec.trials()[1:]


@pytest.fixture
def neurons(monkeypatch):
    """Two layers of 50 neurons, with 600 of 800 prunable weights: all but one of each are a sparsity of 0.735."""
    shapes = {f"{n}.{kind}.weight": shape for n in "01" for kind, shape in (("first", (50, 3)), ("second", (3, 50)))}
    layers = ({"0.first.weight": 0, "0.second.weight": 1}, {"1.first.weight": 0, "1.second.weight": 1})
    counts = Counts(1000, 800, 128, 900, (), {**shapes, "pooler.weight": (20, 10)}, {}, layers)
    monkeypatch.setattr("deepcuts.sweep.prepare.count_parameters", lambda model, outputs, biases: counts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["compressions=[2, 2.5]"],
            r"compression 2.5: .* 0.75 cannot .* of the 50 .* is 0.7350 \(compression 2.4271\); ask for less",
        ),
        (["compressions=null", "sparsities=[0.1, 0.74]"], "sparsity 0.74: .* cannot be reached by whole"),
        (["axes.exclude=[[pooler], ['0.second']]"], "whole neurons have .* in '0.second.weight': take it out"),
        (["exclude=['0.second']"], "whole neurons have .* in '0.second.weight': take it out of `exclude`"),
    ],
)
def test_what_whole_neurons_cannot_reach_is_refused(tmp_path, neurons, changes, message):
    with pytest.raises(ValueError, match=f"strategies: 'NeuronSNIP' on 'toy' at .*{message}"):
        prepare(tmp_path, SMALL, "strategies=[LayerSNIP, NeuronSNIP]", *changes)


@pytest.mark.parametrize("changes", [["compressions=[2.4271]"], ["compressions=null", "sparsities=[0.735]"]])
def test_the_most_that_whole_neurons_reach_is_allowed(tmp_path, neurons, changes):
    assert len(prepare(tmp_path, SMALL, "strategies=[NeuronSNIP]", *changes).spec.trials()) == 2


def test_a_model_whose_neurons_cannot_be_told_is_refused_for_neuron_strategies_alone(tmp_path, monkeypatch):
    counts = SimpleNamespace(**vars(COUNTS), feed_forward="the feed-forward layers are gated")
    monkeypatch.setattr("deepcuts.sweep.prepare.count_parameters", lambda model, outputs, biases: counts)
    prepare(tmp_path, SMALL)
    with pytest.raises(ValueError, match="'NeuronSNIP' on 'toy' at .*: its whole neurons cannot .* are gated; take"):
        prepare(tmp_path, SMALL, "strategies=[NeuronSNIP]")


def test_masks_of_a_dataset_that_excludes_other_tensors_are_refused(tmp_path, monkeypatch):
    counts = Counts(1000, 800, 128, 900, tensors={"a.query.weight": (20, 20), "pooler.weight": (20, 20)})
    monkeypatch.setattr("deepcuts.sweep.prepare.count_parameters", lambda model, outputs, biases: counts)
    text = reviews(tmp_path).replace("classes: 2}", "classes: 2}, toy: null").replace("compressions", "sparsities")
    text, asked = text.replace("[2]", "[0.5]"), "mask_from={dataset: toy}"
    prepare(tmp_path, text, asked, "exclude=[pooler]")
    prepare(tmp_path, text, asked, "exclude=[pooler]", "overrides.toy.exclude=[pooler.weight]")
    with pytest.raises(ValueError, match=r"masks of 'toy', and 'toy' alone excludes 'pooler.weight'; exclude"):
        prepare(tmp_path, text, asked, "overrides.toy.exclude=[pooler]")
