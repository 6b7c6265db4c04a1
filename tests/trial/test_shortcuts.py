"""Shortcuts are compared with the plain network when it is loaded, and one that changes anything is not taken."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders.small_network import small
from builders.toy_trials import context, dense, everything, trial
from builders.transformers_networks import WIDTH, WORDS, mixing_network, tokens, weights
from torch import Tensor, nn

from deepcuts.data.batches import Tokens
from deepcuts.experiment.settings import ScoringPass
from deepcuts.fast.attention import ATTENTION_NAME, use_quick_attention
from deepcuts.fast.first_token import AFTER_ATTENTION
from deepcuts.model.network import Network, prunable
from deepcuts.scoring.gradients import SEPARABLE
from deepcuts.scoring.score import score
from deepcuts.store.store import Store
from deepcuts.training.train import evaluate
from deepcuts.trial import shortcuts
from deepcuts.trial.shortcuts import (
    COMPARED,
    TESTED,
    compare_paddings,
    find_unproven,
    is_tested,
    padding_matters,
    prove_shortcuts,
    two_texts,
)
from deepcuts.trial.trial import run_stages

KINDS = ["bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"]  # whose shortcuts are taken unseen
DEPEND_ON_PADDING = {"convbert", "fnet", "nystromformer", "xlnet", "yoso"}
OTHERS = ["albert", "bart", "deberta", "deberta-v2", "modernbert", "mpnet", "roberta-prelayernorm"]
PADDING = 1  # the id
pytestmark = [
    pytest.mark.filterwarnings("ignore::deepcuts.experiment.metrics.UndefinedMetric"),
    pytest.mark.usefixtures("torch_state"),
]


def texts(kind: str = "bert") -> Tokens:
    """Ten texts; BART reads its output at the last token of each, which it finds by its id."""
    data = tokens(PADDING)
    if kind == "bart":
        data.inputs["input_ids"][torch.from_numpy(data.starts[1:] - 1)] = 2
    return data


def quick(kind: str = "bert") -> Network:
    net = mixing_network(kind)
    use_quick_attention(net.model)
    return net


def assert_near(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [*OTHERS, *sorted(DEPEND_ON_PADDING)])
def test_evaluation_and_scores_are_those_of_the_plain_model(kind: str) -> None:
    plain, data = mixing_network(kind), texts(kind)
    net = prove_shortcuts(quick(kind), data)
    # DeBERTa changes the output of a layer in place, which only torch's own layers allow.
    wrong = {"roberta-prelayernorm": {"gelu"}, "deberta": net.shortcuts_off & {"packed_weights"}}
    assert net.shortcuts_off == wrong.get(kind, set())
    assert padding_matters(net, data) == (kind in DEPEND_ON_PADDING)
    plain.model.eval()
    with torch.no_grad():
        expected = plain.outputs(data.batch(np.arange(10)))
    assert_near(torch.from_numpy(evaluate(net, data)), expected)

    names, order = prunable(net.model, False), [np.arange(2), np.arange(2, 4)]
    found = score(net, names, ["SNIP"], data, order, ScoringPass(dropout=False), 0)[0]["SNIP"]
    for batch in order:
        plain.batch_loss(data.batch(batch), 2).backward()
    parameters = {name: plain.model.get_parameter(name) for name in names}
    right = {name: found[name] * 0 if p.grad is None else (p * p.grad).abs().detach() for name, p in parameters.items()}
    largest = max(float(each.max()) for each in right.values())
    for name, expected in right.items():
        torch.testing.assert_close(found[name] / largest, expected / largest, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_are_not_compared_at_run_time_change_nothing(kind: str) -> None:
    """In bf16, and in fp32, which is always compared."""
    net = replace(quick(kind), precision="bf16")
    assert is_tested(net)
    assert find_unproven(net, texts()) == set()
    assert not compare_paddings(net, texts())


def test_the_classes_that_are_not_compared_are_those_that_are_tested() -> None:
    assert {type(mixing_network(kind).model).__name__ for kind in KINDS} == TESTED
    assert set(AFTER_ATTENTION) == SEPARABLE == set(KINDS)


def test_other_classes_and_other_settings_are_compared() -> None:
    assert not is_tested(small()[0])
    net = quick()
    net.model.config.chunk_size_feed_forward = 1
    assert not is_tested(net)
    net = quick()
    net.model.__class__ = type("BertForSequenceClassification", (type(net.model),), {})
    assert not is_tested(net)


class MeanPooler(nn.Module):
    """Reads two tokens."""

    def __init__(self, pooler: Any) -> None:
        super().__init__()
        self.dense = pooler.dense

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden[:, :2].mean(1)))


class TwiceUsedPooler(MeanPooler):
    """Calls a layer, and multiplies by its weight without calling it."""

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden[:, 0]) + F.linear(hidden[:, 0], self.dense.weight))


class OddWords(nn.Embedding):
    """Treats every other word differently, by its id."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * (1 + ids % 2)[..., None]


class WithPositions(nn.Module):
    """Calls a layer on positions, which all texts share."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.linear = norm, nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden + self.linear(torch.arange(4.0 * WIDTH).view(4, WIDTH)).sum(0))  # type: ignore[no-any-return]


class OwnAttention(nn.Module):
    """Looks at the name of the attention."""

    def __init__(self, norm: nn.Module, config: Any) -> None:
        super().__init__()
        self.norm, self.config = norm, [config]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden) + (self.config[0]._attn_implementation == "sdpa")  # type: ignore[no-any-return]


class NormBeforeGelu(nn.Module):
    """Looks like BERT's module of this name."""

    def __init__(self, intermediate: Any) -> None:
        super().__init__()
        self.dense, self.intermediate_act_fn = intermediate.dense, intermediate.intermediate_act_fn

    def forward(self, hidden: Tensor) -> Tensor:
        return self.intermediate_act_fn(2 * self.dense(hidden))  # type: ignore[no-any-return]


def change(model: Any, shortcut: str) -> None:
    """Make a BERT to which one shortcut does not apply."""
    bert, layer = model.bert, model.bert.encoder.layer[1]
    if shortcut == "attention":
        layer.output.LayerNorm = OwnAttention(layer.output.LayerNorm, model.config)
    elif shortcut == "packed_weights":
        bert.pooler = TwiceUsedPooler(bert.pooler)
    elif shortcut == "gelu":
        layer.intermediate = NormBeforeGelu(layer.intermediate)
    elif shortcut == "batch_gradients":
        layer.output.LayerNorm = WithPositions(layer.output.LayerNorm)
    elif shortcut == "first_token":
        bert.pooler = MeanPooler(bert.pooler)
    else:
        words = OddWords(WORDS, WIDTH)
        words.weight = bert.embeddings.word_embeddings.weight
        bert.embeddings.word_embeddings = words


@pytest.mark.parametrize("shortcut", COMPARED)
def test_a_shortcut_that_changes_something_is_found_and_not_taken(
    shortcut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortcuts, "TESTED", frozenset())
    plain, net, data = mixing_network(), quick(), texts()
    for each in (plain, net):
        torch.manual_seed(1)
        change(each.model, shortcut)
    net = prove_shortcuts(net, data)
    assert net.shortcuts_off == {shortcut}
    assert net.model.config._attn_implementation == ("sdpa" if shortcut == "attention" else ATTENTION_NAME)
    plain.model.eval()
    with torch.no_grad():
        assert_near(torch.from_numpy(evaluate(net, data)), plain.outputs(data.batch(np.arange(10))))
    names, order = prunable(net.model, True), [np.arange(2), np.arange(2, 4)]
    found = score(net, names, ["MagGrad"], data, order, ScoringPass(dropout=False, micro_batch=1), 0)[0]["MagGrad"]
    for name in names:
        expected = torch.zeros_like(found[name])
        for batch in order:
            plain.model.zero_grad()
            plain.batch_loss(data.batch(batch), 2).backward()
            expected += (plain.model.get_parameter(name) * plain.model.get_parameter(name).grad).abs().detach()
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-4)


def test_the_comparison_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = quick("roberta-prelayernorm"), texts()
    before, random, numbers = weights(net), torch.get_rng_state(), copy.deepcopy(np.random.get_state()[1])
    proven = prove_shortcuts(net, data)
    assert prove_shortcuts(net, data).shortcuts_off == proven.shortcuts_off  # as a trial that resumes must find it
    assert not padding_matters(net, data)
    assert proven.model is net.model
    assert net.model.config._attn_implementation == ATTENTION_NAME
    assert torch.equal(torch.get_rng_state(), random)
    assert np.array_equal(np.random.get_state()[1], numbers)
    assert all(torch.equal(before[name], values) for name, values in weights(net).items())
    assert all(each.grad is None and each.requires_grad for each in net.model.parameters())
    assert net.shortcuts_off == set()


def test_nothing_is_taken_by_a_network_that_fails_without_shortcuts(monkeypatch: pytest.MonkeyPatch) -> None:
    net = quick()
    net.model.bert.pooler = None
    assert find_unproven(net, texts()) == set(COMPARED)

    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(shortcuts, "evaluate", full)
    with pytest.raises(torch.OutOfMemoryError):  # the trial then tries smaller batches
        find_unproven(quick(), texts())


def test_two_short_texts_of_different_length_are_compared() -> None:
    def lengths(*of: int) -> list[int]:
        starts = np.concatenate([[0], np.cumsum(of)])
        ids = torch.zeros(sum(of), dtype=torch.int32)
        made = Tokens({"input_ids": ids}, starts, torch.zeros(len(of)), {"input_ids": 0}, np.zeros(len(of), bool))
        return two_texts(made).lengths.tolist()

    assert lengths(30, 49, 5, 48, 512) == [5, 48]
    assert lengths(512, 60, 90) == [60, 90]
    assert lengths(512, 6, 90) == [6, 90]
    assert lengths(7, 7) == [7, 7]
    assert lengths(7) == [7, 7]


@pytest.fixture
def store(tmp_path: Path) -> Callable[[str], Store]:
    return lambda name: Store(str(tmp_path / name))


def test_a_tested_network_costs_no_comparison_and_a_comparison_changes_no_bit(
    store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, compared = trial("LayerMagGrad", dense()), []
    for name in ("find_unproven", "compare_paddings"):
        real = getattr(shortcuts, name)
        monkeypatch.setattr(shortcuts, name, lambda *args, real=real: (compared.append(real), real(*args))[1])
    row = run_stages(spec, "test", context(store("tested")))
    assert (row["status"], row["shortcuts_off"], row["padding_matters"]) == ("completed", None, False)
    assert compared == []
    monkeypatch.setattr(shortcuts, "TESTED", frozenset())
    run_stages(spec, "test", context(store("compared")))
    assert len(compared) == 2
    assert everything(store("compared"), spec) == everything(store("tested"), spec)


def test_the_row_says_what_was_not_taken(store: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortcuts, "TESTED", frozenset())
    monkeypatch.setattr(shortcuts, "find_unproven", lambda *arguments: frozenset(("packed_weights", "gelu")))
    monkeypatch.setattr(shortcuts, "compare_paddings", lambda *arguments: True)
    spec = trial("LayerMagGrad", dense())
    row = run_stages(spec, "test", context(store("one")))
    assert (row["status"], row["shortcuts_off"], row["padding_matters"]) == ("completed", "gelu, packed_weights", True)
