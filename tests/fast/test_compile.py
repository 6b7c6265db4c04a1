"""`compile: true` gives the losses and weights of the eager network, within floating point."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.small_network import batch, packed, small
from builders.toy_trials import context, dense, trial
from builders.transformers_networks import network, tokens
from torch._dynamo.utils import counters

from deepcuts.data.batches import Tokens
from deepcuts.experiment.settings import Training
from deepcuts.experiment.spec import TrialSpec
from deepcuts.fast.process import prepare_process
from deepcuts.model.network import Network, compiled, weights_of
from deepcuts.store.store import Store
from deepcuts.training.train import evaluate, train
from deepcuts.trial.loading import load_material, load_network
from deepcuts.trial.shared_stages import find_scores

# What torch's compiler warns of by itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
SETTINGS = Training(epochs=2, batch_size=4, micro_batch=2, lr=0.001)


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")),
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
        ),
    ],
)
def test_a_compiled_network_trains_as_the_eager_one_does(device: str) -> None:
    prepare_process(1, tf32=False)
    (eager, examples), (quick, _) = (_made(device) for _ in range(2))
    quick = replace(quick, compiled=compiled(quick.model))
    before = counters["stats"]["unique_graphs"]
    rows, again = (train(made, examples, SETTINGS, seed=1, stage="dense") for made in (eager, quick))
    assert counters["stats"]["unique_graphs"] > before
    assert [row["value"] for row in again] == pytest.approx([row["value"] for row in rows], abs=1e-4)
    np.testing.assert_allclose(evaluate(quick, examples), evaluate(eager, examples), atol=1e-4)


def _made(device: str) -> tuple[Network, Tokens]:
    """A network without dropout, which draws other numbers once compiled, and examples of several lengths.

    Not a BERT on a CPU: there a compiler takes seconds for each kernel, and BERT has twice as many.
    """
    if device == "cpu":
        return small(outputs=2)[0], packed([batch([3, 5, 2, 4, 4, 3, 6, 2, 3, 5], outputs=2)])[0]
    made = network()
    for module in made.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    made.model.config.attention_probs_dropout_prob = 0.0  # type: ignore[union-attr]
    return replace(made, model=made.model.to(device), device=torch.device(device)), tokens()


def _toy_that_must_not_compile(spec: TrialSpec) -> Network:
    def refuse(**inputs: torch.Tensor) -> None:
        raise AssertionError("scoring hooks into layers that a compiled network may not run")

    return replace(load_network(spec.dense), compiled=refuse)


def test_only_training_runs_what_was_compiled(tmp_path: Path) -> None:
    ran: list[Any] = []
    made = network()
    quick = replace(made, compiled=lambda **inputs: ran.append(1) or made.model(**inputs))
    evaluate(quick, tokens())
    assert not ran
    train(quick, tokens(), SETTINGS, seed=1, stage="dense")
    assert len(ran) == 2 * 5  # two epochs of 4, 4 and 2 examples, 2 at a time
    spec, names = trial("LayerGradCAM"), weights_of(made)
    material, here = load_material(spec.dense), context(Store(str(tmp_path)))
    find_scores(_toy_that_must_not_compile(spec), material, spec.score, here, names, spec.control_seed)
    assert load_network(dense(compile=True)).compiled is not None
    assert load_network(dense()).compiled is None
