"""Our attention gives what torch's gives, and leaves the other cases to torch."""

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


def random_tensors(dtype: torch.dtype = torch.float32, tokens: int = T) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(B, H, tokens, D, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def padding_mask(tokens: int = T) -> Tensor:
    """A mask of (B, 1, T, T) for texts of T, 4 and 2 tokens."""
    return (torch.arange(tokens) < torch.tensor([tokens, 4, 2])[:, None])[:, None, None].expand(B, 1, tokens, tokens)


class Layer(nn.Module):
    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.is_causal = causal


@pytest.mark.parametrize("tokens", [T, 15, 16, 20])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_outputs_and_gradients_are_those_of_torch(
    monkeypatch: pytest.MonkeyPatch,
    tokens: int,
    padded: bool,
    dropout: float,
    dtype: torch.dtype,
    tolerance: float,
    scaling: float | None,
) -> None:
    monkeypatch.setattr("deepcuts.fast.attention.drop", lambda value, p: value)
    monkeypatch.setattr("deepcuts.fast.attention.sdpa_attention_forward", lambda *args, **options: "torch's")
    mask = padding_mask(tokens) if padded else None
    ours, theirs = random_tensors(dtype, tokens), random_tensors(dtype, tokens)
    output, weights = quick_attention(Layer(), *ours, mask, dropout=dropout, scaling=scaling)
    expected = F.scaled_dot_product_attention(*theirs, mask, scale=scaling).transpose(1, 2)
    assert weights is None
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected, atol=tolerance, rtol=tolerance)
    upstream = torch.randn(B, tokens, H, D, generator=torch.Generator().manual_seed(1)).to(dtype)
    output.backward(upstream)
    expected.backward(upstream)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=tolerance, rtol=tolerance)


def test_the_mean_over_dropout_is_the_attention_without_dropout() -> None:
    query, key, value = (tensor.detach() for tensor in random_tensors())
    torch.manual_seed(0)
    outputs = [quick_attention(Layer(), query, key, value, padding_mask(), dropout=0.5)[0] for _ in range(4000)]
    expected = F.scaled_dot_product_attention(query, key, value, padding_mask()).transpose(1, 2)
    mean, error = torch.stack(outputs).mean(0), torch.stack(outputs).std(0) / 4000**0.5
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
    ids=["long without dropout", "causal", "additive mask", "position bias", "other lengths"],
)
def test_unsupported_cases_are_left_to_torch(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], causal: bool
) -> None:
    monkeypatch.setattr("deepcuts.fast.attention.sdpa_attention_forward", lambda *args, **options: "torch's")
    monkeypatch.setattr("deepcuts.fast.attention.SHORT_TOKENS", T - 1)
    query, key, value = random_tensors()
    arguments = {"query": query, "key": key, "value": value, "attention_mask": padding_mask(), "dropout": 0.1} | changed
    assert quick_attention(Layer(causal), **arguments) == "torch's"
    supported = {"query": query, "key": key, "value": value, "attention_mask": padding_mask(), "dropout": 0.1}
    assert quick_attention(Layer(), **supported) != "torch's"


def test_a_model_has_the_logits_and_gradients_of_torch_s_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a dropout that drops nothing, because torch would drop other elements."""
    calls: list[float] = []

    def drop_nothing(value: Tensor, p: float) -> Tensor:
        calls.append(p)
        return value

    def logits_and_gradients(model: BertForSequenceClassification) -> tuple[Tensor, dict[str, Tensor]]:
        logits = model.train()(ids, attention_mask=mask).logits
        logits.square().sum().backward()
        return logits, {name: parameter.grad for name, parameter in model.named_parameters()}

    def model(p: float) -> BertForSequenceClassification:
        torch.manual_seed(0)
        return BertForSequenceClassification(BertConfig(**{**CONFIG, "attention_probs_dropout_prob": p}))

    monkeypatch.setattr("deepcuts.fast.attention.drop", drop_nothing)
    ids = torch.randint(5, int(CONFIG["vocab_size"]), (B, T), generator=torch.Generator().manual_seed(0))
    mask = padding_mask()[:, 0, 0].long()
    plain, quick = model(0.0), model(0.2)
    use_quick_attention(quick)
    assert quick.config._attn_implementation == ATTENTION_NAME
    assert "deepcuts" not in quick.config.to_json_string()
    torch.testing.assert_close(logits_and_gradients(quick), logits_and_gradients(plain))
    assert calls == [0.2, 0.2]  # once in each of the two layers
    torch.testing.assert_close(quick.eval()(ids, attention_mask=mask).logits, plain.eval()(ids, mask).logits)
    assert calls == [0.2, 0.2, 0.0, 0.0]


def test_a_text_whose_tokens_are_all_hidden_has_finite_gradients() -> None:
    tensors = random_tensors()
    output, _ = quick_attention(Layer(), *tensors, torch.zeros(B, 1, T, T, dtype=torch.bool), dropout=0.1)
    output.sum().backward()
    assert all(bool(tensor.grad.isfinite().all()) for tensor in tensors)


def test_a_model_with_another_attention_keeps_it() -> None:
    model = BertForSequenceClassification(BertConfig(**CONFIG, attn_implementation="eager"))
    use_quick_attention(model)
    assert model.config._attn_implementation == "eager"
