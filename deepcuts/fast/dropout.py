"""Dropout at a third of its usual cost on a CPU, and random numbers read as windows of a row that is drawn once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Dropout probabilities are multiples of 1 / DROP_STEPS: 16 random bits decide on each element.
DROP_STEPS = 2**16
# Elements of a dropout table: twice those of 4,096 tokens in a layer 1,024 wide.
TABLE_ELEMENTS = 2**23
_use_table: ContextVar[bool] = ContextVar("use_table", default=False)


def drop(value: Tensor, p: float) -> Tensor:
    """Zero each element with probability `p` and scale the others by 1 / (1 - p), as in `F.dropout`.

    torch draws one random number for each element. On a CPU, 64 random bits decide on four elements here, so `p` is
    rounded to a multiple of 1/65536; inside `dropout_table` nothing is drawn but a position in the table.
    """
    dropped = round(p * DROP_STEPS)
    if dropped in (0, DROP_STEPS) or not value.is_cpu or torch.compiler.is_compiling():
        return F.dropout(value, p)
    if _use_table.get() and value.numel() <= TABLE_ELEMENTS // 2:
        return value * window(_table(dropped, value.dtype), value)
    return value * _factors(value.numel(), dropped, value.dtype).view(value.shape)


@contextmanager
def dropout_table() -> Iterator[None]:
    """Let dropout on a CPU read from random places of a table while the context is open.

    The table is the same in every process. This is for scoring, which averages over batches and changes no weight;
    training draws every element anew.
    """
    before = _use_table.set(True)
    try:
        yield
    finally:
        _use_table.reset(before)


@lru_cache(maxsize=4)
def _table(dropped: int, dtype: torch.dtype) -> Tensor:
    return _factors(TABLE_ELEMENTS, dropped, dtype, torch.Generator().manual_seed(dropped))


def _factors(number: int, dropped: int, dtype: torch.dtype, generator: torch.Generator | None = None) -> Tensor:
    """Draw what `number` elements are multiplied by: 0 with probability dropped / DROP_STEPS, else 1 / (1 - that)."""
    random_bits = torch.empty(-(-number // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    kept = random_bits.view(torch.int16)[:number] >= dropped - DROP_STEPS // 2
    return kept.to(dtype).mul_(DROP_STEPS / (DROP_STEPS - dropped))


class Dropout(nn.Dropout):
    """Applies `drop` while training."""

    def forward(self, value: Tensor) -> Tensor:
        return drop(value, self.p) if self.training else value


def use_quick_dropout(model: nn.Module) -> None:
    """Replace every `nn.Dropout` of a model by this `Dropout`, with the same probability.

    Subclasses, and those that change their input in place, stay.
    """
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if type(module) is nn.Dropout and not module.inplace:
                setattr(parent, name, Dropout(module.p))


def window(row: Tensor, like: Tensor) -> Tensor:
    """Return numbers in the shape of `like` from a random place of `row`, which must be at least twice as long.

    This is the shared noise table of Salimans et al. 2017, arXiv 1703.03864. The numbers within one window are as
    independent as those of the row.
    """
    begin = int(torch.randint(len(row) - like.numel(), ()))
    return row[begin : begin + like.numel()].view(like.shape)
