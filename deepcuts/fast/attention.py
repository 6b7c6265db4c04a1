"""Attention on a CPU, with dropout or over short texts: torch has a quick one for long texts without dropout.

B = examples, H = heads, T = tokens of the longest, D = size of a head.
"""

from __future__ import annotations

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
# Up to so many tokens plain products are quicker than torch's attention.
SHORT = 48
# Over fewer numbers than this torch's softmax takes up to nine times as long.
VECTOR = 16


def quick_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """softmax(scaling · query keyᵀ) value of (B, H, T, D) each, as (B, T, H, D); a mask is True at what may be seen.

    Vaswani et al. 2017, arXiv 1706.03762. The softmax is in fp32, whatever the products are in. What is not
    this case (long texts without dropout, another device, a causal or additive mask, other shapes) is left to torch.
    """
    if not _ours(module, query, key, attention_mask, dropout, more):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)
    scores = (query @ key.transpose(-1, -2)).float().mul_(scaling or query.shape[-1] ** -0.5)
    if attention_mask is not None:
        # Not infinity, which makes NaN where all is hidden. Added, which is quicker than filled in.
        hidden = torch.zeros(attention_mask.shape).masked_fill_(~attention_mask, torch.finfo(scores.dtype).min)
        scores = scores.add_(hidden)
    tokens = scores.shape[-1]
    if tokens < VECTOR:
        scores = F.pad(scores, (0, VECTOR - tokens), value=-torch.inf)
    weights = drop(scores.softmax(-1)[..., :tokens].to(value.dtype), dropout)
    return (weights @ value).transpose(1, 2), None


def _ours(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, dropout: float, more: dict[str, Any]
) -> bool:
    if not query.is_cpu or torch.compiler.is_compiling() or not (dropout or query.shape[-2] <= SHORT):
        return False
    if any(more.get(name) is not None for name in ("position_bias", "softcap", "is_causal")):
        return False
    seen = not getattr(module, "is_causal", True) if mask is None else mask.dtype == torch.bool
    return seen and query.shape == key.shape


def attention_mask(
    *args: Any, device: Any = "cpu", allow_is_bidirectional_skip: bool = False, **more: Any
) -> Tensor | None:
    """transformers' mask, (B, 1, T, T). Where steps are recorded it is there also if nothing is hidden: to look for
    that would wait for the device, and a recording cannot look."""
    skip = allow_is_bidirectional_skip and torch.device(device).type not in RECORDERS
    made: Tensor | None = sdpa_mask(*args, device=device, allow_is_bidirectional_skip=skip, **more)
    return made


def use_quick_attention(model: PreTrainedModel) -> None:
    """Let a model that uses torch's attention use this one."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(ATTENTION_NAME, quick_attention)
        AttentionMaskInterface.register(ATTENTION_NAME, attention_mask)
        model.set_attn_implementation(ATTENTION_NAME)
