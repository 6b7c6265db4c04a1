"""Adds Gaussian noise to the outputs of linear layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor, nn

from deepcuts.fast.dropout import window
from deepcuts.model.network import linear_layers
from deepcuts.seeds import derive

# Gaussian numbers that noise on a CPU is read from: twice the outputs of 2,560 tokens in a layer 3,276 wide.
NOISE_NUMBERS = 2**24


@contextmanager
def noisy_outputs(model: nn.Module, std: float, seed: int) -> Iterator[None]:
    """Add N(0, std²) to the output of every linear layer, the head included, while the context is open.

    This is the noise of the seed's SmoothGrad (DeepCuts, arXiv 2212.13392). With a `std` of 0 nothing is added. `seed`
    decides the row of numbers that a CPU reads from, torch's generator everything else.
    """

    def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.add(output, _gaussian(output, seed), alpha=std)

    linear = linear_layers(model).values() if std > 0 else ()
    handles = [module.register_forward_hook(add) for module in linear]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _gaussian(like: Tensor, seed: int) -> Tensor:
    """Return numbers of N(0, 1) in the shape of `like`; on a CPU a window of a row, unless the tensor is too large.

    Drawing every number anew took a quarter of a smoothed pass on a CPU.
    """
    if not like.is_cpu or like.numel() > NOISE_NUMBERS // 2:
        return torch.randn_like(like)
    return window(_row(seed, like.dtype), like)


@lru_cache(maxsize=1)
def _row(seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(NOISE_NUMBERS, generator=torch.Generator().manual_seed(derive(seed, "noise"))).to(dtype)
