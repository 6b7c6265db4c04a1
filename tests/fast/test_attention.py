"""Our attention against torch's own, and what is left to torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from deepcuts.data.toy import CONFIG
from deepcuts.fast.attention import ATTENTION_NAME, quick_attention, use_quick_attention

B, H, T, D = 3, 2, 7, 4


def drawn(dtype: torch.dtype = torch.float32, tokens: int = T) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(B, H, tokens, D, generator=draw).to(dtype).requires_grad_() for _ in range(3)]


def seen(tokens: int = T) -> Tensor:
    """Texts of all tokens, of 4 and of 2."""
    return (torch.arange(tokens) < torch.tensor([tokens, 4, 2])[:, None])[:, None, None].expand(B, 1, tokens, tokens)


class Layer(nn.Module):
    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.is_causal = causal


@pytest.mark.parametrize("tokens", [T, 15, 16, 20])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_it_is_the_attention_of_torch_and_so_are_its_gradients(
    monkeypatch: pytest.MonkeyPatch,
    tokens: int,
    padded: bool,
    dropout: float,
    dtype: torch.dtype,
    near: float,
    scaling: float | None,
) -> None:
    monkeypatch.setattr("deepcuts.fast.attention.drop", lambda value, p: value)
    monkeypatch.setattr("deepcuts.fast.attention.sdpa_attention_forward", lambda *args, **more: "torch's")
    mask = seen(tokens) if padded else None
    ours, theirs = drawn(dtype, tokens), drawn(dtype, tokens)
    mine, weights = quick_attention(Layer(), *ours, mask, dropout=dropout, scaling=scaling)
    expected = F.scaled_dot_product_attention(*theirs, mask, scale=scaling).transpose(1, 2)
    assert weights is None
    assert mine.dtype == dtype
    torch.testing.assert_close(mine, expected, atol=near, rtol=near)
    upstream = torch.randn(B, tokens, H, D, generator=torch.Generator().manual_seed(1)).to(dtype)
    mine.backward(upstream)
    expected.backward(upstream)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=near, rtol=near)


def test_its_mean_over_dropout_is_the_attention_without() -> None:
    query, key, value = (tensor.detach() for tensor in drawn())
    torch.manual_seed(0)
    made = [quick_attention(Layer(), query, key, value, seen(), dropout=0.5)[0] for _ in range(4000)]
    expected = F.scaled_dot_product_attention(query, key, value, seen()).transpose(1, 2)
    mean, error = torch.stack(made).mean(0), torch.stack(made).std(0) / 4000**0.5
    assert float(error.min()) > 0
    assert float(((mean - expected) / error).abs().max()) < 5


@pytest.mark.parametrize(
    ("changed", "causal"),
    [
        ({"dropout": 0.0}, False),
        ({"attention_mask": None}, True),
        ({"attention_mask": torch.zeros(B, 1, T, T)}, False),
        ({"position_bias": torch.randn(B, H, T, T)}, False),
        ({"query": torch.randn(B, H, T - 1, D), "attention_mask": None}, False),
    ],
    ids=["long and no dropout", "causal", "additive mask", "position bias", "other lengths"],
)
def test_what_it_does_not_know_is_left_to_torch(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], causal: bool
) -> None:
    monkeypatch.setattr("deepcuts.fast.attention.sdpa_attention_forward", lambda *args, **more: "torch's")
    monkeypatch.setattr("deepcuts.fast.attention.SHORT", T - 1)
    query, key, value = drawn()
    given = {"query": query, "key": key, "value": value, "attention_mask": seen(), "dropout": 0.1} | changed
    assert quick_attention(Layer(causal), **given) == "torch's"
    known = {"query": query, "key": key, "value": value, "attention_mask": seen(), "dropout": 0.1}
    assert quick_attention(Layer(), **known) != "torch's"


def test_a_model_is_trained_with_it_and_learns_what_it_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what dropout drops: the gradients of a model are those that it has with torch's attention."""
    calls: list[float] = []

    def nothing_dropped(value: Tensor, p: float) -> Tensor:
        calls.append(p)
        return value

    def trained(model: BertForSequenceClassification) -> tuple[Tensor, dict[str, Tensor]]:
        logits = model.train()(ids, attention_mask=mask).logits
        logits.square().sum().backward()
        return logits, {name: parameter.grad for name, parameter in model.named_parameters()}

    def model(p: float) -> BertForSequenceClassification:
        torch.manual_seed(0)
        return BertForSequenceClassification(BertConfig(**{**CONFIG, "attention_probs_dropout_prob": p}))

    monkeypatch.setattr("deepcuts.fast.attention.drop", nothing_dropped)
    ids = torch.randint(5, int(CONFIG["vocab_size"]), (B, T), generator=torch.Generator().manual_seed(0))
    mask = seen()[:, 0, 0].long()
    plain, quick = model(0.0), model(0.2)
    use_quick_attention(quick)
    assert quick.config._attn_implementation == ATTENTION_NAME
    assert "deepcuts" not in quick.config.to_json_string()
    torch.testing.assert_close(trained(quick), trained(plain))
    assert calls == [0.2, 0.2]  # once in each of the two layers
    torch.testing.assert_close(quick.eval()(ids, attention_mask=mask).logits, plain.eval()(ids, mask).logits)
    assert calls == [0.2, 0.2, 0.0, 0.0]


def test_a_text_that_may_see_nothing_spoils_no_gradient() -> None:
    tensors = drawn()
    made, _ = quick_attention(Layer(), *tensors, torch.zeros(B, 1, T, T, dtype=torch.bool), dropout=0.1)
    made.sum().backward()
    assert all(bool(tensor.grad.isfinite().all()) for tensor in tensors)


def test_a_model_with_another_attention_keeps_it() -> None:
    model = BertForSequenceClassification(BertConfig(**CONFIG, attn_implementation="eager"))
    use_quick_attention(model)
    assert model.config._attn_implementation == "eager"
