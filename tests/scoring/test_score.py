"""Scores against a plain loop in float64, differentiated by hand: no hooks, no autograd, no batches of tensors."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from builders.checkpoints import Memory
from builders.small_network import NAMES, Small, Wide, batch, packed, small
from numpy.typing import NDArray
from torch import Tensor

from deepcuts.data.batches import Integers, Tokens
from deepcuts.experiment.settings import ScoringPass
from deepcuts.model.network import Network
from deepcuts.pruning.criteria import CRITERIA
from deepcuts.scoring.activations import Sums, observe
from deepcuts.scoring.noise import NOISE_NUMBERS
from deepcuts.scoring.score import score
from deepcuts.seeds import derive
from deepcuts.training.checkpoint import Interrupted

Arrays = dict[str, NDArray[np.float64]]
LAYER, POOLER = "encoder.layer", "encoder.pooler"
BATCHES = [batch([4, 2, 3], seed=1), batch([1, 5], seed=2), batch([2, 2, 2, 6], seed=3)]
PLAIN, SEED = ScoringPass(smoothing_passes=4, noise_std=0.3, shift=10.0, dropout=False), 3
PADDED = PLAIN.model_copy(update={"count_padding": True})


def weights_of(model: Small) -> Arrays:
    return {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}


def forward(
    w: Arrays, ids: NDArray[np.int64], noise: list[NDArray[np.float64]], row: int
) -> tuple[list[NDArray[np.float64]], ...]:
    """One example of real tokens: inputs x, outputs y of the layer; input z, output u of the pooler; the logits."""
    x = [w["encoder.embeddings.weight"][token] for token in ids]
    y = [w[f"{LAYER}.weight"] @ x_t + w[f"{LAYER}.bias"] + noise[0][row, t] for t, x_t in enumerate(x)]
    z = sum(np.tanh(y_t) for y_t in y) / len(y)
    u = w[f"{POOLER}.weight"] @ z + w[f"{POOLER}.bias"] + noise[1][row]
    logits = w["classifier.weight"] @ np.tanh(u) + w["classifier.bias"] + noise[2][row]
    return x, y, [z], [u], [logits]


def gradients(w: Arrays, b: dict[str, Tensor], noise: list[NDArray[np.float64]]) -> Arrays:
    """Of the mean cross entropy of a batch, by the chain rule."""
    sums = {name: np.zeros_like(w[name]) for name in NAMES}
    examples = len(b["labels"])
    for row in range(examples):
        ids = b["input_ids"][row][b["attention_mask"][row].bool()].numpy()
        x, y, [z], [u], [logits] = forward(w, ids, noise, row)
        exponentials = np.exp(logits - logits.max())
        d_logits = exponentials / exponentials.sum()
        d_logits[int(b["labels"][row])] -= 1
        d_u = w["classifier.weight"].T @ d_logits * (1 - np.tanh(u) ** 2) / examples
        sums[f"{POOLER}.weight"] += np.outer(d_u, z)
        sums[f"{POOLER}.bias"] += d_u
        for x_t, y_t in zip(x, y, strict=True):
            d_y = w[f"{POOLER}.weight"].T @ d_u / len(x) * (1 - np.tanh(y_t) ** 2)
            sums[f"{LAYER}.weight"] += np.outer(d_y, x_t)
            sums[f"{LAYER}.bias"] += d_y
    return sums


def silence(b: dict[str, Tensor]) -> list[NDArray[np.float64]]:
    rows, tokens = b["input_ids"].shape
    return [np.zeros((rows, tokens, 4)), np.zeros((rows, 2)), np.zeros((rows, 3))]


def drawn(b: dict[str, Tensor], index: int, together: int) -> list[list[NDArray[np.float64]]]:
    """The noise of each repeat, as the pass draws it: layer after layer, for the repeats that run as one batch."""
    noises = []
    for first in range(0, PLAIN.smoothing_passes, together):
        torch.manual_seed(derive(SEED, "smoothed", index, first, 0))
        shapes = [(min(together, PLAIN.smoothing_passes - first), *zeros.shape) for zeros in silence(b)]
        layers = [PLAIN.noise_std * window(shape).double().numpy() for shape in shapes]
        noises += [list(repeat) for repeat in zip(*layers, strict=True)]
    return noises


def seen(w: Arrays, b: dict[str, Tensor]) -> tuple[Arrays, Arrays]:
    """Inputs and outputs of the layers, a row for each real token (the pooler: for each example)."""
    inputs: dict[str, list[NDArray[np.float64]]] = {LAYER: [], POOLER: []}
    outputs: dict[str, list[NDArray[np.float64]]] = {LAYER: [], POOLER: []}
    for row in range(len(b["labels"])):
        ids = b["input_ids"][row][b["attention_mask"][row].bool()].numpy()
        x, y, z, u, _ = forward(w, ids, silence(b), row)
        for path, ins, outs in ((LAYER, x, y), (POOLER, z, u)):
            inputs[path] += ins
            outputs[path] += outs
    return {p: np.array(rows) for p, rows in inputs.items()}, {p: np.array(rows) for p, rows in outputs.items()}


def window(shape: tuple[int, ...]) -> Tensor:
    """A random part of the numbers that a seed's noise is taken from."""
    begin = int(torch.randint(NOISE_NUMBERS - math.prod(shape), ()))
    return numbers()[begin:][: math.prod(shape)].reshape(shape)


@cache
def numbers() -> Tensor:
    return torch.randn(NOISE_NUMBERS, generator=torch.Generator().manual_seed(derive(SEED, "noise")))


def reference(criterion: str, model: Small, name: str, together: int = PLAIN.smoothing_passes) -> NDArray[np.float64]:
    """A formula of the table in the documentation, with its sum over the batches written out."""
    w = weights_of(model)
    path, bias = name.rpartition(".")[0], name.endswith("bias")
    signed, total = np.zeros_like(w[name]), np.zeros_like(w[name])
    mean_inputs, squares = 0.0, 0.0
    for index, b in enumerate(BATCHES):
        inputs, outputs = seen(w, b)
        ins = np.ones((len(outputs[path]), 1)) if bias else inputs[path]
        mean_inputs, squares = mean_inputs + ins.mean(0), squares + (ins**2).sum(0)
        if criterion.startswith("Smooth"):
            g = sum(gradients(w, b, noise)[name] for noise in drawn(b, index, together)) / PLAIN.smoothing_passes
        else:
            g = gradients(w, b, silence(b))[name]
        a = outputs[path].mean(0) + (PLAIN.shift if criterion.endswith("Shift") else 0.0)
        a = a if bias else a[:, None]
        signed += g
        total += g**2 if criterion == "Fisher" else np.abs(w[name] * g * (a if "CAM" in criterion else 1.0))
    return {
        "MagWeight": np.abs(w[name]),
        "SNIP": np.abs(w[name] * signed),
        "Fisher": w[name] ** 2 * total,
        "MagAct": np.abs(w[name]) * np.abs(mean_inputs),
        "Wanda": np.abs(w[name]) * np.sqrt(squares),
        "MagInit": np.abs(initial_of(model)[name].double().numpy()),
        "MagIncrease": np.abs(w[name]) - np.abs(initial_of(model)[name].double().numpy()),
    }.get(criterion, total)


def initial_of(model: Small) -> dict[str, Tensor]:
    return {name: 0.9 * p.detach() ** 2 - 0.1 for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
# Those of `test_flow.py` and `test_curvature.py` have loops of their own there.
@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name not in ("Random", "SynFlow", "GraSP")])
def test_scores_are_those_of_a_plain_loop(criterion: str, name: str) -> None:
    network, model = small()
    scores, used = score(network, NAMES, [criterion], *packed(BATCHES), PLAIN, SEED, initial_of(model))
    assert used == (0 if CRITERIA[criterion].data == "none" else 3)
    expected = reference(criterion, model, name)
    assert expected.any()
    np.testing.assert_allclose(scores[criterion][name].numpy(), expected, rtol=2e-4, atol=1e-8)


@pytest.mark.parametrize("criterion", ["GradCAM", "SmoothGradCAM"])
def test_bf16_scores_are_those_of_fp32_to_two_digits(criterion: str) -> None:
    """Weights are cast once for all batches, and for the pass that needs no gradients before the one that does."""
    network, _ = small()
    exact, _ = score(network, NAMES, [criterion], *packed(BATCHES), PLAIN, SEED)
    rough, _ = score(replace(network, precision="bf16"), NAMES, [criterion], *packed(BATCHES), PLAIN, SEED)
    for name in NAMES:
        largest = float(exact[criterion][name].max())
        assert largest > 0
        np.testing.assert_allclose(rough[criterion][name], exact[criterion][name], atol=0.03 * largest)
        assert not torch.equal(rough[criterion][name], exact[criterion][name])


@pytest.mark.parametrize(("tokens", "together"), [(1, 1), (36, 2)])
def test_noisy_passes_run_side_by_side_as_far_as_the_tokens_go(
    monkeypatch: pytest.MonkeyPatch, tokens: int, together: int
) -> None:
    monkeypatch.setattr("deepcuts.model.network.Network.tokens_at_once", 0)
    monkeypatch.setattr("deepcuts.scoring.score.TOKENS", tokens)
    monkeypatch.setattr("test_score.BATCHES", BATCHES[:1])  # of 3 x 4 tokens: 3 passes would fit, 2 and 2 are even
    network, model = small()
    made = score(network, NAMES, ["SmoothGrad"], *packed(BATCHES[:1]), PLAIN, SEED)[0]["SmoothGrad"]
    for name in NAMES:
        np.testing.assert_allclose(made[name].numpy(), reference("SmoothGrad", model, name, together), rtol=2e-4)


def test_the_gradient_of_the_reference_is_that_of_autograd() -> None:
    network, model = small()
    for b in BATCHES:
        model.zero_grad()
        network.batch_loss(b, len(b["labels"])).backward()
        by_hand = gradients(weights_of(model), b, silence(b))
        for name, parameter in model.named_parameters():
            if name in NAMES:
                np.testing.assert_allclose(by_hand[name], parameter.grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("criterion", ["MagAct", "Wanda", "GradCAM", "GradCAMShift"])
def test_padding_counts_only_where_it_is_asked_for(criterion: str) -> None:
    network, _ = small()
    narrow, wide = (packed(BATCHES, kind) for kind in (Tokens, Wide))
    scores = [
        score(network, NAMES, [criterion], *data, settings, SEED)[0][criterion]
        for data, settings in ((narrow, PLAIN), (wide, PLAIN), (narrow, PADDED), (wide, PADDED))
    ]
    weight = f"{LAYER}.weight"
    torch.testing.assert_close(scores[0], scores[1])
    assert not torch.allclose(scores[0][weight], scores[2][weight])
    assert not torch.allclose(scores[2][weight], scores[3][weight])
    assert torch.allclose(scores[2][f"{POOLER}.weight"], scores[3][f"{POOLER}.weight"])  # it has no token axis


def test_counted_padding_enters_the_mean_like_a_token() -> None:
    network, model = small()
    b = batch([3, 1], seed=4)
    scores = score(network, NAMES, ["MagAct"], *packed([b]), PADDED, SEED)[0]["MagAct"]
    x = weights_of(model)["encoder.embeddings.weight"][b["input_ids"].numpy().ravel()]  # word 0 is the padding's
    w = weights_of(model)[f"{LAYER}.weight"]
    np.testing.assert_allclose(scores[f"{LAYER}.weight"].numpy(), np.abs(w) * np.abs(x.mean(0)), rtol=1e-5)


def test_the_gradient_is_that_of_the_network_s_own_loss() -> None:
    network, _ = small(outputs=1)
    b = batch([3, 2, 5, 1], outputs=1)
    mean = score(network, NAMES, ["MagGrad"], *packed([b]), PLAIN, SEED)[0]["MagGrad"]
    summed = score(replace(network, loss="mse_sum"), NAMES, ["MagGrad"], *packed([b]), PLAIN, SEED)[0]["MagGrad"]
    for name in NAMES:
        torch.testing.assert_close(summed[name], 4 * mean[name])


@pytest.mark.parametrize("window", [1, 2, 3, 16])
@pytest.mark.parametrize("criterion", ["MagAct", "Wanda", "GradCAM", "SmoothGradCAM"])
def test_windows_change_nothing_wherever_scoring_goes_on(
    criterion: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcuts.scoring.score.WINDOW", window)
    looked: list[list[list[int]]] = []

    def look(network: Network, paths: Any, tokens: Tokens, batches: list[Integers], *how: bool) -> dict[str, Sums]:
        looked.append([batch.tolist() for batch in batches])
        return observe(network, paths, tokens, batches, *how)

    monkeypatch.setattr("deepcuts.scoring.score.observe", look)
    network, model = small()
    data = packed(BATCHES)
    whole = score(network, NAMES, [criterion], *data, PLAIN, SEED)[0][criterion]
    for name in NAMES:
        np.testing.assert_allclose(whole[name].numpy(), reference(criterion, model, name), rtol=2e-4, atol=1e-8)
    windows = looked.copy()
    assert sum(windows, []) == [batch.tolist() for batch in data[1]]
    for last in (1, 2):
        checkpoint = Memory()
        stop = {last}.__contains__
        with pytest.raises(Interrupted):
            score(network, NAMES, [criterion], *data, PLAIN, SEED, checkpoint=checkpoint, after_batch=stop)
        looked.clear()
        resumed, used = score(network, NAMES, [criterion], *data, PLAIN, SEED, checkpoint=checkpoint)
        assert looked == windows[last // window :]
        assert used == 3
        assert all(torch.equal(resumed[criterion][name], whole[name]) for name in NAMES)
