"""Linear layers with frozen weights: cast once, and on a CPU stored in the order that oneDNN reads.

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

# oneDNN chooses the order of a weight for products of this many rows; products of other sizes are right as well.
PACKING_ROWS = 1024


# Called for every call of a layer in a backward pass: the layer, the gradient of its outputs (.., O), its inputs
# (.., I), and whether this was the last of its calls in this pass.
OnBackward = Callable[[nn.Module, Tensor, Tensor, bool], None]


@contextmanager
def packed_linears(
    model: nn.Module,
    dtype: torch.dtype,
    gelu: bool = False,
    on_backward: OnBackward | None = None,
    pack: bool = True,
) -> Iterator[None]:
    """Let a model's linear layers multiply in `dtype` by packed copies of their weights while the context is open.

    The weights must not change meanwhile. With `gelu`, a layer and the GELU after it become one operation, and hooks of
    that layer see nothing. A backward pass needs `on_backward`: it receives the two factors of a layer's weight
    gradient, for each layer with a parameter that requires one, and no `.grad` is set. Without it the context is for
    forward passes only. Where torch has no oneDNN for the model's device and the type, weights are cast but not packed.
    Without `pack`, the context changes nothing, and a backward pass sets `.grad`.
    """
    onednn = _has_onednn(next(model.parameters()).device, dtype)
    packed: dict[nn.Module, Any] = {}
    for module in model.modules() if pack and (onednn or on_backward) else ():
        if isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
            packed[module] = _Packed(module, dtype, onednn, on_backward=on_backward)
        elif gelu and _ends_in_gelu(module):
            packed[module] = _Packed(module.dense, dtype, onednn, "gelu")
    for module, forward in packed.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in packed:
            del module.forward


def _has_onednn(device: torch.device, dtype: torch.dtype) -> bool:
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _ends_in_gelu(module: nn.Module) -> bool:
    """Return whether a module is a linear layer and an exact GELU, as the first half of BERT's feed-forward network."""
    activation = getattr(module, "intermediate_act_fn", None)
    exact = getattr(activation, "act", None) is F.gelu
    return exact and isinstance(getattr(module, "dense", None), nn.Linear)


class _Packed:
    """The forward pass of a linear layer by a copy of its weight, which is made when it is first needed."""

    def __init__(
        self,
        layer: Any,
        dtype: torch.dtype,
        onednn: bool,
        activation: str = "none",
        on_backward: OnBackward | None = None,
    ) -> None:
        self.layer, self.dtype, self.onednn, self.activation = layer, dtype, onednn, activation
        self.on_backward = on_backward
        self.bias = None if layer.bias is None else layer.bias.detach().to(dtype)
        self.pending_calls = 0  # calls whose backward pass has not run yet

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
            return _product(inputs, self.weight, self.bias, self.activation)
        assert self.on_backward is not None
        self.pending_calls += 1
        output: Tensor = _Linear.apply(inputs, self.layer.weight, self.layer.bias, self)
        return output


class _Linear(torch.autograd.Function):
    """Maps inputs (.., I) to outputs (.., O). The layer's own parameters only say whether they require gradients."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, packed: _Packed) -> Tensor:
        ctx.packed = packed
        ctx.save_for_backward(inputs)
        rows = _product(inputs.flatten(0, -2), packed.weight, packed.bias)
        # Not a view of the rows, because a model may not change that in place, as DeBERTa does.
        output: Tensor = torch.ops.aten._unsafe_view(rows, (*inputs.shape[:-1], rows.shape[-1]))
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        (inputs,) = ctx.saved_tensors
        needs_inputs, *needs_parameters = ctx.needs_input_grad[:3]
        ctx.packed.pending_calls -= 1
        if any(needs_parameters):
            ctx.packed.on_backward(ctx.packed.layer, gradient, inputs, ctx.packed.pending_calls == 0)
        return _product(gradient, ctx.packed.transposed) if needs_inputs else None, None, None, None


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACKING_ROWS)
    return packed


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """Return activation(inputs weightᵀ + bias); for a packed weight by the function that torch's compiler calls."""
    if not weight.is_mkldnn:
        assert activation == "none"
        return F.linear(inputs, weight, bias)
    output: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, activation, [], "none")
    return output
