"""The optimisers of a sweep and their learning rates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from deepcuts.capture import RECORDERS
from deepcuts.spec import Training


def make_optimiser(model: nn.Module, settings: Training, device: torch.device) -> torch.optim.Optimizer:
    """As the field does, biases and LayerNorm (tensors of one dimension) are not decayed.

    Where steps are recorded the learning rate lies on the device, for a recording has all other numbers in it.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    lr = torch.tensor(settings.lr, device=device) if device.type in RECORDERS else settings.lr
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, momentum=settings.betas[0], fused=True)
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr, betas=settings.betas, fused=True)


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
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate(settings, step, steps))
        else:
            group["lr"] = rate(settings, step, steps)
