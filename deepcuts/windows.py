"""Random numbers as windows of a long row that was drawn once: to draw every number anew costs a CPU much of a pass."""

from __future__ import annotations

import torch
from torch import Tensor


def window(row: Tensor, like: Tensor) -> Tensor:
    """Numbers in the shape of a tensor from a random place of a row, which is at least twice as long.

    As the shared noise of Salimans et al. 2017, arXiv 1703.03864. Those of one window are as independent as the row's.
    """
    begin = int(torch.randint(len(row) - like.numel(), ()))
    return row[begin : begin + like.numel()].view(like.shape)
