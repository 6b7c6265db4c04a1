"""The gradients of batches that run as one are those of each batch alone."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders.transformers_networks import inseparable_network, mixing_network, tokens
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deepcuts.data.batches import Integers
from deepcuts.fast.packed_linear import packed_linears
from deepcuts.model.network import Network, prunable
from deepcuts.scoring.gradients import SEPARABLE, Gradients, separable

BATCHES = [np.array([0, 2, 5]), np.array([1, 4, 9]), np.array([8, 6, 3])]
Found = dict[tuple[str, int], Tensor]


def gradients_by_torch(net: Network, names: list[str], batches: list[Integers]) -> Found:
    """Differentiate one batch after the other by torch alone."""
    found = {}
    for number, batch in enumerate(batches):
        net.model.zero_grad()
        net.batch_loss(tokens().batch(batch), len(batch)).backward()
        for name in names:
            gradient = net.model.get_parameter(name).grad
            if gradient is not None:
                found[name, number] = gradient.clone()
    net.model.zero_grad()
    return found


def assert_close(found: Found, right: Found, tolerance: float = 1e-3) -> None:
    assert found.keys() == right.keys()
    largest = max(float(gradient.abs().max()) for gradient in right.values())
    for key, gradient in right.items():
        # The bias of a key has no effect on the loss, so its gradient is rounding noise.
        scale = max(float(gradient.abs().max()), largest * tolerance)
        torch.testing.assert_close(found[key].float() / scale, gradient / scale, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("kind", sorted(SEPARABLE))
def test_gradients_are_those_of_each_batch_alone(kind: str, biases: bool, precision: str) -> None:
    net = replace(mixing_network(kind), precision=precision)
    assert separable(net.model)
    names = prunable(net.model, biases)
    right = gradients_by_torch(net, names, BATCHES)
    assert {name for name, _ in right} == set(names)
    found: Found = {}
    gradients = Gradients(net.model, names)

    def use(name: str, batch: int, gradient: Tensor) -> None:
        assert not gradients.incomplete, "a complete gradient was not passed on"
        assert (name, batch) not in found
        found[name, batch] = gradient

    with packed_linears(net.model, net.dtype, on_backward=gradients.collect), gradients.of(3, 1, use):
        net.batch_loss(tokens().batch(np.concatenate(BATCHES)), 3).backward()
        assert len(found) == 3 * len(names)
    assert_close(found, right, 1e-3 if precision == "fp32" else 0.1)
    assert all(parameter.grad is None for name, parameter in net.model.named_parameters() if name in names)


def test_gradients_of_micro_batches_are_added_and_used_once() -> None:
    net = mixing_network()
    names = prunable(net.model, True)
    found: Found = {}

    def use(name: str, batch: int, gradient: Tensor) -> None:
        assert (name, batch) not in found
        found[name, batch] = gradient

    gradients = Gradients(net.model, names)
    for _ in range(2):  # nothing is left over from the first time
        found.clear()
        with packed_linears(net.model, torch.float32, on_backward=gradients.collect), gradients.of(1, 2, use):
            for part in (BATCHES[0][:2], BATCHES[0][2:]):
                net.batch_loss(tokens().batch(part), 3).backward()
                assert not found
        assert_close(found, gradients_by_torch(net, names, BATCHES[:1]))


@pytest.mark.parametrize("kind", ["albert", "deberta-v2"])
def test_all_calls_of_a_layer_are_added(kind: str) -> None:
    net = inseparable_network(kind)
    assert not separable(net.model)
    names = prunable(net.model, True)
    right = gradients_by_torch(net, names, BATCHES[:1])
    found: Found = {}
    gradients = Gradients(net.model, names)

    def use(name: str, batch: int, gradient: Tensor) -> None:
        assert (name, batch) not in found
        found[name, batch] = gradient

    calls: list[nn.Module] = []
    for module in gradients.names:
        module.register_forward_hook(lambda module, *arguments: calls.append(module))
    with packed_linears(net.model, torch.float32, on_backward=gradients.collect), gradients.of(1, 1, use):
        net.batch_loss(tokens().batch(BATCHES[0]), 3).backward()
        assert len(found) == len(right), "a complete gradient was not passed on"
    assert len(calls) > len(gradients.names)
    assert_close(found, right)


def test_a_call_without_effect_on_the_loss_does_not_hold_back_the_gradient() -> None:
    model = nn.ModuleDict({"layer": nn.Linear(3, 2)})
    inputs = torch.arange(12.0).view(4, 3)
    found: Found = {}
    gradients = Gradients(model, ["layer.weight", "layer.bias"])
    with (
        packed_linears(model, torch.float32, on_backward=gradients.collect),
        gradients.of(2, 1, lambda name, batch, gradient: found.__setitem__((name, batch), gradient)),
    ):
        model["layer"](inputs + 1)
        model["layer"](inputs).sum().backward()
    for batch in (0, 1):
        assert torch.equal(found["layer.weight", batch], inputs.view(2, 2, 3).sum(1)[batch].expand(2, 3))
        assert torch.equal(found["layer.bias", batch], torch.tensor([2.0, 2.0]))


def test_only_parameters_of_linear_layers_are_accepted() -> None:
    model = nn.ModuleDict({"words": nn.Embedding(3, 2)})
    with pytest.raises(AssertionError, match=r"words.weight is not a parameter of a linear layer"):
        Gradients(model, ["words.weight"])


@pytest.mark.parametrize("called_too", [False, True])
def test_the_gradient_of_a_weight_that_is_used_without_its_layer_is_torch_s(called_too: bool) -> None:
    model = nn.ModuleDict({"layer": nn.Linear(3, 2)})
    gradients, found = Gradients(model, ["layer.weight"]), list[Tensor]()
    both = pytest.raises(AssertionError, match=r"layer of layer.weight is used in another way than by calling it")
    with (
        both if called_too else nullcontext(),
        packed_linears(model, torch.float32, on_backward=gradients.collect),
        gradients.of(1, 1, lambda name, batch, gradient: found.append(gradient)),
    ):
        output = nn.functional.linear(torch.ones(4, 3), model["layer"].weight).sum()
        (output + model["layer"](torch.ones(4, 3)).sum() if called_too else output).backward()
    if not called_too:
        assert torch.equal(found[0], torch.full((2, 3), 4.0))
        assert model["layer"].weight.grad is None


def test_the_gradient_of_a_transposed_weight_is_passed_on_by_rows() -> None:
    model = nn.ModuleDict({"layer": Conv1D(2, 3)})
    inputs, found = torch.arange(12.0).view(4, 3), dict[str, Tensor]()
    gradients = Gradients(model, ["layer.weight", "layer.bias"])
    with (
        packed_linears(model, torch.float32, on_backward=gradients.collect),
        gradients.of(1, 2, lambda name, batch, gradient: found.__setitem__(name, gradient)),
    ):
        for _ in range(2):
            (model["layer"](inputs) * torch.tensor([1.0, 10.0])).sum().backward()
    assert torch.equal(found["layer.weight"], 2 * torch.tensor([[1.0], [10.0]]) * inputs.sum(0))
    assert torch.equal(found["layer.bias"], torch.tensor([8.0, 80.0]))


def test_a_layer_with_a_forward_of_its_own_is_not_packed() -> None:
    class Doubled(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return 2 * super().forward(inputs)

    layer = Doubled(3, 2)
    inputs = torch.ones(4, 3)
    expected = layer(inputs)
    with torch.no_grad(), packed_linears(layer, torch.float32):
        assert torch.equal(layer(inputs), expected)
