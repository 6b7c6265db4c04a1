"""Linear layers whose weights stand still: they are cast once, and on a CPU lie in the order that oneDNN reads.

O = outputs of a linear layer, I = its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rows of the products that the order is chosen for; others are right as well.
ROWS = 1024


# Takes a layer, the gradient of its outputs (.., O) and its inputs (.., I) in one of its calls, and whether no other
# call of it is left in this backward pass.
Take = Callable[[nn.Module, Tensor, Tensor, bool], None]


@contextmanager
def packed_linears(
    model: nn.Module, dtype: torch.dtype, gelu: bool = False, take: Take | None = None
) -> Iterator[None]:
    """For a while, let a model's linear layers multiply in `dtype` by packed copies of their weights, which must not
    change meanwhile.

    With `gelu` a layer and the GELU behind it are one, and hooks of that layer see nothing. With `take` a backward pass
    hands what the gradients of a layer's parameters come from to it, where one of them requires a gradient, and leaves
    no `.grad`; without, it is not for backward passes. Weights are not packed where torch has no oneDNN for the
    model's device and the type.
    """
    onednn = _can(next(model.parameters()).device, dtype)
    quick: dict[nn.Module, Any] = {}
    for module in model.modules() if onednn or take else ():
        if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
            quick[module] = _Packed(module, dtype, onednn, take=take)
        elif gelu and _ends_in_gelu(module):
            quick[module] = _Packed(module.dense, dtype, onednn, "gelu")
    for module, forward in quick.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in quick:
            del module.forward


def _can(device: torch.device, dtype: torch.dtype) -> bool:
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _ends_in_gelu(module: nn.Module) -> bool:
    """Whether it is a linear layer and an exact GELU, as the first half of BERT's feed-forward network."""
    activation = getattr(module, "intermediate_act_fn", None)
    exact = getattr(activation, "act", None) is F.gelu
    return exact and isinstance(getattr(module, "dense", None), nn.Linear)


class _Packed:
    """What a linear layer computes, from a copy of its weight, for oneDNN if it can, made when it is first wanted."""

    def __init__(
        self, layer: Any, dtype: torch.dtype, onednn: bool, behind: str = "none", take: Take | None = None
    ) -> None:
        self.layer, self.dtype, self.onednn, self.behind, self.take = layer, dtype, onednn, behind, take
        self.bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self.calls = 0  # of which the backward pass has not come

    @cached_property
    def weight(self) -> Tensor:
        weight = self.layer.weight.detach().to(self.dtype)
        return _pack(weight) if self.onednn else weight

    @cached_property
    def transposed(self) -> Tensor:
        if not self.onednn:
            return self.weight.t()
        return _pack(self.layer.weight.detach().to(self.dtype).t().contiguous())

    def __call__(self, inputs: Tensor) -> Tensor:
        inputs = inputs.to(self.dtype)
        if not torch.is_grad_enabled():
            return _product(inputs, self.weight, self.bias, self.behind)
        assert self.take is not None
        self.calls += 1
        output: Tensor = _Linear.apply(inputs, self.layer.weight, self.layer.bias, self)
        return output


class _Linear(torch.autograd.Function):
    """inputs (.., I) to outputs (.., O); the layer's own, unpacked parameters only say whether they want gradients."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, packed: _Packed) -> Tensor:
        ctx.packed = packed
        ctx.save_for_backward(inputs)
        return _product(inputs, packed.weight, packed.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        (inputs,) = ctx.saved_tensors
        of_inputs, *of_parameters = ctx.needs_input_grad[:3]
        ctx.packed.calls -= 1
        if any(of_parameters):
            ctx.packed.take(ctx.packed.layer, gradient, inputs, ctx.packed.calls == 0)
        return _product(gradient, ctx.packed.transposed) if of_inputs else None, None, None, None


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return packed


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, behind: str = "none") -> Tensor:
    """inputs weightᵀ + bias, then what is behind. Packed ones by the functions that torch's own compiler calls."""
    if not weight.is_mkldnn:
        assert behind == "none"
        return F.linear(inputs, weight, bias)
    output: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, behind, [], "none")
    return output
