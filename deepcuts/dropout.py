"""Dropout that costs a CPU a third: its random numbers were a tenth of a training step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16


def drop(value: Tensor, p: float) -> Tensor:
    """Zero a share `p` of a tensor and scale the rest by 1 / (1 - p); on a CPU `p` is rounded to 1/65536.

    Torch draws one number for each element and tests it; here every 64 bits that its generator gives serve four.
    """
    dropped = round(p * LEVELS)
    if dropped in (0, LEVELS) or not value.is_cpu or torch.compiler.is_compiling():
        return F.dropout(value, p)
    drawn = torch.empty(-(-value.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = drawn.view(torch.int16)[: value.numel()].view(value.shape) >= dropped - LEVELS // 2
    return value * kept.to(value.dtype).mul_(LEVELS / (LEVELS - dropped))


class Dropout(nn.Dropout):
    """`drop` while training."""

    def forward(self, value: Tensor) -> Tensor:
        return drop(value, self.p) if self.training else value


def quicken(model: nn.Module) -> None:
    """Put this in the place of every `nn.Dropout` of a model."""
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if type(module) is nn.Dropout:
                setattr(parent, name, Dropout(module.p))
