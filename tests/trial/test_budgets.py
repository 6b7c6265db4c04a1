"""Masks that trials of each budget keep in the store, against a computation of its own in float64 from the weights."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.toy_trials import context, rows, theta_0, theta_1, trial
from numpy.typing import NDArray

from deepcuts.experiment.metrics import UndefinedMetric
from deepcuts.experiment.sharing import shared
from deepcuts.experiment.spec import ScoreSpec, TrialSpec
from deepcuts.scoring.score import _add_group
from deepcuts.store.masks import masks
from deepcuts.store.store import Store
from deepcuts.store.tensors import load_artifact
from deepcuts.trial.trial import run_stages

pytestmark = [
    pytest.mark.usefixtures("torch_state", "few_sentences"),
    pytest.mark.filterwarnings(f"ignore::{UndefinedMetric.__module__}.UndefinedMetric"),
]
Floats = NDArray[np.float64]
POOLER = "bert.pooler.dense.weight"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def completed(store: Store, spec: TrialSpec, *others: TrialSpec) -> dict[str, Any]:
    row = run_stages(spec, "test", context(store, partners=shared([spec, *others]).partners(spec)))
    assert row["status"] == "completed", row["traceback"]
    return row


def magnitudes(store: Store, spec: TrialSpec) -> dict[str, Floats]:
    return {name: np.abs(theta_1(store, spec)[name].double().numpy()) for name in sorted(masks(store, spec.trial_id))}


def stored_scores(store: Store, spec: ScoreSpec) -> dict[str, Floats]:
    loaded = load_artifact(store, "scores", str(spec.score_id), "scores.safetensors")
    return {name: scores.double().numpy() for name, scores in sorted(loaded.items())}


def best(scores: Floats, keep: int) -> NDArray[np.bool_]:
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.ravel(), kind="stable")[:keep]] = True
    return mask.reshape(scores.shape)


def lamp(scores: dict[str, Floats], keep: int) -> dict[str, NDArray[np.bool_]]:
    ranks = {}
    for name, score in scores.items():
        order = np.argsort(-score.ravel(), kind="stable")
        ranks[name] = np.empty(score.size)
        ranks[name][order] = score.ravel()[order] ** 2 / np.cumsum(score.ravel()[order] ** 2)
    threshold = np.sort(np.concatenate([*ranks.values()]))[::-1][keep - 1]
    return {name: (rank >= threshold).reshape(scores[name].shape) for name, rank in ranks.items()}


def erk(scores: dict[str, Floats], keep: int) -> dict[str, NDArray[np.bool_]]:
    """Every weight is due at the epsilon at which its tensor's rounded count reaches its rank."""
    due = [(rank + 0.5) / sum(score.shape) for score in scores.values() for rank in range(score.size)]
    chosen = np.zeros(len(due), bool)
    chosen[np.argsort(due, kind="stable")[:keep]] = True
    parts = np.split(chosen, np.cumsum([score.size for score in scores.values()])[:-1])
    return {name: best(score, int(part.sum())) for (name, score), part in zip(scores.items(), parts, strict=True)}


def two_of_four(scores: dict[str, Floats], keep: int) -> dict[str, NDArray[np.bool_]]:
    fours = {name: score.reshape(-1, 4) for name, score in scores.items()}
    above = {n: (f[:, None, :] > f[:, :, None]).sum(2) < 2 for n, f in fours.items()}  # fewer than two are higher
    return {name: above[name].reshape(score.shape) for name, score in scores.items()}


REFERENCES = {"Lamp": lamp, "Erk": erk, "NM24": two_of_four}


@pytest.mark.parametrize("criterion", ["MagWeight", "MagGrad"])
@pytest.mark.parametrize("scope", REFERENCES)
def test_the_masks_of_a_trial_are_those_of_its_budget(scope: str, criterion: str, store: Store) -> None:
    spec = trial(f"{scope}{criterion}", sparsity=0.5 if scope == "NM24" else 0.8)
    row = completed(store, spec)
    scores = magnitudes(store, spec) if criterion == "MagWeight" else stored_scores(store, spec.score)
    found, expected = masks(store, spec.trial_id), REFERENCES[scope](scores, row["kept"])
    assert row["kept"] == round((1 - spec.level_columns["sparsity_asked"]) * row["prunable"])
    assert set(found) == set(expected)
    for name, mask in found.items():
        assert (mask == expected[name]).all(), name
    if scope != "NM24":
        densities = {round(float(mask.mean()), 2) for mask in found.values()}
        assert len(densities) > 1


@pytest.mark.parametrize("criterion", ["MagWeight", "MagGrad", "Wanda"])
def test_owl_has_the_densities_of_the_outliers_among_stored_wanda_scores(criterion: str, store: Store) -> None:
    spec = trial(f"Owl{criterion}", sparsity=0.6)
    row = completed(store, spec)
    found, wanda = masks(store, spec.trial_id), stored_scores(store, trial("RowWanda").score)
    scores = {"MagWeight": magnitudes, "MagGrad": lambda *_: stored_scores(store, spec.score)}.get(
        criterion, lambda *_: wanda
    )(store, spec)
    blocks = {name: ".".join(name.split(".")[:4]) for name in found}
    shares, densities = {}, {}
    for block in set(blocks.values()):
        values = np.concatenate([wanda[name].ravel() for name in found if blocks[name] == block])
        shares[block] = float((values > 5 * values.mean()).mean())
        kept, size = (sum(int(f(found[n])) for n in found if blocks[n] == block) for f in (np.sum, np.size))
        densities[block] = kept / size
    assert len(shares) > 2
    low, high = min(shares.values()), max(shares.values())
    assert low < high
    base = densities[min(shares, key=lambda block: shares[block])]
    for block, share in shares.items():
        assert densities[block] == pytest.approx(base + 0.16 * (share - low) / (high - low), abs=2e-3)
    for name, mask in found.items():
        assert (mask == best(scores[name], int(mask.sum()))).all()
    assert row["kept"] == round(0.4 * row["prunable"])


def test_owl_makes_its_passes_once_for_all_that_need_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def counting(*arguments: Any) -> None:
        counted.extend(signature(_add_group).bind(*arguments).arguments["group"].batches)
        _add_group(*arguments)

    monkeypatch.setattr("deepcuts.scoring.score._add_group", counting)
    names = ["OwlMagGrad", "OwlMagWeight", "RowWanda", "LayerMagGrad", "OwlWanda", "LayerMagAct", "OwlMagAct"]
    specs = [trial(name) for name in names]
    made = [completed(store, spec, *specs) for spec in specs]
    assert len(counted) == 2 + 2  # batches of the plain and the forward pass
    assert [row["score_cached"] for row in made] == [False] + [True] * 6
    assert made[0]["score_seconds"] > 0
    alone = Store(str(store.root) + "-alone")
    completed(alone, specs[1])
    for name, mask in masks(store, specs[1].trial_id).items():
        assert (mask == masks(alone, specs[1].trial_id)[name]).all()


def test_excluded_tensors_stay_dense_and_count_nowhere(store: Store) -> None:
    plain, spec = (trial("GlobalMagGrad", exclude=globs) for globs in ((), ("pooler", "layer.0.*")))
    whole, row = completed(store, plain), completed(store, spec)
    found = masks(store, spec.trial_id)
    excluded = {name for name in masks(store, plain.trial_id) if "pooler" in name or ".layer.0." in name}
    assert 1 < len(excluded) < len(masks(store, plain.trial_id))
    assert set(found) == set(masks(store, plain.trial_id)) - excluded == set(stored_scores(store, spec.score))
    assert row["prunable"] == whole["prunable"] - sum(theta_1(store, spec)[name].numel() for name in excluded)
    assert row["kept"] == sum(int(mask.sum()) for mask in found.values()) == round(0.5 * row["prunable"])
    assert row["prunable_share"] < whole["prunable_share"]
    assert row["flops"] == whole["flops"] < 2 * row["flops_nonzero"]
    assert not row["dense_cached"] or row["dense_id"] == whole["dense_id"]
    assert rows(store, "metrics", spec) != rows(store, "metrics", plain)
    assert theta_0(spec).keys() == theta_1(store, spec).keys()
