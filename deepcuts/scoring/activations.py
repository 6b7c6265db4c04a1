"""Sums the inputs or outputs of linear layers over the real tokens of batches, in passes without dropout or noise.

K = batches, B = examples that run at once, T = tokens of the longest, O = outputs of a linear layer, I = its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from deepcuts.data.batches import Integers, Tokens, by_length
from deepcuts.model.network import Network


@dataclass(frozen=True)
class Sums:
    """Sums for one layer over the real tokens of each batch, or over its examples where there is no token axis.

    `count` (K,) is the number of tokens. `values` are sums of the layer's outputs (K, O), without `squares`; or sums of
    its inputs (K, I), with `squares` (K, I) the sums of their squares.
    """

    count: Tensor
    values: Tensor
    squares: Tensor | None

    @cached_property
    def means(self) -> tuple[Tensor, ...]:
        """The mean for each batch, (O,) or (I,). Computed once, so only read it when all sums are complete."""
        return (self.values / self.count[:, None]).unbind()

    def add_(self, other: Sums) -> None:
        """Add the sums over other tokens of the same batches, in place."""
        self.count.add_(other.count)
        self.values.add_(other.values)
        if self.squares is not None and other.squares is not None:
            self.squares.add_(other.squares)


@dataclass
class _Observer:
    """Adds up the outputs, or with `inputs` the inputs, of linear layers while it watches.

    Set `counted` (K, B, T) before each forward pass: 1 where a token of an example counts for a batch, 0 elsewhere.
    """

    modules: dict[str, nn.Linear]
    inputs: bool
    counted: Tensor = field(init=False)
    sums: dict[str, Sums] = field(default_factory=dict)

    @contextmanager
    def watch(self) -> Iterator[None]:
        handles = [module.register_forward_hook(self._hook(path)) for path, module in self.modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            values = args[0] if self.inputs else output
            counted = self._count_rows(values, path).flatten(1)
            rows = values.flatten(0, -2)
            with torch.autocast(rows.device.type, enabled=False):
                sums = (counted.to(rows.dtype) @ rows).float()
                squares = counted @ rows.float().square() if self.inputs else None
            new = Sums(counted.sum(1), sums, squares)
            if path in self.sums:
                self.sums[path].add_(new)
            else:
                self.sums[path] = new

        return add

    def _count_rows(self, values: Tensor, path: str) -> Tensor:
        """Return 1 for the rows of values (B, T, X), or (B, X), that count for each batch: (K, B, T), or (K, B)."""
        _, examples, tokens = self.counted.shape
        if values.shape[:-1] == (examples,):
            return self.counted.amax(2)
        assert values.shape[:-1] == (examples, tokens), (
            f"{path} has values of shape {tuple(values.shape)}: neither (B, T, _) nor (B, _)"
        )
        return self.counted


@torch.no_grad()
def observe(
    network: Network,
    paths: Collection[str],
    tokens: Tokens,
    batches: Sequence[Integers],
    count_padding: bool,
    inputs: bool,
) -> dict[str, Sums]:
    """Sum the outputs, or with `inputs` the inputs, of the linear layers at `paths`; return the sums by path.

    The examples of all K batches run together, sorted by length, which is faster than batch by batch. With
    `count_padding`, padding tokens count as well; then each batch runs alone, because its padding depends on it.
    """
    modules = {path: m for path, m in network.model.named_modules() if path in paths and isinstance(m, nn.Linear)}
    observer = _Observer(modules, inputs)
    examples = np.concatenate(batches)
    batch_of = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
    network.model.eval()
    with observer.watch():
        for part in _split(network, tokens.lengths[examples], batch_of, count_padding):
            batch = tokens.batch(examples[part])
            mask = batch["attention_mask"]
            real = (torch.ones_like(mask) if count_padding else mask).float()
            own = torch.from_numpy(batch_of[part] == np.arange(len(batches))[:, None]).to(network.device)
            observer.counted = own[:, :, None] * real
            network.outputs(batch)
    return observer.sums


def _split(network: Network, lengths: Integers, batch_of: Integers, count_padding: bool) -> Iterator[Integers]:
    """Yield the indices of the examples that run at once."""
    if not count_padding:
        return by_length(lengths, network.tokens_at_once)
    return (np.flatnonzero(batch_of == batch) for batch in range(int(batch_of.max()) + 1))
