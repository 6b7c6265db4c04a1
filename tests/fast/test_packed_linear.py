"""Linear layers with packed weights give the same outputs and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from deepcuts.data.batches import Tokens
from deepcuts.data.toy import CONFIG
from deepcuts.experiment.settings import ScoringPass
from deepcuts.fast.packed_linear import _product, packed_linears
from deepcuts.model.network import Network
from deepcuts.scoring.score import score
from deepcuts.training.train import evaluate

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The activation of each packed product that is computed."""
    seen: list[str] = []
    original = _product

    def note(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
        if weight.is_mkldnn:
            seen.append(activation)
        return original(inputs, weight, bias, activation)

    monkeypatch.setattr("deepcuts.fast.packed_linear._product", note)
    return seen


@pytest.fixture
def bert() -> Iterator[nn.Module]:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**CONFIG, num_labels=2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    yield model
    assert not any("forward" in vars(each) for each in model.modules()), "a layer is still packed"


def run(model: nn.Module, dtype: torch.dtype) -> Tensor:
    ids = torch.arange(40).reshape(4, 10) % CONFIG["vocab_size"]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        outputs: Tensor = model(input_ids=ids).logits.float()
    return outputs


@every_dtype
@pytest.mark.parametrize("gelu", [False, True])
def test_outputs_are_those_of_the_layers(bert: nn.Module, products: list[str], dtype: torch.dtype, gelu: bool) -> None:
    with torch.no_grad():
        plain = run(bert, dtype)
        with packed_linears(bert, dtype, gelu):
            packed = run(bert, dtype)
    torch.testing.assert_close(packed, plain, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    layers = sum(isinstance(each, nn.Linear) for each in bert.modules())
    assert len(products) == layers
    assert products.count("gelu") == (CONFIG["num_hidden_layers"] if gelu else 0)


@every_dtype
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_the_layer(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bias: bool, onednn: bool
) -> None:
    """The inputs get their gradient; the factors of the parameters' gradients go to `on_backward`."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias)
    inputs = torch.linspace(-1, 1, 3 * 5 * 24).reshape(3, 5, 24).requires_grad_()
    factors: list[tuple[Tensor, Tensor, bool]] = []

    def on_backward(module: nn.Module, gradient: Tensor, values: Tensor, last: bool) -> None:
        assert module is layer
        assert (gradient.dtype, values.dtype) == (dtype, dtype)
        factors.append((gradient, values, last))

    def run(times: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = [layer(inputs * (1 + time)) for time in range(times)]
        assert {each.dtype for each in outputs} == {dtype}
        sum(each.float().square().sum() for each in outputs).backward()

    run(2)
    expected = {"inputs": inputs.grad, **{name: each.grad for name, each in layer.named_parameters()}}
    inputs.grad = None
    layer.zero_grad()
    with packed_linears(layer, dtype, on_backward=on_backward):
        run(2)
    assert [last for *_, last in factors] == [False, True]
    found = {
        "inputs": inputs.grad,
        "weight": sum(g.flatten(0, 1).float().t() @ x.flatten(0, 1).float() for g, x, _ in factors),
    }
    if bias:
        found["bias"] = sum(g.flatten(0, 1).float().sum(0) for g, *_ in factors)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max()
        torch.testing.assert_close(found[name] / scale, gradient / scale, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_layers_whose_parameters_require_no_gradients_are_not_reported() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].bias.requires_grad_(False)
    model[1].requires_grad_(False)
    called: list[nn.Module] = []
    with packed_linears(model, torch.float32, on_backward=lambda layer, *factors: called.append(layer)):
        model(torch.ones(2, 4)).sum().backward()
    assert called == [model[2], model[0]]


def test_forward_hooks_still_change_the_output(bert: nn.Module) -> None:
    def add(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output + 1

    with torch.no_grad(), packed_linears(bert, torch.float32):
        before = run(bert, torch.float32)
        handle = bert.classifier.register_forward_hook(add)
        after = run(bert, torch.float32)
        handle.remove()
    torch.testing.assert_close(after, before + 1)


def test_weights_may_change_between_two_contexts(bert: nn.Module) -> None:
    with torch.no_grad():
        with packed_linears(bert, torch.float32):
            before = run(bert, torch.float32)
        bert.bert.encoder.layer[0].intermediate.dense.weight.zero_()
        with packed_linears(bert, torch.float32, gelu=True):
            after = run(bert, torch.float32)
        torch.testing.assert_close(after, run(bert, torch.float32), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(after, before, atol=1e-3)


@pytest.mark.parametrize("missing", ["mkldnn", "bf16", "cpu"])
def test_without_onednn_for_the_device_and_type_nothing_is_packed(
    monkeypatch: pytest.MonkeyPatch, products: list[str], missing: str
) -> None:
    layer = nn.Linear(4, 3, device="meta" if missing == "cpu" else "cpu")
    if missing == "mkldnn":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    if missing == "bf16":
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with torch.no_grad(), packed_linears(layer, torch.bfloat16):
        layer(torch.ones(2, 4, device=layer.weight.device))
    assert products == []


@every_dtype
def test_evaluation_and_scoring_use_packed_weights_and_find_the_same(
    monkeypatch: pytest.MonkeyPatch, bert: nn.Module, products: list[str], dtype: torch.dtype
) -> None:
    network = Network(bert, "linear", "mean", "bf16" if dtype == torch.bfloat16 else "fp32", torch.device("cpu"))
    texts = toy_texts()

    def evaluated() -> Tensor:
        return torch.from_numpy(evaluate(network, texts))

    def scored() -> Tensor:
        name, order = "bert.encoder.layer.0.output.dense.weight", [np.arange(4), np.arange(4, 8)]
        return score(network, [name], ["GradCAM"], texts, order, ScoringPass(dropout=False), 0)[0]["GradCAM"][name]

    layers = sum(isinstance(each, nn.Linear) for each in bert.modules())
    outputs = evaluated()
    assert (len(products), products.count("gelu")) == (layers, 2)
    products.clear()
    scores = scored()
    backward = 8  # the layers after the scored one need gradients of their inputs: second block, pooler and head
    assert products == ["none"] * (layers + layers + backward)  # both batches run as one
    products.clear()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    tolerance = max(TOLERANCE[dtype], 1e-4)
    for packed, plain in ((outputs, evaluated()), (scores, scored())):
        scale = plain.abs().max()
        torch.testing.assert_close(packed / scale, plain / scale, atol=tolerance, rtol=0)
    assert products == []


@pytest.mark.parametrize("criterion", ["SNIP", "SmoothGradCAM"])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_network_without_them_is_evaluated_and_scored_by_torch(
    products: list[str], bert: nn.Module, criterion: str, micro_batch: int | None
) -> None:
    torch.nn.init.ones_(bert.get_parameter("bert.pooler.dense.bias"))
    network = Network(bert, "linear", "mean", "fp32", torch.device("cpu"))
    texts, order = toy_texts(), [np.arange(4), np.arange(4, 8)]
    names = ["bert.encoder.layer.0.output.dense.weight", "bert.pooler.dense.bias"]
    settings = ScoringPass(dropout=False, noise_std=0.0, smoothing_passes=3, micro_batch=micro_batch)

    def found() -> tuple[Tensor, dict[str, Tensor]]:
        scores, _ = score(network, names, [criterion], texts, order, settings, 0)
        return torch.from_numpy(evaluate(network, texts)), scores[criterion]

    outputs, scores = found()
    assert "gelu" in products
    network.shortcuts_off.add("gelu")
    assert torch.allclose(found()[0], outputs, atol=1e-4)
    products.clear()
    network.shortcuts_off.add("packed_weights")
    plain_outputs, plain_scores = found()
    assert products == []
    torch.testing.assert_close(outputs, plain_outputs, atol=1e-4, rtol=1e-4)
    for name in names:
        scale = plain_scores[name].max()
        torch.testing.assert_close(scores[name] / scale, plain_scores[name] / scale, atol=1e-4, rtol=0)
    assert all(each.grad is None for each in bert.parameters())


def test_nothing_is_packed_when_no_pass_runs(monkeypatch: pytest.MonkeyPatch, bert: nn.Module) -> None:
    monkeypatch.delattr("deepcuts.fast.packed_linear._pack")
    network = Network(bert, "linear", "mean", "fp32", torch.device("cpu"))
    name = "bert.pooler.dense.weight"
    scores, _ = score(network, [name], ["MagWeight"], toy_texts(), [], ScoringPass(), 0)
    assert torch.equal(scores["MagWeight"][name], bert.get_parameter(name).abs())
    with pytest.raises(NameError):
        evaluate(network, toy_texts())


def toy_texts() -> Tokens:
    """Eight examples of six words."""
    ids = (torch.arange(48) % CONFIG["vocab_size"]).int()
    labels = torch.tensor([0.0, 1.0] * 4)
    return Tokens({"input_ids": ids}, 6 * np.arange(9), labels, {"input_ids": 0}, np.zeros(8, bool))
