"""Gradients of batches that run as one, apart: those of each batch alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from test_first_token import network
from test_used_words import SHAPE, tokens
from torch import Tensor, nn

from deepcuts.data.batches import Integers
from deepcuts.fast.packed_linear import packed_linears
from deepcuts.model.network import Network, prunable
from deepcuts.scoring.gradients import SEPARABLE, Gradients, separable

BATCHES = [np.array([0, 2, 5]), np.array([1, 4, 9]), np.array([8, 6, 3])]
Found = dict[tuple[str, int], Tensor]


def expected(made: Network, names: list[str], batches: list[Integers]) -> Found:
    """By torch alone, a batch at a time."""
    found = {}
    for number, batch in enumerate(batches):
        made.model.zero_grad()
        made.batch_loss(tokens().batch(batch), len(batch)).backward()
        for name in names:
            gradient = made.model.get_parameter(name).grad
            if gradient is not None:
                found[name, number] = gradient.clone()
    made.model.zero_grad()
    return found


def same(found: Found, right: Found, near: float = 1e-3) -> None:
    assert found.keys() == right.keys()
    largest = max(float(gradient.abs().max()) for gradient in right.values())
    for key, gradient in right.items():
        scale = max(float(gradient.abs().max()), largest * near)  # the bias of a key is of no influence: its is noise
        torch.testing.assert_close(found[key].float() / scale, gradient / scale, atol=near, rtol=near)


def other(kind: str) -> Network:
    """A network of a kind whose gradients cannot be told apart."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 3, "sep_token_id": 4}
    more: dict[str, Any] = {
        "albert": {"num_hidden_layers": 3, "embedding_size": 4},
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True},
    }[kind]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**SHAPE, **special, **more}, num_labels=2)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    return Network(model, "linear", "mean", "fp32", torch.device("cpu"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("kind", sorted(SEPARABLE))
def test_they_are_those_of_each_batch_alone(kind: str, biases: bool, precision: str) -> None:
    made = replace(network(kind), precision=precision)
    assert separable(made.model)
    names = prunable(made.model, biases)
    right = expected(made, names, BATCHES)
    assert {name for name, _ in right} == set(names)
    found: Found = {}
    gradients = Gradients(made.model, names)

    def use(name: str, batch: int, gradient: Tensor) -> None:
        assert not gradients.parts, "a complete one waits"
        assert (name, batch) not in found
        found[name, batch] = gradient

    with packed_linears(made.model, made.dtype, on_backward=gradients.collect), gradients.of(3, 1, use):
        made.batch_loss(tokens().batch(np.concatenate(BATCHES)), 3).backward()
        assert len(found) == 3 * len(names)
    same(found, right, 1e-3 if precision == "fp32" else 0.1)
    assert all(parameter.grad is None for name, parameter in made.model.named_parameters() if name in names)


def test_parts_of_a_batch_are_put_together_and_used_once() -> None:
    made = network("bert")
    names = prunable(made.model, True)
    found: Found = {}

    def use(name: str, batch: int, gradient: Tensor) -> None:
        assert (name, batch) not in found
        found[name, batch] = gradient

    gradients = Gradients(made.model, names)
    for _ in range(2):  # nothing is left of the first time
        found.clear()
        with packed_linears(made.model, torch.float32, on_backward=gradients.collect), gradients.of(1, 2, use):
            for part in (BATCHES[0][:2], BATCHES[0][2:]):
                made.batch_loss(tokens().batch(part), 3).backward()
                assert not found
        same(found, expected(made, names, BATCHES[:1]))


@pytest.mark.parametrize("kind", ["albert", "deberta-v2"])
def test_calls_of_a_layer_that_is_called_several_times_are_put_together(kind: str) -> None:
    made = other(kind)
    assert not separable(made.model)
    names = prunable(made.model, True)
    right = expected(made, names, BATCHES[:1])
    found: Found = {}
    gradients = Gradients(made.model, names)

    def use(name: str, batch: int, gradient: Tensor) -> None:
        assert (name, batch) not in found
        found[name, batch] = gradient

    calls: list[nn.Module] = []
    for module in gradients.names:
        module.register_forward_hook(lambda module, *more: calls.append(module))
    with packed_linears(made.model, torch.float32, on_backward=gradients.collect), gradients.of(1, 1, use):
        made.batch_loss(tokens().batch(BATCHES[0]), 3).backward()
        assert len(found) == len(right), "a complete one waits"
    assert len(calls) > len(gradients.names)
    same(found, right)


def test_a_call_that_the_loss_does_not_see_loses_nothing() -> None:
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


def test_only_parameters_of_linear_layers_have_a_place() -> None:
    model = nn.ModuleDict({"words": nn.Embedding(3, 2)})
    with pytest.raises(AssertionError, match=r"words.weight is no parameter of a linear layer"):
        Gradients(model, ["words.weight"])


def test_a_weight_that_is_used_behind_its_layer_s_back_is_noticed() -> None:
    model = nn.ModuleDict({"layer": nn.Linear(3, 2)})
    gradients = Gradients(model, ["layer.weight"])
    with (
        pytest.raises(AssertionError, match=r"the layer of layer.weight is used in another way than by calling it"),
        packed_linears(model, torch.float32, on_backward=gradients.collect),
        gradients.of(1, 1, lambda name, batch, gradient: None),
    ):
        nn.functional.linear(torch.ones(4, 3), model["layer"].weight).sum().backward()


def test_a_layer_that_computes_something_else_is_left_alone() -> None:
    class Doubled(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return 2 * super().forward(inputs)

    layer = Doubled(3, 2)
    inputs = torch.ones(4, 3)
    expected = layer(inputs)
    with torch.no_grad(), packed_linears(layer, torch.float32):
        assert torch.equal(layer(inputs), expected)
