"""Every criterion on every kind of architecture, against a plain loop in float64, one batch and one call at a time."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.architectures import architecture
from builders.transformers_networks import tokens
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deepcuts.experiment.settings import ScoringPass
from deepcuts.model.load import pads_left
from deepcuts.model.network import Network, prunable
from deepcuts.pruning.criteria import CRITERIA
from deepcuts.scoring.activations import find_axes, how_counted, observe
from deepcuts.scoring.score import score
from deepcuts.seeds import derive

KINDS = ["albert", "bert", "deberta", "deberta-v2", "distilbert", "funnel", "gpt2", "longformer", "roberta", "xlnet"]
BATCHES = [np.array([0, 2, 5]), np.array([1, 4]), np.array([8, 6, 3, 7])]  # of up to 3, 5 and 6 tokens
SETTINGS, SEED = ScoringPass(smoothing_passes=2, noise_std=1e-7, dropout=False), 3


def real_rows(kind: str, path: str, call: int, values: Tensor, mask: Tensor) -> Tensor:
    """The rows of a layer's call that count, by what is known of each architecture. Values (.., X), mask (B, T)."""
    tokens = mask.shape[1]
    if values.dim() == 2:  # a row for each example
        return values
    if kind.startswith("deberta") and (call > 0 or "pos_" in path):  # of relative positions
        return values.flatten(0, -2)
    if kind == "funnel" and ".blocks.1." in path and not path.endswith(("k_head", "v_head")):  # of pooled tokens
        return values.flatten(0, -2)
    if kind == "longformer" and path.endswith("query_global"):  # of each example's first token
        return values.flatten(0, -2)
    if kind == "xlnet" or (kind == "longformer" and ".self." in path):
        values = values.transpose(0, 1)
    return values[:, :tokens][mask.bool()]


class Reference:
    """The inputs, outputs and gradients of each batch, in float64."""

    def __init__(self, kind: str, network: Network, names: list[str]) -> None:
        self.model = deepcopy(network.model).double()
        self.weights = {name: self.model.get_parameter(name).detach() for name in names}
        self.gradients: list[dict[str, Tensor]] = []
        self.seen: list[dict[tuple[str, str], Tensor]] = []
        for batch in BATCHES:
            self._run(kind, tokens().batch(batch))
        self.curved = self._curved()
        self.flow = self._flow(kind)

    def _curved(self) -> dict[str, Tensor]:
        """The Hessian times the gradient of the loss of each batch, summed."""
        self.model.set_attn_implementation("eager")
        wanted = [self.model.get_parameter(name) for name in self.weights]
        sums = [torch.zeros_like(each) for each in wanted]
        for batch in BATCHES:
            inputs = tokens().batch(batch)
            labels = inputs.pop("labels").long()
            loss = nn.functional.cross_entropy(self.model(**inputs).logits / 200, labels)
            first = torch.autograd.grad(loss, wanted, create_graph=True, materialize_grads=True, allow_unused=True)
            norm = sum(each.square().sum() for each in first) / 2  # its gradient is H g
            for total, each in zip(
                sums, torch.autograd.grad(norm, wanted, allow_unused=True, materialize_grads=True), strict=True
            ):
                total += each
        return dict(zip(self.weights, sums, strict=True))

    def _flow(self, kind: str) -> dict[str, Tensor]:
        """The gradient of the sum of the outputs for embeddings of ones, of the network with all weights positive."""
        model = deepcopy(self.model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.abs_()
        wanted = [model.get_parameter(name) for name in self.weights]
        ones = torch.ones(1, 8, model.get_input_embeddings().embedding_dim, dtype=torch.float64)
        extra = {"global_attention_mask": torch.eye(8)[:1].long()} if kind == "longformer" else {}
        flow = model(inputs_embeds=ones, attention_mask=torch.ones(1, 8), **extra).logits.sum()
        found = torch.autograd.grad(flow, wanted, allow_unused=True, materialize_grads=True)
        return dict(zip(self.weights, found, strict=True))

    def _run(self, kind: str, inputs: dict[str, Tensor]) -> None:
        rows: dict[tuple[str, str], list[Tensor]] = {}
        calls: Counter[str] = Counter()

        def watch(path: str) -> RemovableHandle:
            def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
                for side, values in (("in", args[0]), ("out", output)):  # copied: DeBERTa changes them in place
                    mask = inputs["attention_mask"]
                    found = real_rows(kind, path, calls[path], values.detach().clone(), mask)
                    rows.setdefault((path, side), []).append(found)
                calls[path] += 1

            return self.model.get_submodule(path).register_forward_hook(note)

        handles = [watch(path) for path in {name.rpartition(".")[0] for name in self.weights}]
        self.model.zero_grad()
        logits = self.model(**{key: value for key, value in inputs.items() if key != "labels"}).logits
        nn.functional.cross_entropy(logits, inputs["labels"].long()).backward()
        self.gradients.append({name: self.model.get_parameter(name).grad.clone() for name in self.weights})  # type: ignore[union-attr]
        self.seen.append({key: torch.cat(found) for key, found in rows.items()})
        for handle in handles:
            handle.remove()

    def scores(self, criterion: str, name: str, turned: bool) -> Tensor:
        """The formula of the table, for a weight as it is stored."""
        path, bias = name.rpartition(".")[0], name.endswith(".bias")
        w = self.weights[name].t() if turned else self.weights[name]
        g = [each[name].t() if turned else each[name] for each in self.gradients]
        outs = [each[path, "out"].mean(0) for each in self.seen]
        ins = [each[path, "in"] for each in self.seen]
        ins = [torch.ones_like(each[:, :1]) for each in ins] if bias else ins
        a = [each if bias else each[:, None] for each in outs]
        shift = 10 if criterion.endswith("Shift") else 0
        cam = [g_b * (shift + a_b) for g_b, a_b in zip(g, a, strict=True)]
        formulas = {
            "MagWeight": lambda: w.abs(),
            "MagGrad": lambda: sum((w * g_b).abs() for g_b in g),
            "SNIP": lambda: (w * sum(g)).abs(),
            "Fisher": lambda: sum(w**2 * g_b**2 for g_b in g),
            "MagAct": lambda: w.abs() * sum(each.mean(0) for each in ins).abs(),
            "Wanda": lambda: w.abs() * sum((each**2).sum(0) for each in ins).sqrt(),
            "GradCAM": lambda: sum((w * each).abs() for each in cam),
            "MagIncrease": lambda: w.abs() - start_of(w).abs(),
            "MagInit": lambda: start_of(w).abs(),
            "SynFlow": lambda: (w * (self.flow[name].t() if turned else self.flow[name])).abs(),
            "GraSP": lambda: w * (self.curved[name].t() if turned else self.curved[name]),
        }
        formula = "MagGrad" if criterion == "SmoothGrad" else "GradCAM" if "CAM" in criterion else criterion
        found: Tensor = formulas[formula]()
        return found.t() if turned else found


def start_of(weight: Tensor) -> Tensor:
    return 0.9 * weight**2 - 0.1


@cache
def network_and_reference(kind: str) -> tuple[Network, Reference]:
    network = architecture(kind)
    return network, Reference(kind, network, prunable(network.model, biases=True))


@pytest.mark.parametrize("data", ["none", "forward", "plain", "smoothed", "curvature"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_criterion_is_that_of_a_plain_loop_on_every_architecture(kind: str, data: str) -> None:
    network, reference = network_and_reference(kind)
    names = list(reference.weights)
    criteria = [name for name, row in CRITERIA.items() if row.data == data]
    initial = {name: start_of(parameter.detach()) for name, parameter in network.model.named_parameters()}
    scores, _ = score(network, names, criteria, tokens(), BATCHES, SETTINGS, SEED, initial)
    for criterion in criteria:
        if criterion == "Random":
            continue
        right = {name: reference.scores(criterion, name, kind == "gpt2" and name.endswith(".weight")) for name in names}
        largest = max(float(each.abs().max()) for each in right.values())
        for name in names:
            scale = max(float(right[name].abs().max()), 1e-3 * largest)  # that of a key's bias is all rounding
            found = scores[criterion][name].double()
            torch.testing.assert_close(
                found / scale, right[name] / scale, atol=1e-3, rtol=1e-3, msg=f"{criterion} {name}"
            )


def test_random_scores_of_a_transposed_weight_are_drawn_row_by_row() -> None:
    network, _ = network_and_reference("gpt2")
    names = ["transformer.h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_proj.weight"]
    found = score(network, names, ["Random"], tokens(), BATCHES, SETTINGS, SEED)[0]["Random"]
    generator = torch.Generator().manual_seed(derive(SEED, "score", "Random"))
    for name in names:
        assert found[name].is_contiguous()
        outputs = network.model.get_parameter(name).shape[::-1]
        assert torch.equal(found[name].t(), torch.empty(outputs).uniform_(generator=generator))


def test_axes_of_one_length_are_told_apart_by_those_of_another_pass() -> None:
    network, reference = network_and_reference("xlnet")
    path, square = "transformer.layer.1.ff.layer_1", BATCHES[:1]  # 3 examples of up to 3 tokens
    axes = find_axes(network, [path], tokens())
    sums = observe(network, axes, tokens(), square, False, True)[path]
    torch.testing.assert_close(sums.values[0].double(), reference.seen[0][path, "in"].sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "layers"),
    [("bert", None), ("albert", None), ("xlnet", None), ("deberta", "4 of 12"), ("deberta-v2", "4 of 12")]
    + [("longformer", "2 of 18"), ("gpt2", None)],
)
def test_what_is_not_known_of_rows_is_said(kind: str, layers: str | None) -> None:
    network = architecture(kind)
    names = prunable(network.model, biases=False)
    said = layers and f"rows of unknown tokens count in {layers} layers"
    for criterion in ("Wanda", "SmoothGradCAM"):
        assert how_counted(network, tokens(), names, CRITERIA[criterion]) == said
    for row in (CRITERIA["MagGrad"], CRITERIA["MagWeight"], None):
        assert how_counted(network, tokens(), names, row) is None


def test_xlnet_classifies_from_the_last_position_so_padding_comes_first(tmp_path: Path) -> None:
    network = architecture("xlnet")
    network.model.save_pretrained(tmp_path)  # type: ignore[operator]
    assert pads_left(str(tmp_path), "main")
    left = replace(tokens(), left=True)
    with torch.no_grad():
        alone = torch.cat([network.outputs(left.batch(np.array([i]))) for i in range(4)])
        torch.testing.assert_close(network.outputs(left.batch(np.arange(4))), alone)
        assert not torch.allclose(network.outputs(tokens().batch(np.arange(4))), alone, atol=1e-3)
