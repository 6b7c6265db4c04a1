"""Retraining with the fine-tuned network as teacher, and classes that are weighted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.toy_trials import TRAINING, context, dense, everything, rows, trial

from deepcuts.experiment.metrics import UndefinedMetric
from deepcuts.experiment.reading import parse_sweep
from deepcuts.experiment.settings import Distill, Training
from deepcuts.experiment.sharing import shared
from deepcuts.model.network import set_weights
from deepcuts.store.cache import shared_stages
from deepcuts.store.store import Store
from deepcuts.store.tensors import load_artifact
from deepcuts.training.train import Interrupted, evaluate
from deepcuts.trial import trial as stages
from deepcuts.trial.loading import load_material, load_network, weight_classes
from deepcuts.trial.trial import run_stages

pytestmark = [
    pytest.mark.usefixtures("torch_state", "few_sentences"),
    pytest.mark.filterwarnings(f"ignore::{UndefinedMetric.__module__}.UndefinedMetric"),
]
TAUGHT = Training(**TRAINING.model_dump(exclude_unset=True), distill=Distill(temperature=2, weight=0.9))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the splits of which a teacher's outputs were made."""
    made: list[int] = []

    def counting(network: Any, tokens: Any) -> Any:
        made.append(len(tokens))
        return evaluate(network, tokens)

    monkeypatch.setattr("deepcuts.trial.shared_stages.evaluate", counting)
    return made


def test_the_outputs_of_the_teacher_are_made_once_and_are_those_of_the_fine_tuned_network(
    store: Store, passes: list[int]
) -> None:
    trials = [trial(retrain=None, strategy="Dense"), trial(retrain=TAUGHT), trial("GlobalMagWeight", retrain=TAUGHT)]
    wanted = shared(trials)
    assert wanted.teaches(trials[0])
    for each in trials:
        assert run_stages(each, "test", context(store, teaches=wanted.teaches(each)))["status"] == "completed"
        assert passes == [48], each.strategy  # by the one that fine-tunes, for those that wait for it
    key = trials[0].dense.dense_id
    network, material = load_network(trials[0].dense), load_material(trials[0].dense)
    set_weights(network, load_artifact(store, "dense", key, "model.safetensors"))
    stored = load_artifact(store, "teachers", key, "outputs.safetensors")["outputs"]
    assert np.array_equal(stored.numpy(), evaluate(network, material.train))
    assert [(row["kind"], row["id"]) for row in shared_stages(store)] == [("dense", key), ("teachers", key)]


def test_a_teacher_is_added_to_a_network_that_was_fine_tuned_without(store: Store, passes: list[int]) -> None:
    plain, taught = trial(), trial(retrain=TAUGHT)
    run_stages(plain, "test", context(store))
    assert passes == []
    run_stages(taught, "test", context(store))
    run_stages(trial("GlobalMagWeight", retrain=TAUGHT), "test", context(store))
    assert passes == [48]
    pair = [rows(store, "metrics", each) for each in (plain, taught)]
    before, after = (
        [[row for row in found if (row["stage"] == "retrained") is late] for found in pair] for late in (False, True)
    )
    assert [{**row, "trial_id": ""} for row in before[0]] == [{**row, "trial_id": ""} for row in before[1]]
    assert [row["value"] for row in after[0]] != [row["value"] for row in after[1]]


def test_a_taught_trial_that_is_interrupted_resumes_to_the_same_bits(tmp_path: Path) -> None:
    spec = trial(retrain=TAUGHT.model_copy(update={"epochs": 2}))
    undisturbed, store = Store(str(tmp_path / "undisturbed")), Store(str(tmp_path / "stopped"))
    run_stages(spec, "test", context(undisturbed))
    for last in (2, 5, 1):
        steps = iter(range(1, 100))
        with pytest.raises(Interrupted):
            run_stages(spec, "test", context(store, stop=lambda steps=steps, last=last: next(steps) == last))
    run_stages(spec, "test", context(store))
    assert everything(store, spec) == everything(undisturbed, spec)


def test_a_teacher_without_weight_is_plain_retraining() -> None:
    silent = TRAINING.model_copy(update={"distill": None}).model_dump() | {"distill": {"weight": 0}}
    assert Training(**silent) == TRAINING
    assert trial(retrain=Training(**silent)).trial_id == trial().trial_id
    assert trial(retrain=TAUGHT).trial_id != trial().trial_id
    assert trial(retrain=TAUGHT).dense.dense_id == trial().dense.dense_id


def test_a_student_of_the_teacher_alone_comes_closer_to_it(store: Store) -> None:
    """At weight 1 and from the teacher's own weights, retraining keeps what the teacher says."""
    fields: dict[str, Any] = {"sparsity": 0.05, "rewind": "none"}
    found = []
    for weight in (0.0, 1.0):
        settings = TAUGHT.model_dump() | {
            "optimizer": "sgd",
            "lr": 0.05,
            "distill": {"temperature": 1, "weight": weight},
        }
        spec = trial(retrain=Training(**settings), **fields)
        run_stages(spec, "test", context(store))
        logits = {
            stage: np.array([row["logits"] for row in rows(store, "predictions", spec) if row["stage"] == stage])
            for stage in ("dense", "retrained")
        }
        found.append(np.abs(logits["dense"] - logits["retrained"]).mean())
    assert found[1] < 0.5 * found[0]


SWEEP = {"model": "toy", "datasets": ["toy"], "strategies": ["LayerMagWeight"], "compressions": [2]}


def test_only_retraining_has_a_teacher_and_its_settings_are_checked() -> None:
    read = parse_sweep(SWEEP | {"retrain": {"distill": {"temperature": 4}}})
    assert read.retraining().distill == Distill(temperature=4, weight=0.9)
    assert read.resolved()["retrain"]["distill"] == {"temperature": 4, "weight": 0.9}
    assert parse_sweep(SWEEP).retraining().distill is None
    for change, message in (
        ({"finetune": {"distill": {}}}, "finetune: .*distill is for retrain: .* there is none before"),
        ({"retrain": {"distill": {"temperature": 0}}}, "retrain.distill.temperature.*0"),
        ({"retrain": {"distill": {"weight": 1.5}}}, "retrain.distill.weight.*1.5"),
        ({"retrain": {"distill": {"temprature": 1}}}, "did you mean 'temperature'"),
        ({"overrides": {"toy": {"finetune": {"distill": {}}}}}, "distill is for retrain"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_sweep(SWEEP | change)


def test_arms_and_axes_may_have_a_teacher() -> None:
    taught = {"use": "LayerMagWeight", "retrain": {"distill": {"temperature": 4}}}
    arms = {"plain": {"use": "LayerMagWeight"}, "taught": taught}
    file = parse_sweep(SWEEP | {"strategies": arms, "axes": {"retrain.distill.weight": [0, 0.5]}})
    found = {arm.label: file.for_arm("toy", arm).retraining().distill for arm in file.arms}
    assert found == {
        "plain weight=0": None,
        "plain weight=0.5": Distill(weight=0.5),
        "taught weight=0": None,
        "taught weight=0.5": Distill(temperature=4, weight=0.5),
    }
    own = {"taught": taught | {"retrain": {"distill": {"weight": 0.2}}}, "plain": {"use": "LayerSNIP"}}
    file = parse_sweep(SWEEP | {"strategies": own, "axes": {"retrain.distill.weight": [0.5, 1]}})
    assert [arm.label for arm in file.arms] == ["taught", "plain weight=0.5", "plain weight=1"]


def test_classes_are_weighted_by_the_examples_that_are_used_in_every_loss(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighted = dense(class_weights="balanced", max_train_examples=21)
    assert weighted.dense_id != dense(max_train_examples=21).dense_id
    material = load_material(weighted)
    counts = torch.bincount(material.train.labels.long())
    assert counts[0] != counts[1]
    expected = (21 / (2 * counts)).tolist()
    seen = []

    def noting(network: Any, *rest: Any) -> Any:
        seen.append(None if network.class_weights is None else network.class_weights.tolist())
        return original(network, *rest)

    original = stages.fine_tune
    monkeypatch.setattr(stages, "fine_tune", noting)
    spec = trial("LayerSNIP", of=weighted)
    assert run_stages(spec, "test", context(store))["status"] == "completed"
    plain = trial("LayerSNIP", of=dense(max_train_examples=21))
    run_stages(plain, "test", context(store))
    losses = [[r["value"] for r in rows(store, "metrics", each) if r["metric"] == "loss"] for each in (spec, plain)]
    assert seen == [pytest.approx(expected), None]
    assert len(losses[0]) == 2
    assert all(one != other for one, other in zip(*losses, strict=True))
    scores = [load_artifact(store, "scores", str(each.score.score_id), "scores.safetensors") for each in (spec, plain)]
    assert any(not torch.equal(scores[0][name], scores[1][name]) for name in scores[0])


def test_without_class_weights_the_network_has_none() -> None:
    spec = dense()
    assert weight_classes(load_network(spec), spec, load_material(spec)).class_weights is None
