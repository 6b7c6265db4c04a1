"""Iterative pruning: each round prunes the retrained network of the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.toy_sweeps import numbers, run_missing, toy_sweep
from safetensors.torch import load_file
from torch import Tensor

from deepcuts.experiment.grid import SweepSpec
from deepcuts.experiment.spec import TrialSpec
from deepcuts.store.cache import collect_garbage, remove_stage, shared_stages
from deepcuts.store.masks import masks
from deepcuts.store.removal import plan_removal
from deepcuts.store.store import Store
from deepcuts.store.tensors import load_artifact
from deepcuts.sweep.launch import _write_sweep
from deepcuts.sweep.plan import make_plan, only_those
from deepcuts.sweep.single import run_trial
from deepcuts.training.checkpoint import Interrupted
from deepcuts.trial.context import Context
from deepcuts.trial.earlier import round_before
from deepcuts.trial.loading import load_network
from deepcuts.trial.trial import run_stages

pytestmark = [
    pytest.mark.usefixtures("torch_state", "few_sentences"),
    pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric"),
]

KEEP = {"strategies": ["GlobalMagWeight"], "sparsities": [0.36, 0.488], "rounds": {"keep": 0.8}}


def chain_of(**changes: Any) -> SweepSpec:
    return toy_sweep(**(KEEP | changes))


def of_round(spec: SweepSpec, number: int) -> TrialSpec:
    return next(trial for trial in spec.trials() if trial.prunes and trial.round == number)


def left_by(store: Store, trial: TrialSpec) -> dict[str, Tensor]:
    """The whole network that a trial left, put together from its file and its masks."""
    stored = load_file(store.path("artifacts", "rounds", trial.trial_id, "kept.safetensors"))
    kept = masks(store, trial.trial_id)
    whole = {}
    for name, flat in stored.items():
        if name in kept:
            full = np.zeros(kept[name].shape, np.float32)
            full[kept[name]] = flat.numpy()
            flat = torch.from_numpy(full)
        whole[name] = flat
    return whole


def dense_of(store: Store, spec: SweepSpec) -> dict[str, Tensor]:
    return load_artifact(store, "dense", spec.trials()[0].dense.dense_id, "model.safetensors")


def highest_of_all(weights: dict[str, Tensor], alive: dict[str, np.ndarray], density: float) -> dict[str, np.ndarray]:
    """The masks of GlobalMagWeight among the weights that are alive, by sorting in float64; ties to the earlier."""
    names = sorted(alive)
    scores = np.concatenate([weights[name].double().abs().numpy().ravel() for name in names])
    living = np.concatenate([alive[name].ravel() for name in names])
    order = sorted(np.flatnonzero(living), key=lambda place: (-scores[place], place))
    kept = np.zeros(len(scores), bool)
    kept[order[: int(density * len(scores) + 0.5)]] = True
    parts = np.split(kept, np.cumsum([alive[name].size for name in names])[:-1])
    return {name: part.reshape(alive[name].shape) for name, part in zip(names, parts, strict=True)}


def test_levels_share_their_rounds_and_each_round_prunes_the_network_of_the_one_before(
    tmp_path: Path, calls: dict[str, int]
) -> None:
    spec, store = chain_of(), Store(str(tmp_path))
    trials = spec.trials()
    assert [(trial.sparsity, trial.round) for trial in trials[1:]] == [(0.2, 1), (0.36, 2), (0.488, 3)]
    assert run_missing(store, spec) == 4
    assert calls == {"step": (1 + 3) * 2, "batch": 0}  # 64 examples in batches of 32
    dense = dense_of(store, spec)
    alive = {name: np.ones(mask.shape, bool) for name, mask in masks(store, trials[1].trial_id).items()}
    weights = dense
    for trial, density in zip(trials[1:], (0.8, 0.64, 0.512), strict=True):
        found = masks(store, trial.trial_id)
        expected = highest_of_all(weights, alive, density)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        assert not any((found[name] & ~alive[name]).any() for name in found)
        weights, alive = left_by(store, trial), found
    rows = {row["trial_id"]: row for row in store.read("trials").table.to_pylist()}
    told = [(rows[t.trial_id]["rounds"], rows[t.trial_id]["round"], rows[t.trial_id]["step"]) for t in trials[1:]]
    assert told == [("keep 0.8", 1, True), ("keep 0.8", 2, False), ("keep 0.8", 3, False)]
    assert [rows[trial.trial_id]["previous"] for trial in trials[1:]] == [None, trials[1].trial_id, trials[2].trial_id]


def test_a_deeper_level_runs_only_the_new_rounds_and_needs_what_they_prune(
    tmp_path: Path, calls: dict[str, int]
) -> None:
    store = Store(str(tmp_path / "widened"))
    run_missing(store, chain_of(sparsities=[0.36]))
    before = dict(calls)
    deeper = chain_of(sparsities=[0.36, 0.488])
    assert run_missing(store, deeper) == 1
    assert calls["step"] - before["step"] == 2
    at_once = Store(str(tmp_path / "once"))
    run_missing(at_once, deeper)
    assert numbers(store) == numbers(at_once)
    _write_sweep(store, deeper)
    kinds = {row["kind"] for row in collect_garbage(store)}
    assert kinds == {"dense", "rounds"}
    assert store.artifacts("rounds") == []
    plan = make_plan(chain_of(sparsities=[0.5904]).trials(), store)
    assert [trial.round for trial in plan.to_run] == [1, 2, 3, 4]  # their networks are gone
    assert len(plan.again) == 3
    run_missing(store, chain_of(sparsities=[0.5904]))
    assert of_round(chain_of(sparsities=[0.5904]), 4).trial_id in store.statuses()


def test_only_what_a_trial_that_is_left_builds_on_is_needed(tmp_path: Path) -> None:
    spec, store = chain_of(), Store(str(tmp_path))
    first, second, third = spec.trials()[1:]
    _write_sweep(store, spec)
    for trial in spec.trials()[:3]:
        run_trial(trial, store, wanted=spec.trials(), threads=1)
    assert "rounds" in {stage["kind"] for stage in plan_removal(store, [first.trial_id]).stages}
    assert "rounds" not in {stage["kind"] for stage in plan_removal(store, [second.trial_id]).stages}
    needed = {row["id"]: row["needed"] for row in shared_stages(store) if row["kind"] == "rounds"}
    assert needed == {first.trial_id: False, second.trial_id: True}
    collect_garbage(store)
    assert store.artifacts("rounds") == [second.trial_id]
    assert [trial.trial_id for trial in make_plan(spec.trials(), store).to_run] == [third.trial_id]


@pytest.mark.parametrize("last", [1, 2])
def test_interrupted_in_a_round_and_run_again_gives_the_same_bits(tmp_path: Path, last: int) -> None:
    spec = chain_of(strategies=["LayerSNIP"])
    trials, second = spec.trials(), of_round(spec, 2)
    undisturbed, store = Store(str(tmp_path / "undisturbed")), Store(str(tmp_path / "stopped"))
    for each in (undisturbed, store):
        for trial in trials[:2]:
            run_stages(trial, "small", Context(each, 1, keep_network=True))
    asked = iter(range(1, 100))
    with pytest.raises(Interrupted):
        run_stages(second, "small", Context(store, 1, keep_network=True, stop=lambda: next(asked) == last))
    run_missing(store, spec)
    run_missing(undisturbed, spec)
    assert numbers(store) == numbers(undisturbed)
    assert store.names("artifacts/_checkpoints", ".safetensors") == []


def test_scores_are_of_the_network_that_is_pruned_and_are_made_once(tmp_path: Path, calls: dict[str, int]) -> None:
    spec = chain_of(strategies=["LayerSNIP", "GlobalSNIP"], sparsities=[0.36])
    store = Store(str(tmp_path))
    run_missing(store, spec)
    assert calls["batch"] == 2 + 2 * 2  # one pass for both first rounds, then one for each network
    layer, whole = (trial for trial in spec.trials() if trial.prunes and trial.round == 2)
    assert layer.score.score_id != whole.score.score_id
    scores = load_artifact(store, "scores", str(layer.score.score_id), "scores.safetensors")
    before = left_by(store, layer.previous)
    for name, score in scores.items():
        assert not score[before[name] == 0].any()  # W g is 0 where W is
        assert score.any()


@pytest.mark.parametrize(("rewind", "head", "expected"), [("init", True, 0), ("init", False, 1), ("none", True, 2)])
def test_each_round_rewinds_and_the_head_may_stay(tmp_path: Path, rewind: str, head: bool, expected: int) -> None:
    """Without a step of retraining the network that a round leaves is the one that it begins with."""
    rounds = {"keep": 0.8, "rewind_head": head}
    spec = chain_of(rewind=rewind, rounds=rounds, retrain={"epochs": 0}, sparsities=[0.36])
    store = Store(str(tmp_path))
    run_missing(store, spec)
    begun = {name: each.detach() for name, each in load_network(spec.trials()[0].dense).model.named_parameters()}
    tuned, left = dense_of(store, spec), left_by(store, of_round(spec, 2))
    kept = masks(store, of_round(spec, 2).trial_id)
    for name in left:
        outside = "classifier" in name
        source = tuned[name] if expected == 2 or (expected == 1 and outside) else begun[name]
        wanted = torch.where(torch.from_numpy(kept[name]), source, 0.0) if name in kept else source
        assert torch.equal(left[name], wanted), name


def test_the_control_stays_nested_and_random_rounds_are_those_of_a_single_shot(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    spec = chain_of(strategies=["LayerMagWeight+shuffle", "LayerRandom"])
    run_missing(store, spec)
    for strategy in ("LayerMagWeight+shuffle", "LayerRandom"):
        found = [masks(store, t.trial_id) for t in spec.trials() if t.strategy == strategy]
        for before, after in zip(found, found[1:], strict=False):
            for name in after:
                assert not (after[name] & ~before[name]).any()
                assert after[name].sum() < before[name].sum()
    at_once = chain_of(strategies=["LayerRandom"], rounds=None, sparsities=[0.36])
    run_missing(store, at_once)
    random = [t for t in spec.trials() if t.strategy == "LayerRandom" and t.round == 2]
    single = masks(store, at_once.trials()[1].trial_id)
    assert all(np.array_equal(mask, single[name]) for name, mask in masks(store, random[0].trial_id).items())


def fail(store: Store, trial: TrialSpec) -> None:
    store.write("trials", trial.trial_id, [{"trial_id": trial.trial_id, "status": "failed", "failure": "trial"}])


def test_what_builds_on_a_failed_round_waits_until_it_is_tried_again(tmp_path: Path) -> None:
    spec, store = chain_of(), Store(str(tmp_path))
    first, second, third = spec.trials()[1:]
    run_trial(spec.trials()[0], store, threads=1)
    fail(store, first)
    plan = make_plan(spec.trials(), store)
    assert (plan.to_run, plan.waiting) == ((), dict.fromkeys([second.trial_id, third.trial_id], first.trial_id))
    assert make_plan(spec.trials(), store, retry_failed=True).to_run == (first, second, third)
    with pytest.raises(ValueError, match=f"builds on {first.trial_id}, the round before .* which is failed in"):
        run_trial(second, store)


def test_a_round_without_the_one_before_is_refused_and_says_which_to_run(tmp_path: Path) -> None:
    spec, store = chain_of(), Store(str(tmp_path))
    _, first, second, _ = spec.trials()
    with pytest.raises(ValueError, match=r"which is not run in .*; run that one first"):
        run_trial(second, store)
    run_trial(first, store, threads=1)
    remove_stage(store, "rounds", first.trial_id)
    with pytest.raises(ValueError, match=f"network of {first.trial_id}, .* does not have any more; run that one again"):
        run_trial(second, store)
    with pytest.raises(FileNotFoundError, match="has left no network"):
        round_before(store, second)


def test_selecting_a_deep_level_selects_the_rounds_that_it_needs() -> None:
    trials = chain_of(strategies=["GlobalMagWeight", "LayerSNIP"]).trials()
    chosen = only_those(trials, {"sparsity": "0.488", "strategy": "LayerSNIP"})
    assert [(trial.strategy, trial.round) for trial in chosen] == [("LayerSNIP", 1), ("LayerSNIP", 2), ("LayerSNIP", 3)]


def test_a_kept_model_is_the_network_of_the_round(tmp_path: Path) -> None:
    store, spec = Store(str(tmp_path)), chain_of()
    _, first, second, _ = spec.trials()
    for trial in (first, second):
        row = run_trial(trial, store, wanted=spec.trials(), threads=1, keep_model=True)
        assert row["status"] == "completed"
    assert store.artifacts("rounds") == []
    assert store.artifacts("models") == sorted([first.trial_id, second.trial_id])
