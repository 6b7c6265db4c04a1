"""Computes attention on a CPU, with dropout or over short texts; torch is fast only for long texts without dropout.

B = examples, H = heads, T = tokens of the longest example, D = size of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from deepcuts.fast.cuda_graphs import RECORDERS
from deepcuts.fast.dropout import drop

ATTENTION_NAME = "deepcuts"
# Up to this many tokens, plain matrix products are faster than torch's attention.
SHORT_TOKENS = 48
# torch's softmax takes up to nine times as long over rows shorter than this many numbers.
MIN_SOFTMAX_WIDTH = 16
_any_length: ContextVar[bool] = ContextVar("any_length", default=False)


def quick_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return softmax(scaling · query keyᵀ) value as (B, T, H, D), from query, key and value of (B, H, T, D) each.

    Vaswani et al. 2017, arXiv 1706.03762. The mask (B, 1, T, T) is True where a token may be attended to; `scaling`
    defaults to 1 / √D. The softmax runs in fp32, whatever type the products have. Every other case (a long text
    without dropout, another device, a causal or additive mask, other shapes) goes to torch.
    """
    if not _is_supported(module, query, key, attention_mask, dropout, options):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    scores = (query @ key.transpose(-1, -2)).float().mul_(scaling or query.shape[-1] ** -0.5)
    if attention_mask is not None:
        # The lowest finite number: with -inf, a row that hides everything would be NaN. Adding is faster than filling.
        hidden = torch.zeros(attention_mask.shape).masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
        scores = scores.add_(hidden)
    tokens = scores.shape[-1]
    if tokens < MIN_SOFTMAX_WIDTH:
        scores = F.pad(scores, (0, MIN_SOFTMAX_WIDTH - tokens), value=-torch.inf)
    weights = drop(scores.softmax(-1)[..., :tokens].to(value.dtype), dropout)
    return (weights @ value).transpose(1, 2), None


def _is_supported(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, dropout: float, options: dict[str, Any]
) -> bool:
    if not query.is_cpu or torch.compiler.is_compiling():
        return False
    if not (dropout or _any_length.get() or query.shape[-2] <= SHORT_TOKENS):
        return False
    if any(options.get(name) is not None for name in ("position_bias", "softcap", "is_causal")):
        return False
    boolean_mask = not getattr(module, "is_causal", True) if mask is None else mask.dtype == torch.bool
    return boolean_mask and query.shape == key.shape


def attention_mask(
    *args: Any, device: Any = "cpu", allow_is_bidirectional_skip: bool = False, **options: Any
) -> Tensor | None:
    """Return transformers' mask (B, 1, T, T), or None where it hides nothing.

    On a device that records steps the mask is always made: whether it hides anything is a value on the device, so
    checking would wait for it, and a recording cannot read it at all.
    """
    skip = allow_is_bidirectional_skip and torch.device(device).type not in RECORDERS
    mask: Tensor | None = sdpa_mask(*args, device=device, allow_is_bidirectional_skip=skip, **options)
    return mask


def use_quick_attention(model: PreTrainedModel) -> None:
    """Switch a model from torch's attention to this one; a model with another attention keeps it."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION_NAME, quick_attention)
        AttentionMaskInterface.register(ATTENTION_NAME, attention_mask)
        model.set_attn_implementation(ATTENTION_NAME)


def use_torch_attention(model: PreTrainedModel) -> None:
    """Undo `use_quick_attention`."""
    if model.config._attn_implementation == ATTENTION_NAME:
        model.set_attn_implementation("sdpa")


@contextmanager
def quick_at_any_length() -> Iterator[None]:
    """Let long texts without dropout use this attention too while the context is open, so that it can be compared."""
    before = _any_length.set(True)
    try:
        yield
    finally:
        _any_length.reset(before)
