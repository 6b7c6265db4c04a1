"""Work done once: counted in optimiser steps and in batches scored, not in flags."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deepcuts.experiment.sharing import shared
from deepcuts.experiment.sweepfile import SweepFile
from deepcuts.scoring.score import _differentiate
from deepcuts.store.store import Store
from deepcuts.sweep.plan import make_plan, only_those
from deepcuts.sweep.prepare import prepare_sweep
from deepcuts.training.step import take_step
from deepcuts.trial.context import Context
from deepcuts.trial.trial import run_stages

SEVEN = ["GlobalMagWeight", "LayerMagWeight", "LayerGradCAM", "LayerSmoothGrad", "LayerSmoothGradCAM"]
SEVEN += ["LayerGradCAMShift", "LayerSmoothGradCAMShift"]


pytestmark = [
    pytest.mark.usefixtures("torch_state", "few_sentences"),
    pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric"),
]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count optimiser steps, and the batches of each kind of pass."""
    found: Counter[str] = Counter()

    def counting_step(network: Any, tokens: Any, settings: Any, optimiser: Any, masks: Any, *batch: Any) -> Any:
        found["retraining" if masks else "fine-tuning"] += 1
        return take_step(network, tokens, settings, optimiser, masks, *batch)

    def counting_batches(network: Any, gradients: Any, tokens: Any, batches: Any, pass_: Any, *more: Any) -> None:
        found[pass_] += len(batches)
        _differentiate(network, gradients, tokens, batches, pass_, *more)

    monkeypatch.setattr("deepcuts.training.step.take_step", counting_step)
    monkeypatch.setattr("deepcuts.scoring.score._differentiate", counting_batches)
    return found


def test_seven_strategies_and_three_compressions_take_one_fine_tuning_and_two_passes(
    tmp_path: Path, counted: Counter[str]
) -> None:
    file = SweepFile(
        name="seven",
        model="toy",
        datasets=["toy"],
        strategies=SEVEN,
        compressions=[2, 4, 8],
        max_tokens=32,
        finetune={"epochs": 2, "batch_size": 50},
        retrain={"epochs": 1},
        scoring={"batches": 3, "smooth_batches": 2, "batch_size": 50, "smoothing_passes": 2},
    )
    trials, store = prepare_sweep(file, "cpu").spec.trials(), Store(str(tmp_path))
    plan = make_plan(trials, store)
    assert (len(plan.to_run), len(plan.fine_tunes()), plan.passes()) == (22, 1, {"plain": 1, "smoothed": 1})
    for trial in plan.to_run:
        run_stages(trial, "seven", Context(store, 1, partners=shared(trials).partners(trial)))
    assert set(store.statuses().values()) == {"completed"}
    assert counted == {"fine-tuning": 2 * 4, "retraining": 21 * 4, "plain": 3, "smoothed": 2}


ARMS: dict[str, Any] = {
    "LayerMagWeight": None,
    "late": {"use": "LayerMagWeight", "rewind": 2},
    "no dropout": {"use": "LayerGradCAMShift", "scoring": {"dropout": False, "shift": 10}},
    "late shift": {"use": "LayerGradCAMShift", "rewind": 2, "scoring": {"shift": 1}},
    "LayerGradCAMShift": None,  # twice, by the axis
}


def test_six_arms_take_one_fine_tuning_a_seed_and_a_pass_for_each_way_to_take_gradients(
    tmp_path: Path, counted: Counter[str]
) -> None:
    file = SweepFile(
        name="six",
        model="toy",
        datasets=["toy"],
        strategies=ARMS,
        axes={"scoring.shift": [0.1, 10]},
        compressions=[2, 4, 8],
        seeds=[0, 1],
        max_tokens=32,
        finetune={"epochs": 1, "batch_size": 50},
        retrain={"epochs": 0},
        scoring={"batches": 2, "batch_size": 50},
    )
    spec, store = prepare_sweep(file, "cpu").spec, Store(str(tmp_path))
    trials = spec.trials()
    plan = make_plan(trials, store)
    assert Counter(spec.labels[trial.trial_id] for trial in trials) == {
        "Dense": 2,
        **dict.fromkeys(["LayerMagWeight", "late", "no dropout", "late shift"], 6),
        **dict.fromkeys(["LayerGradCAMShift shift=0.1", "LayerGradCAMShift shift=10"], 6),
    }
    assert (len(plan.fine_tunes()), plan.passes()) == (2, {"plain": 4})
    together = shared(trials)
    for trial in only_those(trials, {"compression": "4"}):  # the levels do not differ in what they share
        context = Context(store, 1, partners=together.partners(trial), snapshots=together.snapshots(trial))
        run_stages(trial, "six", context, arm=spec.labels[trial.trial_id])
    assert counted == {"fine-tuning": 2 * 4, "plain": 2 * 2 * 2}
    rows = store.read("trials", ["arm", "status"]).table.to_pylist()
    assert Counter(row["arm"] for row in rows if row["status"] == "completed") == {
        label: 2 for label in spec.labels.values() if label != "Dense"
    }
