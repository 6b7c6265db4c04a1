"""The last layer for its first token alone: the same outputs and gradients, from fewer tokens."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from builders.transformers_networks import LAYERS, SHAPE, mixing_network, tokens
from torch import Tensor, nn

from deepcuts.experiment.spec import ScoringPass, Training
from deepcuts.fast.first_token import BEHIND, first_token_alone
from deepcuts.model.network import Network
from deepcuts.scoring.score import score
from deepcuts.training.train import evaluate, train

PADDING = 1
every = pytest.mark.parametrize("kind", BEHIND)


def widths(of: Network) -> dict[str, int]:
    """The second axis of what leaves each linear layer, whenever the network runs from now on."""
    seen: dict[str, int] = {}

    def look(path: str) -> Any:
        def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen[path] = output.shape[1] if output.dim() == 3 else 0

        return note

    for path, module in of.model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(look(path))
    return seen


@every
def test_outputs_and_gradients_are_those_of_all_tokens(kind: str) -> None:
    made = mixing_network(kind)
    batch = tokens(PADDING).batch(np.arange(10))
    found = []
    for alone in (False, True):
        made.model.zero_grad()
        seen = widths(made)
        with first_token_alone(made.model) if alone else nullcontext():
            outputs = made.outputs(batch)
        (outputs * torch.arange(20).view(10, 2)).sum().backward()
        found.append((outputs, {name: p.grad for name, p in made.model.named_parameters()}))
        longest = batch["input_ids"].shape[1]
        encoder = {path: width for path, width in seen.items() if ".layer." in path}
        assert {path for path, width in encoder.items() if width != longest} == (_behind(kind) if alone else set())
        assert all(encoder[path] == 1 for path in (_behind(kind) if alone else ()))
    (expected, gradients), (outputs, ours) = found
    assert float(expected.detach().std()) > 0.1
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        if gradient is not None:
            scale = float(gradient.abs().max()) + 1e-3
            torch.testing.assert_close(ours[name] / scale, gradient / scale, rtol=1e-3, atol=1e-5)


def _behind(kind: str) -> set[str]:
    if kind == "distilbert":
        return {f"distilbert.transformer.layer.{LAYERS - 1}.ffn.lin{i}" for i in (1, 2)}
    prefix = {"camembert": "roberta", "xlm-roberta": "roberta"}.get(kind, kind)
    layer = f"{prefix}.encoder.layer.{LAYERS - 1}"
    return {f"{layer}.attention.output.dense", f"{layer}.intermediate.dense", f"{layer}.output.dense"}


@pytest.mark.parametrize("dropout", [False, True])
def test_training_evaluation_and_gradients_use_it_and_leave_no_hook(dropout: bool) -> None:
    made, data = mixing_network("bert", dropout), tokens(PADDING)
    last = "bert.encoder.layer.2.output.dense"
    seen = widths(made)
    evaluate(made, data)
    assert seen.pop(last) == 1
    for decay in (0.0, 0.1):  # with it, all words are trained
        settings = Training(epochs=1, batch_size=4, weight_decay=decay, optimizer="adamw")
        train(made, data, settings, seed=0, stage="dense")
        assert seen.pop(last) == 1
    names = [f"{last}.weight"]
    score(made, names, ["MagGrad"], data, [np.arange(4)], ScoringPass(), 0)
    assert seen.pop(last) == 1
    assert not any(module._forward_pre_hooks for module in made.model.modules())


@pytest.mark.parametrize("criterion", ["GradCAM", "SmoothGradCAM", "Wanda", "MagAct"])
def test_scores_see_the_outputs_of_all_tokens(criterion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over the tokens is over all of them, also where only the first has a gradient."""
    made, data = mixing_network("bert"), tokens(PADDING)
    names = [f"bert.encoder.layer.2.{path}.weight" for path in ("intermediate.dense", "output.dense")]
    settings = ScoringPass(smoothing_passes=2, noise_std=0.0, dropout=False)
    order = [np.arange(4), np.arange(4, 9)]
    found = score(made, names, [criterion], data, order, settings, 0)[0][criterion]
    monkeypatch.setattr("deepcuts.fast.first_token.BEHIND", {})
    expected = score(made, names, [criterion], data, order, settings, 0)[0][criterion]
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
