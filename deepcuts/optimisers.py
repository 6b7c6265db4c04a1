"""The optimisers of a sweep and their learning rates."""

from __future__ import annotations

import math

import torch
from torch import nn

from deepcuts.spec import Training


def make_optimiser(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """As the field does, biases and LayerNorm (tensors of one dimension) are not decayed."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, settings.lr, momentum=settings.betas[0], fused=True)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, settings.lr, betas=settings.betas, fused=True)


def rate(settings: Training, step: int, steps: int) -> float:
    """The learning rate of a step: linear warm-up, then constant, linear or cosine decay to 0 at the end."""
    warmup = int(settings.warmup * steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return settings.lr * factors[settings.schedule]


def set_rate(optimiser: torch.optim.Optimizer, settings: Training, step: int, steps: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate(settings, step, steps)
