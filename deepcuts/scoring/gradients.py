"""Gradients of linear layers, apart for each of several batches that run as one.

K = batches that run as one, B = examples of each, O = outputs of a linear layer, I = its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Architectures whose linear layers all have inputs (K B, .., I): rows of its own for each example. (DeBERTa multiplies
# positions as well, which all examples share.)
SEPARABLE = frozenset(("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"))
# Takes a name, the number of a batch, and the gradient of its loss, to do with as it likes: in fp32, or as the layer
# multiplies where it comes from one product.
Use = Callable[[str, int, Tensor], None]


def separable(model: nn.Module) -> bool:
    """Whether several batches can run as one and their gradients be told apart."""
    return getattr(getattr(model, "config", None), "model_type", None) in SEPARABLE


class Gradients:
    """Puts the gradients of a model's parameters together as its backward passes make them, and hands each on as soon
    as it is complete: those of all parameters are never there at once, unless they need several passes."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.names: dict[nn.Module, list[str]] = {}
        for name in names:
            layer = model.get_submodule(name.rpartition(".")[0])
            assert isinstance(layer, nn.Linear), f"{name} is no parameter of a linear layer"
            self.names.setdefault(layer, []).append(name)
        self.parts: dict[tuple[str, int], Tensor] = {}

    @contextmanager
    def of(self, batches: int, backwards: int, use: Use) -> Iterator[None]:
        """`use` the sum over so many backward passes, for each of so many batches."""
        self.batches, self.backwards, self.use = batches, backwards, use
        yield
        for layer, names in self.names.items():
            alone = all(parameter.grad is None for parameter in layer.parameters())
            assert alone, f"the layer of {names[0]} is used in another way than by calling it"
        for (name, batch), gradient in self.parts.items():
            use(name, batch, gradient)
        self.parts.clear()

    def collect(self, layer: nn.Module, outputs: Tensor, inputs: Tensor, last: bool) -> None:
        """From the gradient of a layer's outputs (K B, .., O) and its inputs (K B, .., I) in one of its calls."""
        outputs, inputs = self._apart(outputs), self._apart(inputs)
        for name in self.names.get(layer, ()):
            bias = name.endswith(".bias")
            made = outputs.sum(1, dtype=torch.float32) if bias else _products(outputs, inputs)
            for batch, gradient in enumerate(made):
                if (name, batch) in self.parts:
                    gradient = gradient.float() + self.parts.pop((name, batch))
                if last and self.backwards == 1:
                    self.use(name, batch, gradient)
                else:
                    self.parts[name, batch] = gradient.float()

    def _apart(self, values: Tensor) -> Tensor:
        """(K B, .., X) as (K, N, X): the N rows of each batch."""
        return values.unflatten(0, (self.batches, -1)).flatten(1, -2)


def _products(outputs: Tensor, inputs: Tensor) -> Tensor:
    """(K, N, O) and (K, N, I) to (K, O, I): of many rows a product by itself is the quicker one."""
    if len(outputs) == 1:
        return (outputs[0].t() @ inputs[0])[None]
    return outputs.transpose(1, 2) @ inputs
