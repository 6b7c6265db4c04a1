"""Dropout that costs a CPU a third: its random numbers were a tenth of a training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 2**16


class Dropout(nn.Dropout):
    """Zeroes a share `p` of its input and scales the rest; on a CPU `p` is rounded to 1/65536.

    Torch draws one number for each element and tests it; here every 64 bits that its generator gives serve four.
    """

    def forward(self, value: Tensor) -> Tensor:
        if not self.training or not value.is_cpu or torch.compiler.is_compiling():
            return super().forward(value)
        dropped = round(self.p * LEVELS)
        if dropped in (0, LEVELS):
            return super().forward(value)
        drawn = torch.empty(-(-value.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = drawn.view(torch.int16)[: value.numel()].view(value.shape) >= dropped - LEVELS // 2
        return value * kept.to(value.dtype).mul_(LEVELS / (LEVELS - dropped))


def quicken(model: nn.Module) -> None:
    """Put this in the place of every `nn.Dropout` of a model."""
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if type(module) is nn.Dropout:
                setattr(parent, name, Dropout(module.p))
