"""GraSP's product of the Hessian and the gradient, against differences of gradients in float64."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders.small_network import NAMES, batch, packed, small
from builders.transformers_networks import network as bert
from builders.transformers_networks import tokens
from torch import Tensor, nn

from deepcuts.data.batches import Integers
from deepcuts.experiment.spec import ScoringPass
from deepcuts.model.network import Network, prunable
from deepcuts.scoring.score import score
from deepcuts.seeds import derive

CLEAN = ScoringPass(dropout=False)
BATCHES = [batch([4, 2, 3, 3], seed=1), batch([1, 5, 2], seed=2)]
STEP = 1e-2  # the gradients are small, for the logits are divided by 200


def grasp(network: Network, names: list[str], settings: ScoringPass = CLEAN, seed: int = 5) -> dict[str, Tensor]:
    return score(network, names, ["GraSP"], *packed(BATCHES), settings, seed)[0]["GraSP"]


def slopes(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of a batch's loss, of logits / 200, in float64."""
    logits = model(inputs["input_ids"], inputs["attention_mask"]).logits
    if logits.shape[1] == 1:
        loss = (logits[:, 0] - inputs["labels"]).square().mean()
    else:
        loss = F.cross_entropy(logits / 200, inputs["labels"].long())
    found = torch.autograd.grad(loss, [model.get_parameter(name) for name in NAMES])
    return dict(zip(NAMES, found, strict=True))


def moved(model: nn.Module, along: dict[str, Tensor], step: float) -> nn.Module:
    other = deepcopy(model)
    with torch.no_grad():
        for name, each in along.items():
            other.get_parameter(name).add_(each, alpha=step)
    return other


@pytest.mark.parametrize("outputs", [3, 1])
def test_the_product_is_the_change_of_the_gradient_along_itself(outputs: int) -> None:
    network, model = small(outputs)
    batches = [batch([4, 2, 3, 3], outputs, seed=1), batch([1, 5, 2], outputs, seed=2)]
    found = score(network, NAMES, ["GraSP"], *packed(batches), CLEAN, 5)[0]["GraSP"]
    exact = deepcopy(model).double()
    right = {name: torch.zeros_like(exact.get_parameter(name)) for name in NAMES}
    for inputs in batches:
        gradient = slopes(exact, inputs)
        step = STEP / float(sum(each.square().sum() for each in gradient.values()).sqrt())
        up, down = (slopes(moved(exact, gradient, way * step), inputs) for way in (1, -1))
        for name in NAMES:
            right[name] += exact.get_parameter(name).detach() * (up[name] - down[name]) / (2 * step)
    for name in NAMES:
        scale = float(right[name].abs().max())
        torch.testing.assert_close(found[name].double() / scale, right[name] / scale, rtol=1e-3, atol=1e-3)


def test_micro_batches_multiply_with_the_gradient_of_the_whole_batch() -> None:
    whole, parts = (grasp(small()[0], NAMES, CLEAN.model_copy(update={"micro_batch": size})) for size in (None, 2))
    for name in NAMES:
        scale = float(whole[name].abs().max())
        torch.testing.assert_close(parts[name] / scale, whole[name] / scale, rtol=1e-4, atol=1e-4)


def test_the_gradient_and_its_derivative_are_of_the_same_dropout() -> None:
    network, model = small(dropout=0.5)
    settings = ScoringPass(micro_batch=2)
    found = grasp(network, NAMES, settings)
    right = {name: torch.zeros_like(model.get_parameter(name)) for name in NAMES}
    model.train()
    packed_tokens, order = packed(BATCHES)
    for number, examples in enumerate(order):
        losses = []
        for part, few in enumerate(_in_twos(examples)):
            torch.manual_seed(derive(5, "curvature", number, part))
            inputs = packed_tokens.batch(few)
            logits = model(inputs["input_ids"], inputs["attention_mask"]).logits / 200
            losses.append(F.cross_entropy(logits, inputs["labels"].long(), reduction="sum") / len(examples))
        wanted = [model.get_parameter(name) for name in NAMES]
        gradient = torch.autograd.grad(sum(losses), wanted, create_graph=True)  # type: ignore[arg-type]
        products = torch.autograd.grad(sum(each.square().sum() for each in gradient) / 2, wanted)  # type: ignore[arg-type]
        for name, each in zip(NAMES, products, strict=True):
            right[name] += each
    for name in NAMES:
        expected = model.get_parameter(name).detach() * right[name]
        scale = float(expected.abs().max())
        torch.testing.assert_close(found[name] / scale, expected / scale, rtol=1e-4, atol=1e-4)


def _in_twos(examples: Integers) -> list[Integers]:
    return [examples[first : first + 2] for first in range(0, len(examples), 2)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attention_is_differentiated_twice_and_is_as_before_afterwards(precision: str) -> None:
    """Two texts of one length, without dropout: there torch's own attention cannot be differentiated twice."""
    made = bert()
    network = Network(made.model, "linear", "mean", precision, made.device)
    switch = made.model.config._attn_implementation  # type: ignore[union-attr]
    names = prunable(network.model, biases=False)
    order = [np.array([3, 4])]
    found = score(network, names, ["GraSP"], tokens(), order, CLEAN, 5)[0]["GraSP"]
    assert all(bool(found[name].any()) for name in names if "query" in name or "key" in name)
    assert made.model.config._attn_implementation == switch == "sdpa"  # type: ignore[union-attr]
