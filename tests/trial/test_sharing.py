"""Work done once: counted in optimiser steps and in batches scored, not in flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepcuts.experiment.sharing import shared
from deepcuts.experiment.sweepfile import SweepFile
from deepcuts.scoring.score import _differentiate
from deepcuts.store.store import Store
from deepcuts.sweep.plan import make_plan
from deepcuts.sweep.prepare import prepare_sweep
from deepcuts.training.step import take_step
from deepcuts.trial.context import Context
from deepcuts.trial.trial import run_stages

SEVEN = ["GlobalMagWeight", "LayerMagWeight", "LayerGradCAM", "LayerSmoothGrad", "LayerSmoothGradCAM"]
SEVEN += ["LayerGradCAMShift", "LayerSmoothGradCAMShift"]


@pytest.mark.usefixtures("torch_state", "few_sentences")
@pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric")
def test_seven_strategies_and_three_compressions_take_one_fine_tuning_and_two_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = {"fine-tuning": 0, "retraining": 0, "plain": 0, "smoothed": 0}

    def counting_step(network: Any, tokens: Any, settings: Any, optimiser: Any, masks: Any, *batch: Any) -> Any:
        counted["retraining" if masks else "fine-tuning"] += 1
        return take_step(network, tokens, settings, optimiser, masks, *batch)

    def counting_batches(network: Any, gradients: Any, tokens: Any, batches: Any, pass_: Any, *more: Any) -> None:
        counted[pass_] += len(batches)
        _differentiate(network, gradients, tokens, batches, pass_, *more)

    monkeypatch.setattr("deepcuts.training.step.take_step", counting_step)
    monkeypatch.setattr("deepcuts.scoring.score._differentiate", counting_batches)
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
