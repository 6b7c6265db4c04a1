"""Dropout that costs a CPU a third, and random numbers taken as windows of a row that was drawn once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROP_STEPS = 2**16
# Elements that a table decides on: twice those of 4,096 tokens in a layer 1,024 wide.
TABLE_ELEMENTS = 2**23
_tabled: ContextVar[bool] = ContextVar("tabled", default=False)


def drop(value: Tensor, p: float) -> Tensor:
    """Zero a share `p` of a tensor and scale the rest by 1 / (1 - p); on a CPU `p` is rounded to 1/65536.

    Torch draws one number for each element and tests it; here every 64 bits that its generator gives serve
    four, and within `tabled` none are drawn.
    """
    dropped = round(p * DROP_STEPS)
    if dropped in (0, DROP_STEPS) or not value.is_cpu or torch.compiler.is_compiling():
        return F.dropout(value, p)
    if _tabled.get() and value.numel() <= TABLE_ELEMENTS // 2:
        return value * window(_table(dropped, value.dtype), value)
    return value * _factors(value.numel(), dropped, value.dtype).view(value.shape)


@contextmanager
def tabled() -> Iterator[None]:
    """For a while, let a CPU take what it drops from random places of a table, which is the same in every process.

    For scoring, which averages over batches and changes no weight; training draws every element anew.
    """
    before = _tabled.set(True)
    try:
        yield
    finally:
        _tabled.reset(before)


@lru_cache(maxsize=4)
def _table(dropped: int, dtype: torch.dtype) -> Tensor:
    return _factors(TABLE_ELEMENTS, dropped, dtype, torch.Generator().manual_seed(dropped))


def _factors(number: int, dropped: int, dtype: torch.dtype, generator: torch.Generator | None = None) -> Tensor:
    """0 for a share of dropped / LEVELS, and for the rest what keeps the mean."""
    drawn = torch.empty(-(-number // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    kept = drawn.view(torch.int16)[:number] >= dropped - DROP_STEPS // 2
    return kept.to(dtype).mul_(DROP_STEPS / (DROP_STEPS - dropped))


class Dropout(nn.Dropout):
    """`drop` while training."""

    def forward(self, value: Tensor) -> Tensor:
        return drop(value, self.p) if self.training else value


def use_quick_dropout(model: nn.Module) -> None:
    """Put this in the place of every `nn.Dropout` of a model."""
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if type(module) is nn.Dropout:
                setattr(parent, name, Dropout(module.p))


def window(row: Tensor, like: Tensor) -> Tensor:
    """Numbers in the shape of a tensor from a random place of a row, which is at least twice as long.

    As the shared noise of Salimans et al. 2017, arXiv 1703.03864. Those of one window are as independent as the row's.
    """
    begin = int(torch.randint(len(row) - like.numel(), ()))
    return row[begin : begin + like.numel()].view(like.shape)
