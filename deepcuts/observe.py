"""What a clean forward pass shows of the linear layers: sums of their inputs or outputs over the real tokens.

B = examples of a batch, T = tokens of its longest, O = outputs of a linear layer, I = its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from deepcuts.models import Network


def _nothing() -> Tensor:
    return torch.zeros(())


@dataclass
class Sums:
    """Over the real tokens of a batch (its examples, where there is no token axis): how many, and the sums of a
    layer's outputs (O,) or of its inputs (I,) and squared inputs (I,)."""

    output: Tensor = field(default_factory=_nothing)
    input: Tensor = field(default_factory=_nothing)
    squares: Tensor = field(default_factory=_nothing)
    count: int = 0


@dataclass
class _Observer:
    """Sums of what leaves, or enters, the linear layers while it watches."""

    modules: dict[str, nn.Linear]
    inputs: bool
    real: Tensor = field(default_factory=_nothing)
    count: int = 0
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
            sums = self.sums.setdefault(path, Sums())
            rows, count = self._real_rows(args[0] if self.inputs else output, path)
            sums.count += count
            if self.inputs:
                sums.input = sums.input + rows.sum(0, dtype=torch.float32)
                sums.squares = sums.squares + rows.float().square().sum(0)
            else:
                sums.output = sums.output + rows.sum(0, dtype=torch.float32)

        return add

    def _real_rows(self, values: Tensor, path: str) -> tuple[Tensor, int]:
        """Values (B, T, X) or (B, X) as rows, those of padding zero; and the number of real rows."""
        if values.dim() == 2 and values.shape[0] == self.real.shape[0]:
            return values, values.shape[0]
        assert values.shape[:2] == self.real.shape, f"{path} sees {tuple(values.shape)}: neither (B, T, _) nor (B, _)"
        real = values if self.count == self.real.numel() else values * self.real.to(values.dtype)[..., None]
        return real.flatten(0, 1), self.count


@torch.no_grad()
def observe(
    network: Network,
    paths: Collection[str],
    micro_batches: Sequence[Mapping[str, Tensor]],
    count_padding: bool,
    inputs: bool,
) -> dict[str, Sums]:
    """What a pass without dropout and noise shows of the linear layers at `paths`: their inputs, or their outputs."""
    modules = {path: m for path, m in network.model.named_modules() if path in paths and isinstance(m, nn.Linear)}
    observer = _Observer(modules, inputs)
    network.model.eval()
    with observer.watching():
        for batch in micro_batches:
            mask = batch["attention_mask"]
            observer.real = (torch.ones_like(mask) if count_padding else mask).float()
            observer.count = int(observer.real.sum())
            network.outputs(batch)
    return observer.sums
