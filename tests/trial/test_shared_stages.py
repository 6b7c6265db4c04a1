"""What trials share, and what happens when one fails, is stopped, or runs out of memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.toy_trials import SCORING, STEPS, TASK, TRAINING, context, dense, everything, rows, theta_1, trial

from deepcuts.data.splits import Split
from deepcuts.data.toy import VOCABULARY
from deepcuts.experiment.metrics import UndefinedMetric
from deepcuts.experiment.settings import Scoring, Training, examples_at_once
from deepcuts.experiment.spec import TrialSpec
from deepcuts.model.network import set_weights, weights_of
from deepcuts.scoring.score import _add_group
from deepcuts.store.store import Store
from deepcuts.training.train import Interrupted
from deepcuts.trial.loading import load_material, load_network
from deepcuts.trial.trial import run_stages

pytestmark = [
    pytest.mark.usefixtures("torch_state", "few_sentences"),
    pytest.mark.filterwarnings(f"ignore::{UndefinedMetric.__module__}.UndefinedMetric"),
]
SHORT = Training(epochs=0, batch_size=16)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_strategies_share_one_fine_tuning_and_one_pass_of_each_kind(store: Store, calls: dict[str, int]) -> None:
    strategies = ["GlobalMagWeight", "LayerMagGrad", "GlobalMagGrad", "GlobalGradCAM", "RowWanda", "LayerMagAct"]
    strategies += ["LayerSmoothGrad", "LayerSmoothGradCAM+shuffle"]
    scoring = Scoring(batches=2, smooth_batches=3, smoothing_passes=1)
    trials = [trial(strategy, scoring=scoring, retrain=SHORT) for strategy in strategies]
    shared = context(store, partners=[each.score for each in trials])
    found = [run_stages(each, "test", shared) for each in trials]
    assert [row["status"] for row in found] == ["completed"] * len(trials)
    assert calls == {"step": STEPS, "batch": 2 + 2 + 3}  # plain, forward, smoothed
    assert [row["dense_cached"] for row in found] == [False] + [True] * 7
    made = [row["strategy"] for row in found if row["score_seconds"] and row["criterion"] != "MagWeight"]
    assert made == ["LayerMagGrad", "RowWanda", "LayerSmoothGrad"]
    assert [row["finetune_seconds"] for row in found[1:]] == [0] * 7


@pytest.mark.parametrize("strategy", ["LayerGradCAM", "GlobalSmoothGradCAMShift", "LayerMagAct"])
def test_scores_made_for_company_are_those_made_alone(strategy: str, tmp_path: Path) -> None:
    kinds = ["GradCAM", "GradCAMShift", "MagGrad", "SmoothGradCAMShift", "SmoothGradCAM", "MagAct", "Wanda"]
    alone, shared = Store(str(tmp_path / "alone")), Store(str(tmp_path / "shared"))
    spec = trial(strategy, retrain=SHORT)
    run_stages(spec, "test", context(alone))
    partners = [trial(f"Global{kind}", retrain=SHORT).score for kind in kinds]
    run_stages(spec, "test", context(shared, partners=partners))
    assert everything(alone, spec) == everything(shared, spec)


def test_one_pass_leaves_the_scores_of_every_shift_and_way_to_count(
    tmp_path: Path, store: Store, calls: dict[str, int]
) -> None:
    settings = [{"shift": 0}, {"shift": 10}, {"shift": 0, "count_padding": True}]
    trials = [trial("LayerGradCAMShift", scoring=SCORING.model_copy(update=each), retrain=SHORT) for each in settings]
    shared = context(store, partners=[each.score for each in trials])
    assert [run_stages(each, "test", shared)["score_cached"] for each in trials] == [False, True, True]
    assert calls["batch"] == SCORING.batches
    alone = Store(str(tmp_path / "alone"))
    for each in trials:
        run_stages(each, "test", context(alone))
        assert everything(alone, each) == everything(store, each)
    assert len({str(rows(store, "masks", each)) for each in trials}) == 3


def test_scoring_uses_no_more_than_the_training_split(store: Store) -> None:
    spec = trial("LayerMagGrad", scoring=Scoring(batches=1000), retrain=SHORT)
    run_stages(spec, "test", context(store))
    meta = store.artifact("scores", str(spec.score.score_id))
    assert meta is not None
    assert meta["batches"] == STEPS


@pytest.mark.parametrize("last", [1, STEPS, STEPS + 1, 2 * STEPS])
def test_interrupted_and_run_again_gives_the_same_bits(last: int, tmp_path: Path) -> None:
    spec = trial("GlobalMagWeight")
    undisturbed, store = Store(str(tmp_path / "undisturbed")), Store(str(tmp_path / "stopped"))
    run_stages(spec, "test", context(undisturbed))
    steps = iter(range(1, 100))
    with pytest.raises(Interrupted):
        run_stages(spec, "test", context(store, stop=lambda: next(steps) == last))
    assert rows(store, "trials", spec) == []
    assert run_stages(spec, "test", context(store))["status"] == "completed"
    assert everything(store, spec) == everything(undisturbed, spec)
    assert store.names("artifacts/_checkpoints", ".safetensors") == []


def test_a_step_that_a_later_trial_rewinds_to_is_made_though_a_checkpoint_is_past_it(tmp_path: Path) -> None:
    undisturbed, store = Store(str(tmp_path / "undisturbed")), Store(str(tmp_path / "stopped"))
    steps = iter(range(1, 100))
    with pytest.raises(Interrupted):
        run_stages(trial(), "test", context(store, stop=lambda: next(steps) == 2))
    late = trial(rewind=1)
    for each in (undisturbed, store):
        assert run_stages(late, "test", context(each))["status"] == "completed"
    assert everything(store, late) == everything(undisturbed, late)


@pytest.mark.filterwarnings("ignore:the checkpoint .* is damaged")
@pytest.mark.parametrize("ending", ["", "-step-1"])
def test_a_changed_byte_in_what_an_interrupted_trial_left_changes_no_bit(ending: str, tmp_path: Path) -> None:
    spec = trial(rewind=1)
    undisturbed, store = Store(str(tmp_path / "undisturbed")), Store(str(tmp_path / "stopped"))
    run_stages(spec, "test", context(undisturbed))
    steps = iter(range(1, 100))
    with pytest.raises(Interrupted):
        run_stages(spec, "test", context(store, stop=lambda: next(steps) == 2))
    left = Path(store.root, "artifacts/_checkpoints", f"{spec.dense.dense_id}{ending}.safetensors")
    content = bytearray(left.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    content[begin + 3 :: 400] = bytes(each ^ 0x40 for each in content[begin + 3 :: 400])
    left.write_bytes(content)
    assert run_stages(spec, "test", context(store))["status"] == "completed"
    assert everything(store, spec) == everything(undisturbed, spec)


def test_a_step_that_a_later_trial_rewinds_to_is_added_to_a_finished_network(store: Store) -> None:
    run_stages(trial(), "test", context(store))
    before = theta_1(store, trial())
    run_stages(trial(rewind=1), "test", context(store))
    assert run_stages(trial(rewind=2), "test", context(store))["status"] == "completed"
    meta = store.artifact("dense", trial().dense.dense_id)
    assert meta is not None
    assert {"step-1.safetensors", "step-2.safetensors", "model.safetensors"} <= set(meta["files"])
    assert all(torch.equal(before[name], weight) for name, weight in theta_1(store, trial()).items())


def test_a_rewind_beyond_the_fine_tuning_fails_the_trial_at_once(store: Store, calls: dict[str, int]) -> None:
    row = run_stages(trial(rewind=STEPS + 1), "test", context(store))
    assert (row["status"], row["failure"], row["error_stage"]) == ("failed", "trial", "dense")
    assert "rewind: step 4 is beyond the 3 steps of fine-tuning" in row["error"]
    assert calls["step"] == 0


def failed(store: Store, spec: TrialSpec, **fields: Any) -> dict[str, Any]:
    row = run_stages(spec, "test", context(store, **fields))
    [stored] = rows(store, "trials", spec)
    assert stored == {name: row.get(name) for name in stored}
    assert (row["status"], row["failure"]) == ("failed", "trial")
    assert everything(store, spec)[1:] == [[], [], []]
    return row


@pytest.mark.parametrize(
    ("where", "stage"),
    [
        ("deepcuts.trial.trial.load_network", "load"),
        ("deepcuts.training.step.take_step", "dense"),
        ("deepcuts.scoring.score._add_group", "score"),
        ("deepcuts.trial.choice.make_masks", "pruned"),
        ("deepcuts.trial.trial.set_weights", "rewound"),
        ("deepcuts.trial.trial.pack", "store"),
    ],
)
def test_a_failure_leaves_one_row_that_says_what_happened(
    where: str, stage: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError("this is broken")

    spec = trial("LayerMagGrad")
    with monkeypatch.context() as patch:
        patch.setattr(where, broken)
        row = failed(store, spec)
    assert row["error_stage"] == stage
    assert row["error"] == "RuntimeError: this is broken"
    assert 'raise RuntimeError("this is broken")' in row["traceback"]
    assert json.loads(row["spec"])["sparsity"] == 0.5
    assert run_stages(spec, "test", context(store))["status"] == "completed"
    [again] = rows(store, "trials", spec)
    assert (again["status"], again["failure"], again["error"], again["traceback"]) == ("completed", None, None, None)


def test_training_that_explodes_fails_the_trial(store: Store) -> None:
    row = failed(store, trial(of=dense(finetune=TRAINING.model_copy(update={"lr": 1e38, "optimizer": "sgd"}))))
    assert row["error_stage"] == "dense"
    assert "not finite" in row["error"]


def test_what_the_store_refuses_is_raised_and_not_recorded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError("no space left")

    spec = trial()
    for method in ("new_artifact", "write"):
        with monkeypatch.context() as patch:
            patch.setattr(Store, method, full)
            with pytest.raises(OSError, match="no space left"):
                run_stages(spec, "test", context(store))
        assert rows(store, "trials", spec) == []


@pytest.mark.parametrize("where", ["deepcuts.training.step.take_step", "deepcuts.scoring.score._add_group"])
def test_out_of_memory_halves_the_micro_batch_and_says_so(
    where: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = where.rpartition(".")
    function = getattr(__import__(module, fromlist=[name]), name)
    refusals = iter([True, True])

    def stingy(*arguments: Any) -> Any:
        if next(refusals, False):
            raise torch.OutOfMemoryError("too much")
        return function(*arguments)

    monkeypatch.setattr(where, stingy)
    row = run_stages(trial("LayerMagGrad"), "test", context(store))
    assert (row["status"], row["micro_batch"]) == ("completed", 4)
    assert run_stages(trial("LayerSNIP"), "test", context(store))["micro_batch"] == 16


@pytest.mark.parametrize("where", ["deepcuts.scoring.score._add_group", "deepcuts.trial.trial.fit"])
def test_what_a_trial_made_before_memory_ran_out_is_its_own(
    where: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = where.rpartition(".")
    function = getattr(__import__(module, fromlist=[name]), name)
    refusals = iter([True])

    def stingy(*arguments: Any, **named: Any) -> Any:
        if next(refusals, False):
            raise torch.OutOfMemoryError("too much")
        return function(*arguments, **named)

    monkeypatch.setattr(where, stingy)
    scoring = SCORING.model_copy(update={"batch_size": 32})  # twice that of training, which is not halved
    row = run_stages(trial("LayerMagGrad", scoring=scoring), "test", context(store))
    in_scoring = "scoring" in where
    assert (row["micro_batch"], row["score_micro_batch"]) == (16, 16 if in_scoring else 32)
    assert (row["dense_cached"], row["score_cached"]) == (False, False)
    assert row["finetune_seconds"] > 0
    assert row["score_seconds"] > 0
    assert row["started_at"] < row["finished_at"]
    other = run_stages(trial("LayerMagGrad", scoring=scoring, sparsity=0.9), "test", context(store))
    assert (other["dense_cached"], other["score_cached"], other["finetune_seconds"]) == (True, True, 0)
    assert other["score_micro_batch"] == row["score_micro_batch"]  # of the scores that it took


def test_owl_out_of_memory_halves_the_batches_of_its_wanda_scores(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter([True])

    def stingy(*arguments: Any) -> Any:
        if next(refusals, False):
            raise torch.OutOfMemoryError("too much")
        return _add_group(*arguments)

    monkeypatch.setattr("deepcuts.scoring.score._add_group", stingy)
    scoring = SCORING.model_copy(update={"batch_size": 32})
    row = run_stages(trial("OwlMagWeight", scoring=scoring), "test", context(store))
    assert (row["status"], row["micro_batch"], row["score_micro_batch"]) == ("completed", 16, 16)


def test_weights_of_other_shapes_are_refused_and_change_nothing() -> None:
    network = load_network(dense())
    before, wrong = weights_of(network), weights_of(network)
    first, *_, last = wrong
    wrong |= {first: wrong[first] + 1, last: torch.zeros(1)}  # which a copy would stretch
    with pytest.raises(ValueError, match=f"{last!r} has shape \\(1,\\) and the network's"):
        set_weights(network, wrong)
    assert all(torch.equal(weights, before[name]) for name, weights in weights_of(network).items())


@pytest.mark.parametrize(("batch_size", "sizes"), [(16, [None, 8, 4, 2, 1]), (4, [None, 2, 1])])
def test_a_single_example_that_is_too_large_fails_the_trial(
    batch_size: int, sizes: list[int | None], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int | None] = []

    def refuse(network: Any, tokens: Any, settings: Training, *rest: Any) -> Any:
        tried.append(settings.micro_batch)
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr("deepcuts.training.step.take_step", refuse)
    training = TRAINING.model_copy(update={"batch_size": batch_size})
    row = failed(store, trial(of=dense(finetune=training), retrain=training))  # a magnitude, which scores no batches
    assert row["error"] == "OutOfMemoryError: too much"
    assert tried == sizes


def test_a_gpu_that_is_not_there_is_never_replaced_by_the_cpu(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    row = run_stages(trial(of=dense(device="cuda")), "test", context(store))
    assert row["error_stage"] == "load"
    assert "no usable CUDA device; set resources.gpus=0" in row["error"]


@pytest.mark.parametrize(
    ("allowed", "asked", "bound", "at_once"),
    [(None, None, None, 16), (4, None, 4, 4), (32, 8, 8, 8), (32, 64, 32, 16)],
)
def test_a_machine_bounds_the_micro_batch_but_never_enlarges_it(
    allowed: int | None, asked: int | None, bound: int | None, at_once: int, store: Store
) -> None:
    for settings in (Training(micro_batch=asked), Scoring(micro_batch=asked)):
        bounded = context(store, micro_batch=allowed).bound(settings)
        assert bounded == settings.model_copy(update={"micro_batch": bound})
        assert examples_at_once(bounded) == at_once


def test_material_is_the_chosen_examples_with_what_was_cut() -> None:
    few, short = load_material(dense()), load_material(dense(max_tokens=8))
    assert (len(few.train), len(few.evaluated["validation"])) == (48, 64)
    assert few.metric_names == ("accuracy", "f1", "matthews")
    assert few.cut == 0
    assert short.cut == sum(int(tokens.cut.sum()) for tokens in (short.train, short.evaluated["validation"])) > 0


def test_tokens_of_texts_that_changed_under_the_same_name_are_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASK.model_copy(update={"digest": None, "hub": "somebody/something"})  # as a revision that moves on
    for word in ("good", "bad"):
        pairs = [(f"the film was {word}", i % 2) for i in range(4)]
        split = Split([(text,) for text, _ in pairs], np.array([label for _, label in pairs], np.float64))
        monkeypatch.setattr("deepcuts.trial.loading.load_split", lambda task, name, split=split: split)
        ids = load_material(dense(task)).train.inputs["input_ids"]
        assert VOCABULARY.index(word) in ids


def test_a_network_starts_on_the_device_and_precision_of_its_spec() -> None:
    network = load_network(dense(precision="bf16"))
    assert (network.precision, network.device.type, network.head) == ("bf16", "cpu", "linear")
