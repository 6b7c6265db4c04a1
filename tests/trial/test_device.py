"""What must hold on a GPU as on a CPU. Those marked `gpu` run where there is a CUDA device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.toy_trials import context, dense, everything, trial

from deepcuts.experiment.spec import ScoringPass
from deepcuts.fast.process import prepare_process
from deepcuts.model.network import prunable
from deepcuts.pruning.masks import make_masks
from deepcuts.scoring.score import score
from deepcuts.store.store import Store
from deepcuts.training.train import evaluate
from deepcuts.trial.loading import load_material, load_network
from deepcuts.trial.trial import run_stages

CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
on_cuda_alone = pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)], indirect=True)
pytestmark = [
    pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric"),
    pytest.mark.usefixtures("torch_state"),
]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=CUDA)])
def device(request: pytest.FixtureRequest) -> Any:
    prepare_process(1, tf32=False)
    return request.param


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("strategy", ["LayerGradCAM", "GlobalSmoothGrad"])
def test_a_trial_gives_the_same_bits_again(device: Any, precision: str, strategy: str, tmp_path: Path) -> None:
    spec = trial(strategy, dense(device=device, precision=precision))
    stores = [Store(str(tmp_path / name)) for name in ("first", "second")]
    found = [run_stages(spec, "test", context(store)) for store in stores]
    assert [row["status"] for row in found] == ["completed", "completed"], found[0].get("traceback")
    assert everything(stores[0], spec) == everything(stores[1], spec)
    assert (found[0].get("peak_gpu_bytes") is not None) == (device == "cuda")


@on_cuda_alone
@pytest.mark.parametrize("criterion", ["GradCAM", "Wanda", "SNIP", "MagIncrease"])
def test_masks_are_those_of_the_cpu_but_for_near_ties(device: Any, criterion: str) -> None:
    made = {}
    for where in ("cpu", device):
        spec = dense(device=where)
        network, material = load_network(spec), load_material(spec)
        tokens = material.train.to(network.device)
        order = [np.arange(first, first + 16) for first in (0, 16, 32)]
        names = prunable(network.model, False)
        settings = ScoringPass(dropout=False)
        initial = {name: torch.full_like(network.model.get_parameter(name), 0.01) for name in names}
        found, _ = score(network, names, [criterion], tokens, order, settings, 0, initial)
        made[where] = make_masks(found[criterion], 0.3, "layer")
    for name, mask in made["cpu"].items():
        assert (mask == made[device][name]).double().mean() > 0.999, name
        assert int(mask.sum()) == int(made[device][name].sum())


@on_cuda_alone
@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_outputs_are_those_of_the_cpu_in_fp32(device: Any, precision: str, error: float) -> None:
    outputs = []
    for spec in (dense(), dense(device=device, precision=precision)):
        outputs.append(evaluate(load_network(spec), load_material(spec).evaluated["validation"]))
    np.testing.assert_allclose(outputs[1], outputs[0], atol=error)
