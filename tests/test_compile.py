"""`compile: true` gives the losses and outputs of the eager network, within floating point."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_vocabulary import network, tokens

from deepcuts.models import Network, compiled
from deepcuts.spec import Training
from deepcuts.train import deterministic, evaluate, train

# What torch's compiler warns of by itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


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
    deterministic(1, tf32=False)
    eager, quick = (_on(device) for _ in range(2))
    quick = replace(quick, compiled=compiled(quick.model))
    settings = Training(epochs=2, batch_size=4, lr=0.001)
    for module in (*eager.model.modules(), *quick.model.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # its random numbers are drawn in another way
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    rows, again = (train(made, tokens(), settings, seed=1, stage="dense") for made in (eager, quick))
    assert [row["value"] for row in again] == pytest.approx([row["value"] for row in rows], abs=1e-4)
    np.testing.assert_allclose(evaluate(quick, tokens()), evaluate(eager, tokens()), atol=1e-4)
    assert evaluate(quick, tokens()).shape == (10, 2)


def _on(device: str) -> Network:
    made = network()
    return replace(made, model=made.model.to(device), device=torch.device(device))


def test_lengths_of_a_compiled_network_are_multiples_of_eight() -> None:
    made = replace(network(), compiled=torch.nn.Identity())
    batch = tokens().batch(np.array([0, 1]), made.pad_to)
    assert batch["input_ids"].shape == (2, 8)
    assert batch["attention_mask"].sum(1).tolist() == [3, 5]
    assert tokens().batch(np.array([0, 1]), network().pad_to)["input_ids"].shape == (2, 5)
