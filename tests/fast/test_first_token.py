"""Computing only the first token in the last layer gives the same outputs and gradients."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from builders.transformers_networks import LAYERS, SHAPE, mixing_network, tokens
from torch import Tensor, nn

from deepcuts.experiment.settings import ScoringPass, Training
from deepcuts.fast.first_token import AFTER_ATTENTION, first_token_alone
from deepcuts.model.network import Network
from deepcuts.scoring.score import score
from deepcuts.training.train import evaluate, train

PADDING = 1
every = pytest.mark.parametrize("kind", AFTER_ATTENTION)


def widths(of: Network) -> dict[str, int]:
    """Note how many tokens each linear layer outputs, in every run from now on; 0 where it has no token axis."""
    seen: dict[str, int] = {}

    def make_hook(path: str) -> Any:
        def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen[path] = output.shape[1] if output.dim() == 3 else 0

        return note

    for path, module in of.model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(make_hook(path))
    return seen


@every
def test_outputs_and_gradients_are_those_of_all_tokens(kind: str) -> None:
    net = mixing_network(kind)
    batch = tokens(PADDING).batch(np.arange(10))
    found = []
    for alone in (False, True):
        net.model.zero_grad()
        seen = widths(net)
        with first_token_alone(net.model) if alone else nullcontext():
            outputs = net.outputs(batch)
        (outputs * torch.arange(20).view(10, 2)).sum().backward()
        found.append((outputs, {name: p.grad for name, p in net.model.named_parameters()}))
        longest = batch["input_ids"].shape[1]
        encoder = {path: width for path, width in seen.items() if ".layer." in path}
        assert {path for path, width in encoder.items() if width != longest} == (
            _after_attention(kind) if alone else set()
        )
        assert all(encoder[path] == 1 for path in (_after_attention(kind) if alone else ()))
    (expected, gradients), (outputs, ours) = found
    assert float(expected.detach().std()) > 0.1
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        if gradient is not None:
            scale = float(gradient.abs().max()) + 1e-3
            torch.testing.assert_close(ours[name] / scale, gradient / scale, rtol=1e-3, atol=1e-5)


def _after_attention(kind: str) -> set[str]:
    if kind == "distilbert":
        return {f"distilbert.transformer.layer.{LAYERS - 1}.ffn.lin{i}" for i in (1, 2)}
    prefix = {"camembert": "roberta", "xlm-roberta": "roberta"}.get(kind, kind)
    layer = f"{prefix}.encoder.layer.{LAYERS - 1}"
    return {f"{layer}.attention.output.dense", f"{layer}.intermediate.dense", f"{layer}.output.dense"}


@pytest.mark.parametrize("dropout", [False, True])
def test_training_evaluation_and_scoring_use_it_and_leave_no_hook(dropout: bool) -> None:
    net, data = mixing_network("bert", dropout), tokens(PADDING)
    last = "bert.encoder.layer.2.output.dense"
    seen = widths(net)
    evaluate(net, data)
    assert seen.pop(last) == 1
    for decay in (0.0, 0.1):  # with weight decay, all words are trained
        settings = Training(epochs=1, batch_size=4, weight_decay=decay, optimizer="adamw")
        train(net, data, settings, seed=0, stage="dense")
        assert seen.pop(last) == 1
    names = [f"{last}.weight"]
    score(net, names, ["MagGrad"], data, [np.arange(4)], ScoringPass(), 0)
    assert seen.pop(last) == 1
    assert not any(module._forward_pre_hooks for module in net.model.modules())


def test_a_network_without_it_computes_all_tokens() -> None:
    net, data = mixing_network("bert"), tokens(PADDING)
    net.shortcuts_off.add("first_token")
    last = "bert.encoder.layer.2.output.dense"
    seen = widths(net)
    evaluate(net, data)
    assert seen.pop(last) > 1
    train(net, data, Training(epochs=1, batch_size=4), seed=0, stage="dense")
    assert seen.pop(last) > 1
    score(net, [f"{last}.weight"], ["MagGrad"], data, [np.arange(4)], ScoringPass(), 0)
    assert seen.pop(last) > 1


@pytest.mark.parametrize("criterion", ["GradCAM", "SmoothGradCAM", "Wanda", "MagAct"])
def test_scores_average_over_the_outputs_of_all_tokens(criterion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the last layer, where only the first token has a gradient."""
    net, data = mixing_network("bert"), tokens(PADDING)
    names = [f"bert.encoder.layer.2.{path}.weight" for path in ("intermediate.dense", "output.dense")]
    settings = ScoringPass(smoothing_passes=2, noise_std=0.0, dropout=False)
    order = [np.arange(4), np.arange(4, 9)]
    found = score(net, names, [criterion], data, order, settings, 0)[0][criterion]
    monkeypatch.setattr("deepcuts.fast.first_token.AFTER_ATTENTION", {})
    expected = score(net, names, [criterion], data, order, settings, 0)[0][criterion]
    for name in names:
        assert float(expected[name].max()) > 0
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["modernbert", "albert", "deberta-v2"])
def test_other_architectures_are_left_alone(kind: str) -> None:
    settings = {**SHAPE, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 3, "sep_token_id": 4}
    config = transformers.AutoConfig.for_model(kind, **settings, num_labels=2)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with first_token_alone(model):
        assert not any(module._forward_pre_hooks for module in model.modules())
