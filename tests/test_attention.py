"""Our attention with dropout against torch's own, and what is left to torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from deepcuts import attention
from deepcuts.attention import quicken
from deepcuts.toy import CONFIG

B, H, T, D = 3, 2, 7, 4


def drawn(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(B, H, T, D, generator=draw).to(dtype).requires_grad_() for _ in range(3)]


def seen() -> Tensor:
    """Texts of 7, 4 and 2 tokens."""
    return (torch.arange(T) < torch.tensor([7, 4, 2])[:, None])[:, None, None].expand(B, 1, T, T)


class Layer(nn.Module):
    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.is_causal = causal


@pytest.mark.parametrize("mask", [None, seen()], ids=["whole", "padded"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_it_is_the_attention_of_torch_and_so_are_its_gradients(
    monkeypatch: pytest.MonkeyPatch, mask: Tensor | None, dtype: torch.dtype, near: float, scaling: float | None
) -> None:
    monkeypatch.setattr(attention, "drop", lambda value, p: value)
    ours, theirs = drawn(dtype), drawn(dtype)
    mine, weights = attention.attention(Layer(), *ours, mask, dropout=0.1, scaling=scaling)
    expected = F.scaled_dot_product_attention(*theirs, mask, scale=scaling).transpose(1, 2)
    assert weights is None
    assert mine.dtype == dtype
    torch.testing.assert_close(mine, expected, atol=near, rtol=near)
    upstream = torch.randn(B, T, H, D, generator=torch.Generator().manual_seed(1)).to(dtype)
    mine.backward(upstream)
    expected.backward(upstream)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=near, rtol=near)


def test_its_mean_over_dropout_is_the_attention_without() -> None:
    query, key, value = (tensor.detach() for tensor in drawn())
    torch.manual_seed(0)
    made = [attention.attention(Layer(), query, key, value, seen(), dropout=0.5)[0] for _ in range(4000)]
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
    ids=["no dropout", "causal", "additive mask", "position bias", "other lengths"],
)
def test_what_it_does_not_know_is_left_to_torch(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], causal: bool
) -> None:
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *args, **more: "torch's")
    query, key, value = drawn()
    given = {"query": query, "key": key, "value": value, "attention_mask": seen(), "dropout": 0.1} | changed
    assert attention.attention(Layer(causal), **given) == "torch's"
    known = {"query": query, "key": key, "value": value, "attention_mask": seen(), "dropout": 0.1}
    assert attention.attention(Layer(), **known) != "torch's"


def test_a_model_is_trained_with_it_and_gives_what_it_gave_without_dropout() -> None:
    def model() -> BertForSequenceClassification:
        torch.manual_seed(0)
        return BertForSequenceClassification(BertConfig(**CONFIG))

    ids = torch.randint(5, int(CONFIG["vocab_size"]), (B, T), generator=torch.Generator().manual_seed(0))
    mask = seen()[:, 0, 0].long()
    plain, quick = model(), model()
    quicken(quick)
    assert quick.config._attn_implementation == attention.NAME
    assert "deepcuts" not in quick.config.to_json_string()
    for training in (False, True):
        left, right = (m.train(training)(ids, attention_mask=mask).logits for m in (plain, quick))
        torch.testing.assert_close(left, right)
    for layer in quick.bert.encoder.layer:
        layer.attention.self.dropout.p = 1.0  # nothing is attended to: no text is told from another
    alike = quick.train()(ids, attention_mask=mask).logits
    assert not torch.allclose(alike, right)
    quick.eval()
    torch.testing.assert_close(quick(ids, attention_mask=mask).logits, left)


def test_a_model_with_another_attention_keeps_it() -> None:
    model = BertForSequenceClassification(BertConfig(**CONFIG, attn_implementation="eager"))
    quicken(model)
    assert model.config._attn_implementation == "eager"
