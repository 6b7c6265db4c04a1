"""Whole trials of architectures whose linear layers are transposed, or called on positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from builders.architectures import architecture_folder
from builders.toy_trials import context, dense, trial

from deepcuts.experiment.settings import Training
from deepcuts.model.folder import find_model
from deepcuts.model.load import count_from_config
from deepcuts.publish.export import export
from deepcuts.store.masks import masks
from deepcuts.store.store import Store
from deepcuts.trial.trial import run_stages

pytestmark = [
    pytest.mark.usefixtures("torch_state"),
    pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric"),
]


def test_gpt2_is_pruned_by_rows_of_inputs_and_exported(tmp_path: Path) -> None:
    store, name = Store(str(tmp_path / "store")), architecture_folder("gpt2", tmp_path / "gpt2")
    spec = trial("RowWanda", dense().model_copy(update={"model": find_model(name, "main")}), retrain=Training(epochs=0))
    row = run_stages(spec, "some", context(store), keep_model=True)
    assert row["status"] == "completed", row["traceback"]
    counts = count_from_config(name, "main", 2, False)
    assert (row["prunable"], row["prunable_share"]) == (counts.prunable, counts.share)
    assert row["flops_nonzero"] < row["flops"]
    assert row["activations_counted"] is None
    kept = masks(store, spec.trial_id)
    assert len(kept) == 8
    for mask in kept.values():  # (I, O): half of the inputs of each output
        assert (mask.sum(axis=0) == mask.shape[0] // 2).all()
        assert len(np.unique(mask.sum(axis=1))) > 1
    export(store, spec.trial_id, tmp_path / "export")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "export")
    for weight, mask in kept.items():
        assert torch.equal(model.get_parameter(weight) != 0, torch.from_numpy(mask))


@pytest.mark.parametrize("strategy", ["LayerGradCAM", "GlobalMagGrad"])
def test_deberta_v3_says_where_rows_of_positions_count(strategy: str, tmp_path: Path) -> None:
    store, name = Store(str(tmp_path / "store")), architecture_folder("deberta-v2", tmp_path / "deberta")
    spec = trial(strategy, dense().model_copy(update={"model": find_model(name, "main")}), retrain=Training(epochs=0))
    row = run_stages(spec, "some", context(store))
    assert row["status"] == "completed", row["traceback"]
    said = "rows of unknown tokens count in 4 of 12 layers" if strategy == "LayerGradCAM" else None
    assert row["activations_counted"] == said
