"""What clean forward passes show of the linear layers: sums of their inputs or outputs over the real tokens of batches.

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
    """Over the real tokens of each batch (its examples, where there is no token axis): how many (K,), and the sums of
    a layer's outputs (K, O); or those of its inputs (K, I) and of their squares (K, I)."""

    count: Tensor
    values: Tensor
    squares: Tensor | None

    @cached_property
    def means(self) -> tuple[Tensor, ...]:
        """Of each batch, (O,) or (I,), once nothing is added any more."""
        return (self.values / self.count[:, None]).unbind()

    def add_(self, more: Sums) -> None:
        self.count.add_(more.count)
        self.values.add_(more.values)
        if self.squares is not None and more.squares is not None:
            self.squares.add_(more.squares)


@dataclass
class _Observer:
    """Sums of what leaves, or enters, the linear layers while it watches.

    Of the examples that run, `counted` (K, B, T) has 1 where a token counts for a batch, 0 elsewhere.
    """

    modules: dict[str, nn.Linear]
    inputs: bool
    counted: Tensor = field(init=False)
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
            counted = self._counted(values, path).flatten(1)
            rows = values.flatten(0, -2)
            with torch.autocast(rows.device.type, enabled=False):
                sums = (counted.to(rows.dtype) @ rows).float()
                squares = counted @ rows.float().square() if self.inputs else None
            seen = Sums(counted.sum(1), sums, squares)
            if path in self.sums:
                self.sums[path].add_(seen)
            else:
                self.sums[path] = seen

        return add

    def _counted(self, values: Tensor, path: str) -> Tensor:
        """Which rows of values (B, T, X), or of (B, X), count for which batch: (K, B, T) or (K, B)."""
        _, examples, tokens = self.counted.shape
        if values.shape[:-1] == (examples,):
            return self.counted.amax(2)
        assert values.shape[:-1] == (examples, tokens), (
            f"{path} sees {tuple(values.shape)}: neither (B, T, _) nor (B, _)"
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
    """What passes without dropout and noise show of the linear layers at `paths`: their inputs, or their outputs.

    The examples of all batches run by their lengths, for that is faster than batch by batch; where padding counts,
    each batch with its own.
    """
    modules = {path: m for path, m in network.model.named_modules() if path in paths and isinstance(m, nn.Linear)}
    observer = _Observer(modules, inputs)
    examples = np.concatenate(batches)
    number = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
    network.model.eval()
    with observer.watching():
        for part in _parts(network, tokens.lengths[examples], number, count_padding):
            batch = tokens.batch(examples[part])
            mask = batch["attention_mask"]
            real = (torch.ones_like(mask) if count_padding else mask).float()
            own = torch.from_numpy(number[part] == np.arange(len(batches))[:, None]).to(network.device)
            observer.counted = own[:, :, None] * real
            network.outputs(batch)
    return observer.sums


def _parts(network: Network, lengths: Integers, number: Integers, count_padding: bool) -> Iterator[Integers]:
    """Which of the examples run at once."""
    if not count_padding:
        return by_length(lengths, network.tokens_at_once)
    return (np.flatnonzero(number == batch) for batch in range(int(number.max()) + 1))
