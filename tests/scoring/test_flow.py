"""SynFlow: its scores by differences, the law that they keep where layers are linear, and no flow at all."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from builders.small_network import NAMES, batch, packed, small
from torch import Tensor, nn

from deepcuts.experiment.spec import ScoringPass
from deepcuts.model.network import Network
from deepcuts.scoring.score import score

BATCHES = [batch([4, 2, 3])]


class Linear(nn.Module):
    """Embeddings (V, 3) -> 5 -> 4 -> 2 classes, with ReLU, without biases; the mean over the tokens is linear too."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(12, 3)
        self.first, self.second = nn.Linear(3, 5, bias=False), nn.Linear(5, 4, bias=False)
        self.classifier = nn.Linear(4, 2, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        hidden = torch.relu(self.second(torch.relu(self.first(self.embeddings(input_ids)))))
        return SimpleNamespace(logits=self.classifier(hidden.mean(1)))


def flow_scores(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    network = Network(model, "linear", "mean", "fp32", torch.device("cpu"))
    return score(network, names, ["SynFlow"], *packed(BATCHES), ScoringPass(), 0)[0]["SynFlow"]


def test_what_flows_into_a_unit_flows_out_of_it() -> None:
    torch.manual_seed(0)
    model = Linear()
    with torch.no_grad():
        model.first.weight[0] = 0  # a unit that nothing flows into
    scores = flow_scores(model, ["first.weight", "second.weight", "classifier.weight"])
    torch.testing.assert_close(scores["first.weight"].sum(1), scores["second.weight"].sum(0))
    torch.testing.assert_close(scores["second.weight"].sum(1), scores["classifier.weight"].sum(0))
    assert not scores["second.weight"][:, 0].any()
    flow = torch.ones(3)
    for layer in (model.first, model.second, model.classifier):
        flow = layer.weight.detach().abs() @ flow
    for each in scores.values():  # and the sum over each layer is all that comes out of the network
        torch.testing.assert_close(each.sum(), flow.sum())


def test_scores_are_those_of_differences_in_float64() -> None:
    _, model = small()
    scores = flow_scores(model, NAMES)

    def flow(weights: dict[str, Tensor]) -> float:
        """The sum of the outputs for tokens that are all the same, so that their mean is one of them."""
        hidden = torch.tanh(weights["encoder.layer.weight"] @ torch.ones(3).double() + weights["encoder.layer.bias"])
        pooled = torch.tanh(weights["encoder.pooler.weight"] @ hidden + weights["encoder.pooler.bias"])
        return float((weights["classifier.weight"] @ pooled + weights["classifier.bias"]).sum())

    positive = {name: each.detach().double().abs() for name, each in model.named_parameters()}
    for name in NAMES:
        for place in range(positive[name].numel()):
            step = torch.zeros(positive[name].numel(), dtype=torch.float64)
            step[place] = 1e-6
            up, down = ({**positive, name: positive[name] + way * step.view_as(positive[name])} for way in (1, -1))
            slope = (flow(up) - flow(down)) / 2e-6
            right = positive[name].flatten()[place] * slope
            torch.testing.assert_close(scores[name].flatten()[place].double(), right, rtol=1e-5, atol=1e-9)


def test_texts_and_seeds_change_no_score() -> None:
    network, _ = small(dropout=0.5)
    one, other = (
        score(network, NAMES, ["SynFlow"], *packed([batch([length])]), ScoringPass(), length)[0]["SynFlow"]
        for length in (2, 5)
    )
    assert all(torch.equal(one[name], other[name]) for name in NAMES)


def test_a_network_that_nothing_flows_through_is_refused() -> None:
    _, model = small()
    with torch.no_grad():
        model.classifier.weight.zero_()
    with pytest.raises(ValueError, match="every SynFlow score is 0: no path .* prune less"):
        flow_scores(model, NAMES)
