"""Sums the inputs or outputs of linear layers over the real tokens of batches, in passes without dropout or noise.

A layer maps rows, and a row counts if it belongs to a real token. Which do is known from the axes of the call:
(B, T, _), (T, B, _), or (B, _) where a row belongs to an example. Rows of other calls, such as DeBERTa's of relative
positions or Funnel's of pooled tokens, all count.

K = batches, B = examples that run at once, T = tokens of the longest, O = outputs of a linear layer, I = its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepcuts.data.batches import Integers, Tokens, by_length
from deepcuts.model.network import Network, linear_layers
from deepcuts.pruning.criteria import Needs
from deepcuts.scoring.gradients import separable

# The axes of the rows of a call.
Axes = Literal["examples", "examples tokens", "tokens examples", "other"]
# Architectures that lengthen a batch by themselves, at the ends of its examples (to whole windows of attention).
LENGTHEN = frozenset(("longformer",))


@dataclass(frozen=True)
class Sums:
    """Sums for one layer over the rows that count of each batch, over all calls of the layer.

    `count` (K,) is the number of these rows. `values` are sums of the layer's outputs (K, O), without `squares`; or
    sums of its inputs (K, I), with `squares` (K, I) the sums of their squares.
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

    Set `counted` (K, B, T) before each forward pass, 1 where a token of an example counts for a batch and 0 elsewhere,
    and `batches`, how many of the K have examples in it.
    """

    modules: Mapping[str, nn.Module]
    inputs: bool
    axes: Mapping[str, frozenset[Axes]]
    lengthens: bool
    counted: Tensor = field(init=False)
    batches: int = field(init=False)
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
        """Return 1 for the rows of values (.., X) that count for each batch, 0 for others: (K, ..)."""
        _, examples, tokens = self.counted.shape
        axes = _axes(values, examples, tokens, self.lengthens) & self.axes[path]
        if "examples" in axes:
            return self.counted.amax(2)
        if axes:
            first = "examples tokens" in axes
            longer = values.shape[1 if first else 0] - tokens
            counted = F.pad(self.counted, (0, longer)) if longer else self.counted
            return counted if first else counted.transpose(1, 2)
        assert self.batches == 1, f"{path} has rows of unknown tokens, {tuple(values.shape)}, in a pass of many batches"
        return self.counted.amax((1, 2))[:, None].expand(-1, values.shape[:-1].numel())


def _axes(values: Tensor, examples: int, tokens: int, lengthens: bool) -> frozenset[Axes]:
    """Return what the axes of a call's values (.., X) may be. Several are possible where B = T."""
    *sizes, _ = values.shape
    found: dict[Axes, bool] = {
        "examples": sizes == [examples],
        "examples tokens": len(sizes) == 2 and sizes[0] == examples and _fits(sizes[1], tokens, lengthens),
        "tokens examples": len(sizes) == 2 and sizes[1] == examples and _fits(sizes[0], tokens, lengthens),
    }
    return frozenset(axes for axes, possible in found.items() if possible)


def _fits(size: int, tokens: int, lengthens: bool) -> bool:
    return size == tokens or (lengthens and size > tokens)


@torch.no_grad()
def find_axes(network: Network, paths: Collection[str], tokens: Tokens) -> dict[str, frozenset[Axes]]:
    """Return the axes of all calls of each layer at `paths`: from a pass over copies of the longest example.

    There are 3 copies, or 2 where the batch has 3 tokens: so no two axes are of the same length. The axes of separable
    architectures are known without a pass.
    """
    if separable(network.model):
        return dict.fromkeys(paths, frozenset[Axes](("examples", "examples tokens")))
    longest = int(tokens.lengths.argmax())
    examples, batch = 3, tokens.batch(np.full(3, longest))
    if batch["attention_mask"].shape[1] == examples:
        examples, batch = 2, tokens.batch(np.full(2, longest))
    length = batch["attention_mask"].shape[1]
    found: dict[str, set[Axes]] = {path: set() for path in paths}

    def hook(path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            found[path] |= _axes(output, examples, length, _lengthens(network)) or {"other"}

        return note

    handles = [module.register_forward_hook(hook(path)) for path, module in _at(network, paths).items()]
    try:
        network.model.eval()
        network.outputs(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {path: frozenset(axes or {"other"}) for path, axes in found.items()}


def how_counted(network: Network, tokens: Tokens, names: Sequence[str], criterion: Needs | None) -> str | None:
    """Say in how many layers rows of unknown tokens count in the scores of `names`; None where none do."""
    if criterion is None or not (criterion.outputs or criterion.data == "forward"):
        return None
    paths = {name.rpartition(".")[0] for name in names}
    axes = find_axes(network, paths, tokens.to(network.device))
    unknown = sum("other" in each for each in axes.values())
    return f"rows of unknown tokens count in {unknown} of {len(axes)} layers" if unknown else None


def _lengthens(network: Network) -> bool:
    return getattr(getattr(network.model, "config", None), "model_type", None) in LENGTHEN


def _at(network: Network, paths: Collection[str]) -> dict[str, nn.Module]:
    return {path: layer for path, layer in linear_layers(network.model).items() if path in paths}


@torch.no_grad()
def observe(
    network: Network,
    axes: Mapping[str, frozenset[Axes]],
    tokens: Tokens,
    batches: Sequence[Integers],
    count_padding: bool,
    inputs: bool,
) -> dict[str, Sums]:
    """Sum the outputs, or with `inputs` the inputs, of the linear layers that `axes` has; return the sums by path.

    The examples of all K batches run together, sorted by length, which is faster than batch by batch. Each batch runs
    alone, in one pass, with `count_padding` and where the tokens of some rows are not known: what counts then depends
    on the padding of the batch, or on how many passes there are.
    """
    observer = _Observer(_at(network, axes), inputs, axes, _lengthens(network))
    examples = np.concatenate(batches)
    batch_of = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
    alone = count_padding or any("other" in each for each in axes.values())
    network.model.eval()
    with observer.watch():
        for part in _split(network, tokens.lengths[examples], batch_of, alone):
            batch = tokens.batch(examples[part])
            mask = batch["attention_mask"]
            real = (torch.ones_like(mask) if count_padding else mask).float()
            own = torch.from_numpy(batch_of[part] == np.arange(len(batches))[:, None]).to(network.device)
            observer.counted, observer.batches = own[:, :, None] * real, len(set(batch_of[part].tolist()))
            network.outputs(batch)
    return observer.sums


def _split(network: Network, lengths: Integers, batch_of: Integers, alone: bool) -> Iterator[Integers]:
    """Yield the indices of the examples that run at once."""
    if not alone:
        return by_length(lengths, network.tokens_at_once)
    return (np.flatnonzero(batch_of == batch) for batch in range(int(batch_of.max()) + 1))
