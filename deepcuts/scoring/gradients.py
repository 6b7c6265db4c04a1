"""Computes the gradients of linear layers separately for each of several batches that run as one.

K = batches that run as one, B = examples of each, O = outputs of a linear layer, I = its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from deepcuts.model.network import linear_layers, transposed

# Architectures whose linear layers all have inputs (K B, .., I), with separate rows for each example. (DeBERTa also
# multiplies its positions, which all examples share.)
SEPARABLE = frozenset(("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta"))
# Receives the name of a parameter, the number of a batch, and the gradient of that batch's loss, which it may
# overwrite; of a weight always (O, I). It is fp32, or has the type of the layer's products where it comes from a single
# one.
Use = Callable[[str, int, Tensor], None]


def separable(model: nn.Module) -> bool:
    """Return whether several batches can run as one with a separate gradient for each."""
    return getattr(getattr(model, "config", None), "model_type", None) in SEPARABLE


class Gradients:
    """Assembles the gradients of a model's parameters during its backward passes, and passes each on once complete.

    So the gradients of all parameters never exist at once, unless they need several passes. Connect `collect` to the
    model by `packed_linears(on_backward=...)`. The gradients of layers that this does not pack (all of them with
    `pack=False`, else `Conv1D`) are those of torch, of one batch at a time.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        layers = linear_layers(model)
        self.names: dict[nn.Module, list[str]] = {}
        for name in names:
            path = name.rpartition(".")[0]
            assert path in layers, f"{name} is not a parameter of a linear layer"
            self.names.setdefault(layers[path], []).append(name)
        self.transposed = transposed(model)
        self.incomplete: dict[tuple[str, int], Tensor] = {}
        self.called: set[nn.Module] = set()

    @contextmanager
    def of(self, batches: int, backwards: int, use: Use) -> Iterator[None]:
        """Call `use` with each parameter's gradient for each of `batches`, summed over `backwards` backward passes.

        Raises AssertionError if the weight of a packed layer was also used without calling the layer.
        """
        self.batches, self.backwards, self.use = batches, backwards, use
        self.called.clear()
        yield
        for layer, names in self.names.items():
            for name in names:
                self._use_of_torch(name, layer.get_parameter(name.rpartition(".")[2]), layer in self.called)
        for (name, batch), gradient in self.incomplete.items():
            use(name, batch, gradient)
        self.incomplete.clear()

    def _use_of_torch(self, name: str, parameter: nn.Parameter, called: bool) -> None:
        """Pass on a gradient that torch summed, if there is one."""
        if parameter.grad is None:
            return
        assert not called, f"the layer of {name} is used in another way than by calling it"
        assert self.batches == 1, f"torch has one gradient of {name} for {self.batches} batches"
        self.use(name, 0, parameter.grad.t() if name in self.transposed else parameter.grad)
        parameter.grad = None

    def collect(self, layer: nn.Module, outputs: Tensor, inputs: Tensor, last: bool) -> None:
        """Add one call of a layer, from the gradient of its outputs (K B, .., O) and its inputs (K B, .., I).

        `last` says that no other call of the layer is left in this backward pass.
        """
        self.called.add(layer)
        outputs, inputs = self._by_batch(outputs), self._by_batch(inputs)
        for name in self.names.get(layer, ()):
            bias = name.endswith(".bias")
            gradients = outputs.sum(1, dtype=torch.float32) if bias else _products(outputs, inputs)
            for batch, gradient in enumerate(gradients):
                if (name, batch) in self.incomplete:
                    gradient = gradient.float() + self.incomplete.pop((name, batch))
                if last and self.backwards == 1:
                    self.use(name, batch, gradient)
                else:
                    self.incomplete[name, batch] = gradient.float()

    def _by_batch(self, values: Tensor) -> Tensor:
        """Reshape (K B, .., X) to (K, N, X), with the N rows of each batch."""
        return values.unflatten(0, (self.batches, -1)).flatten(1, -2)


def _products(outputs: Tensor, inputs: Tensor) -> Tensor:
    """Multiply (K, N, O) and (K, N, I) to the weight gradients (K, O, I)."""
    if len(outputs) == 1:  # for many rows a plain product is faster than a batch of one
        return (outputs[0].t() @ inputs[0])[None]
    return outputs.transpose(1, 2) @ inputs
