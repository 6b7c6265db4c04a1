"""What must hold on a GPU as on a CPU. Those marked `gpu` run where there is a CUDA device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.toy_trials import context, dense, everything, trial

from deepcuts.experiment.settings import ScoringPass
from deepcuts.fast.process import prepare_process
from deepcuts.model.network import Network, prunable
from deepcuts.pruning.masks import make_masks
from deepcuts.scoring.score import score
from deepcuts.seeds import derive
from deepcuts.store.store import Store
from deepcuts.training import step
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
def test_a_trial_gives_the_same_bits_again_and_with_captured_steps(
    device: Any, precision: str, strategy: str, tmp_path: Path
) -> None:
    spec = trial(strategy, dense(device=device, precision=precision))
    stores = {name: Store(str(tmp_path / name)) for name in ("first", "second", "captured")}
    for name, store in stores.items():
        row = run_stages(spec, "test", context(store, capture=name == "captured"))
        assert row["status"] == "completed", row.get("traceback")
        assert (row.get("peak_gpu_bytes") is not None) == (device == "cuda")
        assert row["shortcuts_off"] is None
        if device == "cuda":
            assert 0 < row["peak_gpu_bytes"] < row["gpu_bytes"]
    first = steady(stores["first"], spec)
    assert first == steady(stores["second"], spec)
    assert first == steady(stores["captured"], spec)


def steady(store: Store, spec: Any) -> list[Any]:
    """All rows of a trial, without the memory that it took: recordings keep some."""
    found = everything(store, spec)
    return [[{key: value for key, value in row.items() if key != "peak_gpu_bytes"} for row in rows] for rows in found]


@on_cuda_alone
@pytest.mark.parametrize("capture", [False, True])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(
    device: Any, capture: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each example takes a twelfth of the memory that is free, so that batches of sixteen do not fit and eight do."""
    free, _ = torch.cuda.mem_get_info()
    loss = Network.batch_loss

    def batch_loss(self: Network, batch: Any, examples: int) -> Any:
        if self.model.training:
            torch.empty(len(batch["labels"]) * free // 12, dtype=torch.uint8, device=device)
        return loss(self, batch, examples)

    monkeypatch.setattr(Network, "batch_loss", batch_loss)
    row = run_stages(
        trial("LayerGradCAM", dense(device=device)), "test", context(Store(str(tmp_path)), capture=capture)
    )
    assert row["status"] == "completed", row.get("traceback")
    assert row["micro_batch"] == row["score_micro_batch"] == 8


@on_cuda_alone
@pytest.mark.parametrize("capture", [False, True])
def test_a_loss_that_is_not_finite_is_found(
    device: Any, capture: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU losses are read only now and then: the step is named all the same."""
    seeds = {derive(0, "dense", "step", 1)}
    take = step.take_step

    def take_step(*arguments: Any) -> Any:
        return take(*arguments) * (torch.nan if torch.initial_seed() in seeds else 1.0)

    monkeypatch.setattr(step, "take_step", take_step)
    row = run_stages(trial("Dense", dense(device=device)), "test", context(Store(str(tmp_path)), capture=capture))
    assert (row["status"], row["failure"]) == ("failed", "trial")
    assert "the loss of dense step 1 (epoch 1) is nan, not finite" in row["error"]


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
