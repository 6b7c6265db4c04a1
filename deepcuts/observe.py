"""What clean forward passes show of the linear layers: sums of their inputs or outputs over the real tokens of batches.

K = batches, B = examples that run at once, T = tokens of the longest, O = outputs of a linear layer, I = its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from deepcuts.batches import Integers, Tokens, by_length
from deepcuts.models import Network


@dataclass
class Sums:
    """Over the real tokens of each batch (its examples, where there is no token axis): how many (K,), and the sums of
    a layer's outputs (K, O), or of its inputs (K, I) and squared inputs (K, I)."""

    count: Tensor
    output: Tensor
    input: Tensor
    squares: Tensor

    def of(self, batch: int) -> Sums:
        """Those of one batch, without the axis K; a tensor that was not asked for is empty."""
        return Sums(*(tensor[batch] for tensor in (self.count, self.output, self.input, self.squares)))


@dataclass
class _Observer:
    """Sums of what leaves, or enters, the linear layers while it watches.

    Of the examples that run, `real` (B, T) tells the tokens that count, and `number` (B,) the batch of each.
    """

    modules: dict[str, nn.Linear]
    inputs: bool
    batches: int
    real: Tensor = field(init=False)
    number: Tensor = field(init=False)
    padded: bool = field(init=False)
    sums: dict[str, Sums] = field(default_factory=dict)

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [module.register_forward_hook(self._hook(path)) for path, module in self.modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            values = args[0] if self.inputs else output
            if path not in self.sums:
                self.sums[path] = self._zeros(values)
            sums = self.sums[path]
            values, count = self._real_tokens(values, path)
            sums.count.index_add_(0, self.number, count)
            if self.inputs:
                sums.input.index_add_(0, self.number, values.sum(1, dtype=torch.float32))
                sums.squares.index_add_(0, self.number, values.float().square().sum(1))
            else:
                sums.output.index_add_(0, self.number, values.sum(1, dtype=torch.float32))

        return add

    def _zeros(self, values: Tensor) -> Sums:
        count = torch.zeros(self.batches, device=values.device)
        sums, none = (torch.zeros(self.batches, size, device=values.device) for size in (values.shape[-1], 0))
        return Sums(count, none, sums, sums.clone()) if self.inputs else Sums(count, sums, none, none)

    def _real_tokens(self, values: Tensor, path: str) -> tuple[Tensor, Tensor]:
        """Values (B, T, X), those of padding zero, or (B, 1, X) of (B, X); and how many of each example are real."""
        if values.dim() == 2 and values.shape[0] == self.real.shape[0]:
            return values[:, None], torch.ones_like(self.real[:, 0])
        assert values.shape[:2] == self.real.shape, f"{path} sees {tuple(values.shape)}: neither (B, T, _) nor (B, _)"
        real = values * self.real.to(values.dtype)[..., None] if self.padded else values
        return real, self.real.sum(1)


@torch.no_grad()
def observe(
    network: Network,
    paths: Collection[str],
    tokens: Tokens,
    batches: Sequence[Integers],
    count_padding: bool,
    inputs: bool,
) -> dict[str, Sums]:
    """What passes without dropout and noise show of the linear layers at `paths`: their inputs, or their outputs.

    The examples of all batches run by their lengths, for that is faster than batch by batch; where padding counts,
    each batch with its own.
    """
    modules = {path: m for path, m in network.model.named_modules() if path in paths and isinstance(m, nn.Linear)}
    observer = _Observer(modules, inputs, len(batches))
    examples = np.concatenate(batches)
    number = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
    network.model.eval()
    with observer.watching():
        for part in _parts(network, tokens.lengths[examples], number, count_padding):
            batch = tokens.batch(examples[part])
            mask = batch["attention_mask"]
            observer.real = (torch.ones_like(mask) if count_padding else mask).float()
            observer.padded = not count_padding and int(tokens.lengths[examples[part]].min()) < mask.shape[1]
            observer.number = torch.from_numpy(number[part]).to(network.device)
            network.outputs(batch)
    return observer.sums


def _parts(network: Network, lengths: Integers, number: Integers, count_padding: bool) -> Iterator[Integers]:
    """Which of the examples run at once."""
    if not count_padding:
        return by_length(lengths, network.tokens_at_once)
    return (np.flatnonzero(number == batch) for batch in range(int(number.max()) + 1))
