"""Laws of a trial: what the weights are at every stage, and what its rows say."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.toy_trials import STEPS, TASK, TRAINING, context, dense, everything, rows, theta_0, theta_1, trial
from torch import Tensor

from deepcuts.data.batches import shuffled
from deepcuts.data.splits import load_split, locate
from deepcuts.experiment.metrics import UndefinedMetric
from deepcuts.experiment.own_data import OwnData
from deepcuts.experiment.settings import Training
from deepcuts.experiment.spec import TrialSpec
from deepcuts.model.network import weights_of
from deepcuts.pruning.bits import unpack
from deepcuts.store.store import Store
from deepcuts.store.tensors import load_artifact
from deepcuts.training.train import train
from deepcuts.trial.fitting import evaluate_stage
from deepcuts.trial.trial import run_stages

pytestmark = [
    pytest.mark.usefixtures("torch_state", "few_sentences"),
    pytest.mark.filterwarnings(f"ignore::{UndefinedMetric.__module__}.UndefinedMetric"),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def weights_at(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Tensor]]:
    """The network's weights whenever a stage is evaluated."""
    seen: dict[str, dict[str, Tensor]] = {}

    def watched(network: Any, material: Any, stage: str) -> Any:
        seen[stage] = weights_of(network)
        return evaluate_stage(network, material, stage)

    monkeypatch.setattr("deepcuts.trial.fitting.evaluate_stage", watched)
    return seen


def masks_of(store: Store, spec: TrialSpec) -> dict[str, Tensor]:
    found = {}
    for row in rows(store, "masks", spec):
        mask = unpack(row["bits"], row["size"]).reshape(row["shape"])
        assert int(mask.sum()) == row["kept"]
        found[f"{row['layer']}.{row['parameter']}"] = torch.from_numpy(mask)
    return found


def completed(store: Store, spec: TrialSpec, **fields: Any) -> dict[str, Any]:
    row = run_stages(spec, "test", context(store), **fields)
    assert row["status"] == "completed", row["traceback"]
    return row


@pytest.mark.parametrize(
    ("strategy", "rewind"),
    [("GlobalMagWeight", "init"), ("RowWanda", 2), ("LayerSmoothGrad+shuffle", "none"), ("GlobalRandom", 6)],
)
def test_every_stage_has_the_weights_that_it_should(
    strategy: str, rewind: Any, store: Store, weights_at: dict[str, dict[str, Tensor]]
) -> None:
    twice = Training(epochs=2, batch_size=16, lr=1e-3)
    spec = trial(strategy, dense(finetune=twice), rewind=rewind, prune_biases=strategy == "RowWanda")
    completed(store, spec)
    masks, tuned = masks_of(store, spec), theta_1(store, spec)
    start = {"init": theta_0(spec), "none": tuned}.get(rewind) or theta_1(store, spec, f"step-{rewind}.safetensors")
    for name, weight in tuned.items():
        mask = masks.get(name, torch.ones_like(weight, dtype=torch.bool))
        assert torch.equal(weights_at["dense"][name], weight)
        assert torch.equal(weights_at["pruned"][name], torch.where(mask, weight, 0.0))
        assert torch.equal(weights_at["rewound"][name], torch.where(mask, start[name], 0.0))
        assert not weights_at["retrained"][name][~mask].any()
    assert all((weights_at["retrained"][name][mask] != start[name][mask]).any() for name, mask in masks.items())
    pooler = "bert.pooler.dense.weight"
    assert torch.equal(start[pooler], theta_0(spec)[pooler]) == (rewind == "init")
    assert torch.equal(start[pooler], tuned[pooler]) == (rewind in ("none", 2 * STEPS))


@pytest.mark.parametrize("strategy", ["LayerGradCAMShift", "LayerSmoothGrad+shuffle", "GlobalRandom"])
def test_the_same_spec_gives_the_same_bits_from_fresh_and_from_cached_stages(strategy: str, tmp_path: Path) -> None:
    spec = trial(strategy)
    found = []
    for folder in ("one", "two"):
        store = Store(str(tmp_path / folder))
        torch.rand(3)
        assert not completed(store, spec)["dense_cached"]
        found.append(everything(store, spec))
        assert completed(store, spec)["dense_cached"]
        found.append(everything(store, spec))
    assert all(each == found[0] for each in found)
    assert [len(table) for table in found[0]] == [1, 14, 256, 13]  # 4 stages of 3 metrics, 2 with a loss


def test_a_trial_of_a_compression_keeps_that_many_of_all_parameters(store: Store) -> None:
    for strategy in ("GlobalMagWeight", "LayerMagWeight"):
        row = completed(store, trial(strategy, compression=4))
        assert row["compression_achieved"] == pytest.approx(4, rel=1e-3)
        assert row["parameters"] / (row["parameters"] - row["prunable"] + row["kept"]) == row["compression_achieved"]
        assert row["sparsity"] == 1 - row["kept"] / row["prunable"]
        assert row["flops_nonzero"] < row["flops"]
        assert (row["compression"], row["sparsity_asked"]) == (4, None)


def test_dense_stops_after_fine_tuning(store: Store) -> None:
    spec = trial("Dense")
    row = completed(store, spec)
    assert (row["strategy"], row["sparsity"], row["compression"], row["sparsity_asked"]) == ("Dense", 0, 1, 0)
    assert row["kept"] == row["prunable"] > 0
    [stored] = rows(store, "trials", spec)
    labels = [each["label"] for each in rows(store, "predictions", spec)]
    assert stored["majority"] == max(labels.count(0), labels.count(1)) / len(labels)
    facts = json.loads(stored["data_facts"])
    assert (facts["train"]["examples"], facts["validation"]["examples"]) == (48, len(labels))
    assert facts["validation"]["labels"] == {"0": labels.count(0), "1": labels.count(1)}
    assert sum(facts["train"]["labels"].values()) == 48
    assert facts["train"]["truncated"] + facts["validation"]["truncated"] == stored["examples_truncated"] == 0
    null = ["pruned", "rewound", "retrained", "rewind", "criterion", "scope", "control", "score_id", "failure", "error"]
    assert [stored[name] for name in null] == [None] * len(null)
    assert rows(store, "masks", spec) == []
    assert {each["stage"] for each in rows(store, "metrics", spec)} == {"dense"}
    assert {each["stage"] for each in rows(store, "predictions", spec)} == {"dense"}


def test_unpruned_is_rewound_and_retrained_with_every_weight(
    store: Store, weights_at: dict[str, dict[str, Tensor]]
) -> None:
    spec = trial("Unpruned")
    row = completed(store, spec)
    assert (row["sparsity"], row["compression_achieved"], row["kept"]) == (0, 1, row["prunable"])
    assert all(bool(mask.all()) for mask in masks_of(store, spec).values())
    assert row["pruned"] == row["dense"]
    start = theta_0(spec)
    assert all(torch.equal(weights_at["rewound"][name], start[name]) for name in start)
    assert None not in (row["rewound"], row["retrained"])


def test_the_row_s_numbers_are_those_of_the_last_epochs(store: Store) -> None:
    spec = trial(
        of=dense(finetune=Training(epochs=2, batch_size=16, lr=1e-3)),
        retrain=Training(epochs=3, batch_size=16, lr=1e-3),
    )
    row = completed(store, spec)
    metrics = [each for each in rows(store, "metrics", spec) if each["split"] == "validation"]
    for stage, epochs in (("dense", 2), ("pruned", 1), ("rewound", 1), ("retrained", 3)):
        values = [each for each in metrics if each["stage"] == stage and each["metric"] == "accuracy"]
        assert [each["epoch"] for each in values] == list(range(epochs))
        assert row[stage] == values[-1]["value"]
        if epochs > 1:
            assert [each["step"] for each in values] == [STEPS * (epoch + 1) for epoch in range(epochs)]
        examples = [each for each in rows(store, "predictions", spec) if each["stage"] == stage]
        assert [each["example"] for each in examples] == list(range(64))
        assert np.mean([each["label"] == each["prediction"] for each in examples]) == row[stage]
        assert all(each["prediction"] == np.argmax(each["logits"]) for each in examples)


def test_no_epochs_are_legal_in_either_stage(store: Store) -> None:
    none = Training(epochs=0, batch_size=16)
    spec = trial(of=dense(finetune=none), retrain=none)
    row = completed(store, spec)
    start, tuned = theta_0(spec), theta_1(store, spec)
    assert all(torch.equal(start[name], tuned[name]) for name in start)
    assert row["pruned"] == row["rewound"] == row["retrained"]
    assert {(each["epoch"], each["step"]) for each in rows(store, "metrics", spec)} == {(0, 0)}
    assert len(rows(store, "predictions", spec)) == 4 * 64
    rewound, retrained = (
        [each | {"stage": ""} for each in rows(store, "predictions", spec) if each["stage"] == stage]
        for stage in ("rewound", "retrained")
    )
    assert [str(each) for each in rewound] == [str(each) for each in retrained]


def test_only_kept_weights_are_kept_of_a_model(store: Store, weights_at: dict[str, dict[str, Tensor]]) -> None:
    spec = trial("GlobalMagWeight", sparsity=0.8)
    completed(store, spec, keep_model=True)
    small, masks = load_artifact(store, "models", spec.trial_id, "kept.safetensors"), masks_of(store, spec)
    for name, weight in weights_at["retrained"].items():
        if name in masks:
            assert small[name].shape == (int(masks[name].sum()),)
            whole = torch.zeros_like(weight)
            whole[masks[name]] = small[name]
            assert torch.equal(whole, weight)
        else:
            assert torch.equal(small[name], weight)


def test_seeds_differ_in_head_and_order_but_not_in_the_encoder(store: Store) -> None:
    first, second = trial(of=dense(seed=0)), trial(of=dense(seed=1))
    a, b = theta_0(first), theta_0(second)
    assert {name for name in a if not torch.equal(a[name], b[name])} == {"classifier.weight"}
    assert completed(store, first)["trial_id"] != completed(store, second)["trial_id"]


def test_a_bounded_head_is_trained_by_summed_squares_on_one_s_own_file(tmp_path: Path, store: Store) -> None:
    for split, count in (("train", 32), ("validation", 12)):
        lines = [f"the film was {'good' if i % 3 else 'bad'},{i % 3 + i / 100}" for i in range(count)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["body,stars", *lines]))
    paths = {split: str(tmp_path / f"{split}.csv") for split in ("train", "validation")}
    task = locate("mine", OwnData(**paths, text=["body"], label="stars", kind="regression"))
    plain = dense(task, finetune=TRAINING)
    seed_s = dense(task, finetune=TRAINING, head="sigmoid5", loss="mse_sum")
    for of in (plain, seed_s):
        spec = trial("LayerGradCAMShift", of=of)
        row = completed(store, spec)
        assert (row["metric"], row["majority"]) == ("pearson", None)
        facts = json.loads(row["data_facts"])["validation"]
        assert (facts["labels"], facts["values"][0], facts["in_train"], facts["contradictory"]) == ({}, 0, 12, 12)
        metrics = rows(store, "metrics", spec)
        assert {each["metric"] for each in metrics} == {"loss", "pearson", "spearman", "mse"}
        examples = [each for each in rows(store, "predictions", spec) if each["stage"] == "retrained"]
        found = next(m["value"] for m in metrics if m["stage"] == "retrained" and m["metric"] == "mse")
        assert np.mean([(e["label"] - e["prediction"]) ** 2 for e in examples]) == pytest.approx(found)
        if of is seed_s:
            assert all(0 < each["prediction"] < 5 for each in examples)
            loss = [m["value"] for m in metrics if m["metric"] == "loss" and m["stage"] == "dense"][0]
            assert loss > 5  # summed over 16 examples, whose labels are 1 in the mean


def test_a_trial_on_one_file_says_how_it_was_split(tmp_path: Path, store: Store) -> None:
    lines = [f"the film was {word} {'very ' * i}good,{word}" for i in range(30) for word in ("not", "really")]
    (tmp_path / "reviews.csv").write_text("\n".join(["body,stars", *lines]))
    task = locate("mine", OwnData(file=str(tmp_path / "reviews.csv"), validation=0.25, text=["body"], label="stars"))
    spec = trial("LayerMagWeight", of=dense(task, finetune=TRAINING))
    row = completed(store, spec)
    assert row["data_split"] == "validation is 25 % of reviews.csv, stratified by class, data_seed 0"
    facts = json.loads(row["data_facts"])
    assert [facts[split]["examples"] for split in ("train", "validation")] == [45, 15]
    assert facts["validation"]["in_train"] == 0
    predicted = [each for each in rows(store, "predictions", spec) if each["stage"] == "retrained"]
    assert [each["label"] for each in predicted] == load_split(task, "validation").labels.tolist()
    assert TrialSpec(**json.loads(row["spec"])).trial_id == spec.trial_id
    plain = trial("LayerMagWeight", of=dense(finetune=TRAINING))
    assert completed(store, plain)["data_split"] is None


def test_a_shuffled_strategy_keeps_as_many_of_each_tensor_in_other_places(store: Store) -> None:
    plain, control = trial("GlobalMagWeight"), trial("GlobalMagWeight+shuffle")
    for spec in (plain, control):
        completed(store, spec)
    masks, shuffled = masks_of(store, plain), masks_of(store, control)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {n: int(m.sum()) for n, m in shuffled.items()}
    assert not any(torch.equal(masks[name], shuffled[name]) for name in masks)


def test_controls_share_no_random_numbers_and_stay_nested(store: Store) -> None:
    short, other = Training(epochs=0, batch_size=16), dense(task=TASK.model_copy(update={"digest": "other"}))
    names = ["LayerRandom", "GlobalRandom", "LayerMagWeight+shuffle", "LayerMagIncrease+shuffle"]
    specs = {(name, level): trial(name, sparsity=level, retrain=short) for name in names for level in (0.5, 0.8)}
    specs |= {(name, "elsewhere"): trial(name, other, sparsity=0.5, retrain=short) for name in names}
    flat = {}
    for key, spec in specs.items():
        completed(store, spec)
        masks = masks_of(store, spec)
        flat[key] = torch.cat([masks[name].flatten() for name in sorted(masks)])
    for name in names:
        assert not (flat[name, 0.8] & ~flat[name, 0.5]).any(), f"{name} is not nested"
    unrelated = [flat[name, 0.5] for name in names] + [flat[name, "elsewhere"] for name in names]
    for number, mask in enumerate(unrelated):
        for another in unrelated[:number]:
            assert 0.48 < (mask == another).float().mean() < 0.52  # 1 or nearly so, where they share random numbers


@pytest.mark.parametrize("grouping", [True, False])
def test_every_batch_is_drawn_as_the_setting_says(
    grouping: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def watched(*arguments: Any, **named: Any) -> Any:
        given = signature(shuffled).bind(*arguments, **named).arguments
        seen.add((given["purpose"], given["length_grouping"]))
        return shuffled(*arguments, **named)

    for module in ("training.train", "trial.shared_stages"):
        monkeypatch.setattr(f"deepcuts.{module}.shuffled", watched)
    completed(store, trial("LayerSNIP", dense(length_grouping=grouping)))
    assert seen == {(purpose, grouping) for purpose in ("dense", "score plain", "retrained")}


def test_every_training_is_seeded_by_the_trial(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:

    seeds = []

    def watched(*arguments: Any, **named: Any) -> Any:
        seeds.append((named["seed"], named["stage"]))
        return train(*arguments, **named)

    monkeypatch.setattr("deepcuts.trial.fitting.train", watched)
    completed(store, trial(of=dense(seed=3)))
    assert seeds == [(3, "dense"), (3, "retrained")]
