"""Multiplies the Hessian of a batch's loss with its gradient, by differentiating twice.

B = examples that run at once, T = tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepcuts.model.network import Network

# The logits are divided by this much before the softmax, which keeps the loss of confident outputs from vanishing.
TEMPERATURE = 200.0


def hessian_gradients(
    network: Network,
    parameters: Mapping[str, Tensor],
    parts: Sequence[Mapping[str, Tensor]],
    examples: int,
    draw: Callable[[int], None],
) -> tuple[dict[str, Tensor], Tensor]:
    """Return H g of each parameter, for the gradient g and the Hessian H of a batch's loss, and the loss ().

    Wang et al. 2020, "Picking winning tickets before training by preserving gradient flow", arXiv 2002.07376, algorithm
    1 and the authors' code, with their temperature: H g is the gradient of g . stop(g). The batch of `examples` comes
    in `parts` (B, T); `draw` is called with the number of a part before each pass over it, and must draw the same
    dropout both times.
    """
    wanted, total = list(parameters.values()), torch.zeros((), device=network.device)
    products = [torch.zeros_like(each) for each in wanted]
    with _plain_attention(network.model):

        def differentiate(number: int, again: bool) -> tuple[Tensor, ...]:
            draw(number)
            loss = network.batch_loss(parts[number], examples, TEMPERATURE)
            total.add_(loss.detach())
            return torch.autograd.grad(loss, wanted, create_graph=again, allow_unused=True, materialize_grads=True)

        fixed: list[Tensor] | None = None
        if len(parts) > 1:  # g is that of the whole batch
            fixed = [torch.zeros_like(each) for each in wanted]
            for number in range(len(parts)):
                for sum_, gradient in zip(fixed, differentiate(number, again=False), strict=True):
                    sum_.add_(gradient)
            total.zero_()
        for number in range(len(parts)):
            gradients = differentiate(number, again=True)
            stopped = fixed or [each.detach() for each in gradients]
            dot = sum((one * other).sum() for one, other in zip(gradients, stopped, strict=True))
            found = torch.autograd.grad(dot, wanted, allow_unused=True, materialize_grads=True)  # type: ignore[arg-type]
            for product, each in zip(products, found, strict=True):
                product.add_(each)
    return dict(zip(parameters, products, strict=True)), total


@contextmanager
def _plain_attention(model: nn.Module) -> Iterator[None]:
    """Let attention be products and a softmax while the context is open: torch's own cannot be differentiated twice."""
    config: Any = getattr(model, "config", None)
    before = getattr(config, "_attn_implementation", None)
    if before in (None, "eager"):
        yield
        return
    switch: Any = model
    switch.set_attn_implementation("eager")
    try:
        yield
    finally:
        switch.set_attn_implementation(before)
